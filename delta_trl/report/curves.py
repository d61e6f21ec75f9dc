"""Which metrics a report draws, what they mean, and their values for `charts.js`; and how coefficients spread over time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from .runs import TrainingRun
from .text import short_number
from .token_statistics import BIN_EDGES, BIN_WIDTH


# Most columns (parts of the run) and rows (coefficient bins) of a histogram
HISTOGRAM_SIZE = (120, 48)
# Points of a curve: more than a screen can show would only make the file large
MOST_POINTS = 2000
# What a Trainer logs about a run as a whole, or what only counts on
NOT_DRAWN = {"epoch", "step", "total_flos"}
MEAN, POSITIVE, NEGATIVE = "delta/coef/mean", "delta/coef/mean_positive", "delta/coef/mean_negative"


@dataclass(frozen=True)
class Panel:
    """Metrics that share a picture: their keys and names; the second is drawn dashed. Left out where no run has data."""

    title: str
    about: str
    lines: dict[str, str]


OUTCOME = (
    Panel("Reward", "Mean over a rollout batch.", {"reward": "reward"}),
    Panel("Evaluation reward", "On the held-out problems.", {"eval_reward": "reward"}),
    Panel("Completion length, tokens", "Mean, with truncated completions.", {"completions/mean_length": "length"}),
    Panel(
        "Truncated completions",
        "Share that reached max_completion_length.",
        {"completions/clipped_ratio": "truncated"},
    ),
    Panel(
        "Groups without reward variance",
        "Share of prompts whose completions all got the same reward: their advantage is 0, so they train nothing.",
        {"frac_reward_zero_std": "without variance"},
    ),
)
OPTIMISATION = (
    Panel(
        "Loss",
        "Its level says little: near 0 with centred advantages, and below with DelTA, whose λ is larger where A > 0.",
        {"loss": "loss"},
    ),
    Panel("Gradient norm", "Before clipping to max_grad_norm.", {"grad_norm": "gradient norm"}),
    Panel("Learning rate", "", {"learning_rate": "learning rate"}),
    Panel(
        "Entropy, nats a token",
        "Of the policy at the sampled tokens. Near 0, sampling no longer explores.",
        {"entropy": "entropy"},
    ),
    Panel("KL divergence", "From the reference model; logged only with beta above 0.", {"kl": "KL"}),
    Panel(
        "Clipped tokens",
        "Share of tokens whose probability ratio was clipped. 0 while every rollout batch is used for one update.",
        {"clip_ratio/high_mean": "from above", "clip_ratio/low_mean": "from below"},
    ),
    Panel("Step time, seconds", "", {"step_time": "seconds"}),
)
DELTA = (
    Panel("Mean λ", "By sign of the advantage A.", {POSITIVE: "A > 0", NEGATIVE: "A < 0"}),
    Panel(
        "Mean λ over tokens with A ≠ 0",
        "λ has mean 1 over all tokens. Groups without reward variance get the smallest λ, so this mean rises as such groups "
        "grow, and with it the size of the update.",
        {MEAN: "mean λ"},
    ),
    Panel(
        "Mean λ, divided by its mean over A ≠ 0",
        "What λ moves between the sides, without that drift.",
        {f"{POSITIVE} / {MEAN}": "A > 0", f"{NEGATIVE} / {MEAN}": "A < 0"},
    ),
    Panel("Standard deviation of λ", "Over tokens with A ≠ 0.", {"delta/coef/std": "deviation"}),
    Panel(
        "Centroid cosine",
        "Similarity of the mean token features of both sides, from −1 to 1. Near 1 the sides look alike; refinement moves "
        "them apart. The lower it is after refinement, the more there is to tell the sides by.",
        {"delta/centroid_cosine/after": "refined", "delta/centroid_cosine/before": "before"},
    ),
    Panel(
        "λ explained by uncertainty",
        "Share of the variance of λ that the side and the token's probability alone explain. Near 1, λ says nothing more "
        "about a token.",
        {"delta/uncertainty/explained": "explained"},
    ),
    Panel(
        "Batches without λ",
        "One-sided ones: all their coefficients are 1.",
        {"delta/fallback/no_contrast": "one-sided"},
    ),
    Panel("DelTA's cost, seconds", "For each rollout batch.", {"delta/seconds": "seconds"}),
)


def curves(runs: list[TrainingRun]) -> dict[str, Any]:
    """
    Every logged metric of every run, and the panels that show some of them.

    Returns:
        `runs`: names. `metrics`: by key, for each run `[steps, values]`, or None where it has none. `sections`: of each its
        title, the panels to be drawn, and a line of text for each one that would be flat; the last one, without a title,
        has what no panel shows. `every`: how many logged values a point is the mean of, at most.
    """
    histories = [_metrics(run) for run in runs]
    metrics = {key: [history.get(key) for history in histories] for key in sorted(set().union(*histories))}
    rewards = [key for key in metrics if key.startswith("rewards/") and key.endswith("/mean")]
    outcome = list(OUTCOME)
    if len(rewards) > 1:  # of one function it is the reward
        outcome[1:1] = [Panel(f"Reward of {key.split('/')[1]}", "", {key: "reward"}) for key in rewards]
    every = max((math.ceil(len(c[0]) / MOST_POINTS) for own in metrics.values() for c in own if c), default=1)
    known = {key for panel in (*outcome, *OPTIMISATION, *DELTA) for key in panel.lines}
    others = [Panel(key, "", {key: key}) for key in metrics if key not in known]
    titles = {"Outcome": outcome, "Optimisation": OPTIMISATION, "Coefficients": DELTA, "": others}
    names = [run.name for run in runs]
    return {
        "runs": names,
        "metrics": {key: [c and _thinned(*c) for c in own] for key, own in metrics.items()},
        "sections": [_section(title, panels, metrics, names) for title, panels in titles.items()],
        "every": every,
    }


def _section(title: str, panels: Sequence[Panel], metrics: dict, names: list[str]) -> dict[str, Any]:
    drawn, flat = [], []
    for panel in panels:
        lines = {key: name for key, name in panel.lines.items() if key in metrics}
        if not lines:
            continue
        if all(len(set(curve[1])) == 1 for key in lines for curve in metrics[key] if curve):
            text = _flat_text(lines, metrics, names)
            flat.append({"title": panel.title, "about": panel.about, "text": text})
        else:
            drawn.append({"title": panel.title, "about": panel.about, "lines": list(lines.items())})
    return {"title": title, "panels": drawn, "flat": flat}


def _flat_text(lines: dict[str, str], metrics: dict, names: list[str]) -> str:
    """What a plot without any movement would show: `0.0001 throughout.`, or each run's value where they differ."""
    texts = []
    for key, name in lines.items():
        values = {run: curve[1][0] for run, curve in zip(names, metrics[key], strict=True) if curve}
        if len(set(values.values())) == 1:
            text = short_number(next(iter(values.values())))
        else:
            text = ", ".join(f"{run}: {short_number(value)}" for run, value in values.items())
        texts.append(f"{name} {text}" if len(lines) > 1 else text)
    once = all(len(curve[0]) == 1 for key in lines for curve in metrics[key] if curve)
    return f"{'; '.join(texts)} {'(logged once)' if once else 'throughout'}."


