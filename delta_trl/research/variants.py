"""Variants of DelTA's coefficients: the paper's ablations, and what the coefficients are made of taken apart.

For studies, by name: `trainer: variant` with `variant: NAME` in a YAML file for scripts/train.py, or [`VariantGRPOTrainer`].
A variant is one function with the signature of those below and an entry in `VARIANTS`; it reads like its definition. None
of this is on the path of the published method, which lives in `coefficients.py`.

Options of [`DeltaGRPOConfig`] give further ablations without a variant: K (`coef_refinement_steps`), the bounds (`coef_min`,
`coef_max`), the features (`coef_features`, `coef_top_k`).

Symbols as in `coefficients.py`: N tokens of this process, H feature size, S₊ and S₋ the advantage sides, v features. Memory
is a few float32 tensors of shape (N, H), where the published path has one chunk.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from ..coefficients import VARIANCE_FLOOR, Coefficients
from ..config import DeltaGRPOConfig
from ..features import RolloutTokens
from ..metrics import UNCERTAINTY_BINS
from ..trainer import DeltaGRPOTrainer


# Halvings of the interval that holds a quantile of coefficients: float32 knows no finer one
BISECTIONS = 40

# Ridge of the slopes, as a share of the largest eigenvalue; chosen by the credit benchmark, without training
SLOPE_RIDGE = 0.03
# Rows that are held in float64 at a time
SLOPE_ROWS = 8192


@dataclass(frozen=True)
class Rollouts:
    """
    What a variant computes from: one rollout batch's tokens, DelTA's own result, and the options.

    Attributes:
        tokens (`RolloutTokens`): The N tokens of this process.
        raw_features (`Callable`):
            From a name of `FEATURES` to features of shape (N, H) and a factor for each row or `None`.
        published (`Coefficients`): DelTA's own coefficients of these tokens, for the same options.
        options (`VariantGRPOConfig`): Bounds, K, and the variant's own.
        reduce (`Callable`): Sums a tensor over processes and returns the sum.
        n_groups (`int`): Prompt groups of the rollout batch, on all processes.
        generator (`torch.Generator`): For random variants, another one on each process; on the CPU.
        memory (`dict`): Kept from one rollout batch of a run to the next.
    """

    tokens: RolloutTokens
    raw_features: Callable[[str], tuple[torch.Tensor, torch.Tensor | None]]
    published: Coefficients
    options: "VariantGRPOConfig"
    n_groups: int
    reduce: Callable[[torch.Tensor], torch.Tensor]
    generator: torch.Generator
    memory: dict[str, torch.Tensor]

    @cached_property
    def sides(self) -> torch.Tensor:
        """Shape (2, N), bool: membership of S₊ and of S₋."""
        return torch.stack([self.tokens.advantages > 0, self.tokens.advantages < 0])

    @cached_property
    def side_number(self) -> torch.Tensor:
        """Shape (N,), int64: 0 on S₊, 1 on S₋, 2 where A = 0."""
        return torch.where(self.sides[0], 0, torch.where(self.sides[1], 1, 2))

    @property
    def published_raw(self) -> torch.Tensor:
        """DelTA's λ before it was normalised, shape (N,)."""
        return self.published.values * self.published.mean

    @property
    def groups(self) -> torch.Tensor:
        """Shape (N,), int64: the number of each token's prompt group in the whole rollout batch."""
        return self.tokens.responses // self.options.num_generations

    @property
    def uncertainty(self) -> torch.Tensor:
        """1 − p of the sampled tokens, shape (N,)."""
        return -torch.expm1(self.tokens.log_probs.float())

    def features(self, name: str | None = None, unit: bool = False) -> torch.Tensor:
        """v of the named or else the configured features, shape (N, H), float32; of length 1 with `unit`."""
        v, scale = self.raw_features(name or self.options.coef_features)
        v = v.to(self.tokens.advantages.device).float()
        if scale is not None:
            v = v * scale[:, None]
        return torch.nn.functional.normalize(v, dim=1) if unit else v

    def in_bounds(self, alpha: torch.Tensor) -> torch.Tensor:
        """λ = λ_min + (λ_max − λ_min) α; λ_min where A = 0."""
        low, high = self.options.coef_min, self.options.coef_max
        return torch.where(self.sides.any(0), low + (high - low) * alpha, low)

    def normalised(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Scaled to mean 1 over all tokens of all processes."""
        moments = torch.stack([coefficients, torch.ones_like(coefficients)])
        total, count = self.reduce(moments.double().sum(1))
        return (coefficients * (count / total)).float()

    def cell_means(self, values: torch.Tensor, cells: torch.Tensor, n_cells: int) -> torch.Tensor:
        """For each token the mean of `values` over the tokens of its cell, on all processes. Shapes (N,)."""
        moments = torch.stack([values.double(), torch.ones_like(values).double()])
        sums = self.reduce(moments.new_zeros(2, n_cells).index_add_(1, cells, moments))
        return (sums[0] / sums[1].clamp(min=1))[cells].float()


def soft_assignments(
    rollouts: Rollouts,
    v: torch.Tensor,
    *,
    own_side_only: bool = False,
    hard: bool = False,
    per_group: bool = False,
    temperatures: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The method's steps 1 to 5 on explicit features, every distance written out, with one part replaced.

    Args:
        rollouts: The rollout batch.
        v: Shape (N, H), float32.
        own_side_only: The margin is −‖v − μ_own‖², without the opposite side.
        hard: α is 1 for a positive margin and else 0: the maximiser without the entropy term.
        per_group: Centroids of each prompt group. Tokens of a group that lacks a side get margin 0.
        temperatures: (γ₊, γ₋) to use throughout, in place of the margins' own.

    Returns:
        α of the last margins, shape (N,), and (γ₊, γ₋) of the first ones, shape (2,).
    """
    side, reduce = rollouts.sides, rollouts.reduce
    weight = rollouts.tokens.advantages.abs().float() * side
    group, n_groups = (rollouts.groups, rollouts.n_groups) if per_group else (torch.zeros_like(rollouts.groups), 1)

    def centroids(alpha: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """μ₊ and μ₋ of each group, shape (2, groups, H), and whether a group has both, shape (groups,)."""
        w = weight * alpha
        sums = torch.stack([v.new_zeros(n_groups, v.shape[1]).index_add_(0, group, v * x[:, None]) for x in w])
        mass = w.new_zeros(2, n_groups).index_add_(1, group, w)
        sums, mass = reduce(sums), reduce(mass)
        return sums / mass.clamp(min=torch.finfo(mass.dtype).tiny)[..., None], (mass > 0).all(0)

    def margins(mu: torch.Tensor, both: torch.Tensor) -> torch.Tensor:
        to_positive, to_negative = ((v - m[group]).square().sum(1) for m in mu)
        own, other = torch.where(side[1], to_negative, to_positive), torch.where(side[1], to_positive, to_negative)
        return torch.where(both[group], -own if own_side_only else other - own, 0.0)

    def spread(m: torch.Tensor) -> torch.Tensor:
        count, first, second = reduce(
            torch.stack([(x * side).double().sum(1) for x in (torch.ones_like(m), m, m * m)])
        )
        return (second / count - (first / count).square()).clamp(min=VARIANCE_FLOOR).sqrt().float()

    def assign(m: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        return (m > 0).float() if hard else torch.sigmoid(m / torch.where(side[1], gamma[1], gamma[0]))

    m = margins(*centroids(torch.ones_like(weight[0])))
    first_gamma = gamma = spread(m) if temperatures is None else temperatures
    for _ in range(rollouts.options.coef_refinement_steps):
        alpha = assign(m, gamma)
        if temperatures is None:
            gamma = spread(m)  # lagged, as published
        m = margins(*centroids(alpha))
    return assign(m, gamma), first_gamma


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
    return rollouts.published_raw


def random_coefficients(rollouts: Rollouts) -> torch.Tensor:
    """λ uniform in the bounds."""
    alpha = torch.rand(len(rollouts.tokens.ids), generator=rollouts.generator).to(rollouts.tokens.advantages.device)
    return rollouts.normalised(rollouts.in_bounds(alpha))


def _selected(rollouts: Rollouts, score: torch.Tensor) -> torch.Tensor:
    """Plain loss on the `variant_share` of all tokens with the highest score, which weigh 1 / share; the others 0."""
    low, high = score.new_zeros(()), score.new_full((), 2.0)  # scores lie within (0, 2)
    n_kept = rollouts.options.variant_share * rollouts.reduce(torch.tensor([len(score)], dtype=torch.float64))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        above = rollouts.reduce((score >= middle).sum(dtype=torch.float64).view(1))
        low, high = (middle, high) if above >= n_kept else (low, middle)
    return rollouts.normalised((score >= low).float())


def top_tokens(rollouts: Rollouts) -> torch.Tensor:
    """λ only ranks: the plain loss on the `variant_share` of tokens with the highest λ."""
    return _selected(rollouts, rollouts.published_raw / rollouts.options.coef_max)


def bottom_tokens(rollouts: Rollouts) -> torch.Tensor:
    """The plain loss on the `variant_share` of tokens with the lowest λ."""
    return _selected(rollouts, 1.5 - rollouts.published_raw / rollouts.options.coef_max)


def random_tokens(rollouts: Rollouts) -> torch.Tensor:
    """The plain loss on a random `variant_share` of the tokens."""
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
    return rollouts.cell_means(rollouts.published.values, cells, 3 * UNCERTAINTY_BINS)


def side_constant(rollouts: Rollouts) -> torch.Tensor:
    """Each token gets the mean of DelTA's λ over its side."""
    return rollouts.cell_means(rollouts.published.values, rollouts.side_number, 3)


def per_side_norm(rollouts: Rollouts) -> torch.Tensor:
    """DelTA's λ, normalised to mean 1 on each side apart: the sides keep their balance."""
    return rollouts.published.values / rollouts.cell_means(rollouts.published.values, rollouts.side_number, 3)


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
    mirrored = rollouts.options.coef_min + rollouts.options.coef_max - rollouts.published_raw
    return rollouts.normalised(torch.where(rollouts.sides[0], mirrored, rollouts.published_raw))


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


def token_advantage(rollouts: Rollouts) -> torch.Tensor:
    """α = sigmoid(z / σ), z = sign(A) (w·h + b) v: a token weighs more if its own advantage, as estimated by `_slopes`, has
    the sign of its response's, and less if it has the other. σ² is the mean square of z."""
    slope, v = _slopes(rollouts)
    z = rollouts.tokens.advantages.sign().to(v) * slope * v
    _, mean_square = _moments(rollouts, z)
    deviation = mean_square.clamp(min=VARIANCE_FLOOR).sqrt()
    return rollouts.normalised(rollouts.in_bounds(torch.sigmoid(z / deviation.to(z))))


def stake_and_choice(rollouts: Rollouts) -> torch.Tensor:
    """α = sigmoid((z − z̄) / std z), z = max(w·h + b, 0) (1 + ½ sign(A) tanh v): the places where the choice decides, by the
    slopes of `_slopes`, and there the favourite of a right response and the slip of a wrong one."""
    slope, v = _slopes(rollouts)
    z = slope.clamp(min=0) * (1 + rollouts.tokens.advantages.sign().to(v) * torch.tanh(v) / 2)
    mean, mean_square = _moments(rollouts, z)
    deviation = (mean_square - mean.square()).clamp(min=VARIANCE_FLOOR).sqrt()
    return rollouts.normalised(rollouts.in_bounds(torch.sigmoid(((z - mean) / deviation).to(z))))


VARIANTS: dict[str, Callable[[Rollouts], torch.Tensor]] = {
    "within_side": within_side,
    "hard_gate": hard_gate,
    "fixed_temperature": fixed_temperature,
    "no_range_map": no_range_map,
    "no_norm": no_norm,
    "random": random_coefficients,
    "top_tokens": top_tokens,
    "bottom_tokens": bottom_tokens,
    "random_tokens": random_tokens,
    "unit_length": unit_length,
    "length_only": length_only,
    "uncertainty_gate": uncertainty_gate,
    "side_constant": side_constant,
    "per_side_norm": per_side_norm,
    "per_group": per_group,
    "unit_per_group": unit_per_group,
    "mirror": mirror,
    "token_advantage": token_advantage,
    "stake_and_choice": stake_and_choice,
}
# What reads variant_share, and which options are not read; stated there, an option would be ignored in silence
SELECTIONS = ("top_tokens", "bottom_tokens", "random_tokens")
NO_REFINEMENT = ("random", "random_tokens", "token_advantage", "stake_and_choice")
NO_BOUNDS = ("no_range_map", *SELECTIONS)
IGNORED = {
    "coef_features": ("length_only", *NO_REFINEMENT),
    "coef_refinement_steps": NO_REFINEMENT,
    "coef_min": NO_BOUNDS,
    "coef_max": NO_BOUNDS,
}


@dataclass
class VariantGRPOConfig(DeltaGRPOConfig):
    r"""
    Configuration of the [`VariantGRPOTrainer`]: [`DeltaGRPOConfig`] and the name of a variant.

    Parameters:
        variant (`str`):
            A name of `VARIANTS`.
        variant_share (`float`, *optional*, defaults to `0.5`):
            With a token selection (`top_tokens`, `bottom_tokens`, `random_tokens`): the share of tokens that is kept.

    Raises:
        `ValueError`: for an unknown variant, or an option that the variant would ignore.
    """

    variant: str | None = field(
        default=None, metadata={"help": f"Way of credit in place of the published one: {', '.join(VARIANTS)}."}
    )
    variant_share: float = field(
        default=0.5, metadata={"help": "For top_tokens, bottom_tokens and random_tokens: the share of tokens kept."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}; got {self.variant!r}.")
        if not self.coef_enabled:
            raise ValueError(
                f"variant={self.variant!r} needs coef_min < coef_max: equal bounds switch every coefficient off."
            )
        if not 0 < self.variant_share < 1:
            raise ValueError(f"variant_share must lie between 0 and 1; got {self.variant_share}.")
        if self.variant not in SELECTIONS and self.variant_share != 0.5:
            raise ValueError(f"variant_share is read by {', '.join(SELECTIONS)} only; got variant={self.variant!r}.")
        for option in self.coef_changed:
            if self.variant in IGNORED.get(option, ()):
                raise ValueError(f"variant={self.variant!r} does not read {option}: leave it out.")


class VariantGRPOTrainer(DeltaGRPOTrainer):
    """[`DeltaGRPOTrainer`] with another way of credit: `VARIANTS[args.variant]` in place of the published coefficients."""

    config_class = VariantGRPOConfig
    _tag_names = ["trl", "grpo", "delta", "delta-variant"]

    def __init__(self, model, reward_funcs=None, args: VariantGRPOConfig | None = None, *positional, **kwargs):
        super().__init__(model, reward_funcs, args, *positional, **kwargs)
        self._memory: dict[str, torch.Tensor] = {}

    def _compute_coefficients(self, tokens: RolloutTokens) -> Coefficients:
        # A copy for each that asks: the hidden gradient is written over the states
        published = super()._compute_coefficients(replace(tokens, hidden=tokens.hidden.clone()))
        if published.fallback is not None:
            return published
        if self.args.variant == "fixed_temperature" and self.state.global_step > 0 and not self._memory:
            raise RuntimeError(
                "variant='fixed_temperature' cannot be resumed: it keeps the temperatures of the run's first rollout batch, "
                "which no checkpoint holds. Start the run again."
            )
        return Coefficients(VARIANTS[self.args.variant](self._rollouts(tokens, published)))

    def _rollouts(self, tokens: RolloutTokens, published: Coefficients) -> Rollouts:
        generator = torch.Generator()
        process, step = self.accelerator.process_index, self.state.global_step
        generator.manual_seed((self.args.seed * 1_000_003 + step) * 65_537 + process)
        return Rollouts(
            tokens=tokens,
            raw_features=lambda name: self._features(replace(tokens, hidden=tokens.hidden.clone()), name),
            published=published,
            options=self.args,
            n_groups=self.args.generation_batch_size // self.args.num_generations,
            reduce=self.accelerator.reduce,
            generator=generator,
            memory=self._memory,
        )
