"""DelTA's token coefficients: features and advantages in, one coefficient a token out (arXiv 2605.21467, §3.2).

Symbols, fixed once: N tokens of this process, H feature size, K refinement steps. S₊ and S₋ are the tokens of responses
with positive and negative advantage A, on all processes. Every sum below runs over all processes.

Where this deviates from a literal transcription, and the corner cases:

- A margin is one dot product, m = ±2 (μ₊ − μ₋)·(v − (μ₊ + μ₋)/2): equal to the difference of the two squared distances,
  without an (N, H) temporary and without cancellation between large squared norms.
- Temperatures are lagged (appendix H): the last sigmoid uses the spread of the margins *before* the last refinement.
- A token with A = 0 gets `coef_min`: it carries no gradient. It counts in the normaliser, unless `normalize` says otherwise.
- Without a token on either side there is no contrast, and with a non-finite input there is no meaning: every coefficient
  of the rollout batch is then 1, on all processes.

Cost: 2K + 2 sweeps over the features (K + 1 for centroids, K + 1 for margins), each of which reads their N·H elements once:
(2K + 2)·N·H·itemsize bytes, 4 × 164 MB for a 20,000-token response of an 8B model in bf16 at K = 1. Fewer will not do: a
margin needs the centroids of all tokens, and a temperature needs the margins of all tokens. Besides the features, memory is
a few (N,) vectors and one chunk in the accumulation dtype.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .sweeps import projections, weighted_sums


# The temperatures' floor (appendix H): a side whose margins do not differ would otherwise divide by zero.
VARIANCE_FLOOR = 1e-8

# Which tokens have mean 1: all of them, as published, or those with A ≠ 0
NORMALIZATIONS = ("all", "credited")

NO_CONTRAST = "no contrast"
NON_FINITE = "non-finite"


@dataclass(frozen=True)
class Coefficients:
    """
    Token coefficients of one rollout batch, with what logging and pictures need.

    Attributes:
        values (`torch.Tensor`):
            Shape (N,), float32, no gradient. Positive, with mean 1 over the tokens of all processes (with
            `normalize="credited"` over those with A ≠ 0).
        mean (`float`):
            Mean of λ over the same tokens before it was normalised to 1: `values * mean` lies within the bounds.
        fallback (`str` or `None`):
            Why every value is 1: `"no contrast"` (a side has no token), `"non-finite"` (a feature, scale or advantage is
            infinite or not a number, or overflows), or `None` for coefficients that mean something.
        temperature_positive, temperature_negative (`float`):
            γ₊ and γ₋ of the last sigmoid, in units of a squared feature distance.
        distance_before, distance_after (`float`):
            ‖μ₊ − μ₋‖ at the initial and at the refined centroids.
        cosine_before, cosine_after (`float`):
            Cosine of the angle between μ₊ and μ₋ at the initial and at the refined centroids.
        statistics (`dict` or `None`):
            Tensors that give tokens of another rollout batch their coefficients, see `Credit.assign`: of DelTA `centroids`,
            the refined μ₊ and μ₋, shape (2, H), and `temperatures`, γ₊ and γ₋, shape (2,).

    All but the values are the same on every process, and NaN or `None` where nothing was computed.
    """

    values: torch.Tensor
    fallback: str | None = None
    mean: float = math.nan
    temperature_positive: float = math.nan
    temperature_negative: float = math.nan
    distance_before: float = math.nan
    distance_after: float = math.nan
    cosine_before: float = math.nan
    cosine_after: float = math.nan
    statistics: dict[str, torch.Tensor] | None = None


@torch.no_grad()
def delta_coefficients(
    features: torch.Tensor,
    advantages: torch.Tensor,
    *,
    feature_scale: torch.Tensor | None = None,
    coef_min: float = 0.8,
    coef_max: float = 1.2,
    refinement_steps: int = 1,
    normalize: str = "all",
    all_reduce: Callable[[torch.Tensor], torch.Tensor | None] | None = None,
) -> Coefficients:
    """
    Compute the coefficient of every token of a rollout batch (§3.2, appendices G and H).

    Args:
        features (`torch.Tensor`):
            Shape (N, H), any floating dtype: one row a token. They may lie on another device than the rest (in host
            memory, say); a chunk at a time is moved. Gradients are ignored.
        advantages (`torch.Tensor`):
            Shape (N,): the advantage of each token's response. Its device is where the computation runs.
        feature_scale (`torch.Tensor`, *optional*):
            Shape (N,). Multiplies the rows: token features are v = scale · row, so that bf16 hidden states with scale
            1 − p need no float32 copy.
        coef_min, coef_max (`float`, *optional*, defaults to 0.8 and 1.2):
            Bounds of λ before it is normalised to mean 1, with 0 < coef_min ≤ coef_max. Equal bounds give exactly 1.
        refinement_steps (`int`, *optional*, defaults to 1):
            K, how often the centroids are recomputed with the soft assignments. 0 skips refinement.
        normalize (`str`, *optional*, defaults to `"all"`):
            Tokens over which λ is normalised to mean 1: `"all"`, as published, or `"credited"`, those with A ≠ 0.
        all_reduce (`Callable`, *optional*):
            Sums a tensor over processes: either returns the sum, or works in place and returns `None`. Called equally
            often on every process, whatever its tokens. `None` for a single process.

    Returns:
        [`Coefficients`]. They do not depend on how tokens are spread over processes.

    Raises:
        `ValueError`: for a wrong shape or dtype, bounds out of order, a negative number of refinement steps, or an unknown
            `normalize`.
    """
    _check_shapes(features, advantages, feature_scale)
    check_options(coef_min, coef_max, refinement_steps, normalize)
    n_tokens, device = len(features), advantages.device
    ones = torch.ones(n_tokens, device=device)
    if coef_min == coef_max:
        return Coefficients(ones)

    # float64 for what is summed over many tokens or compared afterwards; Apple's GPUs have none
    precise = torch.float32 if device.type == "mps" else torch.float64
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    advantages = advantages.detach().to(dtype)
    scale = ones.to(dtype) if feature_scale is None else feature_scale.detach().to(device, dtype)
    side = torch.stack([advantages > 0, advantages < 0])  # (2, N): S₊, S₋
    weight = advantages.abs() * side  # (2, N): |A| on the own side, 0 on the other

    def reduce(*tensors: torch.Tensor) -> list[torch.Tensor]:
        flat = torch.cat([t.to(precise).flatten() for t in tensors])
        if all_reduce is not None:
            summed = all_reduce(flat)
            flat = flat if summed is None else summed
        return [part.view_as(t) for part, t in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True)]

    def centroids(weight: torch.Tensor) -> torch.Tensor:
        """μ₊ and μ₋, shape (2, H): means of v with these weights, shape (2, N). 0 for a side without a token."""
        sums, mass = reduce(weighted_sums(features, weight * scale, precise), weight.sum(1, dtype=precise))
        return sums / mass.clamp(min=torch.finfo(precise).tiny)[:, None]

    mu = initial = centroids(weight)
    count, broken = reduce(side.sum(1), (~advantages.isfinite()).sum())
    if broken > 0 or not mu.isfinite().all():
        return Coefficients(ones, fallback=NON_FINITE)
    if (count == 0).any():
        return Coefficients(ones, fallback=NO_CONTRAST)

    def margins_at(alpha: torch.Tensor | None) -> torch.Tensor:
        nonlocal mu
        if alpha is not None:
            mu = centroids(weight * alpha)
        return margins(features, mu, side[1], scale)

    alpha, gamma = refine(margins_at, side, refinement_steps, reduce)
    # A token with A = 0 has no weight in the centroids, but its NaN or infinity shows here: 0 · NaN = NaN
    if not gamma.isfinite().all():
        return Coefficients(ones, fallback=NON_FINITE)

    # The range map, and mean 1
    credited = side.any(0)
    coefficients = range_map(alpha, credited, coef_min, coef_max)
    counted = credited if normalize == "credited" else torch.ones_like(credited)
    total, n_counted = reduce((coefficients * counted).sum(dtype=precise), counted.sum())
    if not total.isfinite():
        return Coefficients(ones, fallback=NON_FINITE)
    distances = [torch.linalg.vector_norm(mu[0] - mu[1]).item() for mu in (initial, mu)]
    cosines = [torch.cosine_similarity(mu[0], mu[1], dim=0).item() for mu in (initial, mu)]
    return Coefficients(
        values=(coefficients * (n_counted / total)).to(torch.float32),
        mean=(total / n_counted).item(),
        temperature_positive=gamma[0].item(),
        temperature_negative=gamma[1].item(),
        distance_before=distances[0],
        distance_after=distances[1],
        cosine_before=cosines[0],
        cosine_after=cosines[1],
        statistics={"centroids": mu, "temperatures": gamma},
    )


def margins(
    features: torch.Tensor, mu: torch.Tensor, negative: torch.Tensor, scale: torch.Tensor | None = None
) -> torch.Tensor:
    """
    m = ‖v − μ_other‖² − ‖v − μ_own‖² of every token, shape (N,), in the accumulation dtype: float32, or float64 of float64.

    `features` has shape (N, H), `mu` (2, H) holds μ₊ and μ₋, `negative` (N,) is True on S₋, and `scale` (N,) multiplies
    the features.
    """
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    direction = mu[0] - mu[1]
    middle = (mu[0] + mu[1]) @ direction / 2
    dots = projections(features, direction.to(dtype))
    m = 2 * ((dots if scale is None else scale * dots) - middle.to(dtype))
    return torch.where(negative, -m, m)


def spread(m: torch.Tensor, side: torch.Tensor, reduce: Callable[..., list[torch.Tensor]]) -> torch.Tensor:
    """
    γ₊ and γ₋: population standard deviation of the margins on each side, each token counted once, shape (2,).

    `m` has shape (N,), `side` (2, N) holds membership of S₊ and S₋, and `reduce` sums each of its arguments over processes.
    """
    m = m.to(torch.float32 if m.device.type == "mps" else torch.float64) * side
    count, first, second = reduce(side.sum(1), m.sum(1), m.square().sum(1))
    return (second / count - (first / count).square()).clamp(min=VARIANCE_FLOOR).sqrt()


def assign(m: torch.Tensor, gamma: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """α = sigmoid(m / γ_own), shape (N,), from margins (N,), temperatures (2,) and membership of S₋ (N,)."""
    return torch.sigmoid(m / torch.where(negative, gamma[1], gamma[0]).to(m.dtype))


def refine(
    margins_at: Callable[[torch.Tensor | None], torch.Tensor],
    side: torch.Tensor,
    steps: int,
    reduce: Callable[..., list[torch.Tensor]],
    *,
    spread: Callable[..., torch.Tensor] = spread,
    assign: Callable[..., torch.Tensor] = assign,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The refinement loop (§3.2): margins to soft assignments, to centroids, to margins, K times.

    `margins_at` gives every token's margin, shape (N,), at the centroids with weights |A| α, from α, shape (N,); it is asked
    for the initial centroids, weights |A|, with `None`. `side` (2, N) holds membership of S₊ and S₋, `steps` is K, `reduce`
    sums each of its arguments over processes, and `spread` and `assign` replace the functions of these names.

    Returns α of the last margins, shape (N,), and its temperatures (γ₊, γ₋), shape (2,).
    """
    m = margins_at(None)
    gamma = spread(m, side, reduce)
    for _ in range(steps):
        alpha, gamma = assign(m, gamma, side[1]), spread(m, side, reduce)  # γ lags: it is never that of the last m
        m = margins_at(alpha)
    return assign(m, gamma, side[1]), gamma


