"""What token coefficients are made of: how far the advantage side and the policy's uncertainty alone explain them."""

import math
from collections.abc import Callable

import torch


UNCERTAINTY_BINS = 10


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
