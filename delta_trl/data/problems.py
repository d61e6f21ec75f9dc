r"""Problems as columns for TRL: `prompt`, and `solution` for mathematics or `tests` for code.

Built for DeepMath-103K (question, final_answer, difficulty, topic, and three long solutions that are never read), for any
dataset with a question and an answer column, and for the schemas of code in `data.code`. Every step that removes rows says
how many, in `ProblemData.report` and through the `delta_trl.data` logger (main process only).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .arguments import REASONING_GYM, DataArguments
from .code import keep_testable, read_code_rows
from .filters import Steps, column, hash_share, is_first, keep_scorable, optional_column, question_key
from .gym import generate
from .prompts import PromptFormat
from .reading import read_rows
from .sources import main_process_first


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from .sources import Rows

ROWS_IN_MEMORY = "the rows given"
TOPIC_ROOT = "Mathematics -> "  # what every topic of DeepMath-103K starts with


@dataclass(frozen=True)
class ProblemData:
    """Loaded problems.

    Attributes:
        train: Columns `prompt`, `solution` or `tests` (JSON text), `extra_columns`, and `difficulty` and `topic` where the
            source has them.
        held_out: The same columns, None if none was asked for.
        report: A line for every step: rows loaded, removed, held out.
        unscorable_share: Share of the golds that could not be scored, or of the tests that could not be used, before they
            were removed; 0 if none was checked.
        prompt_format: How the prompts were made; knows the stop strings that go with them.
        prompt_tokens: Length of every prompt of `train`, in tokens; None without a tokenizer.
        longest_prompt: Tokens of the longest prompt of both sets; None without a tokenizer.
    """

    train: "Dataset"
    held_out: "Dataset | None"
    report: list[str]
    unscorable_share: float
    prompt_format: PromptFormat
    prompt_tokens: list[int] | None
    longest_prompt: int | None


def load_problem_data(
    arguments: DataArguments,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    *,
    check_golds: bool = True,
    rows: "Rows | None" = None,
) -> ProblemData:
    """Load problems, remove what cannot be trained on, and render the prompts.

    In this order: rows with an empty question or answer; repeated questions (the first one stays; none if their
    answers differ); the difficulty range; the topic; prompts that are too long; answers that cannot be scored.

    Args:
        tokenizer: Of the model; needed for `max_prompt_length`.
        check_golds: Whether answers that `math_reward` cannot score are removed.
        rows: Rows in memory instead of those that `dataset_name` names: a `Dataset`, a `DatasetDict`, of which
            `dataset_split` counts, or a list of dicts.

    Raises:
        ValueError: Missing columns, broken files, nothing left, options that do not fit, more than 5% of empty questions or
            answers, unscorable golds or unusable tests.
        FileNotFoundError: A local path without data files.
    """
    chosen_format = arguments.format
    chosen_format.check(tokenizer)
    if arguments.max_prompt_length is not None and tokenizer is None:
        raise ValueError("max_prompt_length counts tokens: pass the model's tokenizer, or max_prompt_length=None.")
    steps = Steps(arguments.dataset_name)
    rows, unscorable_share = _read(arguments, rows, steps, tokenizer, check_golds)
    rows, held_out = _hold_out(arguments, rows, steps, tokenizer, check_golds)
    steps.say(f"left to train on: {len(rows)} rows")
    lengths = None if tokenizer is None else column(rows, "prompt_tokens")
    parts = [part for part in (rows, held_out) if part is not None]
    return ProblemData(
        train=_for_training(rows),
        held_out=None if held_out is None else _for_training(held_out),
        report=steps.lines,
        unscorable_share=unscorable_share,
        prompt_format=chosen_format,
        prompt_tokens=lengths,
        longest_prompt=None if lengths is None else max(max(column(part, "prompt_tokens")) for part in parts),
    )


def _read(
    arguments: DataArguments,
    given: "Rows | None",
    steps: Steps,
    tokenizer: "PreTrainedTokenizerBase | None",
    check_golds: bool,
) -> "tuple[Dataset, float]":
    """Filtered rows with `question`, `prompt` and, with a tokenizer, `prompt_tokens`; the share of unscorable golds."""
    chosen_format = arguments.format
    share = 0.0
    with main_process_first():
        if arguments.problem_type == "code":
            rows, share = _read_code(arguments, given, steps)
        else:
            rows = _read_math(arguments, given, steps)
        rows = _filter(arguments, rows, steps)
        prompts = [chosen_format.render(question) for question in column(rows, "question")]
        rows = rows.add_column("prompt", prompts)
        if tokenizer is not None:
            lengths = chosen_format.count_tokens(prompts, tokenizer)
            rows = rows.add_column("prompt_tokens", lengths)
            if arguments.max_prompt_length is not None:
                kept = [length <= arguments.max_prompt_length for length in lengths]
                rows = steps.keep(rows, f"prompt longer than {arguments.max_prompt_length} tokens", kept)
        if check_golds and arguments.problem_type == "math" and not arguments.is_generated:
            rows, share = keep_scorable(rows, steps, arguments.allow_unscorable)
        return rows, share


def _read_math(arguments: DataArguments, given: "Rows | None", steps: Steps) -> "Dataset":
    """Rows with a question and a solution, each question once."""
    if arguments.is_generated:
        name = arguments.dataset_name.removeprefix(REASONING_GYM)
        rows = generate(
            name,
            arguments.reasoning_gym_size,
            arguments.reasoning_gym_seed,
            arguments.reasoning_gym_options or {},
        )
    else:
        rows = read_rows(arguments, given)
    steps.say(f"{arguments.dataset_name}: {len(rows)} rows")
    keys = list(map(question_key, column(rows, "question")))
    complete = [bool(key and solution) for key, solution in zip(keys, column(rows, "solution"), strict=True)]
    if not all(complete):
        empty = [f"row {i}" for i, is_complete in enumerate(complete, start=1) if not is_complete]
        probably = "the wrong column, or a split whose answers are not published"
        allowed = arguments.allow_unscorable
        steps.check_share("rows with an empty question or answer", empty, len(rows), ", ", probably, allowed)
    rows = steps.keep(rows, "empty question or answer", complete)
    keys = [key for key, keep in zip(keys, complete, strict=True) if keep]
    return steps.keep(rows, "repeated question", is_first(keys, column(rows, "solution")))


def _read_code(arguments: DataArguments, given: "Rows | None", steps: Steps) -> "tuple[Dataset, float]":
    """Rows with a question and tests that can be used, each question once; the share of rows without such tests."""
    rows, share = keep_testable(read_code_rows(arguments, steps, given), steps, arguments.allow_unscorable)
    keys = list(map(question_key, column(rows, "question")))
    rows = steps.keep(rows, "empty question", list(map(bool, keys)))
    keys = [key for key in keys if key]
    # Two rows may test the same problem on other inputs: that is no contradiction
    rows = steps.keep(rows, "repeated question", is_first(keys, [""] * len(keys)))
    return rows.remove_columns(["fault", "origin"]), share


def _filter(arguments: DataArguments, rows: "Dataset", steps: Steps) -> "Dataset":
    """What difficulty and topic decide."""
    if arguments.min_difficulty is not None or arguments.max_difficulty is not None:
        low = -float("inf") if arguments.min_difficulty is None else arguments.min_difficulty
        high = float("inf") if arguments.max_difficulty is None else arguments.max_difficulty
        values = optional_column(rows, "difficulty", "min_difficulty and max_difficulty need")
        kept = [v is not None and low <= v <= high for v in values]
        rows = steps.keep(rows, f"difficulty outside [{low:g}, {high:g}]", kept)
    if arguments.topic is not None:
        topics = [(t or "").removeprefix(TOPIC_ROOT) for t in optional_column(rows, "topic", "topic needs")]
        kept = [t.startswith(arguments.topic.removeprefix(TOPIC_ROOT)) for t in topics]
        if not any(kept):
            known = sorted({t.partition(" -> ")[0] for t in topics})
            raise ValueError(f"No topic starts with {arguments.topic!r}. Available: {', '.join(known)}.")
        rows = steps.keep(rows, f"topic other than {arguments.topic!r}", kept)
    return rows


def _hold_out(
    arguments: DataArguments,
    rows: "Dataset",
    steps: Steps,
    tokenizer: "PreTrainedTokenizerBase | None",
    check_golds: bool,
) -> "tuple[Dataset, Dataset | None]":
    if arguments.held_out_share:
        is_out = [hash_share(question) < arguments.held_out_share for question in column(rows, "question")]
        if not any(is_out):
            raise ValueError(
                f"held_out_share={arguments.held_out_share:g} of {len(rows)} rows holds none out. Raise it."
            )
        held_out = rows.select([i for i, out in enumerate(is_out) if out])
        reason = f"held out (a share of {arguments.held_out_share:g} by hash of the question)"
        return steps.keep(rows, reason, [not out for out in is_out]), held_out
    if arguments.held_out_name is not None:
        source = replace(
            arguments,
            dataset_name=arguments.held_out_name,
            dataset_revision=None,
            dataset_files=None,
            held_out_name=None,
        )
        held_out, _ = _read(source, None, Steps(arguments.held_out_name), tokenizer, check_golds)
        known = {question_key(question) for question in column(held_out, "question")}
        kept = [question_key(question) not in known for question in column(rows, "question")]
        rows = steps.keep(rows, f"also held out ({arguments.held_out_name})", kept)
        steps.say(f"held out: {len(held_out)} rows of {arguments.held_out_name}")
        return rows, held_out
    return rows, None


def load_math_dataset(
    dataset_name: "str | Rows",
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    check_golds: bool = True,
    max_prompt_length: int | None = None,
    **options: Any,
) -> ProblemData:
    """
    `load_problem_data` with `options` that are the fields of `DataArguments`, except that prompts of any length stay unless
    `max_prompt_length` is given, which needs the tokenizer, and that `dataset_name` may be the rows themselves.
    """
    rows = None if isinstance(dataset_name, str) else dataset_name
    name = dataset_name if rows is None else ROWS_IN_MEMORY
    arguments = DataArguments(dataset_name=name, max_prompt_length=max_prompt_length, **options)
    return load_problem_data(arguments, tokenizer, check_golds=check_golds, rows=rows)


def load_code_dataset(
    dataset_name: "str | Rows",
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    max_prompt_length: int | None = None,
    **options: Any,
) -> ProblemData:
    """Programming problems with the column `tests` for `code_reward`: `load_math_dataset` with `problem_type="code"`."""
    return load_math_dataset(
        dataset_name, tokenizer=tokenizer, max_prompt_length=max_prompt_length, problem_type="code", **options
    )


def load_reasoning_gym(
    name: str,
    size: int = 1000,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    max_prompt_length: int | None = None,
    **data_options: Any,
) -> ProblemData:
    """Generate problems, remove repeated ones and prompts that are too long, and render the prompts.

    Args:
        name: A dataset of reasoning-gym, such as "chain_sum".
        size: Problems to generate; repeated ones are then removed.
        seed: The same seed gives the same problems. Problem i of seed s is problem 0 of seed s + i: take unseen problems
            with `held_out_share`, not with another seed.
        options: Of the dataset's config, such as `{"min_terms": 2}`.
        tokenizer: Needed for `max_prompt_length`, and to check that a "chat" prompt can be rendered.
        max_prompt_length, **data_options: See `delta_trl.data.DataArguments`: prompt_format, system_prompt, held_out_share.

    Returns:
        `ProblemData`, whose datasets have the columns `prompt`, `solution` (reasoning-gym's answer) and `entry` (JSON, from
        which `reasoning_gym_reward` makes the problem again).

    Raises:
        ValueError: An unknown name or option, a dataset whose scorer executes the answer, nothing left.
        ModuleNotFoundError: reasoning-gym is not installed.
    """
    arguments = DataArguments(
        dataset_name=REASONING_GYM + name,
        reasoning_gym_size=size,
        reasoning_gym_seed=seed,
        reasoning_gym_options=dict(options or {}),
        max_prompt_length=max_prompt_length,
        **data_options,
    )
    return load_problem_data(arguments, tokenizer)


def _for_training(rows: "Dataset") -> "Dataset":
    return rows.remove_columns([name for name in ("question", "prompt_tokens") if name in rows.column_names])
