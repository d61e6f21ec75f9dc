"""Records of rollout batches to a table, a file for programs, and one picture."""

import json
import math
import os
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...evaluation.tables import format_table
from .measures import ADVANTAGE_SIDES, CONFIDENCE, UNCERTAIN, Mean, mean
from .tokens import CLASSES


FIGURES = {
    "blame_auc": "blame AUC",
    "credit_auc": "credit AUC",
    "blame_auc_digits": "blame, digits",
    "credit_auc_digits": "credit, digits",
    "correlation_positive": "corr. 1 − p, A > 0",
    "correlation_negative": "corr. 1 − p, A < 0",
    "explained": "explained",
}
# Drawn in these colours and named in bold: the published method, its stronger proxy and its mirror image, ours, and what
# others weigh by
HIGHLIGHTED = {
    "output_row": "C0",
    "hidden_gradient": "C1",
    "mirror": "C6",
    "temperature_gradient": "C2",
    "stake_and_choice": "C8",
    "fipo": "C3",
    "entropy": "C4",
    "random": "C5",
}

# Methods whose mean AUCs are closer than this share a point in the picture
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


def tables(records: Sequence[dict[str, Any]], style: str = "markdown") -> str:
    """Two tables, of the scores and of the mean coefficients by class and side, and how to read them."""
    summary = method_figures(records)
    scores = [[name, *(_cell(figures.get(key)) for key in FIGURES)] for name, figures in summary.items()]
    keys = [f"mean_{side}_{name}" for side in ADVANTAGE_SIDES for name in CLASSES]
    means = [
        [name, *("" if key not in figures else f"{figures[key].value:.3f}" for key in keys)]
        for name, figures in summary.items()
    ]
    header = [f"A {sign} 0: {name}" for sign in (">", "<") for name in CLASSES]
    return "\n\n".join(
        [
            format_table(["method", *FIGURES.values()], scores, style),
            format_table(["mean λ", *header], means, style),
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
        f"{average('error'):.0f} wrong digits of sums, {average('phrasing'):.0f} choices of wording. {interval}",
        f"Blame AUC: among the uncertain tokens (1 − p > {UNCERTAIN}) of negative responses, the probability that an error "
        "token has a higher λ than another. Credit AUC: the same of right digits in positive responses. 0.5 is chance.",
        "Digits: the same among uncertain digits of sums alone, wrong ones against right ones: not where the policy was, "
        "but what it chose there.",
        "corr. 1 − p: correlation of λ with the policy's uncertainty on a side. explained: share of λ's variance that side "
        "and ten bins of 1 − p explain.",
    ]


def write_scores(records: Sequence[dict[str, Any]], folder: str | os.PathLike, json_file: Path | None = None) -> str:
    """Write credit.md, credit.png and, if asked for, a JSON file. Returns the tables as Markdown."""
    folder = Path(folder)
    (folder / "credit.md").write_text(tables(records, "markdown") + "\n")
    summary = method_figures(records)
    if json_file is not None:
        methods = {name: {key: asdict(value) for key, value in figures.items()} for name, figures in summary.items()}
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps({"methods": methods, "batches": list(records)}, indent=1) + "\n")
    draw(records, folder / "credit.png")
    return tables(records)


