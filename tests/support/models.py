"""Tiny models of real architectures, built offline, and trainers on fixed rollouts."""

import torch
from datasets import Dataset
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from delta_trl import DeltaGRPOConfig
from delta_trl.config import CHECKPOINTING
from delta_trl.research.tasks import character_tokenizer


# What differs between architectures for the LM head and its input: tied or untied, soft-capped, scaled, routed
ARCHITECTURES = {
    "qwen3": ("qwen3", {"tie_word_embeddings": False}),
    "qwen3_tied": ("qwen3", {"tie_word_embeddings": True}),
    "llama": ("llama", {"tie_word_embeddings": False}),
    "olmo3": ("olmo3", {"tie_word_embeddings": False}),
    "gemma2": ("gemma2", {"tie_word_embeddings": True, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8}),
    "granite": ("granite", {"logits_scaling": 4.0}),
    "cohere": ("cohere", {"logit_scale": 0.25}),
    "qwen3_moe": (
        "qwen3_moe",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "tie_word_embeddings": False},
    ),
}


def tiny_model(architecture: str = "qwen3", tokenizer=None, seed: int = 0, **options) -> PreTrainedModel:
    """A random model with hidden size 16 and two layers. Its weights are large, so that tokens differ."""
    tokenizer = tokenizer or character_tokenizer()
    model_type, special = ARCHITECTURES[architecture]
    config = CONFIG_MAPPING[model_type](
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "max_position_embeddings": 128,
            "initializer_range": 0.3,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **special,
            **options,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def digit_reward(completions, **kwargs) -> list[float]:
    """Counts digits: enough for advantages that differ within a group of random completions."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [float(sum(character.isdigit() for character in text)) for text in texts]


def prompts(n: int = 64) -> Dataset:
    return Dataset.from_dict({"prompt": [f"{i}+{i * 7 % 10}=?\n" for i in range(n)]})


def config(output_dir, config_class=DeltaGRPOConfig, **options):
    """One rollout batch of 8 completions for every update, unless options say otherwise; every step is logged."""
    return config_class(
        **{
            "output_dir": str(output_dir),
            "use_cpu": True,
            "bf16": False,
            "report_to": "none",
            "logging_steps": 1,
            "save_strategy": "no",
            CHECKPOINTING: False,
            "disable_tqdm": True,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "num_generations": 4,
            "max_completion_length": 10,
            "max_steps": 3,
            "learning_rate": 1e-2,
            "disable_dropout": True,
            "epsilon_high": 0.28,
            **options,
        }
    )


def misaligned(**options) -> dict:
    """Two updates on each rollout batch, so that TRL computes old log-probabilities."""
    return {"gradient_accumulation_steps": 1, "steps_per_generation": 2, "max_steps": 4, **options}


def build(trainer_class, args, model=None, reward_funcs=digit_reward, **options):
    tokenizer = character_tokenizer()
    return trainer_class(
        model=tiny_model(tokenizer=tokenizer) if model is None else model,
        reward_funcs=reward_funcs,
        args=args,
        train_dataset=options.pop("train_dataset", prompts()),
        processing_class=tokenizer,
        **options,
    )


def needs_level(completions, level, **kwargs):
    return [0.0] * len(completions)


def losses_and_weights(trainer_class, *arguments, **options):
    """Build and train at once: building sets the random seed."""
    trainer = build(trainer_class, *arguments, **options)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def assert_bit_equal(one, other):
    assert one[0] == other[0]
    assert len(one[0]) > 2
    for name, parameter in one[1].items():
        assert torch.equal(parameter, other[1][name]), name


def count_forward_rows(model) -> list[int]:
    """Its one entry is how many rows pass through the backbone without gradient from now on, but for those of generation."""
    counted = [0]

    def count(module, args, kwargs, output):
        if not torch.is_grad_enabled() and not kwargs.get("use_cache"):
            counted[0] += len(output.last_hidden_state)

    model.base_model.register_forward_hook(count, with_kwargs=True)
    return counted
