import copy
import logging
import re
from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from peft import LoraConfig
from support.models import (
    assert_bit_equal,
    build,
    config,
    count_forward_rows,
    digit_reward,
    losses_and_weights,
    misaligned,
    prompts,
    tiny_model,
)
from support.reference import reference_coefficients, reference_lambda
from support.rollouts import rollouts_with_tool_output
from transformers import OPTConfig, OPTForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.async_grpo import AsyncGRPOConfig

from delta_trl import DeltaGRPOConfig, DeltaGRPOTrainer, ReadableProgressCallback
from delta_trl import credit as credit_module
from delta_trl import token_credit as trainer_module
from delta_trl.baselines import DAPOTrainer
from delta_trl.coefficients import Coefficients
from delta_trl.hidden_states import HiddenStates
from delta_trl.metrics import explained_by_uncertainty
from delta_trl.research.tasks import character_tokenizer


pytestmark = pytest.mark.trained

SCHEDULES = {"aligned": {}, "misaligned": misaligned()}


# No coefficient is computed on this path, so that architectures differ in TRL's part only
@pytest.mark.parametrize(
    ("architecture", "num_iterations", "schedule"),
    [("qwen3", 1, "aligned"), ("qwen3", 2, "misaligned"), ("qwen3_moe", 1, "misaligned"), ("gemma2", 2, "aligned")],
)
def test_equal_bounds_are_bit_equal_to_grpo(tmp_path, monkeypatch, architecture, num_iterations, schedule):
    options = {"num_iterations": num_iterations, **SCHEDULES[schedule]}

    def not_called(*args, **kwargs):
        raise AssertionError("features were computed although the bounds are equal")

    monkeypatch.setattr(credit_module, "delta_coefficients", not_called)
    monkeypatch.setattr(trainer_module, "record_hidden_states", not_called)
    args = config(tmp_path, coef_min=1.0, coef_max=1.0, **options)
    ours = losses_and_weights(DeltaGRPOTrainer, args, tiny_model(architecture))
    theirs = losses_and_weights(GRPOTrainer, config(tmp_path, GRPOConfig, **options), tiny_model(architecture))
    assert_bit_equal(ours, theirs)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_iterations", [1, 2])
def test_coefficients_that_happen_to_be_one_are_bit_equal_to_grpo(tmp_path, monkeypatch, num_iterations, schedule):
    options = {"num_iterations": num_iterations, **SCHEDULES[schedule]}
    monkeypatch.setattr(
        credit_module, "delta_coefficients", lambda features, *args, **kwargs: Coefficients(torch.ones(len(features)))
    )
    ours = losses_and_weights(DeltaGRPOTrainer, config(tmp_path, **options))
    theirs = losses_and_weights(GRPOTrainer, config(tmp_path, GRPOConfig, **options))
    assert_bit_equal(ours, theirs)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("architecture", ["qwen3", "qwen3_tied", "llama", "olmo3", "gemma2", "granite", "qwen3_moe"])
def test_features_are_what_the_lm_head_reads(tmp_path, collected, architecture, schedule):
    """Features and probabilities against the plain forward pass of the model, sequence by sequence without padding."""
    model = tiny_model(architecture)
    initial = copy.deepcopy(model).eval()
    args = config(tmp_path, temperature=0.7, **{**SCHEDULES[schedule], "max_steps": 1})
    build(DeltaGRPOTrainer, args, model).train()

    batch = collected["batches"][0]
    head_inputs = []
    initial.get_output_embeddings().register_forward_pre_hook(lambda module, args: head_inputs.append(args[0]))
    features, scales, advantages = [], [], []
    for i in range(len(batch["completion_ids"])):
        prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()]
        completion = batch["completion_ids"][i][batch["completion_mask"][i].bool()]
        with torch.no_grad():
            logits = initial(torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1].double() / 0.7
        features.append(head_inputs[-1][0, len(prompt) - 1 : -1])
        scales.append(1 - logits.softmax(-1).gather(1, completion[:, None])[:, 0])
        advantages.append(batch["advantages"][i].expand(len(completion)))

    got = collected["features"][0]
    torch.testing.assert_close(got[0], torch.cat(features), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[1], torch.cat(advantages))
    torch.testing.assert_close(got[2].double(), torch.cat(scales), rtol=1e-4, atol=1e-5)
    expected = reference_coefficients(got[0], got[1], got[2])
    applied = batch["token_coefficients"][batch["completion_mask"].bool()].double()
    torch.testing.assert_close(applied, expected, rtol=0, atol=1e-5)
    assert (batch["token_coefficients"][~batch["completion_mask"].bool()] == 1).all()


