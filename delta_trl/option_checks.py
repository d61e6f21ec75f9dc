"""Values of TRL's options with which no training gets through its first step, or which mean something else than they say.

Of TRL's options, refused is only what `GRPOTrainer` cannot run either: it would say so after the model is loaded, or after
the first rollout batch. Of this package's, what has no meaning together with them.
"""

import difflib
import math
import re
from collections.abc import Iterator
from typing import Any

from transformers import GenerationConfig
from trl import GRPOConfig


# Option: its least value, whether that value itself is allowed, and the bound above
RANGES = {
    "temperature": (0, False, math.inf),
    "repetition_penalty": (0, False, math.inf),
    "min_p": (0, True, 1),
    "learning_rate": (0, True, math.inf),
    "adam_epsilon": (0, True, math.inf),
    "max_completion_length": (1, True, math.inf),
    "num_generations": (1, True, math.inf),
    "per_device_train_batch_size": (1, True, math.inf),
    "gradient_accumulation_steps": (1, True, math.inf),
    "steps_per_generation": (1, True, math.inf),
    "num_iterations": (-math.inf, True, math.inf),
    "max_steps": (-math.inf, True, math.inf),
}
# Of these, TRL and transformers know what to do with None
NULLABLE = ("repetition_penalty", "min_p", "max_completion_length", "steps_per_generation")
# Options that take one of the names which TRL's description of them has in quotes
NAMED = ("loss_type", "importance_sampling_level", "multi_objective_aggregation")
# What bounds the ratio itself, not its distance from 1: ScaleRL's value
CISPO_EPSILON_HIGH = 5.0


def check_values(args: GRPOConfig) -> None:
    """
    Raise `ValueError` for a value that no training can run with. Called before `GRPOConfig` derives anything from it.
    """
    for name, (low, including, high) in RANGES.items():
        value = getattr(args, name)
        if value is None and name not in NULLABLE:
            raise ValueError(f"{name} must be a number; got None. Leave it out for the default.")
        if not isinstance(value, int | float):
            continue
        if not ((low <= value if including else low < value) and value <= high):  # NaN is nowhere
            bounds = f"{'at least' if including else 'above'} {low}" + (
                f" and at most {high}" if high < math.inf else ""
            )
            raise ValueError(f"{name} must be {bounds}; got {value!r}.{_remedy(name)}")
    for name in NAMED:
        value, known = getattr(args, name), _names_in_help(name)
        if isinstance(value, str) and known and value not in known:
            values = known[: _first_repeated(known)]  # the description lists them, and then goes through them
            raise ValueError(f"{name} must be one of {', '.join(map(repr, values))}; got {value!r}.")


def doubts(args: GRPOConfig) -> Iterator[str]:
    """What runs but does something else than its value suggests, a sentence each."""
    bound = args.epsilon if args.epsilon_high is None else args.epsilon_high
    if args.loss_type == "cispo" and bound < 1:
        name = "epsilon" if args.epsilon_high is None else "epsilon_high"
        yield (
            f"loss_type='cispo' reads epsilon_high as the bound on the ratio itself, not on its distance from 1: with "
            f"{name}={bound:g}, the gradient of every token whose ratio is about 1 is multiplied by {bound:g}. Set "
            f"epsilon_high={CISPO_EPSILON_HIGH:g}, as ScaleRL recommends."
        )
    if isinstance(args.generation_kwargs, dict) and not args.use_vllm:  # vLLM refuses what it does not know
        known = vars(GenerationConfig())
        for name in sorted(set(args.generation_kwargs) - set(known)):
            near = difflib.get_close_matches(name, known, n=1)
            yield (
                f"generation_kwargs: transformers does not know {name!r}, and would ignore it."
                + (f" Did you mean {near[0]!r}?" if near else " Its GenerationConfig lists the names.")
            )
    if args.max_steps == 0:
        yield (
            f"max_steps=0 is no limit, as -1 is none: num_train_epochs={args.num_train_epochs:g} decides how long training "
            "takes. Give the number of steps, or leave it out."
        )


def _names_in_help(option: str) -> list[str]:
    """The values in TRL's own description, so that those of a newer TRL count as well."""
    description: Any = GRPOConfig.__dataclass_fields__[option].metadata.get("help", "")
    return re.findall(r"'(\w+)'", description)


def _first_repeated(names: list[str]) -> int:
    return next((i for i, name in enumerate(names) if name in names[:i]), len(names))


def _remedy(option: str) -> str:
    if option == "temperature":
        return " A group of responses has to differ: sample with 1.0, as published. Evaluation may be greedy."
    return ""


def check_pass_of_the_loss(args: Any) -> None:
    """
    Raise `ValueError` unless `coef_centroids="previous"` in a `DeltaGRPOConfig` means something: coefficients can come from
    the forward pass of the loss, which is the only one over a rollout batch.
    """
    if args.credit.assign is None:
        raise ValueError(
            f"coef_centroids='previous' is not defined for {args.credit.name!r}, which compares the tokens of one rollout "
            "batch. Leave coef_centroids out; the trainers 'delta' and 'hashed_agreement' have it."
        )
    if args.coef_features != "output_row":
        raise ValueError(
            "coef_centroids='previous' takes features from the forward pass of the loss, which gives those of "
            f"coef_features='output_row' alone; got {args.coef_features!r}. Leave one of the two out."
        )
    if args.has_old_log_probs or args.num_iterations > 1:
        raise ValueError(
            "coef_centroids='previous' saves a forward pass where a rollout batch serves one update. Here TRL makes a pass "
            "of its own, which coef_centroids='batch' uses: gradient_accumulation_steps="
            f"{args.gradient_accumulation_steps}, steps_per_generation={args.steps_per_generation}, num_iterations="
            f"{args.num_iterations}, use_vllm={args.use_vllm}, vllm_importance_sampling_correction="
            f"{args.vllm_importance_sampling_correction}. Leave coef_centroids out, or set steps_per_generation to "
            "gradient_accumulation_steps, num_iterations=1 and, with vLLM, vllm_importance_sampling_correction=False."
        )
