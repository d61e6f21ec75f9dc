"""A token counts exactly if its advantage can reach the gradient: under each of TRL's masks, and for every method."""

import pytest
import torch
from support.models import build, config, tiny_model
from support.rivals import RIVALS, solved_prompts
from support.rollouts import rollouts_with_tool_output
from support.vllm_client import StandInClient, install
from trl import GRPOTrainer

from delta_trl import DeltaGRPOConfig, DeltaGRPOTrainer
from delta_trl.methods.ablations import VARIANTS, VariantGRPOConfig
from delta_trl.methods.fipo import FIPOConfig, FIPOTrainer
from delta_trl.methods.gmts import GMTSConfig
from delta_trl.methods.hashed_agreement import HashedAgreementGRPOConfig, HashedAgreementGRPOTrainer
from delta_trl.methods.rsi_s import RSISConfig
from delta_trl.methods.shear import SHEARConfig
from delta_trl.token_credit import TokenCreditTrainer
from delta_trl.token_mask import COUNTED, SCORED, counted_tokens, token_mask


# --- TRL's own masks, in its own rollout batches and losses


@pytest.fixture
def seen(monkeypatch):
    """Micro-batches as TRL's loss gets them, and the log-probabilities whose gradient it is."""
    records = []
    loss, forward = GRPOTrainer._compute_loss, GRPOTrainer._get_per_token_logps_and_entropies

    def loss_and_keep(self, model, inputs):
        records.append({"inputs": inputs})
        return loss(self, model, inputs)

    def forward_and_keep(self, *args, **kwargs):
        outputs = forward(self, *args, **kwargs)
        if outputs[0].requires_grad:
            outputs[0].retain_grad()
            records[-1]["log_probs"] = outputs[0]
        return outputs

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", loss_and_keep)
    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", forward_and_keep)
    return records


def by_place(completions, **kwargs):
    """Other rewards within each group of four, whatever was sampled."""
    return [float(i % 4) for i in range(len(completions))]


def some_unscored(completions, **kwargs):
    """The first completion of each group has no reward, and the first group has none at all."""
    return [None if i < 4 or i % 4 == 0 else float(i % 4) for i in range(len(completions))]


def constant(completions, **kwargs):
    """The completions of the first group all have the same reward."""
    return [1.0 if i < 4 else float(i % 4) for i in range(len(completions))]


def half_truncated(prompts, trainer):
    """Every other completion has no end."""
    tokenizer = trainer.processing_class
    texts = [tokenizer(f"{i}{'ab?'[i % 3]}{i * 7}")["input_ids"] for i in range(len(prompts))]
    return {
        "prompt_ids": [tokenizer(prompt)["input_ids"] for prompt in prompts],
        "completion_ids": [ids + [tokenizer.eos_token_id] * (i % 2) for i, ids in enumerate(texts)],
        "logprobs": None,
    }


class DriftingClient(StandInClient):
    """Reports another log-probability for the first token of every other completion: its engine computes otherwise."""

    def __init__(self, drift):
        super().__init__(tiny_model(seed=1))
        self.drift = drift

    def generate(self, *args, **kwargs):
        sampled = super().generate(*args, **kwargs)
        for chosen in sampled["logprobs"][1::2]:
            chosen[0][0] += self.drift
        return sampled


VLLM = {"use_vllm": True, "vllm_mode": "server", "vllm_importance_sampling_clip_max": 3.0}
SEQUENCES = {**VLLM, "vllm_importance_sampling_mode": "sequence_mask"}
TOKENS = {**VLLM, "vllm_importance_sampling_mode": "token_mask"}
UNCORRECTED = {**VLLM, "vllm_importance_sampling_correction": False}
# Options, arguments of the trainer, the client's drift, and the share of written tokens that must not count
CASES = {
    "nothing": ({}, {}, 0, 0),
    "truncated": (
        {"mask_truncated_completions": True},
        {"rollout_func": half_truncated},
        0,
        0,
    ),  # which are not even written for TRL
    "tool": ({}, {"rollout_func": rollouts_with_tool_output}, 0, 0.3),
    "unscored": ({}, {"reward_funcs": some_unscored}, 0, 5 / 8),
    "sequence_mask": (SEQUENCES, {}, -5.0, 1 / 2),
    "token_mask": (TOKENS, {}, -5.0, 1 / 20),
    "token_mask_vespo": ({**TOKENS, "loss_type": "vespo"}, {}, -5.0, 0),
    "off_policy": ({**UNCORRECTED, "off_policy_mask_threshold": 1.0}, {}, 20.0, 1 / 4),
}