@pytest.mark.parametrize("num_iterations", [1, 2])
def test_each_update_applies_the_coefficients_of_its_own_rows_once(tmp_path, collected, num_iterations):
    trainer = build(DeltaGRPOTrainer, config(tmp_path, **misaligned(num_iterations=num_iterations)))
    trainer.train()
    batches = collected["batches"]
    assert len(batches) == 4 // (2 * num_iterations)  # once for each rollout batch
    assert len(collected["losses"]) == 4
    order_changed = False
    for step, inputs in enumerate(collected["losses"]):
        batch = batches[step // (2 * num_iterations)]
        for i, ids in enumerate(inputs["completion_ids"]):
            rows = [
                j
                for j, other in enumerate(batch["completion_ids"])
                if torch.equal(ids, other) and torch.equal(inputs["prompt_ids"][i], batch["prompt_ids"][j])
            ]
            assert len(rows) == 1, "completions must differ for the test to tell rows apart"
            order_changed |= rows[0] != (step % 2) * 4 + i
            weighted = batch["advantages"][rows[0]] * batch["token_coefficients"][rows[0]]
            torch.testing.assert_close(inputs["advantages"][i], weighted, rtol=0, atol=0)
    assert order_changed, "TRL shuffles rows, or the test shows nothing"


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dual_clip", [None, 1.5])
def test_loss_of_a_rollout_batch_is_the_reweighted_surrogate(tmp_path, collected, schedule, dual_clip):
    """METHOD: J = Σ λ min(r A, clip(r) A) / Σ λ, written as a loop over tokens in float64, off-policy enough to clip."""
    trainer = build(
        DeltaGRPOTrainer, config(tmp_path, delta=dual_clip, **{**SCHEDULES[schedule], "learning_rate": 0.0})
    )
    trainer.train()
    batch = collected["batches"][0]
    features, advantages, scale = collected["features"][0]
    raw = reference_lambda(features, advantages, scale)

    def log_probs():
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        with torch.no_grad():
            return trainer._get_per_token_logps_and_entropies(
                trainer.model, ids, mask, batch["completion_ids"].size(1)
            )[0]

    old = log_probs()
    batch["old_per_token_logps"] = old
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    new = log_probs()

    numerator, clipped, token = 0.0, 0, 0
    for i, row in enumerate(batch["completion_mask"].bool()):
        for t in row.nonzero().flatten():
            ratio = (new[i, t].double() - old[i, t].double()).exp()
            advantage = batch["advantages"][i].double()
            bounded = ratio.clamp(1 - 0.2, 1 + 0.28)
            clipped += bool(bounded != ratio)
            if dual_clip is not None:
                ratio = ratio.clamp(max=dual_clip)
            numerator += raw[token] * torch.min(ratio * advantage, bounded * advantage)
            token += 1
    assert token == len(raw)
    assert clipped > 5
    surrogate = numerator / raw.sum()

    trainer.model.train()
    steps = trainer.args.steps_per_generation
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    total = 0.0
    for k in range(steps):
        rows = slice(k * 4, (k + 1) * 4)
        part = {key: value[rows] if value.dim() else value for key, value in batch.items()}
        total += trainer.compute_loss(trainer.model, part).item()
    total *= trainer.args.gradient_accumulation_steps / steps
    assert -total == pytest.approx(surrogate.item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "trl_passes"),
    [({}, 0), (misaligned(), 1), (misaligned(num_iterations=2), 1), ({"num_iterations": 2}, 1)],
    ids=["aligned", "misaligned", "misaligned twice", "aligned twice"],
)
def test_no_extra_forward_where_trl_makes_one(tmp_path, options, trl_passes):
    """Counted on the backbone: passes over the whole rollout batch without gradient, outside generation."""
    counts = {}
    for name, trainer_class, config_class in (
        ("delta", DeltaGRPOTrainer, DeltaGRPOConfig),
        ("grpo", GRPOTrainer, GRPOConfig),
    ):
        trainer = build(trainer_class, config(tmp_path, config_class, **{**options, "max_steps": 1}))
        rows = count_forward_rows(trainer.model)
        trainer.train()
        counts[name] = rows[0] / 8
        if name == "delta":
            assert trainer.state.log_history[0]["delta/extra_forward_passes"] == 1 - trl_passes
    assert counts == {"delta": 1, "grpo": trl_passes}


