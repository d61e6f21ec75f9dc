"""Records of rollout batches to a table, a file for programs, and one picture."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..evaluation.tables import render
from .measures import CONFIDENCE, SIDES, UNCERTAIN, Mean, mean
from .tokens import CLASSES


FIGURES = {
    "blame_auc": "blame AUC",
    "credit_auc": "credit AUC",
    "correlation_positive": "corr. 1 − p, A > 0",
    "correlation_negative": "corr. 1 − p, A < 0",
    "explained": "explained",
}
# Drawn in colour and named in bold: the published method, its stronger proxy, and what others weigh tokens by
HIGHLIGHTED = ("output_row", "hidden_gradient", "fipo", "entropy", "random")

Summary = dict[str, dict[str, Mean]]


def summarise(records: Sequence[dict[str, Any]]) -> Summary:
    """Mean and interval of every figure of every method. A batch in which a figure is undefined does not count in it."""
    summary = {}
    for name in records[0]["methods"]:
        found = [record["methods"][name] for record in records]
        figures = dict.fromkeys(figure for one in found for figure in one)
        summary[name] = {figure: mean([one[figure] for one in found if figure in one]) for figure in figures}
    return summary


def tables(records: Sequence[dict[str, Any]], style: str = "text") -> str:
    """Two tables, of the scores and of the mean coefficients by class and side, and how to read them."""
    summary = summarise(records)
    scores = [[name, *(_cell(figures.get(key)) for key in FIGURES)] for name, figures in summary.items()]
    keys = [f"mean_{side}_{name}" for side in SIDES for name in CLASSES]
    means = [
        [name, *("" if key not in figures else f"{figures[key].value:.3f}" for key in keys)]
        for name, figures in summary.items()
    ]
    header = [f"A {sign} 0: {name}" for sign in (">", "<") for name in CLASSES]
    return "\n\n".join(
        [
            render(["method", *FIGURES.values()], scores, style),
            render(["mean λ", *header], means, style),
            "\n".join(f"- {note}" for note in notes(records)),
        ]
    )


def _cell(figure: Mean | None) -> str:
    if figure is None:
        return ""
    return f"{figure.value:.3f}" + ("" if figure.half_width is None else f" ± {figure.half_width:.3f}")


def notes(records: Sequence[dict[str, Any]]) -> list[str]:
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
        "corr. 1 − p: correlation of λ with the policy's uncertainty on a side. explained: share of λ's variance that side "
        "and ten bins of 1 − p explain.",
    ]


def write_report(records: Sequence[dict[str, Any]], folder: str | os.PathLike, json_file: Path | None = None) -> str:
    """Write credit.md, credit.png and, if asked for, a JSON file. Returns the tables as plain text."""
    folder = Path(folder)
    (folder / "credit.md").write_text(tables(records, "markdown") + "\n")
    summary = summarise(records)
    if json_file is not None:
        methods = {name: {key: asdict(value) for key, value in figures.items()} for name, figures in summary.items()}
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps({"methods": methods, "batches": list(records)}, indent=1) + "\n")
    draw(summary, folder / "credit.png")
    return tables(records)


def draw(summary: Summary, path: str | os.PathLike) -> None:
    """Blame AUC against credit AUC, a point with error bars a method. A method that lacks one of them is left out.

    Raises:
        `ValueError`: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("The picture needs matplotlib: pip install 'delta_trl[report]'.") from error

    figure = Figure(figsize=(7.5, 7), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("blame AUC: ranks the error tokens of negative responses")
    axes.set_ylabel("credit AUC: ranks the right digits of positive responses")
    axes.axvline(0.5, color="0.6", linewidth=1, linestyle="--", zorder=1)
    axes.axhline(0.5, color="0.6", linewidth=1, linestyle="--", zorder=1)
    axes.fill_between([0.5, 1], 0.5, 1, color="tab:green", alpha=0.06, linewidth=0, zorder=0)
    axes.text(0.985, 0.985, "better than chance on both sides", ha="right", va="top", color="tab:green", fontsize=9)
    axes.text(0.01, 0.51, "chance", color="0.45", fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)

    points = {}
    for name, figures in summary.items():
        blame, credit = figures.get("blame_auc"), figures.get("credit_auc")
        if blame is None or credit is None:
            continue
        main = name in HIGHLIGHTED
        colour = f"C{HIGHLIGHTED.index(name)}" if main else "0.45"
        points[name] = (blame.value, credit.value, colour, main)
        axes.errorbar(
            *(blame.value, credit.value, credit.half_width, blame.half_width),
            fmt="o",
            markersize=8 if main else 5,
            color=colour,
            elinewidth=1.5 if main else 1,
            capsize=3 if main else 2,
            zorder=3 if main else 2,
        )
    _label(figure, axes, points)
    figure.savefig(path, dpi=160)


def _label(figure, axes, points: dict[str, tuple[float, float, str, bool]]) -> None:
    """Write each method's name beside its point, where it covers neither another name nor a point."""
    import numpy as np
    from matplotlib.transforms import Bbox

    figure.canvas.draw()  # lays out: from here on, places in pixels are final
    frame = axes.get_window_extent()
    pixel = figure.dpi / 72
    centres = {name: axes.transData.transform((x, y)) for name, (x, y, *_) in points.items()}
    taken = [Bbox.from_bounds(x - 6 * pixel, y - 6 * pixel, 12 * pixel, 12 * pixel) for x, y in centres.values()]
    # Written on the frame already
    taken += [text.get_window_extent() for text in axes.texts]
    # The highlighted ones choose first
    for name in sorted(points, key=lambda name: not points[name][3]):
        x, y, colour, main = points[name]
        text = axes.annotate(
            name,
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            color=colour,
            fontsize=10 if main else 8.5,
            fontweight="bold" if main else "normal",
            zorder=4,
        )
        size = text.get_window_extent()
        best = None
        for distance in (9, 16, 26, 38, 52, 70, 90):  # points from the marker to the nearest edge of the name
            for angle in np.deg2rad([0, 180, 90, 270, 30, 330, 150, 210, 60, 300, 120, 240]):
                dx = np.cos(angle) * (distance * pixel + size.width / 2)
                dy = np.sin(angle) * (distance * pixel + size.height / 2)
                box = Bbox.from_bounds(
                    *(centres[name] + (dx, dy) - (size.width / 2, size.height / 2)), size.width, size.height
                )
                inside = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
                covered = sum(_common_area(box, other) for other in taken)
                if inside and (best is None or covered < best[0]):
                    best = (covered, distance, dx, dy, box)
            if best is not None and best[0] == 0:
                break
        _, distance, dx, dy, box = best
        text.set_position((dx / pixel, dy / pixel))
        taken.append(box)
        if distance > 9:  # too far to be told without a line
            axes.annotate(
                "",
                (x, y),
                xytext=(dx / pixel, dy / pixel - np.sign(dy) * size.height / 2 / pixel),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 4},
                zorder=2,
            )


def _common_area(one, other) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(0.0, width) * max(0.0, height)
