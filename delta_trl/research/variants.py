"""Variants of DelTA's coefficients: the paper's ablations, and what the coefficients are made of taken apart.

For studies, by name: `trainer: variant` with `variant: NAME` in a YAML file for the training command, or
`VariantGRPOTrainer`. A variant is one function with the signature of those below and an entry in `VARIANTS`; it reads like
its definition. Our own are in `own_variants.py`. None of this is on the path of the published method, which lives in
`coefficients.py`.

Options of `DeltaGRPOConfig` give further ablations without a variant: K (`coef_refinement_steps`), the bounds (`coef_min`,
`coef_max`), the normalisation (`coef_normalize`), the features (`coef_features`, `coef_top_k`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..coefficients import NON_FINITE, Coefficients
from ..metrics import UNCERTAINTY_BINS
from .own_variants import group_agreement, place_agreement, stake_and_choice, token_advantage
from .rollouts import Rollouts, soft_assignments


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


# --- By name


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
