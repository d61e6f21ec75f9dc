"""`coef_centroids: previous`: coefficients in the loss, at the centroids of the rollout batch before."""

import dataclasses
import itertools
import logging
import random

import pandas as pd
import pytest
import torch
from peft import LoraConfig
from support.models import assert_bit_equal, build, config, count_forward_rows, losses_and_weights, misaligned, prompts
from support.reference import reference_at, reference_statistics
from support.rollouts import rollouts_with_tool_output
from trl import GRPOConfig, GRPOTrainer

from delta_trl import DeltaGRPOConfig, DeltaGRPOTrainer
from delta_trl.baselines import DAPOTrainer
from delta_trl.config import GRPOBaseConfig
from delta_trl.hidden_states import HiddenStates
from delta_trl.methods.ablations import VariantGRPOConfig
from delta_trl.methods.hashed_agreement import HashedAgreementGRPOConfig, HashedAgreementGRPOTrainer
from delta_trl.methods.joined_agreement import JoinedAgreementGRPOConfig
from delta_trl.previous import OpenBatch, PreviousCentroidsTrainer, read_statistics, write_statistics
from delta_trl.run_folder import STATISTICS_FILE
from delta_trl.token_mask import COUNTED, ROWS


pytestmark = pytest.mark.trained


def previous(tmp_path, config_class=DeltaGRPOConfig, **options):
    return config(tmp_path, config_class, **{"coef_centroids": "previous", "max_steps": 4, **options})


@dataclasses.dataclass
class Passed:
    """What a rollout batch gave, and what a pass of its own gives just after its last loss, before the update."""

    features: torch.Tensor
    scale: torch.Tensor
    advantages: torch.Tensor
    coefficients: torch.Tensor
    hidden: torch.Tensor
    hidden_of_own_pass: torch.Tensor
    log_probs_of_own_pass: torch.Tensor
    passes: torch.Tensor  # the number of the pass of each token
    batch: dict

    def expected(self, before: "Passed", credited=False, refinement_steps=1, **bounds) -> torch.Tensor:
        """λ with the statistics of another rollout batch, of mean 1 over each pass."""
        statistics = reference_statistics(before.features, before.advantages, before.scale, refinement_steps)
        λ = reference_at(statistics, self.features, self.advantages, self.scale, **bounds)
        counted = self.advantages != 0 if credited else torch.ones_like(self.passes, dtype=torch.bool)
        for number in self.passes.unique():
            rows = self.passes == number
            λ[rows] /= λ[rows & counted].mean()
        return λ


@pytest.fixture
def passed(monkeypatch):
    seen, finish, put = [], PreviousCentroidsTrainer._finish, OpenBatch.put

    def put_and_count(self, inputs, recorded, coefficients):
        self.passes = getattr(self, "passes", torch.full(self.batch[COUNTED].shape, -1))
        self.passes[inputs[ROWS]] = self.passes.max() + 1
        put(self, inputs, recorded, coefficients)

    def finish_and_keep(self, done):
        mask = done.batch[COUNTED]
        own = self.record_policy(done.batch)
        kept = mask[done.batch["completion_mask"].bool()]
        seen.append(
            Passed(
                features=done.hidden_states.packed[kept].clone(),
                scale=1 - done.log_probs[mask].double().exp(),
                advantages=done.batch["advantages"][:, None].expand_as(mask)[mask],
                coefficients=done.batch["token_coefficients"][mask].clone(),
                hidden=done.hidden_states.packed.clone(),
                hidden_of_own_pass=own.hidden_states.packed,
                log_probs_of_own_pass=own.log_probs[mask],
                passes=done.passes[mask],
                batch=done.batch,
            )
        )
        finish(self, done)

    monkeypatch.setattr(OpenBatch, "put", put_and_count)
    monkeypatch.setattr(PreviousCentroidsTrainer, "_finish", finish_and_keep)
    return seen


def assert_equal_bits(one, other):
    """Of runs of a few steps: their logs and weights."""
    assert one[0] == other[0]
    assert all(torch.equal(weights, other[1][name]) for name, weights in one[1].items())


def made_rollouts(prompts, trainer):
    """Random completions that depend on the step alone, of uneven lengths."""
    generator = random.Random(trainer.state.global_step)
    encode = trainer.processing_class
    texts = ["".join(generator.choices("abcdefgh0123456789+=", k=2 + 3 * (i % 3))) for i in range(len(prompts))]
    return {
        "prompt_ids": [encode(prompt)["input_ids"] for prompt in prompts],
        "completion_ids": [encode(text)["input_ids"] for text in texts],
        "logprobs": None,
    }


