"""One pass over a run's token records: how coefficients are spread by side and step, which tokens get most and least."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .runs import TrainingRun, leave_out_damaged, leave_out_records, logged_by, own_record_files
from .token_records import Completions, read_completions


# Coefficients have mean 1 and stay near their bounds ([0.8, 1.2] as published); beyond the edge they count in the last bin
BIN_WIDTH = 0.005
BIN_EDGES = np.linspace(0, 3, round(3 / BIN_WIDTH) + 1)
SIDES = (1, -1)
# What a token's sums hold: occurrences, λ and probability over both sides, then occurrences and λ on each side
COUNT, COEFFICIENT, PROBABILITY, COUNT_POSITIVE, COEFFICIENT_POSITIVE, COUNT_NEGATIVE, COEFFICIENT_NEGATIVE = range(7)


@dataclass
class Group:
    """Where one prompt's completions are, and what makes them worth looking at."""

    path: Path
    start: int
    stop: int
    step: int
    n_tokens: int
    sides: tuple[int, int, int]  # completions with A > 0, A < 0, A = 0
    spread: float  # standard deviation of the coefficients that carry a gradient


@dataclass
class TokenMean:
    """A token's mean coefficient over the whole run, and over each side (None where it is too rare to say)."""

    id: int
    text: str
    count: int
    coefficient: float
    probability: float
    positive: float | None
    negative: float | None


@dataclass
class TokenStatistics:
    """What the records of a run come to. A token counts where the model wrote it and its advantage is not 0."""

    steps: list[int]
    histograms: dict[int, np.ndarray]  # by side: (steps, bins)
    groups: list[Group]
    tokens: list[TokenMean]  # the well-supported ones, by falling coefficient
    support: int
    n_tokens: int
    n_completions: int
    binary: bool  # every reward is 0 or 1, so a completion is right or wrong
    history: list[dict]  # metrics of the recorded completions, under TRL's names

    def spread_from_one(self) -> float:
        """How far from 1 nearly every coefficient lies: where a colour scale should end."""
        counts = sum(histogram.sum(axis=0) for histogram in self.histograms.values())
        if not counts.sum():
            return 0.2
        cumulative = np.cumsum(counts) / counts.sum()
        low, high = (BIN_EDGES[np.searchsorted(cumulative, quantile)] for quantile in (0.005, 0.995))
        return max(1 - low, high - 1, 0.05)


