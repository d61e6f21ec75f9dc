"""Variants of DelTA's coefficients: the paper's ablations, and what the coefficients are made of taken apart.

For studies, by name: `trainer: variant` with `variant: NAME` in a YAML file for the training command, or
`VariantGRPOTrainer`. A variant is one function with the signature of those below and an entry in `VARIANTS`; it reads like
its definition. None of this is on the path of the published method, which lives in `coefficients.py`.

Options of `DeltaGRPOConfig` give further ablations without a variant: K (`coef_refinement_steps`), the bounds (`coef_min`,
`coef_max`), the normalisation (`coef_normalize`), the features (`coef_features`, `coef_top_k`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..coefficients import NON_FINITE, VARIANCE_FLOOR, Coefficients
from ..metrics import UNCERTAINTY_BINS
from .rollouts import Rollouts, soft_assignments


# Ridge of the slopes, as a share of the largest eigenvalue; chosen by the credit benchmark, without training
SLOPE_RIDGE = 0.03
# Rows that are held in float64 at a time
SLOPE_ROWS = 8192
# How alike two places are: exp((cosine − 1) / PLACE_WIDTH). The ridge is a share of the mean mass of similar places. Both
# were chosen by the credit benchmark on three rollout batches of precedence, without training.
PLACE_WIDTH = 0.05
PLACE_RIDGE = 0.1
# Tokens whose similarities to all others are held at a time
PLACE_ROWS = 256


# --- The paper's ablations


def within_side(rollouts: Rollouts) -> torch.Tensor:
    """α = sigmoid(−‖v − μ_own‖² / γ): no opposite side."""
    alpha, _ = soft_assignments(rollouts, rollouts.features(), own_side_only=True)
    return rollouts.normalised(rollouts.in_bounds(alpha))


def hard_gate(rollouts: Rollouts) -> torch.Tensor:
    """α ∈ {0, 1}: no entropy term."""
    alpha, _ = soft_assignments(rollouts, rollouts.features(), hard=True)
    return rollouts.normalised(rollouts.in_bounds(alpha))


def fixed_temperature(rollouts: Rollouts) -> torch.Tensor:
    """γ± stay at their initial scale: that of the run's first rollout batch.

    Within one rollout batch and at K = 1, the published γ is the initial one already, because it lags.
    """
    alpha, gamma = soft_assignments(rollouts, rollouts.features(), temperatures=rollouts.memory.get("temperatures"))
    rollouts.memory.setdefault("temperatures", gamma)
    return rollouts.normalised(rollouts.in_bounds(alpha))


def no_range_map(rollouts: Rollouts) -> torch.Tensor:
    """λ = α, within [0, 1]."""
    alpha, _ = soft_assignments(rollouts, rollouts.features())
    return rollouts.normalised(torch.where(rollouts.sides.any(0), alpha, 0.0))


def no_norm(rollouts: Rollouts) -> torch.Tensor:
    """λ as it is: it stays in the numerator, and the normaliser is N."""
    return rollouts.published_raw()


def random_coefficients(rollouts: Rollouts) -> torch.Tensor:
    """λ uniform in the bounds."""
    alpha = torch.rand(len(rollouts.tokens.ids), generator=rollouts.generator).to(rollouts.tokens.advantages.device)
    return rollouts.normalised(rollouts.in_bounds(alpha))


def _selected(rollouts: Rollouts, score: torch.Tensor) -> torch.Tensor:
    """Plain loss on the `share` of all tokens with the highest score, which weigh 1 / share; the others 0."""
    scores = rollouts.gather(score)
    kept = math.ceil(rollouts.share * len(scores))
    threshold = scores.kthvalue(len(scores) - kept + 1).values
    return rollouts.normalised((score >= threshold).float())


def top_tokens(rollouts: Rollouts) -> torch.Tensor:
    """λ only ranks: the plain loss on the `share` of tokens with the highest λ."""
    return _selected(rollouts, rollouts.published().values)


def bottom_tokens(rollouts: Rollouts) -> torch.Tensor:
    """The plain loss on the `share` of tokens with the lowest λ."""
    return _selected(rollouts, -rollouts.published().values)


def random_tokens(rollouts: Rollouts) -> torch.Tensor:
    """The plain loss on a random `share` of the tokens."""
    score = torch.rand(len(rollouts.tokens.ids), generator=rollouts.generator)
    return _selected(rollouts, score.to(rollouts.tokens.advantages.device))


# --- What the coefficients are made of


def unit_length(rollouts: Rollouts) -> torch.Tensor:
    """Features of length 1: where the policy is, without how unsure it was."""
    alpha, _ = soft_assignments(rollouts, rollouts.features(unit=True))
    return rollouts.normalised(rollouts.in_bounds(alpha))


def length_only(rollouts: Rollouts) -> torch.Tensor:
    """v = 1 − p, one number a token: how unsure the policy was, without where."""
    alpha, _ = soft_assignments(rollouts, rollouts.uncertainty[:, None])
    return rollouts.normalised(rollouts.in_bounds(alpha))


def uncertainty_gate(rollouts: Rollouts) -> torch.Tensor:
    """λ of side and 1 − p alone: the mean of DelTA's λ over the side's tokens in the same tenth of 1 − p."""
    tenth = (rollouts.uncertainty * UNCERTAINTY_BINS).long().clamp(0, UNCERTAINTY_BINS - 1)
    cells = tenth + UNCERTAINTY_BINS * rollouts.side_number
    return rollouts.cell_means(rollouts.published().values, cells, 3 * UNCERTAINTY_BINS)


def side_constant(rollouts: Rollouts) -> torch.Tensor:
    """Each token gets the mean of DelTA's λ over its side."""
    return rollouts.cell_means(rollouts.published().values, rollouts.side_number, 3)