@pytest.mark.parametrize(
    "options",
    [{}, {"coef_normalize": "credited", "coef_min": 0.5, "coef_max": 1.5, "coef_refinement_steps": 0}],
    ids=["published", "other options"],
)
def test_coefficients_are_a_literal_transcription_of_the_definition(tmp_path, passed, options):
    """Over five rollout batches of two micro-batches, while the policy moves."""
    args = previous(tmp_path, max_steps=5, **options)
    build(DeltaGRPOTrainer, args).train()
    assert len(passed) == 5
    assert (passed[0].coefficients == 1).all()
    for before, now in itertools.pairwise(passed):
        assert now.passes.unique().tolist() == [0, 1]
        expected = now.expected(
            before,
            credited=args.coef_normalize == "credited",
            refinement_steps=args.coef_refinement_steps,
            coef_min=args.coef_min,
            coef_max=args.coef_max,
        )
        torch.testing.assert_close(now.coefficients.double(), expected, rtol=0, atol=1e-5)
        assert now.coefficients.std() > 0.02


@pytest.mark.parametrize("lora", [False, True])
def test_states_of_the_losses_are_those_of_a_pass_over_the_rollout_batch(tmp_path, passed, lora):
    """Row by row, although TRL shuffles the rows; under LoRA of the adapted policy."""
    adapters = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None
    args = previous(tmp_path, max_steps=2, learning_rate=0.1, beta=0.1 if lora else 0.0)
    build(DeltaGRPOTrainer, args, peft_config=adapters).train()
    for batch in passed:
        torch.testing.assert_close(batch.hidden, batch.hidden_of_own_pass, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(batch.scale, 1 - batch.log_probs_of_own_pass.double().exp(), rtol=0, atol=1e-5)


def test_the_loss_weighs_each_token_by_its_own_coefficient(tmp_path, passed, monkeypatch):
    """On-policy J = Σ λ A / N, and its losses are summed over the micro-batches of the rollout batch."""
    losses, compute_loss = [], GRPOTrainer.compute_loss

    def keep(*args, **kwargs):
        losses.append(compute_loss(*args, **kwargs))
        return losses[-1]

    monkeypatch.setattr(GRPOTrainer, "compute_loss", keep)
    build(DeltaGRPOTrainer, previous(tmp_path)).train()
    for number, batch in enumerate(passed):
        expected = -(batch.coefficients * batch.advantages).mean()
        assert sum(losses[2 * number : 2 * number + 2]).item() == pytest.approx(expected.item(), abs=1e-5)
    assert abs(passed[1].coefficients @ passed[1].advantages - passed[1].advantages.sum()) > 1e-2


def test_the_first_rollout_batch_is_trained_on_as_trl_does(tmp_path):
    ours = losses_and_weights(DeltaGRPOTrainer, previous(tmp_path, max_steps=1))
    theirs = losses_and_weights(GRPOTrainer, config(tmp_path, GRPOConfig, max_steps=1))
    assert_equal_bits(ours, theirs)


@pytest.mark.parametrize("offload", ["never", "always"])
@pytest.mark.parametrize("rows", [8, 1])
def test_one_pass_for_a_rollout_batch_or_for_each_response(tmp_path, passed, rows, offload):
    split = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": 8 // rows}
    args = previous(tmp_path, max_steps=3, coef_offload=offload, **split)
    build(DeltaGRPOTrainer, args, rollout_func=made_rollouts).train()
    for before, now in itertools.pairwise(passed):
        assert len(now.passes.unique()) == 8 // rows
        torch.testing.assert_close(now.coefficients.double(), now.expected(before), rtol=0, atol=1e-5)
        assert now.coefficients.std() > 0.02
        if rows == 8:
            assert now.coefficients.mean() == pytest.approx(1, abs=1e-6)


def test_no_forward_pass_is_added(tmp_path):
    trainer = build(DeltaGRPOTrainer, previous(tmp_path))
    rows = count_forward_rows(trainer.model)
    trainer.train()
    assert rows == [0]
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["delta/extra_forward_passes"] for entry in steps] == [0] * 4
    assert [entry["delta/previous/missing"] for entry in steps] == [1, 0, 0, 0]
    assert "delta/previous/correlation" not in steps[0]
    assert all(-1 <= entry["delta/previous/correlation"] <= 1 for entry in steps[1:])