def token_statistics(run: TrainingRun, min_support: int | None = None) -> TokenStatistics | None:
    """
    Summarise a run's token records. `None` if it has none; what the folder holds of another run, or damaged, is left out.

    Args:
        run (`TrainingRun`): Its `left_out` grows if there are such records.
        min_support (`int`, *optional*):
            How often a token must occur to be listed. Default: one in 2,000 of the run's tokens, and at least 10.
    """
    steps, rows, groups, history = [], {side: [] for side in SIDES}, [], []
    sums, first_text = np.zeros((7, 0)), {}
    n_tokens, n_completions, binary = 0, 0, True
    files = own_record_files(run)
    for path in files:
        try:
            completions = read_completions(path)
        except ValueError as error:
            leave_out_damaged(run, path, error)
            continue
        if not len(completions):
            continue
        if not logged_by(run, completions):
            leave_out_records(run)
            return None
        advantages, counted = completions.token_advantages()
        steps.append(int(completions.steps[0]))
        for side in SIDES:
            own = completions.coefficients[counted & (advantages * side > 0)]
            rows[side].append(np.histogram(np.clip(own, *BIN_EDGES[[0, -1]]), BIN_EDGES)[0])
        groups += groups_of(path, completions)
        sums = _add_tokens(sums, first_text, completions, advantages, counted)
        history.append(_metrics(completions, advantages, counted))
        n_tokens += int(counted.sum())
        n_completions += len(completions)
        binary &= bool(np.isin(completions.rewards, (0, 1)).all())
    if not steps:
        return None
    support = max(10, n_tokens // 2000) if min_support is None else max(1, min_support)
    return TokenStatistics(
        steps=steps,
        histograms={side: np.array(rows[side]).reshape(len(steps), len(BIN_EDGES) - 1) for side in SIDES},
        groups=groups,
        tokens=_token_means(sums, first_text, support),
        support=support,
        n_tokens=n_tokens,
        n_completions=n_completions,
        binary=binary,
        history=history,
    )


def groups_of(path: Path, completions: Completions) -> list[Group]:
    """The prompts of a file, each with its completions."""
    _, counted = completions.token_advantages()
    return [_group(path, completions, counted, start, stop) for start, stop in completions.groups()]


def _group(path: Path, completions: Completions, counted: np.ndarray, start: int, stop: int) -> Group:
    tokens, sides = completions.rows(start, stop), completions.sides()[start:stop]
    values = completions.coefficients[tokens][counted[tokens]]
    return Group(
        path=path,
        start=start,
        stop=stop,
        step=int(completions.steps[start]),
        n_tokens=tokens.stop - tokens.start,
        sides=tuple(int((sides == side).sum()) for side in (1, -1, 0)),
        spread=float(values.std()) if values.size else 0.0,
    )


def _add_tokens(
    sums: np.ndarray,
    first_text: dict[int, str],
    completions: Completions,
    advantages: np.ndarray,
    counted: np.ndarray,
) -> np.ndarray:
    """Add a file's tokens to the sums of each id, shape (7, ids); remember how each id reads."""
    present, first, inverse = np.unique(completions.ids[counted], return_index=True, return_inverse=True)
    if not present.size:
        return sums
    if present[-1] >= sums.shape[1]:
        sums = np.pad(sums, ((0, 0), (0, present[-1] + 1 - sums.shape[1])))
    values, positive = completions.coefficients[counted], advantages[counted] > 0
    probabilities = np.exp(np.nan_to_num(completions.log_probs[counted], nan=0.0))
    weights = (None, values, probabilities, positive, positive * values, ~positive, ~positive * values)
    for row, weight in zip(sums, weights, strict=True):
        row[present] += np.bincount(inverse, weight, minlength=present.size)
    positions = np.flatnonzero(counted)[first]
    for token_id, position in zip(present.tolist(), positions.tolist(), strict=True):
        if token_id not in first_text:
            first_text[token_id] = completions.token(position)
    return sums


def _token_means(sums: np.ndarray, first_text: dict[int, str], support: int) -> list[TokenMean]:
    def mean(total: float, count: float) -> float | None:
        return total / count if count >= support else None

    supported = [i for i in first_text if sums[COUNT, i] >= support]
    means = [
        TokenMean(
            id=i,
            text=first_text[i],
            count=int(sums[COUNT, i]),
            coefficient=sums[COEFFICIENT, i] / sums[COUNT, i],
            probability=sums[PROBABILITY, i] / sums[COUNT, i],
            positive=mean(sums[COEFFICIENT_POSITIVE, i], sums[COUNT_POSITIVE, i]),
            negative=mean(sums[COEFFICIENT_NEGATIVE, i], sums[COUNT_NEGATIVE, i]),
        )
        for i in supported
    ]
    return sorted(means, key=lambda token: (-token.coefficient, token.id))


def _metrics(completions: Completions, advantages: np.ndarray, counted: np.ndarray) -> dict:
    """What TRL and the trainer would have logged, of the recorded completions only."""
    entry = {
        "step": int(completions.steps[0]),
        "reward": float(completions.rewards.mean()),
        "completions/mean_length": float(np.diff(completions.offsets).mean()),
    }
    if counted.any():
        entry["delta/coef/mean"] = float(completions.coefficients[counted].mean())
        entry["delta/coef/std"] = float(completions.coefficients[counted].std())
    for side, name in ((1, "positive"), (-1, "negative")):
        own = completions.coefficients[counted & (advantages * side > 0)]
        if own.size:
            entry[f"delta/coef/mean_{name}"] = float(own.mean())
    return entry
