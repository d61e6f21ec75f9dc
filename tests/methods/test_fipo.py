"""FIPO against a literal double loop in float64, and inside TRL's loss."""

import copy
import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import (
    assert_bit_equal,
    build,
    config,
    digit_reward,
    losses_and_weights,
    misaligned,
    prompts,
    tiny_model,
)
from trl import GRPOConfig, GRPOTrainer

from delta_trl.methods import fipo as fipo_module
from delta_trl.methods.fipo import FIPOConfig, FIPOTrainer, fipo_weights


pytestmark = pytest.mark.trained


def reference_weights(log_ratios, mask, advantages, half_life=32.0, low=1.0, high=1.2, clamp=20.0, dual_clip=10.0):
    """The definition, one token at a time."""
    rows, length = mask.shape
    weights, dropped = torch.ones(rows, length, dtype=torch.float64), []
    gamma = 2 ** (-1 / half_life)
    for i in range(rows):
        dual_clipped = 0
        for t in range(length):
            if not mask[i, t]:
                continue
            future = 0.0
            for k in range(t, length):
                if mask[i, k]:
                    delta = min(max(log_ratios[i, k].item(), -clamp), clamp)
                    if delta <= math.log(dual_clip):
                        future += gamma ** (k - t) * delta
            weight = min(max(math.exp(min(future, 700.0)), low), high)
            advantage = advantages[i].item() if advantages.dim() == 1 else advantages[i, t].item()
            if advantage < 0 and log_ratios[i, t].item() > math.log(dual_clip):
                weight = min(max(weight, 0.8), 1.0)
                dual_clipped += 1
            weights[i, t] = weight
        dropped.append(dual_clipped > 1)
    return weights, torch.tensor(dropped)


def random_inputs(seed, rows=6, length=41, scale=0.05, outliers=0.05):
    """Responses of several lengths with a gap, as tools leave it, and some ratios beyond the dual clip."""
    generator = torch.Generator().manual_seed(seed)
    log_ratios = scale * torch.randn(rows, length, generator=generator, dtype=torch.float64)
    beyond = torch.rand(rows, length, generator=generator) < outliers
    log_ratios[beyond] = 2.4 + 25 * torch.rand(int(beyond.sum()), generator=generator, dtype=torch.float64)
    lengths = torch.randint(0, length + 1, (rows,), generator=generator)
    mask = (torch.arange(length) < lengths[:, None]) & (torch.rand(rows, length, generator=generator) < 0.9)
    advantages = torch.randn(rows, generator=generator, dtype=torch.float64)
    advantages[0] = 0
    return log_ratios, mask, advantages


@given(
    seed=st.integers(0, 10_000),
    length=st.integers(1, 70),
    scale=st.sampled_from([0.0, 0.01, 0.2, 3.0]),
    half_life=st.sampled_from([0.5, 4.0, 32.0, 1000.0]),
)
@settings(max_examples=40)
def test_weights_are_the_definitions(seed, length, scale, half_life):
    log_ratios, mask, advantages = random_inputs(seed, length=length, scale=scale)
    got, dropped = fipo_weights(log_ratios, mask, advantages, half_life=half_life)
    expected, expected_dropped = reference_weights(log_ratios, mask, advantages, half_life)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)
    assert torch.equal(dropped, expected_dropped)


def test_the_random_inputs_reach_every_case():
    seen = set()
    for seed in range(20):
        log_ratios, mask, advantages = random_inputs(seed, scale=0.1)
        weights, dropped = fipo_weights(log_ratios, mask, advantages, clip_min=0.7)
        beyond = (log_ratios > math.log(10)) & mask & (advantages < 0)[:, None]
        inner = mask & ~beyond
        seen |= {("dropped", d) for d in dropped.tolist()}
        seen |= {("at 0.7", bool((weights[inner] == 0.7).any())), ("at 1.2", bool((weights[inner] == 1.2).any()))}
        seen |= {("between", bool(((weights[inner] > 1.05) & (weights[inner] < 1.15)).any()))}
        seen |= {
            ("dual-clipped at 0.8", bool((weights[beyond] == 0.8).any())),
            ("at 1.0", bool((weights[beyond] == 1).any())),
        }
    names = {name for name, _ in seen}
    assert {(name, True) for name in names} <= seen
    assert ("dropped", False) in seen