def test_two_rollout_batches_in_one_update_follow_each_other(tmp_path, passed):
    args = previous(tmp_path, max_steps=2, steps_per_generation=2, gradient_accumulation_steps=4)
    build(DeltaGRPOTrainer, args).train()
    assert len(passed) == 4
    for before, now in itertools.pairwise(passed):
        torch.testing.assert_close(now.coefficients.double(), now.expected(before), rtol=0, atol=1e-5)


@pytest.mark.parametrize("trainer_class", [DeltaGRPOTrainer, HashedAgreementGRPOTrainer])
def test_a_resumed_run_goes_on_as_it_would_have(tmp_path, trainer_class, caplog):
    def run(name, resume=None):
        args = previous(tmp_path / name, trainer_class.config_class, save_strategy="steps", save_steps=2)
        trainer = build(trainer_class, args)
        trainer.train(resume_from_checkpoint=resume)
        entries = [entry for entry in trainer.state.log_history if "delta/seconds" in entry][2:]
        kept = [
            {key: value for key, value in entry.items() if "seconds" not in key and "time" not in key}
            for entry in entries
        ]
        return kept, {name: p.detach().clone() for name, p in trainer.model.named_parameters()}

    whole = run("whole")
    assert whole[0][0]["delta/coef/std"] > 0.02
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    resumed = run("resumed", str(checkpoint))
    assert_equal_bits(resumed, whole)
    assert "has no coef_statistics.pt" not in caplog.text

    (checkpoint / STATISTICS_FILE).unlink()
    with caplog.at_level(logging.WARNING):
        (third, _), _ = run("without", str(checkpoint))
    assert third["delta/previous/missing"] == 1
    assert third["delta/coef/std"] == 0
    assert "has no coef_statistics.pt" in caplog.text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:100]), "cannot be read: it was cut off or changed"),
        (lambda file: file.write_bytes(b""), "cannot be read: it was cut off or changed"),
        (lambda file: torch.save([1, 2], file), "holds no statistics of a rollout batch"),
        (lambda file: torch.save({"centroids": torch.ones(2, 3)}, file), "holds no statistics of a rollout batch"),
        (
            lambda file: torch.save({"method": "DelTA", "statistics": {"a": 1.0}}, file),
            "holds no statistics of a rollout",
        ),
        (
            lambda file: write_statistics(None, "another", file),
            "holds the statistics of another, which DelTA does not read",
        ),
    ],
)
def test_statistics_that_cannot_be_read_are_named_with_what_helps(tmp_path, damage, message):
    file = tmp_path / STATISTICS_FILE
    write_statistics({"centroids": torch.ones(2, 3)}, "DelTA", file)
    assert torch.equal(read_statistics(file, "DelTA", torch.device("cpu"))["centroids"], torch.ones(2, 3))
    damage(file)
    with pytest.raises(ValueError, match=f"{STATISTICS_FILE} {message}.*remove that file"):
        read_statistics(file, "DelTA", torch.device("cpu"))


def test_a_rollout_batch_without_contrast_leaves_what_was_learned(tmp_path, passed):
    calls = []

    def rewards(completions, **kwargs):
        calls.append(len(completions))
        return [1.0] * len(completions) if len(calls) == 2 else [float(len(set(text)) % 3) for text in completions]

    trainer = build(DeltaGRPOTrainer, previous(tmp_path), reward_funcs=rewards)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "delta/seconds" in entry]
    assert [entry["delta/fallback/no_contrast"] for entry in entries] == [0, 1, 0, 0]
    first, _, third, _ = passed
    torch.testing.assert_close(third.coefficients.double(), third.expected(first), rtol=0, atol=1e-5)


