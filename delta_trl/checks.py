"""What can be known to go wrong before a model is loaded, and before a night is lost."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import transformers
from accelerate.utils import is_peft_model
from transformers import AutoConfig, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from trl import GRPOConfig

logger = logging.getLogger(__name__)

# What TRL hands to every reward function besides the dataset's columns
PASSED = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
# What it hands over where there is an environment_factory
ENVIRONMENTS = ("environments",)
# Columns that TRL keeps under remove_unused_columns
NOT_REMOVED = ("prompt", "image", "images")
# Columns that TRL does not hand on under their own name
NOT_PASSED_ON = ("prompt", "completion", "completion_ids")


def check_reward_columns(
    reward_funcs: Any,
    dataset: "Dataset | IterableDataset | None",
    *,
    has_environment: bool = False,
    has_rollout_func: bool = False,
    remove_unused_columns: bool = False,
) -> None:
    """
    Raise `ValueError` unless TRL finds the prompts in the dataset, and can call every reward function with its columns.

    Args:
        reward_funcs: As a trainer takes them: one or a list; names of reward models are left alone.
        dataset: None is left alone.
        has_environment: Whether there is an `environment_factory`: it may give the prompts, and rewards see it.
        has_rollout_func: Whether there is a `rollout_func`, which may return columns besides: rewards are left alone.
        remove_unused_columns: The trainer's option, which leaves rewards the prompt alone.
    """
    columns = column_names(dataset)
    if columns is None:
        return
    if "prompt" not in columns and not has_environment:
        raise ValueError(
            f"The dataset needs a column 'prompt'; it has: {', '.join(columns) or 'none'}. Rename or make it, for instance "
            "with dataset.rename_column or delta_trl.data.load_math_dataset."
        )
    if has_rollout_func:
        return
    passed = PASSED + ENVIRONMENTS if has_environment else PASSED
    removed = [column for column in columns if column not in NOT_REMOVED] if remove_unused_columns else []
    for function in reward_funcs if isinstance(reward_funcs, list | tuple) else [reward_funcs]:
        is_model = isinstance(function, str) or hasattr(function, "forward")
        if callable(function) and not is_model:
            _check_function(function, columns, passed, removed)


def evaluates(args: "GRPOConfig") -> bool:
    """Whether anything is evaluated while training."""
    return args.eval_strategy != "no" or args.eval_on_start


def check_eval_columns(reward_funcs: Any, datasets: Any, **options: bool) -> None:
    """`check_reward_columns` for an `eval_dataset`, which may be several by name: it would fail at the first evaluation."""
    for name, dataset in datasets.items() if isinstance(datasets, Mapping) else [("", datasets)]:
        if hasattr(dataset, "column_names"):  # TRL says what it takes
            try:
                check_reward_columns(reward_funcs, dataset, **options)
            except ValueError as error:
                raise ValueError(f"eval_dataset{f' {name!r}' if name else ''}: {error}") from error


def takes(function: Callable, name: str) -> bool:
    """Whether a function can be called with an argument of this name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C, without a signature
        return False
    return any(p.kind is p.VAR_KEYWORD or (p.name == name and p.kind is not p.POSITIONAL_ONLY) for p in parameters)


def check_teacher(method: str, dataset: "Dataset | IterableDataset | None", arguments: Mapping[str, Any]) -> None:
    """
    Raise `ValueError` unless a teacher of this method can be told the answer of every prompt of the dataset.

    `arguments` are the trainer's, by name.
    """
    if arguments.get("environment_factory") is not None:
        raise ValueError(
            f"{method} cannot be combined with environment_factory: the teacher would not see its prompts."
        )
    columns = column_names(dataset)
    if columns is None:
        return
    if "solution" not in columns:
        raise ValueError(
            f"{method} tells the teacher the answer: the training dataset needs a column 'solution'; it has "
            f"{', '.join(columns)}. Rename the column of the answers."
        )
    if images := {"image", "images"} & set(columns):
        raise ValueError(f"{method} reads prompts of text only; the training dataset has {', '.join(sorted(images))}.")


def column_names(dataset: "Dataset | IterableDataset | None") -> list[str] | None:
    """The columns of a dataset, from its first row if it does not know them; None without a dataset or a row."""
    if dataset is None:
        return None
    if isinstance(dataset, dict):
        splits = ", ".join(map(repr, dataset))
        raise ValueError(
            f"train_dataset is a {type(dataset).__name__} with {splits}, and one dataset is required: pass one of its "
            "splits, as in train_dataset=data['train']."
        )
    if isinstance(dataset, list | tuple):
        raise ValueError(
            f"train_dataset is a {type(dataset).__name__} of {len(dataset)}, and a dataset is required: "
            "datasets.Dataset.from_list(rows) makes one of a list of rows, each a dict with 'prompt' and what rewards need."
        )
    if not hasattr(dataset, "column_names"):
        return None  # TRL says what it takes
    names = dataset.column_names
    if names is None:
        first = next(iter(dataset), None)
        names = None if first is None else list(first)
    return names