def test_other_bounds_and_advantages_of_single_tokens():
    log_ratios, mask, advantages = random_inputs(3, scale=0.1, outliers=0.1)
    signs = torch.randn(mask.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    per_token = advantages.abs()[:, None] * signs
    got = fipo_weights(
        log_ratios, mask, per_token, half_life=5, clip_min=0.5, clip_max=3.0, log_ratio_clamp=4.0, dual_clip=7.0
    )
    expected = reference_weights(log_ratios, mask, per_token, 5, 0.5, 3.0, 4.0, 7.0)
    torch.testing.assert_close(got[0], expected[0], rtol=1e-9, atol=0)
    assert torch.equal(got[1], expected[1])
    expanded = fipo_weights(log_ratios, mask, advantages[:, None].expand_as(mask))
    for one, other in zip(expanded, fipo_weights(log_ratios, mask, advantages), strict=True):
        assert torch.equal(one, other)


def test_long_responses_neither_overflow_nor_drift():
    """The published length. A constant log-ratio has a closed sum."""
    length, value = 20_480, 1e-3
    weights, _ = fipo_weights(torch.full((2, length), value), torch.ones(2, length), torch.ones(2), clip_max=10.0)
    gamma = 2 ** (-1 / 32)
    left = torch.arange(length, 0, -1, dtype=torch.float64)
    expected = (value * (1 - gamma**left) / (1 - gamma)).exp()
    torch.testing.assert_close(weights[1].double(), expected, rtol=1e-6, atol=0)


def test_padding_cannot_matter():
    log_ratios, mask, advantages = random_inputs(5, scale=0.1)
    weights, dropped = fipo_weights(log_ratios, mask, advantages)
    filled = fipo_weights(log_ratios.masked_fill(~mask, float("nan")), mask, advantages)
    assert torch.equal(filled[0], weights)
    assert (weights[~mask] == 1).all()
    wider = torch.nn.functional.pad(log_ratios, (0, 9), value=1.0), torch.nn.functional.pad(mask, (0, 9))
    padded = fipo_weights(*wider, advantages)
    torch.testing.assert_close(padded[0][:, : mask.shape[1]], weights, rtol=1e-12, atol=0)
    assert torch.equal(padded[1], dropped)
    empty = fipo_weights(torch.zeros(2, 0), torch.zeros(2, 0), torch.ones(2))
    assert empty[0].shape == (2, 0)
    assert not empty[1].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_weights_carry_no_gradient_and_are_at_least_float32(dtype):
    log_ratios = torch.full((1, 4), 0.03, dtype=dtype, requires_grad=True)
    weights, _ = fipo_weights(log_ratios, torch.ones(1, 4), torch.ones(1))
    assert not weights.requires_grad
    assert weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (weights > 1).all()


@pytest.fixture
def seen(monkeypatch):
    """What TRL is handed and what it reads: buffered inputs, log-probabilities and the weighted advantages."""
    records = []
    loss, logps = GRPOTrainer._compute_loss, GRPOTrainer._get_per_token_logps_and_entropies
    outer = FIPOTrainer.compute_loss

    def compute_and_keep(self, model, inputs, *args, **kwargs):
        before = inputs["advantages"].clone()
        records.append({"step": self.state.global_step, "buffered": before, "training": self.model.training})
        result = outer(self, model, inputs, *args, **kwargs)
        assert torch.equal(inputs["advantages"], before)  # the buffer is as it was, for the next update
        return result

    def loss_and_keep(self, model, inputs):
        result = loss(self, model, inputs)
        records[-1].update({k: v.clone() for k, v in inputs.items() if isinstance(v, torch.Tensor)})
        records[-1]["requires_grad"] = inputs["advantages"].requires_grad
        return result

    def logps_and_keep(self, *args, **kwargs):
        outputs = logps(self, *args, **kwargs)
        if self._loss_inputs is not None:
            records[-1].setdefault("logps", []).append(outputs[0].detach().clone())
        return outputs

    monkeypatch.setattr(FIPOTrainer, "compute_loss", compute_and_keep)
    monkeypatch.setattr(GRPOTrainer, "_compute_loss", loss_and_keep)
    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", logps_and_keep)
    return records


def reference_advantages(record):
    log_ratios = record["logps"][0].double() - record["old_per_token_logps"].double()
    weights, dropped = reference_weights(log_ratios, record["completion_mask"].bool(), record["buffered"])
    weighted = record["buffered"].double()[:, None] * weights
    return weighted.masked_fill(dropped[:, None], 0.0), weights, dropped


@pytest.mark.parametrize("num_iterations", [1, 2])
def test_each_update_weights_by_its_own_log_probabilities(tmp_path, seen, num_iterations):
    args = config(tmp_path, FIPOConfig, **misaligned(num_iterations=num_iterations, max_steps=8))
    trainer = build(FIPOTrainer, args)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(seen) == len(entries) == 8
    first = 2 * num_iterations  # updates that a rollout batch serves
    moved = 0
    for record, entry in zip(seen, entries, strict=True):
        assert len(record["logps"]) == 1  # no further forward pass
        assert not record["requires_grad"]
        expected, weights, dropped = reference_advantages(record)
        torch.testing.assert_close(record["advantages"].double(), expected, rtol=1e-5, atol=1e-6)
        tokens = weights[record["completion_mask"].bool()]
        if record["step"] % first == 0:
            torch.testing.assert_close(tokens, torch.ones_like(tokens), rtol=0, atol=1e-4)
        else:
            moved += int((tokens > 1.01).any() and (record["advantages"].std(1) > 1e-3).any())
        assert entry["fipo/mean"] == pytest.approx(tokens.mean().item(), abs=1e-5)
        assert entry["fipo/share_at_max"] == pytest.approx((tokens >= 1.2).double().mean().item(), abs=0.03)
        assert 0 <= entry["fipo/share_at_min"] <= 1
        assert entry["fipo/share_dropped"] == pytest.approx(dropped.double().mean().item())
    assert moved >= 3


def crafted_batch(trainer, record):
    """A recorded micro-batch, as if the policy that sampled it had been less sure of some tokens: their ratio is e³."""
    keys = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "num_items_in_batch")
    batch = {key: record[key] for key in keys}
    shift = torch.zeros_like(record["old_per_token_logps"])
    shift[0, :2], shift[1, :2], shift[2, 0], shift[3, 3] = 3.0, 3.0, 3.0, 0.1
    batch["old_per_token_logps"] = trainer_logps(trainer, batch) - shift
    batch["advantages"] = torch.tensor([-1.0, 1.0, -1.0, -1.0])
    trainer.model.train()
    return batch


