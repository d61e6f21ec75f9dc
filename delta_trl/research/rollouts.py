"""What variants of DelTA's coefficients are computed from, and the method's steps with a part replaced.

Symbols as in `coefficients.py`: N tokens of this process, H feature size, S₊ and S₋ the advantage sides, v features. Memory
is a few float32 tensors of shape (N, H), where the published path has one chunk.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from ..coefficients import (
    NO_CONTRAST,
    NON_FINITE,
    Coefficients,
    assign,
    delta_coefficients,
    margins,
    range_map,
    refine,
    spread,
)
from ..config import DeltaGRPOConfig
from ..features import Rows
from ..hidden_states import RolloutTokens
from ..trainer import DeltaGRPOTrainer


@dataclass(frozen=True)
class Rollouts:
    """
    What a variant computes from: one rollout batch's tokens and the options.

    Attributes:
        tokens (`RolloutTokens`): The N tokens of this process. They stay as they are.
        raw_features (`Callable`): From a name of `FEATURES` to features of shape (N, H) and a factor for each row or `None`.
        options (`DeltaGRPOConfig`): Bounds, K, features.
        n_groups (`int`): Prompt groups of the rollout batch, on all processes.
        reduce (`Callable`): Sums a tensor over processes and returns the sum.
        gather (`Callable`): Returns the 1-D tensors of all processes, concatenated; their lengths may differ.
        generator (`torch.Generator`): For random variants, another one on each process; on the CPU.
        memory (`dict`): Kept from one rollout batch of a run to the next.
        share (`float`): Of the tokens, for token selections.
    """

    tokens: RolloutTokens
    raw_features: Callable[[str], Rows]
    options: DeltaGRPOConfig
    n_groups: int
    reduce: Callable[[torch.Tensor], torch.Tensor]
    gather: Callable[[torch.Tensor], torch.Tensor]
    generator: torch.Generator
    memory: dict[str, torch.Tensor]
    share: float = 0.5

    @classmethod
    def of(cls, trainer: DeltaGRPOTrainer, tokens: RolloutTokens, *, seed: int, **replaced: Any) -> "Rollouts":
        """A trainer's rollout batch under the trainer's options. `replaced`: attributes that are to differ."""
        found = {
            "raw_features": partial(trainer._features, tokens),
            "options": trainer.args,
            "n_groups": trainer.args.generation_batch_size // trainer.args.num_generations,
            "reduce": trainer.accelerator.reduce,
            "gather": trainer._gather_uneven,
            "generator": torch.Generator().manual_seed(seed),
            "memory": {},
        }
        return cls(tokens=tokens, **{**found, **replaced})

    def fallback(self) -> str | None:
        """Why there can be no coefficients, as in [`Coefficients`], judged by the tokens alone."""
        tokens = self.tokens
        inputs = (tokens.hidden, tokens.log_probs, tokens.advantages)
        broken = sum((~t.isfinite()).sum().to(self.sides.device) for t in inputs)
        positive, negative, broken = self.reduce(torch.stack([*self.sides.sum(1), broken])).tolist()
        return NON_FINITE if broken else None if positive and negative else NO_CONTRAST

    def published(self) -> Coefficients:
        """DelTA's own coefficients of these tokens, for the same options."""
        rows, scale = self.raw_features(self.options.coef_features)
        return delta_coefficients(
            rows,
            self.tokens.advantages,
            feature_scale=scale,
            coef_min=self.options.coef_min,
            coef_max=self.options.coef_max,
            refinement_steps=self.options.coef_refinement_steps,
            normalize=self.options.coef_normalize,
            all_reduce=self.reduce,
        )

    @cached_property
    def sides(self) -> torch.Tensor:
        """Shape (2, N), bool: membership of S₊ and of S₋."""
        return torch.stack([self.tokens.advantages > 0, self.tokens.advantages < 0])

    @cached_property
    def side_number(self) -> torch.Tensor:
        """Shape (N,), int64: 0 on S₊, 1 on S₋, 2 where A = 0."""
        return torch.where(self.sides[0], 0, torch.where(self.sides[1], 1, 2))

    def published_raw(self) -> torch.Tensor:
        """DelTA's λ before it was normalised, shape (N,)."""
        published = self.published()
        return published.values * published.mean

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
        return range_map(alpha, self.sides.any(0), self.options.coef_min, self.options.coef_max)

    def normalised(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Scaled to mean 1 over the tokens of all processes that `coef_normalize` says."""
        counted = torch.ones_like(self.sides[0]) if self.options.coef_normalize == "all" else self.sides.any(0)
        moments = torch.stack([coefficients, torch.ones_like(coefficients)]) * counted
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
    The method's steps 1 to 5, as in `delta_coefficients`, with one part replaced.

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
    side, negative = rollouts.sides, rollouts.sides[1]
    weight = rollouts.tokens.advantages.abs().float() * side
    group, n_groups = (rollouts.groups, rollouts.n_groups) if per_group else (torch.zeros_like(rollouts.groups), 1)

    def margins_at(alpha: torch.Tensor | None) -> torch.Tensor:
        """Margins at the centroids of each group with weights |A| α."""
        w = weight if alpha is None else weight * alpha
        sums = torch.stack([v.new_zeros(n_groups, v.shape[1]).index_add_(0, group, v * x[:, None]) for x in w])
        sums, mass = rollouts.reduce(sums), rollouts.reduce(w.new_zeros(2, n_groups).index_add_(1, group, w))
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
        rollouts.options.coef_refinement_steps,
        reduce=lambda *sums: [rollouts.reduce(s) for s in sums],
        spread=spread_and_keep,
        assign=(lambda m, gamma, negative: (m > 0).float()) if hard else assign,
    )
    return alpha, used[0]