def _check_function(
    function: Callable, columns: list[str], passed_by_trl: tuple[str, ...], removed: Sequence[str]
) -> None:
    name = getattr(function, "__name__", type(function).__name__)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C, without a signature
        return
    passed = {*passed_by_trl, *(c for c in columns if c not in NOT_PASSED_ON)}
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    missing = [p.name for p in named if p.default is p.empty and p.name not in passed]
    if lost := [p.name for p in named if p.default is p.empty and p.name in removed]:
        raise ValueError(
            f"{name} needs {', '.join(map(repr, lost))}, and remove_unused_columns=True leaves rewards no column but the "
            "prompt. Leave that option out."
        )
    own = [column for column in columns if column not in NOT_PASSED_ON]
    if missing:
        needs = "a column" if len(missing) == 1 else "the columns"
        have = f"you have {', '.join(map(repr, own))}" if own else "you have none besides 'prompt'"
        hint = (
            "TRL hands the column 'prompt' on as 'prompts'."
            if "prompt" in missing
            else "Rename the column or the parameter."
        )
        raise ValueError(f"{name} needs {needs} {', '.join(map(repr, missing))}; {have}. {hint}")
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    takes_rest = any(p.kind is p.VAR_KEYWORD for p in parameters)
    refused = sorted(passed - {p.name for p in named})
    if positional or (refused and not takes_rest):
        reason = f"does not take {', '.join(map(repr, refused))}"
        if positional:
            reason = f"takes {positional[0]!r} by position only"
        raise ValueError(
            f"{name} {reason}, which TRL hands to every reward function by name. Add **kwargs to its parameters."
        )


def check_model(model: Any, model_init_kwargs: dict[str, Any] | None = None) -> None:
    """
    Raise `ValueError` for a model that does not continue its prompt: an encoder-decoder, a classifier, a bare backbone.

    Args:
        model: As a trainer takes it: an instance, with or without PEFT adapters, or a path, of which the config is read.
        model_init_kwargs: With which TRL loads a path.
    """
    if isinstance(model, str):
        options = {
            k: v for k, v in (model_init_kwargs or {}).items() if k in ("trust_remote_code", "revision", "token")
        }
        try:
            config = AutoConfig.from_pretrained(model, **options)
        except (OSError, ValueError):  # TRL says what is wrong with the path
            return
        model_class = getattr(transformers, (config.architectures or [""])[0], None)
    else:
        config, model_class = model.config, type(model.get_base_model() if is_peft_model(model) else model)
    kind = None
    if getattr(config, "is_encoder_decoder", False):
        kind = "an encoder-decoder"
    elif model_class is not None and not (hasattr(model_class, "can_generate") and model_class.can_generate()):
        kind = "a model without a language model head"
    if kind is not None:
        names = [model] * isinstance(model, str) + [model_class.__name__] * (model_class is not None)
        raise ValueError(
            f"{', '.join(names)}: this is {kind}; a causal language model is required, which continues its prompt token by "
            "token. Give one that AutoModelForCausalLM loads."
        )


def rollout_batch_shortage(number: int, args: "GRPOConfig") -> str | None:
    """
    What to change if `number` problems are fewer than a rollout batch has prompts; None if they are enough.

    TRL leaves out what does not fill a rollout batch, and then trains no step at all.
    """
    needed = args.generation_batch_size // args.num_generations
    if number >= needed:
        return None
    return (
        f"There are {number} problems to train on, and a rollout batch takes {needed} different ones (generation_batch_size="
        f"{args.generation_batch_size} responses / num_generations={args.num_generations}): no step would be made. Lower "
        "per_device_train_batch_size or steps_per_generation (default: gradient_accumulation_steps), raise num_generations, "
        "or take more problems."
    )


def check_prompt_lengths(longest: int | None, max_completion_length: int | None, context: int | None) -> None:
    """
    Raise `ValueError` if the longest prompt and a response of full length do not fit in the model's context.

    Args:
        longest: Tokens of the longest prompt; None if unknown.
        max_completion_length: Tokens of the longest response.
        context: The model's `max_position_embeddings`; None if it has no limit.
    """
    if None in (longest, max_completion_length, context) or longest + max_completion_length <= context:
        return
    room = context - max_completion_length
    remedy = f"drop prompts longer than {room} tokens (max_prompt_length={room})" if room > 0 else "shorten responses"
    raise ValueError(
        f"The longest prompt has {longest} tokens, responses have up to max_completion_length={max_completion_length}, and "
        f"the model's context is {context}. {remedy[0].upper()}{remedy[1:]}, or lower max_completion_length."
    )


class NoRewardDifferenceCallback(TrainerCallback):
    """
    Warns, once, when in several logged steps in a row no group of completions had different rewards.

    Advantages are then all zero, and nothing is learned.

    Args:
        patience: Logged steps in a row, at least 1.
    """

    def __init__(self, patience: int = 5):
        self.patience = patience
        self.seen = 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        share = (logs or {}).get("frac_reward_zero_std")
        if share is None or self.seen >= self.patience:
            return
        self.seen = self.seen + 1 if float(share) == 1 else 0
        if self.seen == self.patience and state.is_world_process_zero:
            reward = logs.get("reward")
            mean = "" if reward is None else f" (mean reward {float(reward):.3g})"
            logger.warning(
                f"In {self.patience} logged steps in a row, all completions of a prompt got the same reward{mean}: nothing "
                "is learned from them. Read some completions (log_completions). Usual reasons: problems too hard or too "
                "easy, answers in another form than the reward looks for, responses cut at max_completion_length."
            )
