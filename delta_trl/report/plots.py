"""Curves and histograms as SVG that takes its colours from the page, so that one drawing serves light and dark."""

import html
import io
import math
import re
from itertools import pairwise

import numpy as np

from .runs import Run
from .statistics import BIN_EDGES, BIN_WIDTH


# matplotlib knows no CSS variables: it draws in these stand-in colours, which are replaced in the SVG text
RUN_COLOURS = [f"#01{i:02x}fe" for i in range(8)]
CSS_OF = {"#01aafe": "var(--ink-2)", "#01bbfe": "var(--line)"} | {
    colour: f"var(--run-{i})" for i, colour in enumerate(RUN_COLOURS)
}
INK, LINE = "#01aafe", "#01bbfe"
# An image holds its pixels' colours for good: one tone that stands out on white and on black, shaded by opacity
HISTOGRAM_COLOUR = (0.08, 0.64, 0.60)
# Most columns (parts of the run) and rows (coefficient bins) of a histogram image
HISTOGRAM_SIZE = (120, 48)
# A faint line through every step and a firm one through the mean of the last few
SMOOTHED_PART = 0.1
# Points of a line: more than a screen can show would only make the file large
MOST_POINTS = 500

STYLE = {
    "svg.fonttype": "none",  # text stays text: small, and in the page's font
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.color": LINE,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.8,
    "path.simplify_threshold": 0.3,
}

# Title, then the metrics drawn into it with their line style. A panel that no run has data for is left out.
PANELS = (
    ("Reward", (("reward", "-"),)),
    ("Completion length, tokens", (("completions/mean_length", "-"),)),
    ("Entropy, nats a token", (("entropy", "-"),)),
    (
        "Mean λ: advantage > 0 solid, < 0 dashed",
        (("delta/coef/mean_positive", "-"), ("delta/coef/mean_negative", "--")),
    ),
    ("Standard deviation of λ", (("delta/coef/std", "-"),)),
    (
        "Centroid cosine: refined solid, first dashed",
        (("delta/centroid_cosine/after", "-"), ("delta/centroid_cosine/before", "--")),
    ),
)


def curves(runs: list[Run]) -> list[tuple[str, str]]:
    """Title and SVG of every panel, the runs overlaid. The page has the legend: run names are not drawn."""
    drawn = []
    for title, metrics in PANELS:
        lines = [(i, style, *run.curve(key)) for i, run in enumerate(runs) for key, style in metrics]
        lines = [(i, style, steps, values) for i, style, steps, values in lines if steps]
        if lines:
            drawn.append((title, _draw(title, (4.4, 2.3), lambda axes, lines=lines: _draw_lines(axes, lines))))
    return drawn


def _draw_lines(axes, lines) -> None:
    for i, style, steps, values in lines:
        colour = RUN_COLOURS[i % len(RUN_COLOURS)]
        window = max(1, int(len(values) * SMOOTHED_PART))
        block = math.ceil(len(values) / MOST_POINTS)
        if window > 1:
            axes.plot(steps[::block], means_of(values, block), style, color=colour, alpha=0.3, linewidth=0.8)
        marker = "o" if len(values) == 1 else None
        axes.plot(steps[::block], smoothed(values, window)[::block], style, color=colour, marker=marker)
    axes.margins(x=0.01)


def means_of(values: list[float], block: int) -> np.ndarray:
    """Mean of every `block` values in a row; the last block may be shorter."""
    starts = np.arange(0, len(values), block)
    return np.add.reduceat(values, starts) / np.diff([*starts, len(values)])


def smoothed(values: list[float], window: int) -> np.ndarray:
    """Mean of each value and up to `window - 1` before it."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    stops = np.arange(1, len(values) + 1)
    starts = np.maximum(0, stops - window)
    return (sums[stops] - sums[starts]) / (stops - starts)


def histogram(title: str, steps: list[int], counts: np.ndarray, spread: float) -> str:
    """
    SVG of how one side's coefficients are spread over time: a column for each part of the run, its shares as opacity.

    Args:
        title (`str`): What the drawing is called by who cannot see it.
        steps (`list[int]`): Step of each row of `counts`.
        counts (`np.ndarray`): Tokens by step and coefficient bin, shape (steps, bins of `BIN_EDGES`).
        spread (`float`): Largest distance from 1 that the axis shows.
    """
    image, spread = _shares(steps, counts, spread)

    def draw(axes):
        rgba = np.zeros((*image.T.shape, 4))
        rgba[..., :3] = HISTOGRAM_COLOUR
        # Square root: the rare coefficients are the interesting ones
        rgba[..., 3] = np.sqrt(image.T / max(image.max(), np.finfo(float).tiny))
        last = max(steps[-1], steps[0] + 1)
        axes.imshow(
            rgba, origin="lower", aspect="auto", interpolation="none", extent=(steps[0], last, 1 - spread, 1 + spread)
        )
        axes.grid(False)
        axes.axhline(1, color=INK, linewidth=0.8, linestyle=":")
        axes.set(xlabel="step", ylabel="λ")

    return _draw(title, (4.6, 2.2), draw)


def _shares(steps: list[int], counts: np.ndarray, spread: float) -> tuple[np.ndarray, float]:
    """Share of each column's tokens in each bin, shape (columns, bins), and the distance from 1 that the bins reach."""
    columns, bins = HISTOGRAM_SIZE
    n_steps = steps[-1] - steps[0] + 1
    columns = min(columns, n_steps)
    column_of = (np.array(steps) - steps[0]) * columns // n_steps
    # Whole bins of the statistics make a bin of the image, or moiré would show
    merged = math.ceil(2 * spread / BIN_WIDTH / bins)
    half = min(math.ceil(spread / (BIN_WIDTH * merged)), round(1 / BIN_WIDTH) // merged)
    one = round(1 / BIN_WIDTH)
    bin_of = np.clip((np.arange(len(BIN_EDGES) - 1) - one) // merged + half, 0, 2 * half - 1)
    image = np.zeros((columns, 2 * half))
    np.add.at(image, (column_of[:, None], bin_of[None, :]), counts)
    image /= np.maximum(image.sum(axis=1, keepdims=True), 1)
    # A run that records every tenth step fills the steps between with what it saw last
    for start, stop in pairwise([*np.unique(column_of), columns]):
        image[start:stop] = image[start]
    return image, half * merged * BIN_WIDTH


def _draw(title: str, size: tuple[float, float], draw) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        # Not pyplot: it would choose a backend, and keep the figure of a notebook or a training process alive
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(buffer.getvalue(), title)


def _for_page(svg: str, title: str) -> str:
    """An SVG element that scales with the page, has a name, and takes its colours from CSS."""
    svg = svg[svg.index("<svg") :]
    # Only the ids of clip paths and markers are referred to; the others ("axes_1") would repeat across a page
    svg = re.sub(r'(<g) id="[a-zA-Z.]+_?\d*"', r"\1", svg)
    svg = re.sub(r'^<svg ([^>]*?)width="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'^(<svg [^>]*?)height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font: ([\d.]+)px '[^;\"]*", r"font-size: \1px", svg)
    for colour, variable in CSS_OF.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
