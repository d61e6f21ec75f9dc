"""Pictures of a study: reward curves with bands over seeds, and the differences to the baselines."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from ...tables import new_figure
from .analysis import MethodRow, estimate, metric_names, title_of
from .figures import ENTROPY, LENGTH, SECONDS, curve
from .settings import Study


# More curves with bands cannot be told apart; the other methods are in the picture of the differences
MOST_CURVES = 7
SMOOTHED_STEPS = 5
# Okabe and Ito's colours, which colour-blind readers can tell apart; the baseline is black
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Differences in points are drawn to scale up to this one, and on a logarithmic scale beyond: one method that collapses would
# otherwise press all others into a line
LINEAR_POINTS = 5
POINT_TICKS = (-50, -15, -5, -2, 0, 2, 5, 15, 50)
# Where a panel spans no more than that
FINE_TICKS = (-4, -3, -2, -1, 0, 1, 2, 3, 4)


def plot_rewards(study: Study, records: list[dict[str, Any]], path: Path) -> None:
    """
    Mean reward by step of the methods with the most seeds, each with the 95% interval of its mean over seeds.

    Seeds of a method that ended at different steps are drawn as far as all of them go.
    """
    of_method: dict[str, list[np.ndarray]] = {}
    for name in study.methods:
        runs = [list(curve(r, "reward").values()) for r in records if r["method"] == name]
        if runs:
            shortest = min(map(len, runs))
            of_method[name] = [_smoothed(values[:shortest]) for values in runs]
    baseline = [study.baseline] if study.baseline in of_method else []
    others = sorted((n for n in of_method if n != study.baseline), key=lambda name: -len(of_method[name]))
    chosen = [*baseline, *others][:MOST_CURVES]

    figure = new_figure((8, 4.6))
    axes = figure.subplots()
    # The first colour is the baseline's, also where it has no run yet
    for name, colour in zip(chosen, COLOURS if baseline else COLOURS[1:], strict=False):
        values = np.array(of_method[name])
        steps = np.arange(1, values.shape[1] + 1)
        bands = [estimate(column) for column in values.T]
        label = f"{name} ({len(values)} seed{'s' * (len(values) != 1)})"
        axes.plot(steps, [e.mean for e in bands], color=colour, linewidth=1.8, label=label)
        if len(values) > 1:
            low, high = [e.low for e in bands], [e.high for e in bands]
            axes.fill_between(steps, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.set(xlabel="step (rollout batches)", ylabel=f"reward, mean of {SMOOTHED_STEPS} steps")
    axes.set_title(f"{study.name}: mean over seeds and its 95% interval", fontsize=11)
    axes.grid(alpha=0.25)
    axes.margins(x=0.01)
    axes.legend(loc="lower right", fontsize=9, frameon=False)
    _plain(axes, "top", "right")
    figure.savefig(path, dpi=150)


def plot_differences(rows: list[MethodRow], path: Path) -> None:
    """Every method against its baselines in rewards, pass rates and those of the trained model, with 95% intervals."""
    # (label, differences by metric), a line for each pair of a method and a baseline
    compared = []
    for row in rows:
        for first in next(iter(row.differences.values()), ()):
            of_pair = {n: f for n, found in row.differences.items() for f in found if f.baseline == first.baseline}
            compared.append((f"{row.method} − {first.baseline}  (n = {first.seeds})", of_pair))
    drawn = metric_names({label: {0: of_pair} for label, of_pair in compared})
    names = [name for name in drawn if name not in ("pass_rate@0", ENTROPY, LENGTH, SECONDS)]
    if not names:
        return
    figure = new_figure((3.2 + 2.2 * len(names), 1.5 + 0.34 * len(compared)))
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        axes.axvline(0, color="0.55", linewidth=1)
        for line, (_, of_pair) in enumerate(compared):
            if (found := of_pair.get(name)) is None:
                continue
            middle = 100 * found.mean
            reach = None
            if found.low is not None:
                reach = [[max(0.0, middle - 100 * found.low)], [max(0.0, 100 * found.high - middle)]]
            excludes_zero = found.low is not None and (found.low > 0 or found.high < 0)
            style = {"color": COLOURS[2], "markerfacecolor": COLOURS[2] if excludes_zero else "white"}
            axes.errorbar([middle], [line], xerr=reach, fmt="o", markersize=5.5, capsize=3, **style)
        axes.set_title(textwrap.fill(title_of(name), 30), fontsize=9.5)  # neighbours must not overlap
        axes.set_yticks(range(len(compared)), [label for label, _ in compared], fontsize=9)
        axes.set_xscale("symlog", linthresh=LINEAR_POINTS, linscale=0.8)
        low, high = axes.get_xlim()
        ticks = POINT_TICKS if high - low > LINEAR_POINTS else FINE_TICKS
        axes.set_xticks([t for t in ticks if low <= t <= high])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(axis="x", alpha=0.25)
        axes.tick_params(axis="y", length=0)
        _plain(axes, "top", "right", "left")
        axes.set_xlabel("points", fontsize=9)
    axes.set_ylim(len(compared) - 0.4, -0.6)  # from the top down
    figure.suptitle(
        "Difference to the baseline, seed by seed, with 95% intervals (filled: without 0)\n"
        f"logarithmic beyond {LINEAR_POINTS} points",
        fontsize=10.5,
    )
    figure.savefig(path, dpi=150)


def _smoothed(values: list[float]) -> np.ndarray:
    """Mean of each value and those of the steps before it, `SMOOTHED_STEPS` in all."""
    counts = np.minimum(np.arange(len(values)) + 1, SMOOTHED_STEPS)
    return np.convolve(values, np.ones(SMOOTHED_STEPS))[: len(values)] / counts


def _plain(axes, *sides: str) -> None:
    for side in sides:
        axes.spines[side].set_visible(False)
