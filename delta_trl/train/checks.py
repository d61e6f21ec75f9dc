"""What the training command can know to be missing or ignored before it loads anything."""

import fnmatch
import os
import platform
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import str_to_bool
from transformers import PreTrainedConfig, Trainer
from transformers.integrations.integration_utils import (
    get_available_reporting_integrations,
    get_reporting_integration_callbacks,
)
from trl import ModelConfig
from trl.generation import vllm_generation

from ..checks import evaluates, rollout_batch_shortage
from ..config import GRPOBaseConfig
from .memory import loaded_bytes


# Options that nothing reads without another one: their names, that option, whether it is on, and what happens without it
Dependence = tuple[tuple[str, ...], str, Callable[[Any], bool], str]
OF_THE_MODEL: tuple[Dependence, ...] = (
    (("lora_*", "use_rslora", "use_dora"), "use_peft", bool, "all weights would be trained"),
    (("bnb_4bit_*", "use_bnb_nested_quant"), "load_in_4bit", bool, "the weights would not be quantized"),
)
OF_THE_TRAINER: tuple[Dependence, ...] = (
    (("vllm_*",), "use_vllm", bool, "transformers generates"),
    (("sapo_*",), "loss_type", lambda loss: loss == "sapo", "the loss is another"),
    (("vespo_*",), "loss_type", lambda loss: loss == "vespo", "the loss is another"),
    (("ref_model_*",), "sync_ref_model", bool, "the reference model stays as it is"),
    (("entropy_coef_*", "entropy_target"), "use_adaptive_entropy", bool, "the entropy bonus stays as it is"),
    (
        ("eval_steps", "load_best_model_at_end", "metric_for_best_model"),
        "eval_strategy",
        lambda strategy: strategy != "no",
        "nothing is evaluated while training",
    ),
)
# What logs, and is left out by transformers in its list of what is installed: flyte always, azure_ml where mlflow is
NOT_ALWAYS_LISTED = ("azure_ml", "flyte")
# What `platform.machine` says of processors that may have AMX or AVX512-BF16
X86 = ("x86_64", "amd64")
# A weight's size where the model's config says nothing, as transformers draws weights
USUAL_WEIGHT = 0.02


def check_start(script_args: Any, data_args: Any, args: GRPOBaseConfig, model_args: ModelConfig) -> list[str]:
    """
    What to tell the user before a run starts.

    Raises:
        ValueError: The model is not named, options of the model would be ignored, or options do not fit each other.
    """
    if model_args.model_name_or_path is None:
        raise ValueError("model_name_or_path is missing: name a model on the Hub or a folder.")
    for sentence, needed in _ignored(OF_THE_MODEL, script_args, model_args):
        raise ValueError(f"{sentence} Add --{needed}, or leave that out; --{needed} false says that it is meant.")
    if (model_args.load_in_4bit or model_args.load_in_8bit) and not model_args.use_peft:
        raise ValueError("Quantized weights cannot be trained, only adapters on top of them: add --use_peft.")
    if args.reward_weights is not None and len(args.reward_weights) != len(script_args.reward_funcs):
        raise ValueError(
            f"reward_weights needs one number for each of reward_funcs={script_args.reward_funcs}; got "
            f"{args.reward_weights}."
        )
    notes = [sentence for sentence, _ in _ignored(OF_THE_TRAINER, script_args, args)]
    if args.label_smoothing_factor:
        notes.append(f"label_smoothing_factor={args.label_smoothing_factor}: no loss of this trainer reads it.")
    held_out = "held_out_share" if data_args.held_out_share else "held_out_name" if data_args.held_out_name else None
    if evaluates(args) and not held_out:
        option = "eval_on_start" if args.eval_strategy == "no" else f"eval_strategy {args.eval_strategy.value!r}"  # ty: ignore[missing-attribute]
        raise ValueError(
            f"{option} has no problems to evaluate: set held_out_share, for instance 0.02, or held_out_name, or leave "
            "it out."
        )
    if held_out and not evaluates(args):
        notes.append(
            f"{held_out} keeps problems out of training, and nothing evaluates them: eval_strategy is 'no'. Set "
            "eval_strategy: steps and eval_steps, or evaluate the checkpoints later."
        )
    return notes