def range_map(alpha: torch.Tensor, credited: torch.Tensor, coef_min: float, coef_max: float) -> torch.Tensor:
    """λ = λ_min + (λ_max − λ_min) α, and λ_min of tokens with A = 0. `credited`: those with A ≠ 0. All shapes (N,)."""
    return torch.where(credited, coef_min + (coef_max - coef_min) * alpha, coef_min)


def _check_shapes(features: torch.Tensor, advantages: torch.Tensor, feature_scale: torch.Tensor | None) -> None:
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(
            f"features must be a floating-point tensor of shape (N, H), one row a token; got {features.dtype} of shape "
            f"{tuple(features.shape)}."
        )
    for name, tensor in (("advantages", advantages), ("feature_scale", feature_scale)):
        if tensor is not None and tensor.shape != features.shape[:1]:
            raise ValueError(
                f"{name} must have shape ({len(features)},), one value for each row of features; got "
                f"{tuple(tensor.shape)}. Expand a value per response to its tokens first."
            )


def check_options(coef_min: float, coef_max: float, refinement_steps: int, normalize: str) -> None:
    """Raise `ValueError` for values that the method does not define."""
    for name, value in (("coef_min", coef_min), ("coef_max", coef_max), ("refinement_steps", refinement_steps)):
        if value is None or isinstance(value, str):
            raise ValueError(f"{name} must be a number; got {value!r}.")
    if not 0 < coef_min <= coef_max < math.inf:
        raise ValueError(
            f"coef_min and coef_max must satisfy 0 < coef_min <= coef_max < infinity; got coef_min={coef_min} and "
            f"coef_max={coef_max}. A coefficient of 0 or less would drop a token or turn its sign. The published bounds "
            "are 0.8 and 1.2; equal bounds switch DelTA off."
        )
    if refinement_steps != int(refinement_steps) or refinement_steps < 0:
        raise ValueError(
            f"refinement_steps must be an integer of at least 0; got {refinement_steps}. The published value is 1."
        )
    if normalize not in NORMALIZATIONS:
        raise ValueError(
            f"normalize must be 'all', as published, or 'credited' (tokens with A ≠ 0); got {normalize!r}."
        )