def test_recorded_and_separate_passes_give_equal_coefficients(tmp_path, collected):
    for options in ({}, {"num_iterations": 2}):
        build(DeltaGRPOTrainer, config(tmp_path, **{**options, "max_steps": 1})).train()
    one, other = collected["batches"]
    assert "old_per_token_logps" in other
    assert "old_per_token_logps" not in one
    assert torch.equal(one["token_coefficients"], other["token_coefficients"])


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_under_lora_the_adapted_policy_is_recorded_not_the_reference(tmp_path, collected, schedule, beta):
    """From the second rollout batch on, adapters make a difference: features must be those of the adapted model."""
    args = config(tmp_path, beta=beta, **{**SCHEDULES[schedule], "learning_rate": 0.5, "max_steps": 4})
    lora = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5, task_type="CAUSAL_LM")
    trainer = build(DeltaGRPOTrainer, args, peft_config=lora)
    policies = []
    kept = trainer._generate_and_score_completions

    def keep_policy(inputs):
        policies.append(copy.deepcopy(trainer.model.state_dict()))
        return kept(inputs)

    trainer._generate_and_score_completions = keep_policy
    trainer.train()
    batch, features = collected["batches"][1], collected["features"][1][0]
    trainer.model.load_state_dict(policies[1])
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    length = batch["completion_ids"].size(1)
    backbone = trainer.model.get_base_model().base_model
    with torch.no_grad():
        adapted = backbone(ids, attention_mask=mask).last_hidden_state[:, -length - 1 : -1]
        with trainer.model.disable_adapter():
            reference = backbone(ids, attention_mask=mask).last_hidden_state[:, -length - 1 : -1]
    valid = batch["completion_mask"].bool()
    torch.testing.assert_close(features, adapted[valid], rtol=1e-4, atol=1e-4)
    assert (features - reference[valid]).abs().max() > 0.1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_tool_tokens_are_no_tokens(tmp_path, collected, schedule):
    args = config(tmp_path, **{**SCHEDULES[schedule], "max_steps": 1})
    build(DeltaGRPOTrainer, args, rollout_func=rollouts_with_tool_output).train()
    batch = collected["batches"][0]
    tokens = batch["completion_mask"].bool() & batch["tool_mask"].bool()
    assert len(collected["features"][0][0]) == tokens.sum() == batch["completion_mask"].sum() - 16
    assert (batch["token_coefficients"][~tokens] == 1).all()
    assert collected["coefficients"][0].fallback is None
    expected = reference_coefficients(*collected["features"][0])
    torch.testing.assert_close(batch["token_coefficients"][tokens].double(), expected, rtol=0, atol=1e-5)


def test_truncated_completions_are_no_tokens(tmp_path, collected):
    args = config(tmp_path, mask_truncated_completions=True, max_completion_length=40, max_steps=1)
    # A model that ends about half of its completions
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[1] *= 3
    build(DeltaGRPOTrainer, args, model).train()
    mask = collected["batches"][0]["completion_mask"]
    assert 0 < (mask.sum(1) == 0).sum() < len(mask)
    assert len(collected["features"][0][0]) == mask.sum()


