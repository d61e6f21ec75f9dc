"""What data looks like before training on it: rendered prompts, lengths, difficulty, topics, scorable answers."""

import statistics
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .problems import TOPIC_ROOT, MathData


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOPICS_SHOWN = 12


@dataclass
class InspectionArguments:
    """Options of `scripts/inspect_data.py` besides those of the data."""

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
    def of(cls, data: MathData) -> "Statistics":
        train = data.train[:]
        lengths = data.prompt_tokens
        if lengths is None:
            lengths = [len(p) if isinstance(p, str) else sum(len(m["content"]) for m in p) for p in train["prompt"]]
        topics = Counter(
            " -> ".join(topic.removeprefix(TOPIC_ROOT).split(" -> ")[:2]) for topic in train.get("topic", []) if topic
        )
        difficulty = [level for level in train.get("difficulty", []) if level is not None]
        return cls(sorted(lengths), "characters" if data.prompt_tokens is None else "tokens", difficulty, topics)


def show_examples(data: MathData, tokenizer: "PreTrainedTokenizerBase | None", number: int) -> str:
    """The first prompts as the model will see them, with their gold answers."""
    shown = []
    for row in data.train.select(range(min(number, len(data.train)))):
        text = row["prompt"]
        if not isinstance(text, str):
            if tokenizer is not None:
                text = tokenizer.apply_chat_template(text, add_generation_prompt=True, tokenize=False)
            else:
                text = "\n".join(f"[{message['role']}] {message['content']}" for message in text)
        shown.append(f"{'-' * 80}\n{text}\n{'-' * 33} gold: {row['solution']}\n")
    return "\n".join(shown)


def describe_data(data: MathData, counted: Statistics) -> str:
    """The report of the loader, and the statistics as text."""
    lengths, total = counted.lengths, len(counted.lengths)
    marks = {"min": lengths[0], "median": statistics.median(lengths), "mean": statistics.fmean(lengths)}
    marks |= {f"{share}%": lengths[min(total - 1, total * share // 100)] for share in (90, 99)}
    marks["max"] = lengths[-1]
    lines = [
        *data.report,
        "",
        f"Prompt length in {counted.unit}: " + ", ".join(f"{name} {value:.0f}" for name, value in marks.items()),
        f"Gold answers that can be scored: {1 - data.unscorable_share:.1%}",
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
