r"""Datasets of mathematical problems, as `prompt` and `solution` columns for TRL.

Built for DeepMath-103K (question, final_answer, difficulty, topic, and three long solutions that are never read) and
for any dataset with a question and an answer column. Nothing disappears silently: every step that removes rows says
how many, in `MathData.report` and through the `delta_trl.data` logger (main process only).
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."
# The published recipe's prompt for base models: plain text, no chat template, no system prompt.
PAPER_TEMPLATE = f"User:\n{{question}}\n{INSTRUCTION}\n\nAssistant:\n"
MAX_UNSCORABLE_SHARE = 0.05
TOPIC_ROOT = "Mathematics -> "  # what every topic of DeepMath-103K starts with
_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class PromptFormat:
    r"""How a question becomes a prompt.

    Attributes:
        name: "paper", "chat", or a template of one's own that contains `{question}`.
        system_prompt: First message of a "chat" prompt, or None.
    """

    name: str = "paper"
    system_prompt: str | None = None

    def __post_init__(self):
        if self.name not in ("paper", "chat") and "{question}" not in self.name:
            raise ValueError(
                f"prompt_format must be 'paper', 'chat', or a template that contains {{question}}, got {self.name!r}."
            )
        if self.system_prompt is not None and self.name != "chat":
            raise ValueError(
                f"system_prompt is only used by prompt_format 'chat', not by {self.name!r}. Drop it, or write it into "
                "a template of your own."
            )

    def render(self, question: str) -> str | list[dict[str, str]]:
        """The prompt: a string, or for "chat" a list of messages that TRL renders with the chat template."""
        if self.name == "chat":
            system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt is not None else []
            return [*system, {"role": "user", "content": f"{question}\n{INSTRUCTION}"}]
        # Not str.format: questions and templates are full of LaTeX braces.
        return (PAPER_TEMPLATE if self.name == "paper" else self.name).replace("{question}", question)

    @property
    def stop_strings(self) -> list[str]:
        """Texts that end a response besides the end-of-sequence token.

        A base model that has answered a "paper" prompt may go on and write the next user's turn.
        """
        return ["\nUser:"] if self.name == "paper" else []

    def end_token_ids(self, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
        """Token ids that end a response: the tokenizer's, and for "chat" what the template puts after a message."""
        ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        if self.name == "chat":
            self.check(tokenizer)
            mark = "answer"
            text = tokenizer.apply_chat_template(
                [*self.render("question"), {"role": "assistant", "content": mark}], tokenize=False
            )
            after = tokenizer(text.rpartition(mark)[2], add_special_tokens=False)["input_ids"]
            special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
            ids += [token for token in after[:1] if token in special and token not in ids]
        return ids

    def check(self, tokenizer: "PreTrainedTokenizerBase | None") -> None:
        """Raise ValueError if the tokenizer cannot render this format."""
        if self.name == "chat" and tokenizer is not None and not tokenizer.chat_template:
            raise ValueError(
                f"prompt_format 'chat' needs a chat template, and the tokenizer of {tokenizer.name_or_path!r} has "
                "none: it belongs to a base model. Use prompt_format 'paper' (made for base models) or a template of "
                "your own, or set tokenizer.chat_template before loading the data."
            )

    def count_tokens(self, prompt: str | list[dict[str, str]], tokenizer: "PreTrainedTokenizerBase") -> int:
        """Tokens of a rendered prompt, counted as TRL will tokenize it."""
        if isinstance(prompt, str):
            return len(tokenizer(prompt)["input_ids"])
        text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class MathData:
    """What `load_math_dataset` returns.

    Attributes:
        train: Columns `prompt`, `solution`, and `difficulty` and `topic` where the source has them.
        held_out: The same columns, None if no share was asked for.
        report: A line for every step: rows loaded, removed, held out.
        unscorable_share: Share of the golds that could not be scored, before they were removed.
        prompt_format: How the prompts were made; knows the stop strings that go with them.
    """

    train: "Dataset"
    held_out: "Dataset | None"
    report: list[str]
    unscorable_share: float
    prompt_format: PromptFormat