def test_no_contrast_is_plain_grpo(tmp_path):
    def constant(completions, **kwargs):
        return [1.0] * len(completions)

    trainer = build(DeltaGRPOTrainer, config(tmp_path), reward_funcs=constant)
    trainer.train()
    for entry in trainer.state.log_history[:3]:
        assert entry["delta/fallback/no_contrast"] == 1
        assert entry["delta/fallback/non_finite"] == 0
        assert "delta/coef/mean" not in entry


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_non_finite_hidden_state_neither_stops_nor_spoils_training(tmp_path, monkeypatch, caplog, schedule):
    append, spoiled = HiddenStates.append, []

    def append_with_one_nan(self, last_hidden_state):
        if not spoiled:
            spoiled.append(True)
            last_hidden_state = last_hidden_state.clone()
            last_hidden_state[0, -5] = float("nan")
        append(self, last_hidden_state)

    monkeypatch.setattr(HiddenStates, "append", append_with_one_nan)
    trainer = build(DeltaGRPOTrainer, config(tmp_path, **SCHEDULES[schedule]))
    with caplog.at_level(logging.WARNING):
        trainer.train()
    first, later = trainer.state.log_history[0], trainer.state.log_history[2]
    assert first["delta/fallback/non_finite"] == 1
    assert first["delta/coef/min"] == first["delta/coef/max"] == 1
    assert later["delta/fallback/non_finite"] == 0
    assert later["delta/coef/min"] < 1 < later["delta/coef/max"]
    assert sum("is not finite" in record.message for record in caplog.records) == 1
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_evaluation_computes_no_coefficients(tmp_path, collected):
    args = config(tmp_path, eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=4, max_steps=2)
    trainer = build(DeltaGRPOTrainer, args, eval_dataset=prompts(4))
    trainer.train()
    assert len(collected["features"]) == 2
    evaluations = [batch for batch in collected["batches"] if "token_coefficients" not in batch]
    assert len(evaluations) == 2 * 4
    assert any("eval_reward" in entry for entry in trainer.state.log_history)
    assert not any(key.startswith("eval_delta") for entry in trainer.state.log_history for key in entry)


