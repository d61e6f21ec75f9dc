"""Records of rollout batches to a table, a file for programs, and one picture."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...tables import format_table, new_figure
from .measures import ADVANTAGE_SIDES, CONFIDENCE, UNCERTAIN, Mean, mean
from .tokens import CLASSES


FIGURES = {
    "fork_blame_auc": "fork blame",
    "fork_credit_auc": "fork credit",
    "blame_auc": "blame AUC",
    "credit_auc": "credit AUC",
    "blame_auc_digits": "blame, digits",
    "credit_auc_digits": "credit, digits",
    "correlation_positive": "corr. 1 − p, A > 0",
    "correlation_negative": "corr. 1 − p, A < 0",
    "explained": "explained",
}
# Pairs of figures that the picture sets against each other: horizontal, vertical
PANELS = {
    ("fork_blame_auc", "fork_credit_auc"): (
        "fork blame: ranks the wrong fork of negative responses",
        "fork credit: ranks the right fork of positive responses",
    ),
    ("blame_auc", "credit_auc"): (
        "blame AUC: ranks the error tokens of negative responses",
        "credit AUC: ranks the right digits of positive responses",
    ),
}
# Drawn in these colours: the published method, its stronger proxy and its mirror image, ours, and what others weigh by
HIGHLIGHTED = {
    "output_row": "C0",
    "hidden_gradient": "C1",
    "mirror": "C6",
    "temperature_gradient": "C2",
    "stake_and_choice": "C8",
    "fipo": "C3",
    "entropy": "C4",
    "random": "C5",
    "rlsd": "C9",
}

# Methods whose mean AUCs are closer than this share a number in the picture
SAME = 0.01

MethodFigures = dict[str, dict[str, Mean]]


def method_figures(records: Sequence[dict[str, Any]]) -> MethodFigures:
    """Mean and interval of every figure of every method. A batch in which a figure is undefined does not count in it."""
    summary = {}
    for name in records[0]["methods"]:
        found = [record["methods"][name] for record in records]
        figures = dict.fromkeys(figure for one in found for figure in one)
        summary[name] = {figure: mean([one[figure] for one in found if figure in one]) for figure in figures}
    return summary


def tables(records: Sequence[dict[str, Any]]) -> str:
    """Two Markdown tables, of the scores and of the mean coefficients by class and side, and how to read them."""
    summary = method_figures(records)

    def used(names: Sequence[str]) -> list[str]:
        """Without those that the task does not have."""
        return [name for name in names if any(name in figures for figures in summary.values())]

    columns = used(FIGURES)
    scores = [[name, *(_cell(figures.get(key)) for key in columns)] for name, figures in summary.items()]
    keys = used([f"mean_{side}_{name}" for side in ADVANTAGE_SIDES for name in CLASSES])
    means = [
        [name, *("" if key not in figures else f"{figures[key].value:.3f}" for key in keys)]
        for name, figures in summary.items()
    ]
    header = [key.replace("mean_positive_", "A > 0: ").replace("mean_negative_", "A < 0: ") for key in keys]
    return "\n\n".join(
        [
            format_table(["method", *(FIGURES[key] for key in columns)], scores),
            format_table(["mean λ", *header], means),
            "\n".join(f"- {note}" for note in score_notes(records)),
        ]
    )


def _cell(figure: Mean | None) -> str:
    if figure is None:
        return ""
    return f"{figure.value:.3f}" + ("" if figure.half_width is None else f" ± {figure.half_width:.3f}")


def score_notes(records: Sequence[dict[str, Any]]) -> list[str]:
    """How the tables are to be read, and what they were made of."""

    def average(key: str) -> float:
        return sum(record[key] for record in records) / len(records)

    interval = (
        f"±: half of the {CONFIDENCE:.0%} interval over rollout batches (Student's t)."
        if len(records) > 1
        else "A single batch has no interval."
    )
    return [
        f"{len(records)} rollout batches of one policy; on average {average('responses'):.0f} responses, "
        f"{100 * average('reward'):.1f}% right, {average('tokens'):.0f} tokens: {average('right'):.0f} right and "
        f"{average('error'):.0f} wrong digits of results, {average('right_fork'):.0f} right and "
        f"{average('wrong_fork'):.0f} wrong forks, {average('phrasing'):.0f} choices of wording. {interval}",
        f"Blame AUC: among the uncertain tokens (1 − p > {UNCERTAIN}) of negative responses, the probability that an error "
        "token has a higher λ than another. Credit AUC: the same of right digits in positive responses. 0.5 is chance.",
        "Fork blame and fork credit: the same of the token that chooses to take the sum or the product first, or the larger "
        "of two numbers. Forks do not count in blame and credit AUC, nor digits in those of the fork.",
        "Digits: the same among uncertain digits of results alone, wrong ones against right ones: not where the policy was, "
        "but what it chose there.",
        "corr. 1 − p: correlation of λ with the policy's uncertainty on a side. explained: share of λ's variance that side "
        "and ten bins of 1 − p explain.",
    ]


def write_scores(records: Sequence[dict[str, Any]], folder: str | os.PathLike, json_file: Path | None = None) -> str:
    """Write credit.md, credit.png and, if asked for, a JSON file. Returns the tables as Markdown."""
    folder = Path(folder)
    (folder / "credit.md").write_text(tables(records) + "\n")
    summary = method_figures(records)
    if json_file is not None:
        methods = {name: {key: asdict(value) for key, value in figures.items()} for name, figures in summary.items()}
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps({"methods": methods, "batches": list(records)}, indent=1) + "\n")
    draw(records, folder / "credit.png")
    return tables(records)


def draw(records: Sequence[dict[str, Any]], path: str | os.PathLike) -> None:
    """One AUC against another, a point with error bars a method, and a panel for each pair of `PANELS` that was measured.

    Points have the numbers of the legend; methods that rank alike share a point's number. Of the highlighted ones, every
    batch is a faint dot.

    Raises:
        `ValueError`: if matplotlib is not installed.
    """
    summary = method_figures(records)
    numbers = {name: number for number, name in enumerate(summary, 1)}
    panels = [pair for pair in PANELS if any(set(pair) <= figures.keys() for figures in summary.values())]
    figure = new_figure((6.5 * max(1, len(panels)) + 3, 6.5))
    from matplotlib.lines import Line2D

    for axes, pair in zip(figure.subplots(1, max(1, len(panels)), squeeze=False)[0], panels, strict=False):
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel=PANELS[pair][0], ylabel=PANELS[pair][1])
        axes.axvline(0.5, color="0.6", linewidth=1, linestyle="--", zorder=1)
        axes.axhline(0.5, color="0.6", linewidth=1, linestyle="--", zorder=1)
        axes.fill_between([0.5, 1], 0.5, 1, color="tab:green", alpha=0.06, linewidth=0, zorder=0)
        axes.set_title("green: better than chance on both sides", fontsize=9, color="tab:green")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for names, x, y in _points(summary, pair):
            colour = HIGHLIGHTED.get(names[0])
            for record in records if colour and len(records) > 1 else ():
                one = [record["methods"][names[0]].get(figure_name, math.nan) for figure_name in pair]
                axes.plot(*one, "o", markersize=3.5, markeredgewidth=0, color=colour, alpha=0.35, zorder=2)
            axes.errorbar(
                *(x.value, y.value, y.half_width, x.half_width),
                fmt="o",
                markersize=7 if colour else 4.5,
                color=colour or "0.5",
                elinewidth=1.5 if colour else 0.8,
                zorder=4 if colour else 3,
            )
            axes.annotate(
                ", ".join(str(numbers[name]) for name in names),
                (x.value, y.value),
                xytext=(5, 4),
                textcoords="offset points",
                color=colour or "0.3",
                fontsize=9,
                zorder=5,
            )
    legend = figure.legend(
        [Line2D([], [], marker="o", linestyle="", color=HIGHLIGHTED.get(name, "0.5")) for name in numbers],
        [f"{number}  {name}" for name, number in numbers.items()],
        loc="outside right upper",
        fontsize=8.5,
        frameon=False,
    )
    for text, name in zip(legend.get_texts(), numbers, strict=True):
        text.set_color(HIGHLIGHTED.get(name, "0.3"))
    figure.savefig(path, dpi=130)


def _points(summary: MethodFigures, pair: tuple[str, str]) -> list[tuple[list[str], Mean, Mean]]:
    """Names and both figures. Highlighted methods come first; others join the first point that looks the same."""
    points = []
    for name in sorted(summary, key=lambda name: name not in HIGHLIGHTED):
        x, y = (summary[name].get(figure_name) for figure_name in pair)
        if x is None or y is None:
            continue
        for names, other_x, other_y in points:
            if max(abs(other_x.value - x.value), abs(other_y.value - y.value)) < SAME:
                names.append(name)
                break
        else:
            points.append(([name], x, y))
    return points
