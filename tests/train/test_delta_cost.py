"""The estimate of DelTA's cost, against the code that it describes and numbers worked out by hand."""

import pytest
import torch
from support.models import build, config, misaligned, tiny_model

from delta_trl import DeltaGRPOTrainer
from delta_trl.coefficients import delta_coefficients
from delta_trl.credit import Work
from delta_trl.features import FEATURES
from delta_trl.methods.hashed_agreement import HashedAgreementGRPOConfig
from delta_trl.train.delta_cost import HEAD_PRODUCTS, cost_of_run, delta_cost, has_extra_forward
from delta_trl.train.memory import ModelSize


QWEN3_8B = {
    "responses": 2048,
    "processes": 8,
    "prompt_tokens": 2048,
    "completion_tokens": 20480,
    "parameters": 8_190_735_360,
    "layers": 36,
    "attention_width": 4096,
    "hidden_size": 4096,
    "vocab_size": 151_936,
}


def test_the_8b_recipe_worked_out_by_hand():
    cost = delta_cost(**QWEN3_8B)
    assert cost.tokens == 41_943_040
    assert cost.feature_bytes == 256 * 20480 * 4096 * 2 == 42_949_672_960
    assert cost.sweeps == 4
    assert cost.sweep_seconds == pytest.approx(4 * 42.95e9 / 2e12, rel=1e-3)  # 0.086 s
    assert cost.host_sweep_seconds == pytest.approx(3.44, rel=1e-2)  # at PCIe's 50 GB/s
    assert cost.seconds == cost.sweep_seconds  # output rows need no head, and TRL's pass is recorded
    assert (cost.reductions, cost.gathered_bytes) == (6, 0)
    more = delta_cost(**QWEN3_8B, features="hidden_gradient", extra_forward=True)
    assert more.feature_flops == 4 * 256 * 20480 * 4096 * 151_936
    assert more.gathered_bytes == 151_936 * 4096 * 2
    # 2 P T for the weights and 2 · 36 · 4096 · T² for causal attention, 256 responses of T = 22,528
    assert more.forward_flops == pytest.approx(256 * (2 * 8.19e9 * 22528 + 2 * 36 * 4096 * 22528**2), rel=1e-3)
    assert "one is added" in str(more)
    assert "none is added" in str(cost)


def test_it_is_linear_in_responses_and_falls_with_processes():
    base = delta_cost(**QWEN3_8B, features="hidden_gradient", extra_forward=True)
    double = delta_cost(**{**QWEN3_8B, "responses": 4096}, features="hidden_gradient", extra_forward=True)
    assert double.seconds == pytest.approx(2 * base.seconds)
    more = delta_cost(**{**QWEN3_8B, "processes": 64}, features="hidden_gradient", extra_forward=True)
    assert more.seconds == pytest.approx(base.seconds / 8)
    assert more.reduced_bytes == base.reduced_bytes
    alone = delta_cost(**{**QWEN3_8B, "processes": 1}, features="hidden_gradient")
    assert (alone.reductions, alone.reduced_bytes, alone.gathered_bytes) == (0, 0, 0)


@pytest.mark.parametrize("refinement_steps", [0, 1, 3])
def test_sweeps_and_sums_are_those_of_the_code(refinement_steps, monkeypatch):
    sizes, sweeps = [], []
    for name in ("weighted_sums", "projections"):
        real = getattr(__import__("delta_trl.coefficients", fromlist=["x"]), name)
        monkeypatch.setattr(f"delta_trl.coefficients.{name}", lambda *a, real=real: sweeps.append(1) or real(*a))
    advantages = torch.tensor([1.0, -1.0]).repeat(20)
    delta_coefficients(
        torch.randn(40, 5),
        advantages,
        refinement_steps=refinement_steps,
        all_reduce=lambda t: sizes.append(t.numel() * t.element_size()),
    )
    small = {**QWEN3_8B, "processes": 2, "hidden_size": 5}
    cost = delta_cost(**small, refinement_steps=refinement_steps)
    assert cost.sweeps == len(sweeps)
    assert cost.reductions == len(sizes)
    assert cost.reduced_bytes == sum(sizes)


def test_every_feature_has_a_cost():
    assert HEAD_PRODUCTS.keys() == FEATURES.keys()


@pytest.mark.parametrize("options", [{}, misaligned(), {"num_iterations": 2, "gradient_accumulation_steps": 4}])
def test_the_extra_pass_is_foretold(options, tmp_path):
    args = config(tmp_path, **{**options, "max_steps": 1})
    trainer = build(DeltaGRPOTrainer, args)
    trainer.train()
    (logged,) = (log["delta/extra_forward_passes"] for log in trainer.state.log_history if "delta/seconds" in log)
    assert has_extra_forward(args) == bool(logged)


def test_a_method_says_what_work_it_takes_instead(tmp_path):
    work = Work(sweeps=2, columns=224, sums=6, summed_bytes=18_874_368)
    cost = delta_cost(**QWEN3_8B, work=work)
    assert cost.sweep_seconds == pytest.approx(2 * 42.95e9 / 2e12, rel=1e-3)
    assert cost.feature_flops == 2 * 256 * 20480 * 4096 * 224
    assert (cost.reductions, cost.reduced_bytes, cost.gathered_bytes) == (6, 18_874_368, 0)
    assert "0.02 s in products with hidden states" in str(cost)
    assert "6 sums, 18,874 KB in all" in str(cost)
    size = ModelSize.of(tiny_model().config)
    args = config(tmp_path, HashedAgreementGRPOConfig)
    assert cost_of_run(args, size, 8).sweeps == HashedAgreementGRPOConfig.credit.work.sweeps