def test_logged_statistics_are_those_of_the_coefficients(tmp_path, collected):
    trainer = build(DeltaGRPOTrainer, config(tmp_path, max_steps=1))
    trainer.train()
    entry, batch = trainer.state.log_history[0], collected["batches"][0]
    valid = batch["completion_mask"].bool()
    advantages = batch["advantages"][:, None].expand_as(valid)[valid]
    values = batch["token_coefficients"][valid]
    credited = values[advantages != 0]
    expected = {
        "delta/coef/mean": credited.mean(),
        "delta/coef/std": credited.std(correction=0),
        "delta/coef/min": credited.min(),
        "delta/coef/max": credited.max(),
        "delta/coef/share_above_one": (credited > 1).float().mean(),
        "delta/coef/mean_positive": values[advantages > 0].mean(),
        "delta/coef/mean_negative": values[advantages < 0].mean(),
    }
    for key, value in expected.items():
        assert entry[key] == pytest.approx(value.item(), rel=1e-4, abs=1e-6), key
    result = collected["coefficients"][0]
    assert entry["delta/temperature/positive"] == pytest.approx(result.temperature_positive)
    assert entry["delta/temperature/negative"] == pytest.approx(result.temperature_negative)
    assert entry["delta/centroid_cosine/before"] == pytest.approx(result.cosine_before)
    assert entry["delta/centroid_cosine/after"] == pytest.approx(result.cosine_after)
    assert entry["delta/centroid_distance/after"] > entry["delta/centroid_distance/before"] > 0
    assert entry["delta/seconds"] > 0
    # With the output row as the feature, 1 − p is its scale
    _, _, doubt = collected["features"][0]
    for name, value in explained_by_uncertainty(values, advantages, doubt).items():
        assert entry[f"delta/uncertainty/{name}"] == pytest.approx(value, rel=1e-4), name
    assert 0 < entry["delta/uncertainty/explained"] < 1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_credited_normalisation_steps_as_far_as_dapo(tmp_path, collected, schedule):
    """Half of the prompt groups have no reward variance: their tokens count in the published mean, and train nothing."""

    def half(completions, **kwargs):
        return [float(i % 2) if i // 4 % 2 else 0.0 for i in range(len(completions))]

    logs = {}
    for normalize in ("all", "credited"):
        args = config(tmp_path, coef_normalize=normalize, **{**SCHEDULES[schedule], "max_steps": 2})
        trainer = build(DeltaGRPOTrainer, args, reward_funcs=half)
        trainer.train()
        logs[normalize] = trainer.state.log_history[0]
        # TRL's own metric says how many such groups there were
        assert logs[normalize]["frac_reward_zero_std"] == 0.5
    published, credited = (collected["batches"][i]["token_coefficients"] for i in (0, len(collected["batches"]) // 2))
    assert logs["all"]["delta/coef/mean"] > 1.05
    assert logs["credited"]["delta/coef/mean"] == pytest.approx(1, abs=1e-6)
    mask = collected["batches"][0]["completion_mask"].bool()
    torch.testing.assert_close(credited[mask] * logs["all"]["delta/coef/mean"], published[mask], rtol=1e-5, atol=0)


def test_sequence_level_ratios_are_refused(tmp_path):
    with pytest.raises(ValueError, match="importance_sampling_level='sequence' cannot be combined"):
        config(tmp_path, importance_sampling_level="sequence")
    config(tmp_path, importance_sampling_level="sequence", coef_min=1.0, coef_max=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coef_min": 0.0}, "0 < coef_min"),
        ({"coef_min": 1.3}, "coef_min=1.3 and coef_max=1.2"),
        ({"coef_refinement_steps": -1}, "at least 0; got -1"),
        ({"coef_normalize": "side"}, "'all', as published, or 'credited' .*; got 'side'"),
        ({"coef_log_completions": -1}, "coef_log_completions must be at least 0; got -1"),
    ],
)
def test_options_out_of_range_are_refused_before_a_model_is_loaded(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **options)


def test_a_plain_grpo_config_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs a DeltaGRPOConfig as args; got GRPOConfig"):
        build(DeltaGRPOTrainer, config(tmp_path, GRPOConfig))


@pytest.mark.parametrize("trainer_class", [DeltaGRPOTrainer, DAPOTrainer])
def test_the_config_of_the_asynchronous_trainer_is_refused_by_name(tmp_path, trainer_class):
    args = AsyncGRPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    with pytest.raises(ValueError, match="TRL's AsyncGRPOTrainer has no counterpart here"):
        build(trainer_class, args)


@pytest.mark.parametrize("option", [{"attention_dropout": 0.1}, {"resid_dropout_module": 0.1}])
def test_active_dropout_is_refused(tmp_path, option):
    model = tiny_model(**{k: v for k, v in option.items() if k == "attention_dropout"})
    disable = "attention_dropout" in option  # TRL's switch reaches dropout modules, not functional dropout
    if not disable:
        model.base_model.layers[0].mlp.act_fn = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Dropout(0.1))
    with pytest.raises(ValueError, match=r"Dropout is active in the policy: .* is 0\.1"):
        build(DeltaGRPOTrainer, config(tmp_path, disable_dropout=disable), model)
    build(DeltaGRPOTrainer, config(tmp_path, disable_dropout=disable, coef_min=1.0, coef_max=1.0), model)


def test_the_advice_on_dropout_is_that_of_the_model(tmp_path):
    """OPT hands two rates of its config to functional dropout, which TRL's switch does not reach."""
    tokenizer = character_tokenizer()
    opt = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "word_embed_proj_dim": 16,
        "ffn_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    OPTForCausalLM(OPTConfig(**opt, attention_dropout=0.2)).save_pretrained(tmp_path / "model")
    options = {"model": str(tmp_path / "model"), "reward_funcs": digit_reward, "train_dataset": prompts()}
    with pytest.raises(ValueError, match="Dropout is active") as refused:
        DeltaGRPOTrainer(**options, processing_class=tokenizer, args=config(tmp_path))
    assert str(refused.value).endswith("model_init_kwargs={'dropout': 0.0, 'attention_dropout': 0.0}.")
    assert "from_pretrained(..., dropout=0.0, attention_dropout=0.0)" in str(refused.value)
    followed = {"dropout": 0.0, "attention_dropout": 0.0}
    DeltaGRPOTrainer(**options, processing_class=tokenizer, args=config(tmp_path, model_init_kwargs=followed))


def test_drop_in_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny_model()
    model.config._name_or_path = "someone/tiny-model"

    @dataclass
    class OnCpu(DeltaGRPOConfig):  # TRL's defaults need a GPU that does bf16
        use_cpu: bool = True
        bf16: bool = False

    monkeypatch.setattr(DeltaGRPOTrainer, "config_class", OnCpu)
    trainer = DeltaGRPOTrainer(model, digit_reward, None, prompts(), processing_class=character_tokenizer())
    assert trainer.args.output_dir == "tiny-model-DelTA"
    assert isinstance(trainer.args, OnCpu)
    changed = {
        name
        for name, field in DeltaGRPOConfig.__dataclass_fields__.items()
        if name in GRPOConfig.__dataclass_fields__ and field.default != GRPOConfig.__dataclass_fields__[name].default
    }
    assert changed == {"epsilon_high", "disable_dropout"}
    for name in (*changed, "loss_type", "beta"):
        assert re.search("DelTA|[Pp]ublished", DeltaGRPOConfig.__dataclass_fields__[name].metadata["help"])


@pytest.mark.parametrize("place", ["added", "given"])
def test_a_readable_line_replaces_the_progress_callback(tmp_path, capfd, place):
    """No terminal here: no bar, and one line for each log."""
    args = config(tmp_path, disable_tqdm=False, eval_strategy="steps", eval_steps=2, max_steps=2)
    options = {"callbacks": [ReadableProgressCallback]} if place == "given" else {}
    trainer = build(DeltaGRPOTrainer, args, eval_dataset=prompts(4), **options)
    if place == "added":
        trainer.add_callback(ReadableProgressCallback)
    capfd.readouterr()
    trainer.train()
    printed, errors = capfd.readouterr()
    lines = printed.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1/2", "step 2/2", "evaluation 2/2"]
    assert all("λ+ " in line for line in lines[:2])
    assert "it/s" not in errors


@pytest.mark.parametrize("kept", [8, 3, 0])
def test_completions_are_kept_with_their_coefficients(tmp_path, collected, kept):
    args = config(
        tmp_path,
        log_completions=True,
        num_completions_to_print=0,
        coef_log_completions=kept,
        **misaligned(max_steps=3),
    )
    trainer = build(DeltaGRPOTrainer, args, rollout_func=rollouts_with_tool_output)
    trainer.train()
    files = sorted((tmp_path / "completions").glob("coefficients_*.parquet"))
    if kept == 0:
        assert files == []
        return
    assert [file.stem for file in files] == ["coefficients_00001", "coefficients_00003"]  # once a rollout batch
    frame, batch = pd.read_parquet(files[1]), collected["batches"][1]
    assert len(frame) == kept
    for i, row in frame.iterrows():
        mask = batch["completion_mask"][i].bool()
        assert row["step"] == 3
        assert row["completion_ids"].tolist() == batch["completion_ids"][i][mask].tolist()
        assert "".join(row["tokens"]) == trainer.processing_class.decode(row["completion_ids"])
        assert row["prompt"].endswith("=?\n")
        assert row["reward"] == digit_reward(["".join(row["tokens"])])[0]
        assert row["advantage"] == batch["advantages"][i].item()
        assert row["is_token"].tolist() == batch["tool_mask"][i][mask].bool().tolist()
        torch.testing.assert_close(torch.tensor(row["coefficients"]).float(), batch["token_coefficients"][i][mask])
        torch.testing.assert_close(torch.tensor(row["log_probs"]).float(), batch["old_per_token_logps"][i][mask])
