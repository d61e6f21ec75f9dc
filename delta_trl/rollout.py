"""`Rollout`: one rollout batch as a method of token credit sees it. It knows no trainer."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from .coefficients import NO_CONTRAST, NON_FINITE
from .features import FEATURES, Policy, Rows


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """The sum, or the concatenation, over a single process."""
    return tensor


def _no_policy(prompts: Sequence[Any] | None = None) -> torch.Tensor:
    raise RuntimeError("This rollout batch has no policy that could be asked again: give it a replay.")


@dataclass(frozen=True)
class Rollout:
    """
    The N tokens of this process's share of a rollout batch that count in the loss, and what can be asked about them.

    Attributes:
        hidden (`torch.Tensor`):
            Shape (N, H), in the policy's dtype: the LM head's inputs. May lie in host memory, and may be overwritten, since
            nothing else reads them. Shape (N, 0) for a method that does not need them.
        log_probs (`torch.Tensor`):
            Shape (N,): TRL's log-probabilities of the sampled tokens, in nats.
        ids (`torch.Tensor`):
            Shape (N,), int64: the sampled tokens.
        advantages (`torch.Tensor`):
            Shape (N,): the advantage of each token's response.
        responses (`torch.Tensor`):
            Shape (N,), int64: the number of each token's response in the whole rollout batch, before TRL shuffles it. The
            tokens of a response are in order. The G responses of prompt group g are numbers g·G to g·G + G − 1.
        entropies (`torch.Tensor` or `None`):
            Shape (N,): entropy of the policy at each token, in nats; for a method that needs them.
        group_size (`int`):
            G, responses of a prompt.
        first_response (`int`):
            The number of this process's first response.
        n_groups (`int`):
            Prompt groups of the rollout batch, on all processes.
        policy (`Policy`, *optional*):
            Gives features their LM head.
        batch (`Mapping`):
            TRL's own rollout batch, of shapes (B, ·), for this process.
        inputs (`Sequence`):
            The dataset's row of each of this process's B responses.
        replay (`Callable`, *optional*, without which a method that replays raises `RuntimeError`):
            From B prompts, or without any for the responses' own, to log-probabilities of the tokens, shape (N,), under the
            policy as it is by then: one forward pass without gradient, which all processes make together.
        reduce, gather (`Callable`):
            The sum of a tensor over processes; the 1-D tensors of all processes, whose lengths may differ, concatenated.
        generator (`torch.Generator`):
            For random methods, another one on each process; on the CPU.
        resumed (`bool`):
            Whether the run continues one of an earlier process, so that `memory` lacks what that one kept.
        memory (`dict`):
            Kept from one rollout batch of a run to the next.
    """

    hidden: torch.Tensor
    log_probs: torch.Tensor
    ids: torch.Tensor
    advantages: torch.Tensor
    responses: torch.Tensor
    entropies: torch.Tensor | None = None
    group_size: int = 1
    n_groups: int = 1
    first_response: int = 0
    policy: Policy | None = None
    batch: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[Mapping[str, Any]] = ()
    replay: Callable[..., torch.Tensor] = _no_policy
    reduce: Callable[[torch.Tensor], torch.Tensor] = _alone
    gather: Callable[[torch.Tensor], torch.Tensor] = _alone
    generator: torch.Generator = field(default_factory=torch.Generator)
    resumed: bool = False
    memory: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def sides(self) -> torch.Tensor:
        """Shape (2, N), bool: membership of S₊ and of S₋."""
        return torch.stack([self.advantages > 0, self.advantages < 0])

    @cached_property
    def side_number(self) -> torch.Tensor:
        """Shape (N,), int64: 0 on S₊, 1 on S₋, 2 where A = 0."""
        return torch.where(self.sides[0], 0, torch.where(self.sides[1], 1, 2))

    @property
    def groups(self) -> torch.Tensor:
        """Shape (N,), int64: the number of each token's prompt group in the whole rollout batch."""
        return self.responses // self.group_size

    def of_response(self, values: torch.Tensor) -> torch.Tensor:
        """From one value for each of this process's B responses to one for each token, shape (N,)."""
        return values.to(self.responses.device)[self.responses - self.first_response]

    @property
    def uncertainty(self) -> torch.Tensor:
        """1 − p of the sampled tokens, shape (N,), at least 0 where rounding leaves log p above it."""
        return -torch.expm1(self.log_probs.float()).clamp(max=0)

    def raw_features(self, name: str, out: torch.Tensor | None = None) -> Rows:
        """One of `FEATURES` as it returns them: rows, shape (N, ·), and a factor for each row or `None`."""
        return FEATURES[name](self, self.policy, out=out)

    def features(self, name: str, unit: bool = False) -> torch.Tensor:
        """v of one of `FEATURES`, shape (N, ·), float32; of length 1 with `unit`."""
        v, scale = self.raw_features(name)
        v = v.to(self.advantages.device).float()
        if scale is not None:
            v = v * scale[:, None]
        return torch.nn.functional.normalize(v, dim=1) if unit else v

    def contrast_fallback(self) -> str | None:
        """Why there can be no contrast between the sides, as in [`Coefficients`], judged by the tokens alone."""
        inputs = (self.hidden, self.log_probs, self.advantages)
        broken = sum((~t.isfinite()).sum().to(self.sides.device) for t in inputs)
        positive, negative, broken = self.reduce(torch.stack([*self.sides.sum(1), broken])).tolist()
        return NON_FINITE if broken else None if positive and negative else NO_CONTRAST

    def mean_one(self, values: torch.Tensor, normalize: str = "all") -> torch.Tensor:
        """Values, shape (N,), scaled to mean 1 over all processes' tokens, or with "credited" over those with A ≠ 0."""
        counted = torch.ones_like(self.sides[0]) if normalize == "all" else self.sides.any(0)
        moments = torch.stack([values, torch.ones_like(values)]) * counted
        total, count = self.reduce(moments.double().sum(1))
        return (values * (count / total)).float()

    def cell_means(self, values: torch.Tensor, cells: torch.Tensor, n_cells: int) -> torch.Tensor:
        """For each token the mean of `values` over the tokens of its cell, on all processes. Shapes (N,)."""
        moments = torch.stack([values.double(), torch.ones_like(values).double()])
        sums = self.reduce(moments.new_zeros(2, n_cells).index_add_(1, cells, moments))
        return (sums[0] / sums[1].clamp(min=1))[cells].float()

    def top_share(self, scores: torch.Tensor, share: float) -> torch.Tensor:
        """Which tokens score highest, `share` of those of all processes. Ties at the threshold are all in. Shapes (N,)."""
        everyone = self.gather(scores)
        if not len(everyone):
            return torch.zeros_like(scores, dtype=torch.bool)
        kept = math.ceil(share * len(everyone))
        return scores >= everyone.kthvalue(len(everyone) - kept + 1).values
