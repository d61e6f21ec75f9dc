"""Look at the data before training on it: prompts, lengths, difficulty, topics, and whether the answers can be scored.

    python scripts/inspect_data.py --config configs/quickstart.yaml
    python scripts/inspect_data.py --dataset_name data.jsonl --question_column problem --answer_column answer

Reads the YAML of a training run and uses its data options; everything else in it is left alone. Prints a report and
saves one picture.
"""

import argparse
import dataclasses
import statistics
import sys
import typing
from collections import Counter
from pathlib import Path

import yaml

from delta_trl.data import TOPIC_ROOT, DataArguments, MathData


OWN_OPTIONS = {
    "model_name_or_path": (None, "Model whose tokenizer counts tokens and whose chat template is used."),
    "examples": (3, "Prompts to print."),
    "picture": ("outputs/data.png", "Where to save the picture."),
}
TOPICS_SHOWN = 12


def parse_arguments() -> tuple[DataArguments, argparse.Namespace]:
    """Options of the data from the YAML and the command line, which wins."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML file of a training run.")
    for field in dataclasses.fields(DataArguments):
        is_text = str in (field.type, *typing.get_args(field.type))
        parser.add_argument(
            f"--{field.name}",
            type=str if is_text else yaml.safe_load,
            default=field.default,
            help=field.metadata["help"].replace("%", "%%"),
        )
    for name, (default, text) in OWN_OPTIONS.items():
        parser.add_argument(
            f"--{name}", type=type(default) if default is not None else str, default=default, help=text
        )
    config, _ = parser.parse_known_args()
    if config.config:
        settings = yaml.safe_load(Path(config.config).read_text(encoding="utf-8"))
        parser.set_defaults(**{key: value for key, value in settings.items() if hasattr(config, key)})
    options = parser.parse_args()
    return DataArguments(**{f.name: getattr(options, f.name) for f in dataclasses.fields(DataArguments)}), options


def print_counts(title: str, counts: Counter, total: int, shown: int | None = None) -> None:
    print(f"\n{title}")
    for name, count in counts.most_common(shown):
        print(f"  {count:7d}  {count / total:6.1%}  {name}")
    if shown is not None and len(counts) > shown:
        print(f"  ... and {len(counts) - shown} more")


def draw(
    path: Path, title: str, lengths: list[int], unit: str, limit: int | None, difficulty: list, topics: Counter
) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    axes[0].hist(lengths, bins=50)
    axes[0].set(title="Prompt length", xlabel=unit, ylabel="problems")
    if limit is not None and limit < 2 * max(lengths):
        axes[0].axvline(limit, color="tab:red", linestyle="--", label="max_prompt_length")
        axes[0].legend()
    levels = Counter(difficulty)
    axes[1].bar([float(level) for level in levels], levels.values(), width=0.4)
    axes[1].set(title="Difficulty", xlabel="difficulty", ylabel="problems")
    names = [name for name, _ in topics.most_common(TOPICS_SHOWN)][::-1]
    axes[2].barh(names, [topics[name] for name in names])
    axes[2].set(title="Topic", xlabel="problems")
    for axis, shown in zip(axes, (lengths, levels, names), strict=True):
        if not shown:
            axis.text(0.5, 0.5, "no such column", ha="center", transform=axis.transAxes)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(f"\nPicture: {path}")


def main() -> None:
    data_arguments, options = parse_arguments()
    tokenizer = None
    if options.model_name_or_path:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(options.model_name_or_path)
    elif data_arguments.max_prompt_length is not None:
        print("No model_name_or_path: lengths are in characters, and max_prompt_length is not applied.\n")
        data_arguments.max_prompt_length = None
    try:
        data: MathData = data_arguments.load(tokenizer)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"{error}")

    train = data.train[:]
    prompts, total = train["prompt"], len(train["prompt"])
    for prompt, solution in list(zip(prompts, train["solution"], strict=True))[: options.examples]:
        text = prompt
        if not isinstance(prompt, str):
            text = "\n".join(f"[{message['role']}] {message['content']}" for message in prompt)
            if tokenizer is not None:
                text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        print(f"{'-' * 80}\n{text}\n{'-' * 33} gold: {solution}\n")
    print("\n".join(data.report))

    unit = "tokens" if tokenizer is not None else "characters"
    count = data.prompt_format.count_tokens if tokenizer is not None else lambda prompt, _: len(str(prompt))
    lengths = sorted(count(prompt, tokenizer) for prompt in prompts)
    marks = {"min": lengths[0], "median": statistics.median(lengths), "mean": statistics.fmean(lengths)}
    marks |= {f"{share}%": lengths[min(total - 1, total * share // 100)] for share in (90, 99)}
    print(
        f"\nPrompt length in {unit}: " + ", ".join(f"{k} {v:.0f}" for k, v in marks.items()) + f", max {lengths[-1]}"
    )
    print(f"Gold answers that can be scored: {1 - data.unscorable_share:.1%}")
    difficulty = [level for level in train.get("difficulty", []) if level is not None]
    if difficulty:
        print("\nDifficulty")
        for level, problems in sorted(Counter(difficulty).items()):
            print(f"  {problems:7d}  {problems / total:6.1%}  {level:g}")
    topics = Counter(
        " -> ".join(topic.removeprefix(TOPIC_ROOT).split(" -> ")[:2]) for topic in train.get("topic", []) if topic
    )
    if topics:
        print_counts("Topic", topics, total, TOPICS_SHOWN)
    title = f"{data_arguments.dataset_name}: {total} problems, {1 - data.unscorable_share:.1%} of the answers scorable"
    try:
        draw(Path(options.picture), title, lengths, unit, data_arguments.max_prompt_length, difficulty, topics)
    except ImportError:
        print("\nNo picture: it needs matplotlib, as in: pip install 'delta_trl[report]'")


if __name__ == "__main__":
    main()