def test_a_response_that_ran_away_is_dropped(tmp_path, seen):
    trainer = build(FIPOTrainer, config(tmp_path, FIPOConfig, **misaligned(max_steps=1)))
    trainer.train()
    trainer.compute_loss(trainer.model, crafted_batch(trainer, seen[0]))
    advantages = seen[-1]["advantages"]
    assert (advantages[0] == 0).all()  # two tokens of negative advantage beyond the dual clip
    assert (advantages[1] >= 1).all()  # their advantage is positive
    assert advantages[2, 0] == -1  # one alone stays, and is not weighted up
    assert advantages[3, 0] < -1.05  # tokens before one that became likelier
    assert trainer._metrics["train"]["fipo/share_dropped"][-1] == 0.25


def test_every_option_reaches_the_weights(tmp_path, seen):
    options = {
        "fipo_half_life": 2.0,
        "fipo_clip_min": 0.5,
        "fipo_clip_max": 3.0e3,
        "fipo_log_ratio_clamp": 3.5,
        "delta": 30.0,
    }
    trainer = build(FIPOTrainer, config(tmp_path, FIPOConfig, **misaligned(max_steps=1, **options)))
    trainer.train()
    batch = crafted_batch(trainer, seen[0])
    batch["old_per_token_logps"][1, 2:5] -= torch.tensor([3.3, 3.45, -9.0])  # within 30, beyond it, below the clamp
    trainer.compute_loss(trainer.model, batch)
    record = seen[-1]
    log_ratios = record["logps"][0].double() - batch["old_per_token_logps"].double()
    settings = (2.0, 0.5, 3.0e3, 3.5, 30.0)
    weights, dropped = reference_weights(log_ratios, batch["completion_mask"].bool(), batch["advantages"], *settings)
    assert not dropped.any()
    expected = batch["advantages"][:, None].double() * weights
    torch.testing.assert_close(record["advantages"].double(), expected, rtol=1e-4, atol=1e-6)