def test_a_value_that_is_not_finite_spoils_neither_its_own_rollout_batch_nor_the_next(
    tmp_path, passed, monkeypatch, caplog
):
    append, calls = HiddenStates.append, []

    def append_with_one_infinity(self, last_hidden_state):
        calls.append(True)
        if len(calls) == 3:  # the first micro-batch of the second rollout batch
            last_hidden_state = last_hidden_state.clone()
            last_hidden_state[0, -5, 0] = float("inf")
        append(self, last_hidden_state)

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        # Without the pass that the fixture adds
        patch.setattr(PreviousCentroidsTrainer, "record_policy", lambda self, batch: self._open.recorded)
        patch.setattr(HiddenStates, "append", append_with_one_infinity)
        trainer = build(DeltaGRPOTrainer, previous(tmp_path))
        trainer.train()
    first, second, third, _ = passed
    entries = [entry for entry in trainer.state.log_history if "delta/seconds" in entry]
    assert [entry["delta/fallback/non_finite"] for entry in entries] == [0, 1, 0, 0]
    assert 0 < (second.coefficients == 1).sum() < len(second.coefficients)  # the other micro-batch has its own
    torch.testing.assert_close(third.coefficients.double(), third.expected(first), rtol=0, atol=1e-5)
    assert sum("is not finite" in record.message for record in caplog.records) == 1
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_tool_tokens_are_no_tokens_and_records_have_the_coefficients(tmp_path, passed):
    args = previous(tmp_path, max_steps=2, log_completions=True, num_completions_to_print=0, coef_log_completions=8)
    build(DeltaGRPOTrainer, args, rollout_func=rollouts_with_tool_output).train()
    batch = passed[1].batch
    tokens = batch["completion_mask"].bool() & batch["tool_mask"].bool()
    assert len(passed[1].features) == tokens.sum() == batch["completion_mask"].sum() - 16
    assert (batch["token_coefficients"][~tokens] == 1).all()
    frame = pd.read_parquet(tmp_path / "completions" / "coefficients_00002.parquet")
    for i, row in frame.iterrows():
        mask = batch["completion_mask"][i].bool()
        assert row["completion_ids"].tolist() == batch["completion_ids"][i][mask].tolist()
        torch.testing.assert_close(torch.tensor(row["coefficients"]).float(), batch["token_coefficients"][i][mask])
        assert row["advantage"] == batch["advantages"][i].item()


def test_evaluation_is_trls(tmp_path, passed):
    args = previous(tmp_path, eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=4, max_steps=3)
    trainer = build(DeltaGRPOTrainer, args, eval_dataset=prompts(4))
    trainer.train()
    assert len(passed) == 3
    assert any("eval_reward" in entry for entry in trainer.state.log_history)
    assert not any(key.startswith("eval_delta") for entry in trainer.state.log_history for key in entry)


def test_equal_bounds_are_trls_training(tmp_path):
    ours = losses_and_weights(DeltaGRPOTrainer, previous(tmp_path, coef_min=1.0, coef_max=1.0))
    theirs = losses_and_weights(DAPOTrainer, config(tmp_path, GRPOBaseConfig, max_steps=4))
    assert_bit_equal(ours, theirs)


def test_the_default_is_the_published_one(tmp_path):
    assert config(tmp_path).coef_centroids == config(tmp_path, HashedAgreementGRPOConfig).coef_centroids == "batch"


@pytest.mark.parametrize(
    ("options", "config_class", "message"),
    [
        ({"coef_centroids": "last"}, DeltaGRPOConfig, "must be 'batch' or 'previous'; got 'last'"),
        ({"coef_features": "hidden_gradient"}, DeltaGRPOConfig, "coef_features='output_row' alone; got 'hidden_grad"),
        ({"coef_features": "local_temperature_gradient"}, DeltaGRPOConfig, "coef_features='output_row' alone"),
        (misaligned(), DeltaGRPOConfig, "TRL makes a pass of its own"),
        ({"num_iterations": 2}, HashedAgreementGRPOConfig, "num_iterations=2"),
        ({"num_iterations": 2, "steps_per_generation": 1}, DeltaGRPOConfig, "num_iterations=2"),
        ({"use_vllm": True}, DeltaGRPOConfig, "vllm_importance_sampling_correction=True"),
        ({"variant": "place_agreement"}, VariantGRPOConfig, "is not defined for 'place_agreement'"),
        ({"variant": "within_side"}, VariantGRPOConfig, "is not defined for 'within_side'"),
        ({}, JoinedAgreementGRPOConfig, "is not defined for 'joined agreement'"),
    ],
)
def test_what_it_cannot_be_combined_with_is_refused_before_a_model_is_loaded(tmp_path, options, config_class, message):
    with pytest.raises(ValueError, match=message):
        previous(tmp_path, config_class, **options)