@pytest.mark.parametrize("case", CASES)
def test_what_counts_is_what_has_gradient(tmp_path, monkeypatch, seen, case):
    options, trainer_options, drift, left_out = CASES[case]
    if "use_vllm" in options:
        install(DriftingClient(drift), monkeypatch)
    trainer_options = {"reward_funcs": by_place, **trainer_options}
    trainer = build(DeltaGRPOTrainer, config(tmp_path, max_steps=1, **options), **trainer_options)
    trainer.train()
    written = torch.cat([record["inputs"]["completion_mask"].bool().flatten() for record in seen])
    counted = torch.cat([token_mask(record["inputs"]).flatten() for record in seen])
    gradient = torch.cat([(record["log_probs"].grad != 0).flatten() for record in seen])
    credited = torch.cat(
        [(record["inputs"]["advantages"].expand_as(record["log_probs"]) != 0).flatten() for record in seen]
    )
    assert torch.equal(gradient, counted & credited)
    assert gradient.any()
    assert (written & ~counted).sum() / written.sum() == pytest.approx(left_out, abs=0.1 if left_out else 0)
    coefficients = torch.cat([record["inputs"]["token_coefficients"].flatten() for record in seen])
    assert coefficients[counted].mean().item() == pytest.approx(1, abs=1e-6)
    assert (coefficients[~counted] == 1).all()
    assert coefficients[counted].std() > 0.01


@pytest.mark.parametrize(("reward", "counting"), [(constant, 8), (some_unscored, 3)])
def test_a_group_without_differences_counts_and_one_without_rewards_does_not(tmp_path, seen, reward, counting):
    build(DeltaGRPOTrainer, config(tmp_path, max_steps=1), reward_funcs=reward).train()
    assert sum(row.any().item() for record in seen for row in token_mask(record["inputs"])) == counting
    assert sum((row == 0).all().item() for record in seen for row in record["inputs"]["advantages"]) >= 4


# --- Every method, with and without what does not count


METHODS = {
    "delta": (DeltaGRPOTrainer, DeltaGRPOConfig, {}),
    "delta_credited": (DeltaGRPOTrainer, DeltaGRPOConfig, {"coef_normalize": "credited"}),
    "delta_hidden_gradient": (DeltaGRPOTrainer, DeltaGRPOConfig, {"coef_features": "hidden_gradient"}),
    **RIVALS,
    "stare": (*RIVALS["stare"][:2], {**RIVALS["stare"][2], "stare_share": 0.5}),
    "fipo": (FIPOTrainer, FIPOConfig, {}),
    "shear": (TokenCreditTrainer, SHEARConfig, {"shear_span": 4, "shear_stride": 2}),
    "gmts": (TokenCreditTrainer, GMTSConfig, {}),
    "rsi_s": (TokenCreditTrainer, RSISConfig, {}),
    "hashed_agreement": (HashedAgreementGRPOTrainer, HashedAgreementGRPOConfig, {}),
    **{name: (DeltaGRPOTrainer, VariantGRPOConfig, {"variant": name}) for name in VARIANTS},
}
# A weight of these is a function of the token, or of its response, alone
OF_THEIR_OWN = ("ar", "gtpo", "rlsd", "fipo")


def masked(name: str, batch: dict) -> dict:
    """A rollout batch of which TRL masks the last rows, or some tokens of theirs, as it does in the cases above."""
    n_rows = len(batch["advantages"])
    last = torch.arange(n_rows) >= n_rows - MASKED_ROWS.get(name, 2)
    if name == "truncated":
        return {**batch, "completion_mask": batch["completion_mask"] * ~last[:, None]}
    if name == "unscored":
        return {**batch, SCORED: ~last, "advantages": batch["advantages"].masked_fill(last, 0.0)}
    if name == "sequence_mask":
        return {**batch, "importance_sampling_ratio": torch.where(last, 0.0, 1.5)[:, None]}
    if name == "off_policy":
        drift = torch.where(last, 9.0, 0.0)[:, None]
        return {**batch, "sampling_per_token_logps": batch["old_per_token_logps"] + drift}
    some = last[:, None] & (torch.arange(batch["completion_mask"].size(1)) % 3 == 1)
    if name == "token_mask":
        return {**batch, "importance_sampling_ratio": torch.where(some, 0.0, 1.5)}
    assert name == "tool"
    return {**batch, "tool_mask": (~some).int()}


# How many rows each of them masks here: the third last has a positive advantage, which the off-policy mask never drops
MASKED_ROWS = {"truncated": 3, "unscored": 3, "sequence_mask": 3, "off_policy": 2}
TOKEN_MASKS = ("token_mask", "tool")