@dataclass
class DataArguments:
    """Options of the data, shared by the training script and `scripts/inspect_data.py`."""

    dataset_name: str = field(
        default="zwhe99/DeepMath-103K",
        metadata={"help": "Hub id, or a local .jsonl, .json or .parquet file, or a folder of such files."},
    )
    dataset_split: str = field(default="train", metadata={"help": "Split to train on."})
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Commit, tag or branch of a dataset on the Hub. Default: the newest."}
    )
    dataset_streaming: bool = field(
        default=False, metadata={"help": "Refused: held-out shares, filters and resuming need the rows at hand."}
    )
    question_column: str = field(default="question", metadata={"help": "Column with the problem."})
    answer_column: str = field(default="final_answer", metadata={"help": "Column with the gold answer."})
    prompt_format: str = field(
        default="paper",
        metadata={
            "help": "'paper' (the published plain text, for base models), 'chat' (the model's chat template), or a "
            "template of your own that contains {question}."
        },
    )
    system_prompt: str | None = field(
        default=None, metadata={"help": "System message, only with prompt_format 'chat'. Default: none."}
    )
    min_difficulty: float | None = field(
        default=None, metadata={"help": "Keep problems of at least this difficulty (DeepMath: about 1 to 10)."}
    )
    max_difficulty: float | None = field(
        default=None, metadata={"help": "Keep problems of at most this difficulty (DeepMath: about 1 to 10)."}
    )
    topic: str | None = field(
        default=None,
        metadata={"help": "Keep topics that start with this; 'Mathematics -> ' may be left out, as in 'Algebra'."},
    )
    max_prompt_length: int | None = field(
        default=2048,
        metadata={"help": "Longest rendered prompt in the model's tokens; longer ones are removed. Null: no limit."},
    )
    held_out_share: float = field(
        default=0.0,
        metadata={
            "help": "Share of the problems kept out of training, 0 <= share < 1. Chosen by a hash of the question, so "
            "it stays the same when rows are added or reordered."
        },
    )
    held_out_name: str | None = field(
        default=None,
        metadata={
            "help": "Held-out problems of their own instead of a share: Hub id, local file or folder, read with the same "
            "split, columns, prompt format and filters. Training drops the prompts that are among them."
        },
    )
    allow_unscorable: bool = field(
        default=False,
        metadata={"help": "Go on when more than 5%% of the gold answers cannot be scored. They are removed anyway."},
    )

    def __post_init__(self):
        PromptFormat(self.prompt_format, self.system_prompt)
        if not 0 <= self.held_out_share < 1:
            raise ValueError(f"held_out_share must be at least 0 and below 1, got {self.held_out_share}.")
        if self.max_prompt_length is not None and self.max_prompt_length < 1:
            raise ValueError(f"max_prompt_length must be at least 1, or null, got {self.max_prompt_length}.")
        _check_held_out(self.held_out_share, self.held_out_name)

    def load(self, tokenizer: "PreTrainedTokenizerBase | None" = None) -> MathData:
        """`load_math_dataset` with these options."""
        return load_math_dataset(
            self.dataset_name,
            split=self.dataset_split,
            revision=self.dataset_revision,
            streaming=self.dataset_streaming,
            question_column=self.question_column,
            answer_column=self.answer_column,
            prompt_format=self.prompt_format,
            system_prompt=self.system_prompt,
            tokenizer=tokenizer,
            min_difficulty=self.min_difficulty,
            max_difficulty=self.max_difficulty,
            topic=self.topic,
            max_prompt_length=self.max_prompt_length,
            held_out_share=self.held_out_share,
            held_out_name=self.held_out_name,
            allow_unscorable=self.allow_unscorable,
        )