def _metrics(run: TrainingRun) -> dict[str, tuple[list[float], list[float]]]:
    keys = {key for entry in run.history for key in entry if key not in NOT_DRAWN and not key.startswith("train_")}
    metrics: dict[str, Any] = {key: curve for key in keys if (curve := run.curve(key))[0]}
    means = dict(zip(*metrics.get(MEAN, ([], [])), strict=True))
    for side in (POSITIVE, NEGATIVE):
        own = [
            (step, value / means[step])
            for step, value in zip(*metrics.get(side, ([], [])), strict=True)
            if means.get(step)
        ]
        if own:
            metrics[f"{side} / {MEAN}"] = tuple(map(list, zip(*own, strict=True)))
    return metrics


def _thinned(steps: list[float], values: list[float]) -> list[list[float]]:
    block = math.ceil(len(values) / MOST_POINTS)
    return [steps[block - 1 :: block], [float(f"{v:.6g}") for v in means_of(values, block)][: len(steps) // block]]


def means_of(values: list[float], block: int) -> np.ndarray:
    """Mean of every `block` values in a row; the last block may be shorter."""
    starts = np.arange(0, len(values), block)
    return np.add.reduceat(values, starts) / np.diff([*starts, len(values)])


def coefficient_histogram(steps: list[int], counts: np.ndarray, spread: float) -> dict[str, Any]:
    """
    How one side's coefficients are spread over time: a column for each part of the run.

    Args:
        steps (`list[int]`): Step of each row of `counts`.
        counts (`np.ndarray`): Tokens by step and coefficient bin, shape (steps, bins of `BIN_EDGES`).
        spread (`float`): Largest distance from 1 that is shown; what lies beyond counts in the last bin.

    Returns:
        `first`, `last`: steps. `spread`: the distance from 1 that the bins reach. `shares`: of each column's tokens in each
        bin, in tenths of a percent.
    """
    columns, bins = HISTOGRAM_SIZE
    n_steps = steps[-1] - steps[0] + 1
    columns = min(columns, n_steps)
    column_of = (np.array(steps) - steps[0]) * columns // n_steps
    # Whole bins of the statistics make a bin of the histogram, or moiré would show
    merged = math.ceil(2 * spread / BIN_WIDTH / bins)
    half = min(math.ceil(spread / (BIN_WIDTH * merged)), round(1 / BIN_WIDTH) // merged)
    one = round(1 / BIN_WIDTH)
    bin_of = np.clip((np.arange(len(BIN_EDGES) - 1) - one) // merged + half, 0, 2 * half - 1)
    shares = np.zeros((columns, 2 * half))
    np.add.at(shares, (column_of[:, None], bin_of[None, :]), counts)
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1)
    # A run that records every tenth step fills the steps between with what it saw last
    for start, stop in pairwise([*np.unique(column_of), columns]):
        shares[start:stop] = shares[start]
    return {
        "first": steps[0],
        "last": steps[-1],
        "spread": half * merged * BIN_WIDTH,
        "shares": np.rint(1000 * shares).astype(int).tolist(),
    }