def weights_of(trainer, batch, rows, recorded=None):
    """Of every token, shape (B, T), as the method gives them for this rollout batch."""
    batch = {**batch}
    torch.manual_seed(0)
    if isinstance(trainer, FIPOTrainer):
        log_probs = batch["old_per_token_logps"] if recorded is None else recorded.log_probs
        batch[COUNTED] = counted_tokens(trainer, batch, log_probs)
        inputs = {**batch, "advantages": batch["advantages"].clone()}
        trainer._weight_advantages(inputs, log_probs + batch["drift"])
        return inputs["advantages"], batch[COUNTED]
    trainer._memory.clear()
    recorded = recorded or trainer.record_policy(batch)
    batch[COUNTED] = counted_tokens(trainer, batch, recorded.log_probs)
    trainer.add_token_coefficients(batch, recorded, rows)
    return batch["token_coefficients"], batch[COUNTED]


def spoiled(trainer, batch, counted):
    """A recorded pass with other values, and very unlikely tokens, where `counted` is false."""
    recorded = trainer.record_policy(batch)
    log_probs = recorded.log_probs.masked_fill(~counted, -20.0)
    entropies = None if recorded.entropies is None else recorded.entropies.masked_fill(~counted, 50.0)
    if recorded.hidden_states is not None:
        recorded.hidden_states.packed[~counted[batch["completion_mask"].bool()]] = 40.0
    return recorded._replace(log_probs=log_probs, entropies=entropies)


@pytest.fixture(scope="module")
def rollouts():
    """A rollout batch of three groups of four, with its rows of the dataset, and how a later policy moved."""
    rows = [row for row in solved_prompts(3).to_list() for _ in range(4)]
    trainer = build_method("delta", "unused")
    torch.manual_seed(1)
    batch = trainer._generate_and_score_completions(rows)
    # Advantages of either sign among the masked rows and among the others
    batch["advantages"] = torch.tensor([1.0, -1.0, 0.5, -0.5, 1.5, -0.5, 0.0, -1.0, 2.0, 1.0, -1.0, -2.0])
    batch["drift"] = 0.3 * torch.randn(batch["old_per_token_logps"].shape)
    return {k: v for k, v in batch.items() if k not in ("token_coefficients", COUNTED)}, rows


def build_method(name, output_dir):
    trainer_class, config_class, options = METHODS[name]
    # A group of four for each micro-batch
    args = config(output_dir, config_class, steps_per_generation=3, **options)
    trainer = build(trainer_class, args, train_dataset=solved_prompts(12))
    trainer.model.train()
    return trainer


@pytest.mark.parametrize("name", METHODS)
def test_a_token_without_gradient_shapes_no_weight(rollouts, tmp_path, name):
    trainer, (batch, rows) = build_method(name, tmp_path), rollouts
    for mask, n_masked in MASKED_ROWS.items():
        trainer.off_policy_mask_threshold = 1.0 if mask == "off_policy" else None
        with_them, counted = weights_of(trainer, masked(mask, batch), rows)
        kept = len(rows) - n_masked
        assert counted[:kept].any(1).all(), mask
        assert not counted[kept:].any(), mask
        without = {k: v[:kept] if isinstance(v, torch.Tensor) and v.ndim else v for k, v in batch.items()}
        alone, _ = weights_of(trainer, without, rows[:kept])
        torch.testing.assert_close(with_them[:kept], alone, rtol=1e-5, atol=1e-6, msg=mask)
        trainer.off_policy_mask_threshold = None
        # The off-policy mask drops no token with a positive advantage, and STARE looks at no other
        if name not in OF_THEIR_OWN and (name, mask) != ("stare", "off_policy"):
            unmasked, _ = weights_of(trainer, batch, rows, spoiled(trainer, batch, counted))
            assert (alone - unmasked[:kept]).abs().max() > 1e-4, "the masked rows would have changed nothing anyway"
    for mask in TOKEN_MASKS:
        values, counted = weights_of(trainer, masked(mask, batch), rows)
        assert counted.any(1).all()
        assert (batch["completion_mask"].bool() & ~counted).any()
        if name != "fipo":
            again, _ = weights_of(trainer, masked(mask, batch), rows, spoiled(trainer, batch, counted))
            assert torch.equal(values, again), mask


def test_a_masked_token_adds_nothing_to_what_fipo_sees_ahead(rollouts, tmp_path):
    trainer, (batch, rows) = build_method("fipo", tmp_path), rollouts
    for mask in TOKEN_MASKS:
        batch_of = masked(mask, batch)
        counted = counted_tokens(trainer, batch_of, batch["old_per_token_logps"])
        values, _ = weights_of(trainer, batch_of, rows)
        again, _ = weights_of(trainer, {**batch_of, "drift": batch["drift"].masked_fill(~counted, 1.0)}, rows)
        assert torch.equal(values, again), mask
