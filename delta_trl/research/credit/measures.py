"""How well token coefficients single out the tokens that decide, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from ...evaluation.statistics import CONFIDENCE
from ...metrics import explained_by_uncertainty
from ...rollout import Rollout
from .tokens import CLASSES, ERROR, RIGHT, RIGHT_FORK, WRONG_FORK


# A token decides only if it could have come out otherwise: 1 − p above this
UNCERTAIN = 0.02
ADVANTAGE_SIDES = ("positive", "negative")


@dataclass(frozen=True)
class Mean:
    """Mean over rollout batches, and half the width of its 95% interval: `None` for fewer than two batches."""

    value: float
    half_width: float | None
    batches: int


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """
    Probability that a token with the label scores higher than one without, a tie counting one half.

    Args:
        scores (`np.ndarray`): Shape (N,).
        labels (`np.ndarray`): Shape (N,), bool.

    Returns:
        In [0, 1]; 0.5 is chance, and exactly what constant scores get. NaN unless there are tokens of both kinds.
    """
    n, m = int(labels.sum()), int((~labels).sum())
    if n == 0 or m == 0:
        return math.nan
    ranks = stats.rankdata(scores)  # tied scores share the mean of their ranks
    return float((ranks[labels].sum() - n * (n + 1) / 2) / (n * m))


def rank_correlation(one: torch.Tensor, other: torch.Tensor) -> float | None:
    """Spearman's, of two tensors of shape (N,). `None` where one of them is constant or there is no value."""
    if not len(one) or one.min() == one.max() or other.min() == other.max():
        return None
    return float(stats.spearmanr(one, other).statistic)


def measure(coefficients: torch.Tensor, tokens: Rollout, classes: np.ndarray) -> dict[str, float]:
    """
    Score the coefficients of one rollout batch, all of shape (N,).

    Returns:
        `blame_auc`: among the uncertain tokens of negative responses, how well the coefficient ranks the error tokens;
        `credit_auc`: among those of positive responses, how well it ranks the right digits; `fork_blame_auc` and
        `fork_credit_auc`: the same of the wrong and of the right fork, each pair without the tokens that the other pair
        ranks; `blame_auc_digits` and
        `credit_auc_digits`: the same among digits of sums alone, where a place tells nothing; `mean_SIDE_CLASS`: mean
        coefficient of all tokens of a class; and those of `explained_by_uncertainty`. What is undefined is left out.
    """
    doubt = -torch.expm1(tokens.log_probs)
    values, advantages = coefficients.double().cpu().numpy(), tokens.advantages.cpu().numpy()
    uncertain = doubt.cpu().numpy() > UNCERTAIN
    blamed, credited = uncertain & (advantages < 0), uncertain & (advantages > 0)
    result = {}
    for name, side, labels in (("blame", blamed, (ERROR, WRONG_FORK)), ("credit", credited, (RIGHT, RIGHT_FORK))):
        for prefix, label, other in (("", *labels), ("fork_", *reversed(labels))):
            compared = side & (classes != other)
            result[f"{prefix}{name}_auc"] = auc(values[compared], classes[compared] == label)
    digits = (classes == ERROR) | (classes == RIGHT)
    for name, side, label in (("blame", blamed, ERROR), ("credit", credited, RIGHT)):
        result[f"{name}_auc_digits"] = auc(values[side & digits], classes[side & digits] == label)
    for side, on_side in zip(ADVANTAGE_SIDES, (advantages > 0, advantages < 0), strict=True):
        for number, name in enumerate(CLASSES):
            chosen = values[on_side & (classes == number)]
            result[f"mean_{side}_{name}"] = float(chosen.mean()) if len(chosen) else math.nan
    result |= explained_by_uncertainty(coefficients, tokens.advantages, doubt)
    return {name: value for name, value in result.items() if not math.isnan(value)}


def mean(values: Sequence[float]) -> Mean:
    """Mean of independent rollout batches with its 95% interval, from Student's t over the batches."""
    n = len(values)
    if n < 2:
        return Mean(float(np.mean(values)), None, n)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n)
    return Mean(float(np.mean(values)), float(reach), n)