def draw(records: Sequence[dict[str, Any]], path: str | os.PathLike) -> None:
    """Blame AUC against credit AUC, a point with error bars a method. A method that lacks one of them is left out.

    Methods that rank alike share a point, and a note says which. Of the highlighted ones, every batch is a faint dot.

    Raises:
        `ValueError`: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("The picture needs matplotlib: pip install 'delta_trl[report]'.") from error

    figure = Figure(figsize=(8, 8), dpi=160)
    # Laid out by hand, so that places in pixels are final before names are placed
    figure.subplots_adjust(left=0.085, right=0.985, bottom=0.115, top=0.97)
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("blame AUC: ranks the error tokens of negative responses")
    axes.set_ylabel("credit AUC: ranks the right digits of positive responses")
    axes.axvline(0.5, color="0.6", linewidth=1, linestyle="--", zorder=1)
    axes.axhline(0.5, color="0.6", linewidth=1, linestyle="--", zorder=1)
    axes.fill_between([0.5, 1], 0.5, 1, color="tab:green", alpha=0.06, linewidth=0, zorder=0)
    axes.text(0.985, 1.01, "better than chance on both sides", ha="right", va="bottom", color="tab:green", fontsize=9)
    axes.text(0.01, 0.505, "chance", color="0.45", fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)

    points = _points(method_figures(records))
    for point in points:
        main = point.colour is not None
        if main and len(records) > 1:
            for record in records:
                one = record["methods"][point.names[0]]
                x, y = one.get("blame_auc", math.nan), one.get("credit_auc", math.nan)
                axes.plot(x, y, "o", markersize=3.5, markeredgewidth=0, color=point.colour, alpha=0.35, zorder=2)
        axes.errorbar(
            *(point.blame.value, point.credit.value, point.credit.half_width, point.blame.half_width),
            fmt="o",
            markersize=8 if main else 4.5,
            color=point.colour or "0.5",
            elinewidth=1.5 if main else 0.8,
            capsize=3 if main else 0,
            zorder=4 if main else 3,
        )
    _tag(figure, axes, points)
    alike = [" = ".join(point.names) for point in points if len(point.names) > 1]
    if alike:
        note = textwrap.wrap(f"The same point: {'; '.join(alike)}.", 125)
        figure.text(0.01, 0.01, "\n".join(note), color="0.3", fontsize=8, va="bottom")
    figure.savefig(path)


@dataclass(frozen=True)
class _Point:
    names: list[str]
    blame: Mean
    credit: Mean
    colour: str | None  # of a highlighted method


def _points(summary: MethodFigures) -> list[_Point]:
    """Highlighted methods first; others join the first point that looks the same."""
    points = []
    for name in sorted(summary, key=lambda name: name not in HIGHLIGHTED):
        blame, credit = summary[name].get("blame_auc"), summary[name].get("credit_auc")
        if blame is None or credit is None:
            continue
        for point in points:
            if max(abs(point.blame.value - blame.value), abs(point.credit.value - credit.value)) < SAME:
                point.names.append(name)
                break
        else:
            colour = HIGHLIGHTED.get(name)
            points.append(_Point([name], blame, credit, colour))
    return points


def _tag(figure, axes, points: Sequence[_Point]) -> None:
    """Write a name beside each point, where it covers no other name, no point and as little of the bars as possible."""
    import numpy as np
    from matplotlib.transforms import Bbox

    axes.apply_aspect()
    frame = axes.get_window_extent()
    pixel = figure.dpi / 72
    # Boxes in pixels, and what it costs to cover a square pixel of one
    taken = [(text.get_window_extent(), 3) for text in axes.texts]
    across = frame.y0 + frame.height / 2, frame.x0 + frame.width / 2  # the lines of chance
    taken.append((Bbox.from_extents(frame.x0, across[0] - pixel, frame.x1, across[0] + pixel), 1))
    taken.append((Bbox.from_extents(across[1] - pixel, frame.y0, across[1] + pixel, frame.y1), 1))
    for point in points:
        x, y = axes.transData.transform((point.blame.value, point.credit.value))
        taken.append((Bbox.from_extents(x - 6 * pixel, y - 6 * pixel, x + 6 * pixel, y + 6 * pixel), 3))
        reach = np.array([point.blame.half_width or 0, point.credit.half_width or 0]) * (frame.width, frame.height)
        for dx, dy in ((reach[0], pixel), (pixel, reach[1])):
            taken.append((Bbox.from_extents(x - dx, y - dy, x + dx, y + dy), 1))

    for point in points:
        colour, main = point.colour or "0.3", point.colour is not None
        x, y = axes.transData.transform((point.blame.value, point.credit.value))
        text = axes.annotate(
            point.names[0],
            (point.blame.value, point.credit.value),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            color=colour,
            fontsize=9.5 if main else 8,
            fontweight="bold" if main else "normal",
            zorder=5,
        )
        size = text.get_window_extent()
        best = None
        for distance in (8, 14, 22, 32, 44, 60, 80, 110):  # points from the marker to the nearest edge of the name
            for angle in np.deg2rad(np.arange(0, 360, 15)):
                dx = np.cos(angle) * (distance * pixel + size.width / 2)
                dy = np.sin(angle) * (distance * pixel + size.height / 2)
                box = Bbox.from_bounds(x + dx - size.width / 2, y + dy - size.height / 2, size.width, size.height)
                inside = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
                cost = sum(weight * _common_area(box, other) for other, weight in taken)
                # A long way to the point costs as well
                cost += 2 * distance * pixel
                if inside and (best is None or cost < best[0]):
                    best = (cost, distance, dx, dy, box)
        if best is None:  # wider than the picture
            text.remove()
            continue
        _, distance, dx, dy, box = best
        text.set_position((dx / pixel, dy / pixel))
        taken.append((box, 3))
        if distance > 8:  # too far to be told without a line
            edge = axes.transData.inverted().transform((np.clip(x, box.x0, box.x1), np.clip(y, box.y0, box.y1)))
            line = zip((point.blame.value, point.credit.value), edge, strict=True)
            axes.plot(*line, color=colour, linewidth=0.6, zorder=3)


def _common_area(one, other) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(0.0, width) * max(0.0, height)