def load_math_dataset(
    name_or_path: str,
    *,
    split: str = "train",
    revision: str | None = None,
    streaming: bool = False,
    question_column: str = "question",
    answer_column: str = "final_answer",
    prompt_format: str = "paper",
    system_prompt: str | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    min_difficulty: float | None = None,
    max_difficulty: float | None = None,
    topic: str | None = None,
    max_prompt_length: int | None = None,
    held_out_share: float = 0.0,
    held_out_name: str | None = None,
    allow_unscorable: bool = False,
) -> MathData:
    """Load problems, remove what cannot be trained on, and render the prompts.

    In this order: rows with an empty question or answer; repeated questions (the first one stays; none if their
    answers differ); the difficulty range; the topic; prompts that are too long; answers that cannot be scored.

    Args: see `DataArguments`; `tokenizer` is needed for `max_prompt_length`.

    Returns:
        `MathData`, with the training and the held-out dataset and a report.

    Raises:
        ValueError: Missing columns, nothing left, options that do not fit, more than 5% unscorable golds.
        FileNotFoundError: A local path without data files.
    """
    chosen_format = PromptFormat(prompt_format, system_prompt)
    chosen_format.check(tokenizer)
    if streaming:
        raise ValueError(
            "Streaming is not offered: repeated questions, the held-out share and the check of the gold answers need "
            "all rows before training starts, and resuming in a stream repeats or loses prompts. Without it, "
            "only the needed columns are read (1% of the bytes of DeepMath-103K)."
        )
    if max_prompt_length is not None and tokenizer is None:
        raise ValueError("max_prompt_length counts tokens: pass the model's tokenizer, or max_prompt_length=None.")
    if not 0 <= held_out_share < 1:
        raise ValueError(f"held_out_share must be at least 0 and below 1, got {held_out_share}.")
    _check_held_out(held_out_share, held_out_name)

    steps = _Steps(name_or_path)
    with _main_process_first():
        rows = _read(name_or_path, split, revision, question_column, answer_column)
        steps.say(f"{name_or_path}: {len(rows)} rows")
        rows = steps.keep(rows, "empty question or answer", _is_complete(rows))
        rows = steps.keep(rows, "repeated question", _is_first(rows))
        if min_difficulty is not None or max_difficulty is not None:
            low = -float("inf") if min_difficulty is None else min_difficulty
            high = float("inf") if max_difficulty is None else max_difficulty
            values = _optional_column(rows, "difficulty", "min_difficulty and max_difficulty need")
            rows = steps.keep(
                rows, f"difficulty outside [{low:g}, {high:g}]", [v is not None and low <= v <= high for v in values]
            )
        if topic is not None:
            topics = _optional_column(rows, "topic", "topic needs")
            topics = [(t or "").removeprefix(TOPIC_ROOT) for t in topics]
            kept = [t.startswith(topic.removeprefix(TOPIC_ROOT)) for t in topics]
            if not any(kept):
                known = sorted({t.partition(" -> ")[0] for t in topics})
                raise ValueError(f"No topic starts with {topic!r}. There are: {', '.join(known)}.")
            rows = steps.keep(rows, f"topic other than {topic!r}", kept)

        prompts = [chosen_format.render(question) for question in rows[:]["question"]]
        if max_prompt_length is not None:
            kept = [chosen_format.count_tokens(prompt, tokenizer) <= max_prompt_length for prompt in prompts]
            prompts = [prompt for prompt, keep in zip(prompts, kept, strict=True) if keep]
            rows = steps.keep(rows, f"prompt longer than {max_prompt_length} tokens", kept)
        rows = rows.add_column("prompt", prompts)

        kept, unscorable_share = _check_golds(rows, steps, allow_unscorable)
        rows = steps.keep(rows, "answer that cannot be scored", kept)
    held_out = None
    if held_out_share:
        is_out = [_hash_share(question) < held_out_share for question in rows[:]["question"]]
        held_out = rows.select([i for i, out in enumerate(is_out) if out]).remove_columns("question")
        rows = rows.select([i for i, out in enumerate(is_out) if not out])
        steps.say(f"held out: {len(held_out)} rows (a share of {held_out_share:g} by hash of the question)")
    if held_out_name is not None:
        held_out_data = load_math_dataset(
            held_out_name,
            split=split,
            question_column=question_column,
            answer_column=answer_column,
            prompt_format=prompt_format,
            system_prompt=system_prompt,
            tokenizer=tokenizer,
            min_difficulty=min_difficulty,
            max_difficulty=max_difficulty,
            topic=topic,
            max_prompt_length=max_prompt_length,
            allow_unscorable=allow_unscorable,
        )
        held_out = held_out_data.train
        known = {str(prompt) for prompt in held_out["prompt"]}
        rows = steps.keep(rows, f"also held out ({held_out_name})", [str(p) not in known for p in rows["prompt"]])
        steps.say(f"held out: {len(held_out)} rows of {held_out_name}")
    steps.say(f"left to train on: {len(rows)} rows")
    return MathData(rows.remove_columns("question"), held_out, steps.lines, unscorable_share, chosen_format)


def _check_held_out(share: float, name: str | None) -> None:
    if share and name is not None:
        raise ValueError(
            f"held_out_share ({share}) and held_out_name ({name!r}) are two ways to hold problems out. Give one of them."
        )


