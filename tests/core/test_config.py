"""GRPOConfig's options one by one: what becomes of each under DelTA, and whether token credit survives it."""

import pytest
import torch
from support.models import build, config, digit_reward, prompts, tiny_model
from transformers import TrainingArguments
from trl import GRPOConfig

from delta_trl import DeltaGRPOTrainer


pytestmark = pytest.mark.trained


def length_reward(completions, **kwargs):
    return [float(len(set(c))) for c in completions]


# Settings with which a short run shows that the option works. Several options that only mean something together share
# their settings.
ADAPTIVE_ENTROPY = {
    "use_adaptive_entropy": True,
    "entropy_coef": 0.01,
    "entropy_coef_min": 0.001,
    "entropy_coef_max": 0.1,
    "entropy_coef_delta": 0.01,
    "entropy_target": 9.0,
}
VESPO = {
    "loss_type": "vespo",
    "vespo_k_pos": 1.5,
    "vespo_lambda_pos": 2.5,
    "vespo_k_neg": 2.5,
    "vespo_lambda_neg": 1.5,
}
LOGGING = {"log_completions": True, "num_completions_to_print": 1, "log_unique_prompts": True}
REFERENCE = {"beta": 0.1, "sync_ref_model": True, "ref_model_mixup_alpha": 0.5, "ref_model_sync_steps": 1}
RUNS = {
    "router_aux_loss_coef": {"router_aux_loss_coef": 0.01},
    "disable_dropout": {"disable_dropout": False},
    "cast_lm_head_to_fp32": {"cast_lm_head_to_fp32": True},
    "num_generations": {"num_generations": 8},
    "num_generations_eval": {"num_generations_eval": 2, "eval_strategy": "steps", "eval_steps": 1},
    "max_completion_length": {"max_completion_length": 3},
    "shuffle_dataset": {"shuffle_dataset": False},
    "pad_to_multiple_of": {"pad_to_multiple_of": 16},
    "generation_batch_size": {"generation_batch_size": 16},
    "steps_per_generation": {"steps_per_generation": 4},
    "temperature": {"temperature": 0.5},
    "top_p": {"top_p": 0.9},
    "top_k": {"top_k": 20},
    "min_p": {"min_p": 0.01},
    "generation_kwargs": {"generation_kwargs": {"suppress_tokens": [7]}},
    "repetition_penalty": {"repetition_penalty": 1.1},
    "cache_implementation": {"cache_implementation": "dynamic"},
    "num_iterations": {"num_iterations": 2},
    "epsilon": {"epsilon": 0.1},
    "delta": {"delta": 1.5},
    "epsilon_high": {"epsilon_high": None},
    "sapo_temperature_neg": {"loss_type": "sapo", "sapo_temperature_neg": 1.5},
    "sapo_temperature_pos": {"loss_type": "sapo", "sapo_temperature_pos": 1.5},
    **dict.fromkeys(("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"), VESPO),
    "multi_objective_aggregation": {"multi_objective_aggregation": "normalize_then_sum"},
    "reward_weights": {"reward_weights": [1.0, 0.5]},
    "scale_rewards": {"scale_rewards": "none"},
    "loss_type": {"loss_type": "grpo"},
    "mask_truncated_completions": {"mask_truncated_completions": True},
    **dict.fromkeys(("beta", "sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"), REFERENCE),
    "top_entropy_quantile": {"top_entropy_quantile": 0.5},
    **dict.fromkeys(ADAPTIVE_ENTROPY, ADAPTIVE_ENTROPY),
    "off_policy_mask_threshold": {"off_policy_mask_threshold": 0.5},
    "use_bias_correction_kl": {**REFERENCE, "use_bias_correction_kl": False},
    **dict.fromkeys(LOGGING, LOGGING),
}
REFUSED = {"importance_sampling_level": {"importance_sampling_level": "sequence"}}
# Options that no run here can show, and why
ELSEWHERE = {
    **dict.fromkeys(
        ("model_init_kwargs", "trust_remote_code"),
        "read by TRL while it loads a model from a path, which test_modes.py does",
    ),
    "ds3_gather_for_generation": "DeepSpeed ZeRO-3 only, and only during generation",
    "chat_template_kwargs": "read by TRL while it renders conversational prompts, before there are tokens",
    "max_tool_calling_iterations": "bounds TRL's tool loop; which tokens the tools wrote is tested with env_mask",
    **dict.fromkeys((name for name in GRPOConfig.__dataclass_fields__ if "vllm" in name), "vLLM: see test_modes.py"),
    "log_multimodal": "images only",
    "log_completions_hub_repo": "needs the Hub",
    **dict.fromkeys(
        (
            "use_transformers_continuous_batching",
            "transformers_continuous_batching_config",
            "use_transformers_paged",
        ),
        "another generation engine, which needs a GPU; coefficients come from the policy's own pass",
    ),
}