def trainer_logps(trainer, batch):
    input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention_mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    with torch.no_grad():
        return trainer._get_per_token_logps_and_entropies(
            trainer.model, input_ids, attention_mask, batch["completion_ids"].size(1)
        )[0]


@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_aligned_is_dapo_bit_for_bit(tmp_path, architecture):
    dapo = {"loss_type": "dapo", "epsilon_high": 0.28, "delta": None}
    theirs = losses_and_weights(GRPOTrainer, config(tmp_path, GRPOConfig, **dapo), tiny_model(architecture))
    ours = losses_and_weights(FIPOTrainer, config(tmp_path, FIPOConfig), tiny_model(architecture))
    assert_bit_equal(ours, theirs)


def test_weights_of_one_are_dapo_and_others_are_not(tmp_path):
    """On later updates too, where the dual clip (here out of reach) and the weights are all that FIPO adds."""
    schedule = misaligned(max_steps=6)
    far = {"delta": 1e6, **schedule}
    theirs = losses_and_weights(GRPOTrainer, config(tmp_path, GRPOConfig, loss_type="dapo", **schedule))
    ones = losses_and_weights(FIPOTrainer, config(tmp_path, FIPOConfig, fipo_clip_max=1.0, **far))
    assert_bit_equal(ones, theirs)
    assert losses_and_weights(FIPOTrainer, config(tmp_path, FIPOConfig, **far))[0] != theirs[0]


def test_the_gradient_is_that_of_fixed_weights(tmp_path, seen):
    """TRL's own trainer, handed the weighted advantages as constants, has the same gradient."""
    trainer = build(FIPOTrainer, config(tmp_path, FIPOConfig, **misaligned(max_steps=2)))
    model = copy.deepcopy(trainer.model)
    trainer.train()
    record = seen[1]
    trainer.model.load_state_dict(model.state_dict())  # another policy than the one that sampled the second batch
    trainer.model.train()
    keys = (
        "prompt_ids",
        "prompt_mask",
        "completion_ids",
        "completion_mask",
        "num_items_in_batch",
        "old_per_token_logps",
    )
    batch = {key: record[key] for key in keys}
    gradients = []
    for advantages, loss in ((record["buffered"], trainer.compute_loss), (None, trainer._compute_loss)):
        if advantages is None:
            advantages = seen[-1]["advantages"]
            seen.append({})
        trainer.model.zero_grad()
        loss(trainer.model, {**batch, "advantages": advantages}).backward()
        gradients.append(trainer.model.lm_head.weight.grad.clone())
    assert gradients[0].abs().max() > 0
    assert torch.equal(*gradients)


