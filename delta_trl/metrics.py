"""What is logged of a rollout batch's coefficients: pure functions to a dict of metrics, the same on every process."""

import math
from collections.abc import Callable

import torch

from .coefficients import NO_CONTRAST, NON_FINITE, Coefficients
from .rollout import Rollout


UNCERTAINTY_BINS = 10

Collective = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def coefficient_metrics(
    coefficients: Coefficients,
    tokens: Rollout,
    *,
    all_reduce: Collective | None = None,
    gather: Collective | None = None,
) -> dict[str, float]:
    """
    Metrics of one rollout batch, over the tokens with A ≠ 0 of all processes.

    Args:
        coefficients (`Coefficients`): Of these tokens.
        tokens (`Rollout`): The tokens of this process.
        all_reduce (`Callable`, *optional*): Returns the sum of a tensor over processes. `None` for a single process.
        gather (`Callable`, *optional*): Returns the 1-D tensors of all processes, concatenated. `None` for a single one.

    Returns:
        `delta/...` names and values. What is undefined (no such token, nothing computed) is left out.
    """
    reduce, gather = all_reduce or (lambda tensor: tensor), gather or (lambda tensor: tensor)
    metrics = {
        "fallback/no_contrast": float(coefficients.fallback == NO_CONTRAST),
        "fallback/non_finite": float(coefficients.fallback == NON_FINITE),
    }
    positive, negative = tokens.advantages > 0, tokens.advantages < 0
    credited = positive | negative
    values = coefficients.values[credited]
    # A sum and a count from each process, so that a process without a token weighs nothing
    sums = torch.stack(
        [
            *(values.sum(), values.square().sum(), (values > 1).sum(), credited.sum()),
            *(coefficients.values[positive].sum(), positive.sum()),
            *(coefficients.values[negative].sum(), negative.sum()),
        ]
    )
    total, squares, above, count, positive_total, positive_count, negative_total, negative_count = reduce(
        sums
    ).tolist()
    bound = values.new_tensor([torch.inf])
    smallest = gather(torch.cat([values, bound]).min().view(1)).min().item()
    largest = gather(torch.cat([values, -bound]).max().view(1)).max().item()
    if count > 0:
        mean = total / count
        metrics["coef/mean"] = mean
        metrics["coef/std"] = max(0.0, squares / count - mean**2) ** 0.5
        metrics["coef/min"] = smallest
        metrics["coef/max"] = largest
        metrics["coef/share_above_one"] = above / count
    if positive_count > 0:
        metrics["coef/mean_positive"] = positive_total / positive_count
    if negative_count > 0:
        metrics["coef/mean_negative"] = negative_total / negative_count

    uncertainty = -torch.expm1(tokens.log_probs)
    explained = explained_by_uncertainty(coefficients.values, tokens.advantages, uncertainty, all_reduce)
    metrics |= {f"uncertainty/{name}": value for name, value in explained.items()}
    if coefficients.fallback is None:
        statistics = {
            "temperature/positive": coefficients.temperature_positive,
            "temperature/negative": coefficients.temperature_negative,
            "centroid_distance/before": coefficients.distance_before,
            "centroid_distance/after": coefficients.distance_after,
            "centroid_cosine/before": coefficients.cosine_before,
            "centroid_cosine/after": coefficients.cosine_after,
        }
        metrics |= {name: value for name, value in statistics.items() if not math.isnan(value)}
    return {f"delta/{name}": value for name, value in metrics.items()}


@torch.no_grad()
def correlation(one: torch.Tensor, other: torch.Tensor, counted: torch.Tensor, all_reduce: Collective) -> float | None:
    """Pearson's, of two values a token over the counted tokens of all processes, (N,). `None` where one is constant."""
    # Moments about 1, around which coefficients lie, lose no digits
    precise = torch.float32 if one.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    x, y = (values[counted].to(precise) - 1 for values in (one, other))
    sums = torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y]).sum(1)
    n, x1, y1, x2, y2, xy = all_reduce(sums).tolist()
    spread = (n * x2 - x1**2) * (n * y2 - y1**2)
    return (n * xy - x1 * y1) / math.sqrt(spread) if spread > 1e-12 * n**4 else None


@torch.no_grad()
def explained_by_uncertainty(
    coefficients: torch.Tensor,
    advantages: torch.Tensor,
    uncertainty: torch.Tensor,
    all_reduce: Callable[[torch.Tensor], torch.Tensor | None] | None = None,
) -> dict[str, float]:
    """
    Relate coefficients to the policy's uncertainty about the sampled token, on each advantage side.

    A coefficient says something of its own about a token only as far as side and uncertainty do not predict it.

    Args:
        coefficients (`torch.Tensor`): Shape (N,).
        advantages (`torch.Tensor`): Shape (N,). Tokens with A = 0 are left out.
        uncertainty (`torch.Tensor`): Shape (N,): 1 − p of the sampled token, in [0, 1].
        all_reduce (`Callable`, *optional*):
            Sums a tensor over processes, as for `delta_coefficients`.

    Returns:
        `correlation_positive`, `correlation_negative`: Pearson's correlation of the coefficient with 1 − p on a side.
        `explained`: the share of the coefficients' variance that the means of 2 sides × 10 equal bins of 1 − p explain, in
        [0, 1]. A value that is undefined (nothing varies) is left out.
    """
    positive, negative = advantages > 0, advantages < 0
    precise = torch.float32 if coefficients.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    value, x = coefficients.to(precise), uncertainty.to(precise)
    # Moments about 1, around which coefficients lie, lose no digits
    y = value - 1
    moments = torch.stack([torch.ones_like(y), y, y * y, x, x * x, x * y])
    cell = (x * UNCERTAINTY_BINS).long().clamp(0, UNCERTAINTY_BINS - 1) + UNCERTAINTY_BINS * negative
    credited = positive | negative
    sums = moments.new_zeros(len(moments), 2 * UNCERTAINTY_BINS).index_add_(1, cell[credited], moments[:, credited])
    if all_reduce is not None:
        reduced = all_reduce(sums)
        sums = sums if reduced is None else reduced

    result = {}
    for name, side in zip(("positive", "negative"), sums.view(len(moments), 2, -1).sum(2).unbind(1), strict=True):
        n, y1, y2, x1, x2, xy = side.tolist()
        spread = (n * x2 - x1**2) * (n * y2 - y1**2)
        if spread > 1e-12 * n**4:
            result[f"correlation_{name}"] = (n * xy - x1 * y1) / math.sqrt(spread)
    count, y1, y2 = sums[:3]
    between = (y1.square() / count.clamp(min=1)).sum() - y1.sum().square() / count.sum()
    total = y2.sum() - y1.sum().square() / count.sum()
    if total > 1e-12 * count.sum():
        result["explained"] = (between / total).item()
    return result
