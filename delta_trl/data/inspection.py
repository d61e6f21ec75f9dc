"""What data looks like before training on it: rendered prompts, lengths, difficulty, topics, scorable answers."""

import statistics
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .problems import TOPIC_ROOT, ProblemData


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOPICS_SHOWN = 12
TEST_SHOWN = 200  # characters of an input, and of an output


@dataclass
class InspectionArguments:
    """Options of `delta-trl inspect` besides those of the data."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Model whose tokenizer counts tokens and whose chat template is used."}
    )
    examples: int = field(default=3, metadata={"help": "Prompts to print."})
    picture: str = field(default="outputs/data.png", metadata={"help": "Where to save the picture."})


@dataclass(frozen=True)
class Statistics:
    """Of the rows to train on: prompt lengths (ascending) and their unit, difficulties, and topics with their counts."""

    lengths: list[int]
    unit: str
    difficulty: list[float]
    topics: Counter

    @classmethod
    def of(cls, data: ProblemData) -> "Statistics":
        train = data.train.remove_columns([c for c in ("solution", "tests") if c in data.train.column_names])[:]
        lengths = data.prompt_tokens
        if lengths is None:
            lengths = [len(p) if isinstance(p, str) else sum(len(m["content"]) for m in p) for p in train["prompt"]]
        topics = Counter(
            " -> ".join(topic.removeprefix(TOPIC_ROOT).split(" -> ")[:2]) for topic in train.get("topic", []) if topic
        )
        difficulty = [level for level in train.get("difficulty", []) if level is not None]
        return cls(sorted(lengths), "characters" if data.prompt_tokens is None else "tokens", difficulty, topics)


def show_examples(data: ProblemData, tokenizer: "PreTrainedTokenizerBase | None", number: int) -> str:
    """The first prompts as the model will see them, with their gold answers or tests."""
    shown = []
    for row in data.train.select(range(min(number, len(data.train)))):
        text = row["prompt"]
        if not isinstance(text, str):
            if tokenizer is not None:
                text = tokenizer.apply_chat_template(text, add_generation_prompt=True, tokenize=False)
            else:
                text = "\n".join(f"[{message['role']}] {message['content']}" for message in text)
        reference = f"gold: {row['solution']}" if "solution" in row else _show_tests(row["tests"])
        shown.append(f"{'-' * 80}\n{text}\n{'-' * 33} {reference}\n")
    return "\n".join(shown)


def _show_tests(tests: str) -> str:
    """How many tests there are and of which kind, and the first of them."""
    from ..rewards.code.tests import read_tests

    read = read_tests(tests)
    kind = f"calls of {read.function}" if read.function else "standard input"
    first = f"{str(read.inputs[0])!r:.{TEST_SHOWN}} -> {read.outputs[0][0]!r:.{TEST_SHOWN}}"
    return f"tests: {len(read)}, {kind}; first: {first}"


def describe_data(data: ProblemData, counted: Statistics) -> str:
    """The report of the loader, and the statistics as text."""
    lengths, total = counted.lengths, len(counted.lengths)
    marks = {"min": lengths[0], "median": statistics.median(lengths), "mean": statistics.fmean(lengths)}
    marks |= {f"{share}%": lengths[min(total - 1, total * share // 100)] for share in (90, 99)}
    marks["max"] = lengths[-1]
    has_golds = "solution" in data.train.column_names
    usable = "Gold answers that can be scored" if has_golds else "Tests that can be used"
    lines = [
        *data.report,
        "",
        f"Prompt length in {counted.unit}: " + ", ".join(f"{name} {value:.0f}" for name, value in marks.items()),
        f"{usable}: {1 - data.unscorable_share:.1%}",
    ]
    levels = sorted(Counter(counted.difficulty).items())
    rows = {"Difficulty": [(f"{level:g}", number) for level, number in levels]}
    rows["Topic"] = counted.topics.most_common(TOPICS_SHOWN)
    for title, counts in rows.items():
        if counts:
            lines += ["", title, *(f"  {number:7d}  {number / total:6.1%}  {name}" for name, number in counts)]
    if len(counted.topics) > TOPICS_SHOWN:
        lines.append(f"  ... and {len(counted.topics) - TOPICS_SHOWN} more")
    return "\n".join(lines)


def draw_lengths(path: Path, title: str, counted: Statistics, limit: int | None) -> None:
    """Save one picture of prompt lengths, difficulty and topics; `limit` is max_prompt_length. Needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    axes[0].hist(counted.lengths, bins=50)
    axes[0].set(title="Prompt length", xlabel=counted.unit, ylabel="problems")
    if limit is not None and limit < 2 * max(counted.lengths):
        axes[0].axvline(limit, color="tab:red", linestyle="--", label="max_prompt_length")
        axes[0].legend()
    levels = Counter(counted.difficulty)
    axes[1].bar([float(level) for level in levels], levels.values(), width=0.4)
    axes[1].set(title="Difficulty", xlabel="difficulty", ylabel="problems")
    names = [name for name, _ in counted.topics.most_common(TOPICS_SHOWN)][::-1]
    axes[2].barh(names, [counted.topics[name] for name in names])
    axes[2].set(title="Topic", xlabel="problems")
    for axis, shown in zip(axes, (counted.lengths, levels, names), strict=True):
        if not shown:
            axis.text(0.5, 0.5, "no such column", ha="center", transform=axis.transAxes)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
