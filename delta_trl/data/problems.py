r"""Mathematical problems, as `prompt` and `solution` columns for TRL.

Built for DeepMath-103K (question, final_answer, difficulty, topic, and three long solutions that are never read) and
for any dataset with a question and an answer column. Every step that removes rows says how many, in `MathData.report`
and through the `delta_trl.data` logger (main process only).
"""

import hashlib
import json
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .filters import Steps, hash_share, is_first, optional_column, question_key
from .prompts import PromptFormat
from .reading import main_process_first, read_rows


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

MAX_UNSCORABLE_SHARE = 0.05
REASONING_GYM = "reasoning_gym/"  # before the name of one of reasoning-gym's datasets
FOR_GENERATED = ("reasoning_gym_size", "reasoning_gym_seed", "reasoning_gym_options")
NOT_FOR_GENERATED = (
    *("dataset_split", "dataset_revision", "question_column", "answer_column", "extra_columns"),
    *("min_difficulty", "max_difficulty", "topic", "held_out_name", "allow_unscorable"),
)
TOPIC_ROOT = "Mathematics -> "  # what every topic of DeepMath-103K starts with


@dataclass(frozen=True)
class MathData:
    """What `load_math_dataset` returns.

    Attributes:
        train: Columns `prompt`, `solution`, `extra_columns`, and `difficulty` and `topic` where the source has them.
        held_out: The same columns, None if none was asked for.
        report: A line for every step: rows loaded, removed, held out.
        unscorable_share: Share of the golds that could not be scored, before they were removed; 0 if none was checked.
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


@dataclass
class DataArguments:
    """Options of the data, for the training command, `scripts/inspect_data.py` and `load_math_dataset`."""

    dataset_name: str = field(
        default="zwhe99/DeepMath-103K",
        metadata={
            "help": "Hub id, or a local .jsonl, .json or .parquet file, or a folder of such files; or reasoning_gym/NAME "
            "for problems that reasoning-gym generates."
        },
    )
    reasoning_gym_size: int = field(default=1000, metadata={"help": "For reasoning_gym/NAME: problems to generate."})
    reasoning_gym_seed: int = field(default=0, metadata={"help": "For reasoning_gym/NAME: seed of the problems."})
    reasoning_gym_options: dict | str | None = field(
        default=None,
        metadata={"help": "For reasoning_gym/NAME: options of its config, in YAML, or as JSON: '{\"min_terms\": 2}'."},
    )
    dataset_split: str = field(default="train", metadata={"help": "Split to train on."})
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Commit, tag or branch of a dataset on the Hub. Default: the newest."}
    )
    question_column: str = field(default="question", metadata={"help": "Column with the problem."})
    answer_column: str = field(default="final_answer", metadata={"help": "Column with the gold answer."})
    extra_columns: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Further columns to hand on to reward functions, which get each as an argument of its name."
        },
    )
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
            "split, columns, prompt format and filters. Training drops the questions that are among them."
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
        if self.held_out_share and self.held_out_name is not None:
            raise ValueError(
                f"held_out_share ({self.held_out_share}) and held_out_name ({self.held_out_name!r}) are two ways to hold "
                "problems out. Give one of them."
            )
        if isinstance(self.reasoning_gym_options, str):
            self.reasoning_gym_options = json.loads(self.reasoning_gym_options)
        ignored = NOT_FOR_GENERATED if self._is_generated else FOR_GENERATED
        if changed := [option.name for option in fields(self) if option.name in ignored and self._is_changed(option)]:
            raise ValueError(
                f"{', '.join(changed)} would be ignored with dataset_name={self.dataset_name!r}. Leave them out"
                + ("." if self._is_generated else f", or set dataset_name to {REASONING_GYM}NAME.")
            )

    @property
    def _is_generated(self) -> bool:
        return self.dataset_name.startswith(REASONING_GYM)

    def _is_changed(self, option: Field) -> bool:
        default = option.default if option.default_factory is MISSING else option.default_factory()
        return getattr(self, option.name) != default

    def load(self, tokenizer: "PreTrainedTokenizerBase | None" = None, *, check_golds: bool = True) -> MathData:
        """Load problems, remove what cannot be trained on, and render the prompts.

        In this order: rows with an empty question or answer; repeated questions (the first one stays; none if their
        answers differ); the difficulty range; the topic; prompts that are too long; answers that cannot be scored.

        Args:
            tokenizer: Of the model; needed for `max_prompt_length`.
            check_golds: Whether answers that `math_reward` cannot score are removed.

        Raises:
            ValueError: Missing columns, broken files, nothing left, options that do not fit, more than 5% unscorable golds.
            FileNotFoundError: A local path without data files.
        """
        chosen_format = PromptFormat(self.prompt_format, self.system_prompt)
        chosen_format.check(tokenizer)
        if self.max_prompt_length is not None and tokenizer is None:
            raise ValueError("max_prompt_length counts tokens: pass the model's tokenizer, or max_prompt_length=None.")
        steps = Steps(self.dataset_name)
        rows, unscorable_share = self._read(steps, tokenizer, check_golds)
        rows, held_out = self._hold_out(rows, steps, tokenizer, check_golds)
        steps.say(f"left to train on: {len(rows)} rows")
        lengths = None if tokenizer is None else rows[:]["prompt_tokens"]
        parts = [part for part in (rows, held_out) if part is not None]
        return MathData(
            train=_for_training(rows),
            held_out=None if held_out is None else _for_training(held_out),
            report=steps.lines,
            unscorable_share=unscorable_share,
            prompt_format=chosen_format,
            prompt_tokens=lengths,
            longest_prompt=None if lengths is None else max(max(part[:]["prompt_tokens"]) for part in parts),
        )

    def _read(
        self, steps: Steps, tokenizer: "PreTrainedTokenizerBase | None", check_golds: bool
    ) -> "tuple[Dataset, float]":
        """Filtered rows with `question`, `prompt` and, with a tokenizer, `prompt_tokens`; the share of unscorable golds."""
        chosen_format = PromptFormat(self.prompt_format, self.system_prompt)
        with main_process_first():
            rows = self._generate() if self._is_generated else self._load()
            rows = self._filter(rows, steps)
            prompts = [chosen_format.render(question) for question in rows[:]["question"]]
            rows = rows.add_column("prompt", prompts)
            if tokenizer is not None:
                lengths = chosen_format.count_tokens(prompts, tokenizer)
                rows = rows.add_column("prompt_tokens", lengths)
                if self.max_prompt_length is not None:
                    kept = [length <= self.max_prompt_length for length in lengths]
                    rows = steps.keep(rows, f"prompt longer than {self.max_prompt_length} tokens", kept)
            if not check_golds or self._is_generated:
                return rows, 0.0
            kept, unscorable_share = check_gold_answers(rows, steps, self.allow_unscorable)
            return steps.keep(rows, "answer that cannot be scored", kept), unscorable_share

    def _load(self) -> "Dataset":
        return read_rows(
            self.dataset_name,
            {"question": self.question_column, "solution": self.answer_column},
            optional=("difficulty", "topic"),
            required=self.extra_columns,
            split=self.dataset_split,
            revision=self.dataset_revision,
        )

    def _generate(self) -> "Dataset":
        from ..reasoning_gym import generate

        name = self.dataset_name.removeprefix(REASONING_GYM)
        return generate(name, self.reasoning_gym_size, self.reasoning_gym_seed, self.reasoning_gym_options or {})

    def _filter(self, rows: "Dataset", steps: Steps) -> "Dataset":
        """What the question, answer, difficulty and topic alone decide."""
        steps.say(f"{self.dataset_name}: {len(rows)} rows")
        questions, solutions = rows[:]["question"], rows[:]["solution"]
        keys = [question_key(question) for question in questions]
        complete = [bool(key and solution) for key, solution in zip(keys, solutions, strict=True)]
        rows = steps.keep(rows, "empty question or answer", complete)
        keys = [key for key, keep in zip(keys, complete, strict=True) if keep]
        rows = steps.keep(rows, "repeated question", is_first(keys, rows[:]["solution"]))
        if self.min_difficulty is not None or self.max_difficulty is not None:
            low = -float("inf") if self.min_difficulty is None else self.min_difficulty
            high = float("inf") if self.max_difficulty is None else self.max_difficulty
            values = optional_column(rows, "difficulty", "min_difficulty and max_difficulty need")
            kept = [v is not None and low <= v <= high for v in values]
            rows = steps.keep(rows, f"difficulty outside [{low:g}, {high:g}]", kept)
        if self.topic is not None:
            topics = [(t or "").removeprefix(TOPIC_ROOT) for t in optional_column(rows, "topic", "topic needs")]
            kept = [t.startswith(self.topic.removeprefix(TOPIC_ROOT)) for t in topics]
            if not any(kept):
                known = sorted({t.partition(" -> ")[0] for t in topics})
                raise ValueError(f"No topic starts with {self.topic!r}. Available: {', '.join(known)}.")
            rows = steps.keep(rows, f"topic other than {self.topic!r}", kept)
        return rows

    def _hold_out(
        self, rows: "Dataset", steps: Steps, tokenizer: "PreTrainedTokenizerBase | None", check_golds: bool
    ) -> "tuple[Dataset, Dataset | None]":
        if self.held_out_share:
            is_out = [hash_share(question) < self.held_out_share for question in rows[:]["question"]]
            if not any(is_out):
                raise ValueError(
                    f"held_out_share={self.held_out_share:g} of {len(rows)} rows holds none out. Raise it."
                )
            held_out = rows.select([i for i, out in enumerate(is_out) if out])
            reason = f"held out (a share of {self.held_out_share:g} by hash of the question)"
            return steps.keep(rows, reason, [not out for out in is_out]), held_out
        if self.held_out_name is not None:
            source = replace(self, dataset_name=self.held_out_name, dataset_revision=None, held_out_name=None)
            held_out, _ = source._read(Steps(self.held_out_name), tokenizer, check_golds)
            known = {question_key(question) for question in held_out[:]["question"]}
            kept = [question_key(question) not in known for question in rows[:]["question"]]
            rows = steps.keep(rows, f"also held out ({self.held_out_name})", kept)
            steps.say(f"held out: {len(held_out)} rows of {self.held_out_name}")
            return rows, held_out
        return rows, None


def load_math_dataset(
    dataset_name: str,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    check_golds: bool = True,
    max_prompt_length: int | None = None,
    **options,
) -> MathData:
    """
    `DataArguments.load` as a function: `options` are the fields of `DataArguments`, except that prompts of any length stay
    unless `max_prompt_length` is given, which needs the tokenizer.
    """
    arguments = DataArguments(dataset_name=dataset_name, max_prompt_length=max_prompt_length, **options)
    return arguments.load(tokenizer, check_golds=check_golds)


def _for_training(rows: "Dataset") -> "Dataset":
    return rows.remove_columns([name for name in ("question", "prompt_tokens") if name in rows.column_names])


def _mark_scorable(batch: dict[str, list], checker: str) -> dict[str, list]:
    from ..rewards import scorable

    return {"scorable": scorable(batch["solution"])}


def check_gold_answers(rows: "Dataset", steps: Steps, allow_unscorable: bool) -> tuple[list[bool], float]:
    """Which golds the reward can score. Asked once: `map` keeps the answer on disk until the checker changes."""
    rewards = Path(__file__).parents[1] / "rewards"
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
