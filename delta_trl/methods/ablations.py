"""Variants of DelTA's coefficients: the paper's ablations, and what the coefficients are made of taken apart.

`--trainer variant` with `variant: NAME`. A variant is one function with the signature of those below and an entry in
`VARIANTS`; it reads like its definition. Our own methods (`own.py`) have the same signature, and are trainers by themselves.
Memory is a few float32 tensors of shape (N, H), where the published method has one chunk. The options `coef_*` give further
ablations without a variant.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import torch

from ..coefficients import assign, margins, refine, spread
from ..config import DeltaGRPOConfig
from ..credit import DELTA_CREDIT, Credit, bounded, contrasted, published
from ..metrics import UNCERTAINTY_BINS
from ..rollout import Rollout
from .own import group_agreement, place_agreement, stake_and_choice, token_advantage


def soft_assignments(
    rollout: Rollout,
    options: DeltaGRPOConfig,
    v: torch.Tensor,
    *,
    own_side_only: bool = False,
    hard: bool = False,
    per_group: bool = False,
    temperatures: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The method's steps 1 to 5, as in `delta_coefficients`, with one part replaced.

    Args:
        rollout, options: The rollout batch, and K.
        v: Shape (N, H), float32.
        own_side_only: The margin is −‖v − μ_own‖², without the opposite side.
        hard: α is 1 for a positive margin and else 0: the maximiser without the entropy term.
        per_group: Centroids of each prompt group. Tokens of a group that lacks a side get margin 0.
        temperatures: (γ₊, γ₋) to use throughout, in place of the margins' own.

    Returns:
        α of the last margins, shape (N,), and (γ₊, γ₋) of the first ones, shape (2,).
    """
    side, negative = rollout.sides, rollout.sides[1]
    weight = rollout.advantages.abs().float() * side
    group, n_groups = (rollout.groups, rollout.n_groups) if per_group else (torch.zeros_like(rollout.groups), 1)

    def margins_at(alpha: torch.Tensor | None) -> torch.Tensor:
        """Margins at the centroids of each group with weights |A| α."""
        w = weight if alpha is None else weight * alpha
        sums = torch.stack([v.new_zeros(n_groups, v.shape[1]).index_add_(0, group, v * x[:, None]) for x in w])
        sums, mass = rollout.reduce(sums), rollout.reduce(w.new_zeros(2, n_groups).index_add_(1, group, w))
        mu = sums / mass.clamp(min=torch.finfo(mass.dtype).tiny)[..., None]  # (2, groups, H)
        m = torch.zeros_like(w[0])
        for number in (mass > 0).all(0).nonzero().flatten():
            rows = group == number
            if own_side_only:
                own = torch.where(negative[rows, None], mu[1, number], mu[0, number])
                m[rows] = -(v[rows] - own).square().sum(1)
            else:
                m[rows] = margins(v[rows], mu[:, number], negative[rows])
        return m

    used = []

    def spread_and_keep(m: torch.Tensor, *sides_and_reduce) -> torch.Tensor:
        used.append(spread(m, *sides_and_reduce) if temperatures is None else temperatures)
        return used[-1]

    alpha, _ = refine(
        margins_at,
        side,
        options.coef_refinement_steps,
        reduce=lambda *sums: [rollout.reduce(s) for s in sums],
        spread=spread_and_keep,
        assign=(lambda m, gamma, negative: (m > 0).float()) if hard else assign,
    )
    return alpha, used[0]