def _main_process_first() -> AbstractContextManager:
    """The main process fills the caches on disk; the others then read them."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return nullcontext()
    from accelerate import PartialState

    return PartialState().main_process_first()


class _Steps:
    """Removes rows and says so."""

    def __init__(self, name: str):
        self.name = name
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)
        if os.environ.get("RANK", "0") == "0":
            logger.info(line)

    def keep(self, rows: "Dataset", reason: str, kept: list[bool]) -> "Dataset":
        before = len(rows)
        if not all(kept):
            rows = rows.select([i for i, keep in enumerate(kept) if keep])
        self.say(f"{reason}: {before - len(rows)} rows removed")
        if not len(rows):
            raise ValueError(f"No row of {self.name} is left:\n  " + "\n  ".join(self.lines))
        return rows


def _read(name_or_path: str, split: str, revision: str | None, question: str, answer: str) -> "Dataset":
    """Rows with the columns question, solution (strings) and, where there are any, difficulty and topic."""
    from datasets import Dataset, load_dataset_builder

    path = Path(name_or_path)
    if path.exists() or path.suffix in _FORMATS:
        files = sorted(p for p in (path.rglob("*") if path.is_dir() else [path]) if p.suffix in _FORMATS)
        if not files or not path.exists():
            raise FileNotFoundError(f"{name_or_path} holds no .jsonl, .json or .parquet file.")
        kinds = {_FORMATS[p.suffix] for p in files}
        if len(kinds) > 1:
            raise ValueError(
                f"{name_or_path} mixes Parquet and JSON files. Name one of them, or a folder of one kind."
            )
        source: dict[str, Any] = {"path": kinds.pop(), "data_files": {split: [str(p) for p in files]}}
        version = [(p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    else:
        source = {"path": name_or_path, "revision": revision}
        version = None

    # A stream reads the schema, not the rows.
    builder = load_dataset_builder(**source)
    stream = builder.as_streaming_dataset(split=split)
    names = stream.column_names or list(next(iter(stream), {}))
    missing = [column for column in (question, answer) if column not in names]
    if missing:
        raise ValueError(
            f"{name_or_path} has no column {' and no column '.join(map(repr, missing))}. It has: {', '.join(names)}. "
            "Name the problem's and the answer's columns with question_column and answer_column."
        )
    extra = [c for c in ("difficulty", "topic") if c in names and c not in (question, answer)]
    # Cached on disk by these arguments, so that a second run or another process neither downloads nor converts.
    return Dataset.from_generator(
        _rows,
        gen_kwargs={
            "source": source,
            "split": split,
            "columns": (question, answer, *extra),  # a list would be taken for shards
            "is_parquet": hasattr(builder.config, "columns"),
            "version": f"{builder.hash} {version}",
        },
    )


def _rows(
    source: dict[str, Any], split: str, columns: tuple[str, ...], is_parquet: bool, version: str
) -> Iterator[dict]:
    from datasets import load_dataset

    # Parquet reads the chosen columns only, from disk or by range requests; other formats have to be read whole.
    stream = load_dataset(**source, split=split, streaming=True, **({"columns": list(columns)} if is_parquet else {}))
    question, answer, *extra = columns
    for row in stream:
        texts = {"question": _as_text(row[question]), "solution": _as_text(row[answer])}
        yield texts | {column: row[column] for column in extra}


def _as_text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _optional_column(rows: "Dataset", name: str, who_needs_it: str) -> list:
    if name not in rows.column_names:
        raise ValueError(f"{who_needs_it} a column {name!r}, which this dataset has not. Leave the filter out.")
    return rows[:][name]


def _question_key(question: str) -> str:
    return " ".join(question.split())


def _hash_share(question: str) -> float:
    """A number in [0, 1) that depends on nothing but the question."""
    return int.from_bytes(hashlib.sha256(_question_key(question).encode("utf-8", "replace")).digest()[:8]) / 2**64


def _is_complete(rows: "Dataset") -> list[bool]:
    return [bool(q and a) for q, a in zip(rows[:]["question"], rows[:]["solution"], strict=True)]


def _is_first(rows: "Dataset") -> list[bool]:
    """True for the first row of every question, unless its rows disagree about the answer: one must be wrong."""
    golds: dict[str, set[str]] = {}
    keys = [_question_key(question) for question in rows[:]["question"]]
    for key, solution in zip(keys, rows[:]["solution"], strict=True):
        golds.setdefault(key, set()).add(solution)
    seen: set[str] = set()
    kept = []
    for key in keys:
        kept.append(key not in seen and len(golds[key]) == 1)
        seen.add(key)
    return kept


def _mark_scorable(batch: dict[str, list], checker: str) -> dict[str, list]:
    from .rewards import scorable

    return {"scorable": scorable(batch["solution"])}


def _check_golds(rows: "Dataset", steps: _Steps, allow_unscorable: bool) -> tuple[list[bool], float]:
    """Which golds the reward can score. Asked once: `map` keeps the answer on disk until the checker changes."""
    rewards = Path(__file__).with_name("rewards")
    checker = hashlib.sha256(b"".join(p.read_bytes() for p in sorted(rewards.glob("*.py")))).hexdigest()
    marked = rows.select_columns("solution").map(
        _mark_scorable, batched=True, batch_size=4096, fn_kwargs={"checker": checker}, desc="Checking gold answers"
    )
    kept = marked[:]["scorable"]
    bad = [gold for gold, keep in zip(rows[:]["solution"], kept, strict=True) if not keep]
    share = len(bad) / len(kept)
    examples = f", for example {', '.join(map(repr, bad[:3]))}" if bad else ""
    steps.say(f"gold answers that cannot be scored: {len(bad)} of {len(kept)} ({share:.1%}){examples}")
    if share > MAX_UNSCORABLE_SHARE and not allow_unscorable:
        raise ValueError(
            f"{share:.1%} of the gold answers cannot be scored{examples}: more than {MAX_UNSCORABLE_SHARE:.0%}, so "
            "this is probably the wrong column, or not a dataset with short answers. If it is right, set "
            "allow_unscorable; those rows are removed in any case."
        )
    return kept, share