def per_side_norm(rollouts: Rollouts) -> torch.Tensor:
    """DelTA's λ, normalised to mean 1 on each side apart: the sides keep their balance."""
    values = rollouts.published().values
    return values / rollouts.cell_means(values, rollouts.side_number, 3)


def per_group(rollouts: Rollouts) -> torch.Tensor:
    """Centroids of each prompt group in place of the rollout batch's."""
    alpha, _ = soft_assignments(rollouts, rollouts.features(), per_group=True)
    return rollouts.normalised(rollouts.in_bounds(alpha))


def unit_per_group(rollouts: Rollouts) -> torch.Tensor:
    """Features of length 1, with centroids of each prompt group."""
    alpha, _ = soft_assignments(rollouts, rollouts.features(unit=True), per_group=True)
    return rollouts.normalised(rollouts.in_bounds(alpha))


def mirror(rollouts: Rollouts) -> torch.Tensor:
    """One weight for a place on both sides, the closeness to the negative centroid: λ_min + λ_max − λ where A > 0."""
    raw = rollouts.published_raw()
    mirrored = rollouts.options.coef_min + rollouts.options.coef_max - raw
    return rollouts.normalised(torch.where(rollouts.sides[0], mirrored, raw))


# --- Our own: what was chosen, where


def _slopes(rollouts: Rollouts) -> tuple[torch.Tensor, torch.Tensor]:
    """
    How much the advantage rises with the likelihood of the choice, place by place.

    The choice is v = log π − E log π (`temperature_gradient`): positive for the favourite, negative for a slip. The slope
    of the advantage over it is linear in the hidden state h: A ≈ (w·h + b)·v, by ridge regression over all tokens. It is
    near 0 where likely and unlikely choices turn out alike, as a phrasing does, and large where the choice decides.

    Returns:
        Slopes w·h + b and choices v, shapes (N,), float32.
    """
    v = rollouts.features("temperature_gradient")[:, 0]
    hidden = rollouts.tokens.hidden.to(v)
    count, squares = rollouts.reduce(torch.stack([v.new_tensor(len(v)), hidden.square().sum()]).double())
    # The intercept weighs as much as all of h together, so that the penalty hardly holds it
    hidden = torch.cat([hidden, (squares / count).sqrt().to(hidden).expand(len(v), 1)], dim=1)
    target = rollouts.tokens.advantages.to(v)[:, None]
    size = hidden.shape[1]
    gram, moments = (hidden.new_zeros(size, columns, dtype=torch.float64) for columns in (size, 1))
    for rows, a, choice in zip(*(t.split(SLOPE_ROWS) for t in (hidden, target, v[:, None])), strict=True):
        x = (rows * choice).double()
        gram += x.T @ x
        moments += x.T @ a.double()
    gram, moments = rollouts.reduce(gram), rollouts.reduce(moments)
    eigenvalues, axes = torch.linalg.eigh(gram)
    penalised = (eigenvalues + SLOPE_RIDGE * eigenvalues[-1]).clamp(min=VARIANCE_FLOOR)
    weights = axes @ ((axes.T @ moments) / penalised[:, None])
    return (hidden @ weights.to(hidden))[:, 0], v