def test_evaluation_is_trls(tmp_path, seen):
    args = config(tmp_path, FIPOConfig, eval_strategy="steps", eval_steps=1, **misaligned(max_steps=2))
    trainer = build(FIPOTrainer, args, eval_dataset=prompts(4))
    trainer.train()
    evaluated = [record for record in seen if not record["training"]]
    assert evaluated
    assert all(record["advantages"].dim() == 1 for record in evaluated)


@pytest.mark.parametrize(
    "options",
    [{"beta": 0.1}, {"top_entropy_quantile": 0.2}, {"loss_type": "dr_grpo"}, {"off_policy_mask_threshold": 0.01}],
    ids=lambda o: next(iter(o)),
)
def test_other_options_of_the_loss_go_with_it(tmp_path, seen, options):
    model = tiny_model()
    model.save_pretrained(tmp_path / "base")
    model = type(model).from_pretrained(tmp_path / "base", dtype=torch.float32)
    trainer = build(FIPOTrainer, config(tmp_path, FIPOConfig, **misaligned(**options)), model, digit_reward)
    trainer.train()
    assert any((record["advantages"].std(1) > 1e-3).any() for record in seen)
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


@pytest.mark.parametrize(
    ("schedule", "warned"),
    [
        ({}, True),
        ({"gradient_accumulation_steps": 4, "steps_per_generation": 2}, True),
        ({"gradient_accumulation_steps": 2, "num_iterations": 2}, False),
        ({"gradient_accumulation_steps": 3, "steps_per_generation": 2}, False),
        (misaligned(), False),
    ],
)
def test_a_schedule_that_makes_it_dapo_is_warned_about(tmp_path, caplog, schedule, warned):
    with caplog.at_level(logging.WARNING, logger=fipo_module.__name__):
        build(FIPOTrainer, config(tmp_path, FIPOConfig, **schedule))
    assert sum("this is DAPO" in record.message for record in caplog.records) == warned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fipo_half_life": 0.0}, r"fipo_half_life must be a positive number of tokens; got 0\.0"),
        ({"fipo_half_life": float("nan")}, "got nan"),
        ({"fipo_clip_min": 0.0}, r"got 0\.0 and 1\.2"),
        ({"fipo_clip_min": 1.1}, r"got 1\.1 and 1\.2"),
        ({"fipo_clip_max": 0.9}, r"got 1\.0 and 0\.9"),
        ({"fipo_log_ratio_clamp": 2.3}, r"must exceed ln\(delta\) = 2\.303.*; got 2\.3"),
        ({"importance_sampling_level": "sequence"}, "'sequence' cannot be combined with FIPO"),
        *(({"loss_type": name}, f"got '{name}'") for name in ("cispo", "sapo", "vespo", "luspo")),
        ({"delta": None}, "needs a dual-clip bound: .* got None"),
        ({"delta": 1.28}, r"must exceed 1 \+ epsilon_high = 1\.28; got 1\.28"),
        ({"delta": 1.2, "epsilon_high": None}, r"epsilon_high = 1\.2; got 1\.2"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, FIPOConfig, **options)


def test_another_config_or_active_dropout_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs a FIPOConfig as args; got GRPOConfig"):
        build(FIPOTrainer, config(tmp_path, GRPOConfig))
    with pytest.raises(ValueError, match="Log-ratios would be noise"):
        build(FIPOTrainer, config(tmp_path, FIPOConfig), tiny_model(attention_dropout=0.1))


def test_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = FIPOConfig(use_cpu=True, bf16=False)
    assert (args.fipo_half_life, args.fipo_clip_min, args.fipo_clip_max, args.fipo_log_ratio_clamp) == (32, 1, 1.2, 20)
    assert (args.loss_type, args.epsilon, args.epsilon_high, args.delta) == ("dapo", 0.2, 0.28, 10.0)
    assert args.disable_dropout
    with pytest.warns(UserWarning, match=r"save_steps=3 is not a multiple of 2"):
        config(tmp_path, FIPOConfig, **misaligned(save_strategy="steps", save_steps=3))
