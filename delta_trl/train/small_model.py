"""A random model of two layers with another one's architecture, for a rehearsal. No weights are read."""

import copy
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer


LAYERS = 2
# Widths are a multiple of this, for the kernels of an engine, and at least LEAST_WIDTH
WIDTH_STEP, LEAST_WIDTH = 16, 64
# How configurations name the width of a feed-forward layer, an expert's and a shared one's included
FEED_FORWARD = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
# How they name the list of their layers' kinds, and the kind that a cache for generation cannot do without
KINDS = ("layer_types", "layers_block_type")
FULL_ATTENTION = "full_attention"
SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def small_config(config: PreTrainedConfig, tokenizer: Tokenizer, tensor_parallel: int = 1) -> PreTrainedConfig:
    """
    The configuration with two layers, narrow ones, and the vocabulary of the tokenizer.

    Kept: the architecture, head_dim where a configuration has one, heads per key-value head, experts, tied embeddings,
    context. Of layers of several kinds, as with sliding windows, the first one stays, and one of full attention, else of the
    second kind.

    Args:
        tensor_parallel: Number of processes that share the heads in vLLM.
    """
    small = copy.deepcopy(config)
    text = small.get_text_config()
    before: Mapping[str, Any] = text.to_dict()
    heads = text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    kept_kv_heads = math.gcd(kv_heads, tensor_parallel)
    kept_heads = heads * kept_kv_heads // kv_heads
    if getattr(text, "head_dim", None):
        step = WIDTH_STEP * kept_heads
        width = min(step * math.ceil(LEAST_WIDTH / step), text.hidden_size)
    else:  # the head's width follows from the model's
        width = text.hidden_size // heads * kept_heads
    changes = {"hidden_size": width, "num_attention_heads": kept_heads}
    if "num_key_value_heads" in before:
        changes["num_key_value_heads"] = kept_kv_heads
    for name, value in before.items():
        if name.endswith(FEED_FORWARD) and isinstance(value, int):
            changes[name] = min(value, 2 * width)
    if before.get("word_embed_proj_dim"):
        changes["word_embed_proj_dim"] = width
    if before.get("first_k_dense_replace"):  # layers before the first that has experts
        changes["first_k_dense_replace"] = 1
    layers = text.num_hidden_layers
    if layers > LAYERS:
        kept = _kept_layers(next((before[name] for name in KINDS if before.get(name)), []), layers)
        changes |= {n: [v[i] for i in kept] for n, v in before.items() if isinstance(v, list) and len(v) == layers}
        changes["num_hidden_layers"] = LAYERS
    changes |= {name: getattr(tokenizer, name) for name in SPECIAL_TOKENS}
    changes["vocab_size"] = min(text.vocab_size, max(tokenizer.get_vocab().values()) + 1)
    for name, value in changes.items():
        setattr(text, name, value)
    return small


def _kept_layers(kinds: list[str], layers: int) -> tuple[int, int]:
    """The first layer, and the first one of another kind: full attention, if that is another."""
    others = [i for i in range(1, layers) if kinds and kinds[i] != kinds[0]]
    return 0, next((i for i in others if kinds[i] == FULL_ATTENTION), others[0] if others else 1)


def make_small_model(
    config: PreTrainedConfig, tokenizer: Tokenizer, name: str, folder: Path, tensor_parallel: int, **source: Any
) -> str:
    """
    Save a random model, tokenizer and generation settings in `folder`, and say what it is.

    Args:
        config: The real model's.
        name: The real model, for its generation settings, if it has any.
        tensor_parallel: See `small_config`.
        source: revision and trust_remote_code.

    Raises:
        ValueError: The architecture cannot be made that small.
    """
    kind = config.model_type
    try:
        small = small_config(config, tokenizer, tensor_parallel)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                small, trust_remote_code=source["trust_remote_code"]
            )
        with suppress(OSError):  # a model need not have any
            model.generation_config = GenerationConfig.from_pretrained(name, revision=source["revision"])
        # Saving checks the configuration
        model.to(config.get_text_config().dtype or torch.float32).save_pretrained(folder)
    except (
        *(AttributeError, ArithmeticError, ImportError, LookupError, RuntimeError, TypeError, ValueError),
        StrictDataclassError,
    ) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{name}: a model of type {kind!r} cannot be made with {LAYERS} narrow layers ({type(error).__name__}: "
            f"{reason}), so model_name_or_path cannot be rehearsed."
        ) from error
    tokenizer.save_pretrained(folder)
    text = small.get_text_config()
    return (
        f"{type(model).__name__} of {text.num_hidden_layers} random layers, {text.hidden_size} wide, "
        f"{model.num_parameters() / 1e6:.2f} million parameters"
    )