def _moments(rollouts: Rollouts, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and mean square of z over the tokens of all processes."""
    sums = torch.stack([torch.ones_like(z), z, z.square()]).sum(1, dtype=torch.float64)
    count, total, squares = rollouts.reduce(sums)
    return total / count, squares / count


def _weighed(rollouts: Rollouts, z: torch.Tensor) -> torch.Tensor:
    """λ of α = sigmoid(z / σ), where σ² is the mean square of z."""
    _, mean_square = _moments(rollouts, z)
    deviation = mean_square.clamp(min=VARIANCE_FLOOR).sqrt()
    return rollouts.normalised(rollouts.in_bounds(torch.sigmoid(z / deviation.to(z))))


def token_advantage(rollouts: Rollouts) -> torch.Tensor:
    """α = sigmoid(z / σ), z = sign(A) (w·h + b) v: a token weighs more if its own advantage, as estimated by `_slopes`, has
    the sign of its response's, and less if it has the other. σ² is the mean square of z."""
    slope, v = _slopes(rollouts)
    z = rollouts.tokens.advantages.sign().to(v) * slope * v
    return _weighed(rollouts, z)


def stake_and_choice(rollouts: Rollouts) -> torch.Tensor:
    """α = sigmoid((z − z̄) / std z), z = max(w·h + b, 0) (1 + ½ sign(A) tanh v): the places where the choice decides, by the
    slopes of `_slopes`, and there the favourite of a right response and the slip of a wrong one."""
    slope, v = _slopes(rollouts)
    z = slope.clamp(min=0) * (1 + rollouts.tokens.advantages.sign().to(v) * torch.tanh(v) / 2)
    mean, mean_square = _moments(rollouts, z)
    deviation = (mean_square - mean.square()).clamp(min=VARIANCE_FLOOR).sqrt()
    return rollouts.normalised(rollouts.in_bounds(torch.sigmoid(((z - mean) / deviation).to(z))))


def group_agreement(rollouts: Rollouts) -> torch.Tensor:
    """α = sigmoid(z / σ), z = sign(A) v·Σ A' v' over the tokens of the prompt group's other responses: a token weighs more
    if its own gradient points where theirs want to go, and less if it points away. σ² is the mean square of z.

    A token's own response is left out: a sum that contains a token agrees with it, whatever it is.
    """
    v = rollouts.features()
    a = rollouts.tokens.advantages.to(v)
    size = rollouts.options.num_generations
    of_response = v.new_zeros(rollouts.n_groups * size, v.shape[1])
    of_response = rollouts.reduce(of_response.index_add_(0, rollouts.tokens.responses, v * a[:, None]))
    of_group = of_response.unflatten(0, (-1, size)).sum(1)
    others = (of_group[rollouts.groups] - of_response[rollouts.tokens.responses]) * v
    z = a.sign() * others.sum(1)
    return _weighed(rollouts, z)


def place_agreement(rollouts: Rollouts) -> torch.Tensor:
    """
    α = sigmoid(z / σ), z = sign(A) v·Σ k A' v' / (Σ k + ridge) over other responses' tokens with A' ≠ 0: a token weighs more
    if what was chosen at similar places turned out as its own response did. σ² is the mean square of z.

    k = exp((cos(h, h') − 1) / width), of hidden states less their mean. v is the gradient of log π with respect to the
    hidden state and to the logarithm of the inverse temperature (`hidden_gradient`, `temperature_gradient`), each scaled to
    mean square length 1: which token was chosen, and whether it was the favourite. Costs N² H, for the N tokens of all
    processes.
    """
    used = rollouts.sides.any(0)
    parts = [rollouts.features(name)[used] for name in ("hidden_gradient", "temperature_gradient")]
    sums = torch.stack([used.sum(), *(part.square().sum() for part in parts)]).double()
    count, *squares = rollouts.reduce(sums)
    v = torch.cat(
        [part * (count / square).sqrt().to(part) for part, square in zip(parts, squares, strict=True)], dim=1
    )
    a, responses, hidden = (
        x[used].to(v) for x in (rollouts.tokens.advantages, rollouts.tokens.responses, rollouts.tokens.hidden)
    )
    place = torch.nn.functional.normalize(hidden - (rollouts.reduce(hidden.sum(0).double()) / count).to(v), dim=1)

    def of_all(rows: torch.Tensor) -> torch.Tensor:
        return rollouts.gather(rows.flatten()).unflatten(0, (-1, rows.shape[1]))

    places, outcomes, of_response = of_all(place), of_all((v * a[:, None]).nan_to_num()), rollouts.gather(responses)
    agreement, mass = torch.empty_like(a), torch.empty_like(a)
    for start in range(0, len(a), PLACE_ROWS):
        rows = slice(start, start + PLACE_ROWS)
        k = ((place[rows] @ places.T - 1) / PLACE_WIDTH).exp_()
        k.masked_fill_(responses[rows, None] == of_response, 0.0)
        agreement[rows], mass[rows] = ((k @ outcomes) * v[rows]).sum(1), k.sum(1)
    ridge = PLACE_RIDGE * rollouts.reduce(mass.sum().double()) / count
    z = a.new_zeros(len(used))
    z[used] = a.sign() * agreement / (mass + ridge.to(mass))
    return _weighed(rollouts, z)


@dataclass(frozen=True)
class Variant:
    """
    A variant as `VARIANTS` lists it.

    Attributes:
        compute: From the rollout batch to coefficients, shape (N,), float32, no gradient.
        ignores: Options that it does not read: stated with it, they are refused.
        selects: Whether it is a token selection, which reads `variant_share`.
    """

    compute: Callable[[Rollouts], torch.Tensor]
    ignores: tuple[str, ...] = ()
    selects: bool = False

    def __call__(self, rollouts: Rollouts) -> Coefficients:
        """As in the published method, all coefficients are 1 where there is no contrast or a value is not finite."""
        ones = torch.ones_like(rollouts.tokens.log_probs, dtype=torch.float32)
        fallback = rollouts.fallback()
        if fallback is not None:
            return Coefficients(ones, fallback=fallback)
        values = self.compute(rollouts)
        if rollouts.reduce((~values.isfinite()).sum()) > 0:  # a feature may overflow
            return Coefficients(ones, fallback=NON_FINITE)
        return Coefficients(values)


BOUNDS = ("coef_min", "coef_max")
METHOD = ("coef_features", "coef_refinement_steps")

VARIANTS: dict[str, Variant] = {
    "within_side": Variant(within_side),
    "hard_gate": Variant(hard_gate),
    "fixed_temperature": Variant(fixed_temperature),
    "no_range_map": Variant(no_range_map, ignores=BOUNDS),
    "no_norm": Variant(no_norm, ignores=("coef_normalize",)),
    "random": Variant(random_coefficients, ignores=METHOD),
    "top_tokens": Variant(top_tokens, ignores=BOUNDS, selects=True),
    "bottom_tokens": Variant(bottom_tokens, ignores=BOUNDS, selects=True),
    "random_tokens": Variant(random_tokens, ignores=(*BOUNDS, *METHOD), selects=True),
    "unit_length": Variant(unit_length),
    "length_only": Variant(length_only, ignores=("coef_features",)),
    "uncertainty_gate": Variant(uncertainty_gate),
    "side_constant": Variant(side_constant),
    "per_side_norm": Variant(per_side_norm, ignores=("coef_normalize",)),
    "per_group": Variant(per_group),
    "unit_per_group": Variant(unit_per_group),
    "mirror": Variant(mirror),
    "token_advantage": Variant(token_advantage, ignores=METHOD),
    "stake_and_choice": Variant(stake_and_choice, ignores=METHOD),
    "group_agreement": Variant(group_agreement, ignores=("coef_refinement_steps",)),
    "place_agreement": Variant(place_agreement, ignores=METHOD),
}