def published_raw(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """DelTA's λ before it was normalised, shape (N,)."""
    found = published(rollout, options)
    return found.values * found.mean


# --- The paper's ablations


def within_side(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """α = sigmoid(−‖v − μ_own‖² / γ): no opposite side."""
    alpha, _ = soft_assignments(rollout, options, rollout.features(options.coef_features), own_side_only=True)
    return bounded(rollout, options, alpha)


def hard_gate(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """α ∈ {0, 1}: no entropy term."""
    alpha, _ = soft_assignments(rollout, options, rollout.features(options.coef_features), hard=True)
    return bounded(rollout, options, alpha)


def fixed_temperature(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """γ± stay at their initial scale: that of the run's first rollout batch.

    Within one rollout batch and at K = 1, the published γ is the initial one already, because it lags.
    """
    if rollout.resumed and "temperatures" not in rollout.memory:
        raise RuntimeError(
            "variant='fixed_temperature' cannot be resumed: it keeps the temperatures of the run's first rollout batch, "
            "which no checkpoint holds. Start the run again."
        )
    alpha, gamma = soft_assignments(
        rollout, options, rollout.features(options.coef_features), temperatures=rollout.memory.get("temperatures")
    )
    rollout.memory.setdefault("temperatures", gamma)
    return bounded(rollout, options, alpha)


def no_range_map(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """λ = α, within [0, 1]."""
    alpha, _ = soft_assignments(rollout, options, rollout.features(options.coef_features))
    return rollout.mean_one(torch.where(rollout.sides.any(0), alpha, 0.0), options.coef_normalize)


def no_norm(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """λ as it is: it stays in the numerator, and the normaliser is N."""
    return published_raw(rollout, options)


def random_coefficients(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """λ uniform in the bounds."""
    alpha = torch.rand(len(rollout.ids), generator=rollout.generator).to(rollout.advantages.device)
    return bounded(rollout, options, alpha)


def _selected(rollout: Rollout, options: "VariantGRPOConfig", score: torch.Tensor) -> torch.Tensor:
    """Plain loss on the `share` of all tokens with the highest score, which weigh 1 / share; the others 0."""
    return rollout.mean_one(rollout.top_share(score, options.variant_share).float(), options.coef_normalize)


def top_tokens(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """λ only ranks: the plain loss on the `share` of tokens with the highest λ."""
    return _selected(rollout, options, published(rollout, options).values)


def bottom_tokens(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """The plain loss on the `share` of tokens with the lowest λ."""
    return _selected(rollout, options, -published(rollout, options).values)


def random_tokens(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """The plain loss on a random `share` of the tokens."""
    score = torch.rand(len(rollout.ids), generator=rollout.generator)
    return _selected(rollout, options, score.to(rollout.advantages.device))


# --- What the coefficients are made of


def unit_length(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """Features of length 1: where the policy is, without how unsure it was."""
    alpha, _ = soft_assignments(rollout, options, rollout.features(options.coef_features, unit=True))
    return bounded(rollout, options, alpha)


def length_only(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """v = 1 − p, one number a token: how unsure the policy was, without where."""
    alpha, _ = soft_assignments(rollout, options, rollout.uncertainty[:, None])
    return bounded(rollout, options, alpha)


def uncertainty_gate(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """λ of side and 1 − p alone: the mean of DelTA's λ over the side's tokens in the same tenth of 1 − p."""
    tenth = (rollout.uncertainty * UNCERTAINTY_BINS).long().clamp(0, UNCERTAINTY_BINS - 1)
    cells = tenth + UNCERTAINTY_BINS * rollout.side_number
    return rollout.cell_means(published(rollout, options).values, cells, 3 * UNCERTAINTY_BINS)


def side_constant(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """Each token gets the mean of DelTA's λ over its side."""
    return rollout.cell_means(published(rollout, options).values, rollout.side_number, 3)


def per_side_norm(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """DelTA's λ, normalised to mean 1 on each side apart: the sides keep their balance."""
    values = published(rollout, options).values
    return values / rollout.cell_means(values, rollout.side_number, 3)


def per_group(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """Centroids of each prompt group in place of the rollout batch's."""
    alpha, _ = soft_assignments(rollout, options, rollout.features(options.coef_features), per_group=True)
    return bounded(rollout, options, alpha)


def unit_per_group(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """Features of length 1, with centroids of each prompt group."""
    alpha, _ = soft_assignments(rollout, options, rollout.features(options.coef_features, unit=True), per_group=True)
    return bounded(rollout, options, alpha)


def mirror(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """One weight for a place on both sides, the closeness to the negative centroid: λ_min + λ_max − λ where A > 0."""
    raw = published_raw(rollout, options)
    mirrored = options.coef_min + options.coef_max - raw
    return rollout.mean_one(torch.where(rollout.sides[0], mirrored, raw), options.coef_normalize)


# --- By name


@dataclass(frozen=True)
class Variant(Credit):
    """
    A variant as `VARIANTS` lists it: coefficients are all 1 where there is no contrast or a value is not finite.

    Attributes:
        ignores: Options that it does not read: stated with it, they are refused.
        selects: Whether it is a token selection, which reads `variant_share`.
    """

    ignores: tuple[str, ...] = ()
    selects: bool = False


BOUNDS = ("coef_min", "coef_max")
METHOD = ("coef_features", "coef_refinement_steps")


def _variant(name: str, formula: Callable[..., torch.Tensor], ignores: tuple[str, ...] = (), **options) -> Variant:
    shared = {"needs": DELTA_CREDIT.needs, "paper": DELTA_CREDIT.paper, "prefix": DELTA_CREDIT.prefix, "copies": 2}
    return Variant(name, contrasted(formula), **shared, ignores=ignores, **options)


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        _variant("within_side", within_side),
        _variant("hard_gate", hard_gate),
        _variant("fixed_temperature", fixed_temperature),
        _variant("no_range_map", no_range_map, BOUNDS),
        _variant("no_norm", no_norm, ("coef_normalize",)),
        _variant("random", random_coefficients, METHOD),
        _variant("top_tokens", top_tokens, BOUNDS, selects=True),
        _variant("bottom_tokens", bottom_tokens, BOUNDS, selects=True),
        _variant("random_tokens", random_tokens, (*BOUNDS, *METHOD), selects=True),
        _variant("unit_length", unit_length),
        _variant("length_only", length_only, ("coef_features",)),
        _variant("uncertainty_gate", uncertainty_gate),
        _variant("side_constant", side_constant),
        _variant("per_side_norm", per_side_norm, ("coef_normalize",)),
        _variant("per_group", per_group),
        _variant("unit_per_group", unit_per_group),
        _variant("mirror", mirror),
        _variant("token_advantage", token_advantage, METHOD),
        _variant("stake_and_choice", stake_and_choice, METHOD),
        _variant("group_agreement", group_agreement, ("coef_refinement_steps",)),
        _variant("place_agreement", place_agreement, METHOD),
    )
}

SELECTIONS = tuple(name for name, variant in VARIANTS.items() if variant.selects)


@dataclass
class VariantGRPOConfig(DeltaGRPOConfig):
    """
    Configuration of `--trainer variant`, and of our own methods: [`DeltaGRPOConfig`] and the name of a variant.

    Raises:
        `ValueError`: for an unknown variant, or an option that the variant would ignore.
    """

    variant: str | None = field(
        default=None, metadata={"help": f"What replaces the published coefficients: {', '.join(VARIANTS)}."}
    )
    variant_share: float = field(
        default=0.5, metadata={"help": f"For {', '.join(SELECTIONS)}: the share of tokens kept."}
    )

    def __post_init__(self):
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}; got {self.variant!r}.")
        super().__post_init__()
        if not self.credit_enabled:
            raise ValueError(
                f"variant={self.variant!r} needs coef_min < coef_max: equal bounds switch every coefficient off."
            )
        if not 0 < self.variant_share < 1:
            raise ValueError(f"variant_share must lie between 0 and 1; got {self.variant_share}.")
        ignored = self.credit.ignores + (() if self.credit.selects else ("variant_share",))
        for option in fields(self):
            if option.name in ignored and getattr(self, option.name) != option.default:
                raise ValueError(f"variant={self.variant!r} does not read {option.name}: leave it out.")

    @property
    def credit(self) -> Variant:  # ty: ignore[incompatible-property-override]
        return VARIANTS[self.variant]