def test_every_option_of_grpo_has_a_verdict():
    """A version of TRL with another option fails here until somebody has looked at it."""
    own = GRPOConfig.__dataclass_fields__.keys() - TrainingArguments.__dataclass_fields__.keys()
    verdicts = [RUNS, REFUSED, ELSEWHERE]
    assert set().union(*verdicts) == own
    assert sum(map(len, verdicts)) == len(own)


# Options that share their settings share a run
@pytest.mark.parametrize(
    "settings", {str(settings): settings for settings in RUNS.values()}.values(), ids=lambda s: next(iter(s))
)
def test_a_run_with_the_option_uses_coefficients(tmp_path, collected, settings):
    architecture = "qwen3_moe" if "router_aux_loss_coef" in settings else "qwen3"
    model = tiny_model(architecture)
    if "beta" in settings or "sync_ref_model" in settings:  # TRL loads the reference model from where the policy was
        model.save_pretrained(tmp_path / "base")
        model = type(model).from_pretrained(tmp_path / "base", dtype=torch.float32)
    rewards = [digit_reward, length_reward] if "reward_weights" in settings else digit_reward
    if settings.get("mask_truncated_completions"):
        with torch.no_grad():
            model.lm_head.weight[1] *= 3  # some completions end by themselves
    trainer = build(
        DeltaGRPOTrainer, config(tmp_path, **settings), model, reward_funcs=rewards, eval_dataset=prompts(4)
    )
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert any(entry.get("delta/coef/std", 0) > 0.01 for entry in entries)
    assert all(entry["delta/fallback/non_finite"] == 0 for entry in entries if "delta/seconds" in entry)
    assert any((inputs["advantages"].std(1) > 0.01).any() for inputs in collected["losses"])
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


@pytest.mark.parametrize("option", REFUSED)
def test_what_would_lose_token_credit_is_refused(tmp_path, option):
    with pytest.raises(ValueError, match=option):
        config(tmp_path, **REFUSED[option])


def token_gradients(tmp_path, collected, coefficients, **options):
    """∂ loss / ∂ log π(token) of a slightly off-policy rollout batch, with and without coefficients, shape (B, T)."""
    trainer = build(DeltaGRPOTrainer, config(tmp_path, max_steps=1, learning_rate=0.0, **options))
    trainer.train()
    batch = collected["batches"][-1]
    generator = torch.Generator().manual_seed(0)
    shape = batch["completion_ids"].shape
    log_probs = -2 * torch.rand(shape, generator=generator)
    entropies = torch.rand(shape, generator=generator)
    batch["old_per_token_logps"] = log_probs - 0.2 * torch.randn(shape, generator=generator)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    gradients = []
    for weights in (coefficients, torch.ones(shape)):
        leaf = log_probs.clone().requires_grad_()
        trainer._get_per_token_logps_and_entropies = lambda *args, leaf=leaf, **kwargs: (leaf, entropies, None)
        loss = trainer.compute_loss(trainer.model, {**batch, "token_coefficients": weights})
        gradients.append(torch.autograd.grad(loss, leaf)[0])
    return gradients


LOSSES = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo"]
VARIANTS = {
    "plain": {},
    "dual clip": {"delta": 1.1},
    "forking tokens": {"top_entropy_quantile": 0.3},
    "off-policy mask": {"off_policy_mask_threshold": 0.02},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("loss_type", LOSSES)
def test_a_coefficient_multiplies_the_gradient_of_its_own_token(tmp_path, collected, loss_type, variant):
    coefficients = 0.5 + torch.rand(8, 10, generator=torch.Generator().manual_seed(1))
    weighted, plain = token_gradients(
        tmp_path, collected, coefficients, loss_type=loss_type, **VARIANTS[variant], max_completion_length=10
    )
    coefficients = coefficients[:, : plain.shape[1]]
    assert (plain != 0).sum() > 5
    torch.testing.assert_close(weighted, coefficients * plain, rtol=1e-4, atol=1e-8)


def test_a_sequence_level_ratio_would_lose_token_credit(tmp_path, collected, monkeypatch):
    """The reason for the refusal: within a sequence every token gets the same gradient, whatever its coefficient."""
    monkeypatch.setattr("delta_trl.config.DeltaGRPOConfig.__post_init__", GRPOConfig.__post_init__)
    coefficients = 0.5 + torch.rand(8, 10, generator=torch.Generator().manual_seed(1))
    weighted, _ = token_gradients(
        tmp_path, collected, coefficients, loss_type="grpo", importance_sampling_level="sequence"
    )
    for row, mask in zip(weighted, collected["batches"][-1]["completion_mask"].bool(), strict=True):
        torch.testing.assert_close(row[mask], row[mask][:1].expand(mask.sum()))