def _ignored(dependences: tuple[Dependence, ...], script_args: Any, options: Any) -> Iterator[tuple[str, str]]:
    """A sentence about options given that nothing will read, and the option that they need.

    One that was named as well, as in `--use_peft false`, was decided about.
    """
    for patterns, needed, is_on, outcome in dependences:
        names = [name for name in script_args.given if any(fnmatch.fnmatchcase(name, one) for one in patterns)]
        value = getattr(options, needed)
        decided = isinstance(value, bool) and needed in script_args.named
        if names and not decided and not is_on(value):
            listed = ", ".join(f"{name}={script_args.given[name]}" for name in names)
            value = getattr(value, "value", value)  # of an enumeration, as it is written
            yield f"{listed}: nothing reads this with {needed}={value}, {outcome}.", needed


def check_packages(args: GRPOBaseConfig) -> None:
    """Raise `ValueError` if what logs, generates or optimizes is not installed: the trainer would say so after loading."""
    check_reporters(args)
    if args.use_vllm and not vllm_generation.is_vllm_available():
        raise ValueError(
            "use_vllm cannot be used here: vllm is not installed. Install it (docs/vllm.md), or leave it out."
        )
    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except (ImportError, ValueError) as error:
        if "need to pass a" not in str(error):  # the model, which is not loaded yet
            raise ValueError(f"optim {args.optim.value!r} cannot be used here: {error}") from error  # ty: ignore[missing-attribute]


def check_reporters(args: GRPOBaseConfig) -> None:
    """Raise `ValueError` if a package of `report_to` is not installed."""
    get_reporting_integration_callbacks(args.report_to)  # for its error: a name that does not exist
    available = {*get_available_reporting_integrations(), *NOT_ALWAYS_LISTED}
    if missing := [name for name in args.report_to if name not in available]:
        raise ValueError(
            f"report_to {missing[0]!r} cannot be used here: its package is not installed. Install {missing[0]}, or set "
            "report_to: none."
        )


def lost_updates(args: GRPOBaseConfig, model_args: ModelConfig, config: PreTrainedConfig) -> str | None:
    """
    What to think about where updates are too small for weights of 16 bits; None if they are not.

    A weight w of 16 bits keeps an update of at least w times half of the type's relative precision. Adam's updates are about
    as large as the learning rate. Adapters are kept in 32 bits.
    """
    if model_args.use_peft or loaded_bytes(model_args, config) != 2:
        return None
    dtype = model_args.dtype if model_args.dtype != "auto" else str(config.dtype).removeprefix("torch.")
    kept = torch.finfo(getattr(torch, dtype)).eps / 2
    weight = getattr(config.get_text_config(), "initializer_range", None) or USUAL_WEIGHT
    if args.learning_rate >= kept * weight:
        return None
    return (
        f"with dtype {model_args.dtype!r}, only DeepSpeed and FSDP2 keep a float32 copy of the weights. On one GPU without "
        f"DeepSpeed, and under DDP, an update smaller than 1/{1 / kept:g} of a weight is lost, which at learning_rate="
        f"{args.learning_rate:g} is most of them: use dtype 'float32' there (with bf16 on, matrix products stay in bf16)."
    )


def slow_bfloat16(args: GRPOBaseConfig, model_args: ModelConfig) -> str | None:
    """
    What to do where bf16 is chosen on a CPU that has no instructions for it; None elsewhere.

    x86 processors alone are judged: of others, torch does not say what they have.
    """
    chosen = "bf16" if args.bf16 else "dtype 'bfloat16'" if model_args.dtype == "bfloat16" else None
    if chosen is None or args.device.type != "cpu" or platform.machine().lower() not in X86:
        return None
    if torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported():
        return None
    return (
        f"{chosen} on this CPU, which has neither AMX nor AVX512-BF16: matrix products in bfloat16 are emulated, and "
        "several times slower than in float32. --bf16 false --dtype float32 is the faster way here."
    )


def keeps_float32_copy(args: GRPOBaseConfig) -> bool:
    """Whether DeepSpeed or FSDP runs the training, which update in float32 whatever the model is loaded in."""
    is_fsdp = args.fsdp or str_to_bool(os.environ.get("ACCELERATE_USE_FSDP", "false"))
    return args.deepspeed_plugin is not None or bool(is_fsdp)


def check_problems(number: int, args: GRPOBaseConfig) -> None:
    """Raise `ValueError` if there are fewer problems than a rollout batch has: TRL would train no step, and say nothing."""
    if shortage := rollout_batch_shortage(number, args):
        raise ValueError(shortage)
