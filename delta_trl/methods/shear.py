"""SHEAR (arXiv 2604.23318): a token weighs by how far its span's hidden states lie from those of the opposite side.

w = max over the token's spans of the least W₁ to a span of the other side in the prompt group, over the group's mean |h|.
The formula is from digests: the paper itself was not at hand.
"""

import math
from dataclasses import dataclass, field

import torch

from ..coefficients import Coefficients
from ..config import TokenCreditConfig
from ..credit import Credit
from ..rollout import Rollout


TITLE = "Hidden States Know Where Reasoning Diverges: Credit Assignment via Span-Level Wasserstein Distance"
# Sinkhorn's regularisation, as a share of the mean cost, and its steps, both ours; costs that are held at a time
EPSILON, STEPS, COSTS = 0.1, 20, 2**24


def windows(length: int, span: int, stride: int) -> torch.Tensor:
    """Positions of a response's spans, shape (spans, n): one every `stride` tokens, and one that ends with the response."""
    n = min(span, length)
    return torch.tensor([*range(0, length - n, stride), length - n])[:, None] + torch.arange(n)


def wasserstein(cost: torch.Tensor) -> torch.Tensor:
    """W₁ of uniform distributions, shape (...), by Sinkhorn's iteration, from costs of transport, shape (..., n, m)."""
    k = -cost / (EPSILON * cost.mean((-2, -1), keepdim=True)).clamp(min=torch.finfo(cost.dtype).tiny)
    v = torch.zeros_like(k[..., :1, :])
    for _ in range(STEPS):
        u = -math.log(k.shape[-2]) - (k + v).logsumexp(-1, keepdim=True)
        v = -math.log(k.shape[-1]) - (k + u).logsumexp(-2, keepdim=True)
    return ((k + u + v).exp() * cost).sum((-2, -1))


def separation(one: torch.Tensor, others: list[torch.Tensor], span: int, stride: int) -> torch.Tensor:
    """Of each token of a response, hidden states (T, H), from the other side's responses, (T', H) each. Shape (T,)."""
    own, nearest = windows(len(one), span, stride).to(one.device), []
    for other in others:
        cost, at = torch.cdist(one, other), windows(len(other), span, stride)
        chunks = own.split(max(1, COSTS // (at.numel() * own.shape[1])))
        nearest.append(
            torch.cat([wasserstein(cost[rows[:, None, :, None], at[None, :, None]]).amin(1) for rows in chunks])
        )
    of_span = torch.stack(nearest).amin(0)[:, None].expand_as(own)
    return one.new_zeros(len(one)).scatter_reduce(0, own.flatten(), of_span.flatten(), "amax")


def shear(rollout: Rollout, options: "SHEARConfig") -> Coefficients:
    """1 in a group that lacks a side. Processes gather hidden states, since a group may lie on several."""
    hidden = rollout.hidden.to(rollout.advantages.device).float()
    h = rollout.gather(hidden.flatten()).unflatten(0, (-1, hidden.shape[1]))
    responses, sign = (rollout.gather(values) for values in (rollout.responses, rollout.advantages.sign()))
    weights = torch.ones_like(hidden[:, 0])
    for number in rollout.responses[rollout.advantages != 0].unique():
        own, group = responses == number, responses // rollout.group_size == number // rollout.group_size
        if others := [h[responses == other] for other in responses[group & (sign == -sign[own][0])].unique()]:
            distance = separation(h[own], others, options.shear_span, options.shear_stride)
            weights[rollout.responses == number] = distance / h[group].norm(dim=1).mean()
    return Coefficients(weights)


@dataclass
class SHEARConfig(TokenCreditConfig):
    """[`TokenCreditConfig`] and the spans. Raises `ValueError` for a span or a stride below 1."""

    credit = Credit("SHEAR", shear, needs=frozenset({"hidden"}), paper={"title": TITLE, "id": "2604.23318"}, copies=1)

    shear_span: int = field(default=100, metadata={"help": "Tokens of a span. Default as published."})
    shear_stride: int = field(
        default=25, metadata={"help": "Tokens from one span's start to the next. Default as published."}
    )

    def __post_init__(self):
        super().__post_init__()
        if min(self.shear_span, self.shear_stride) < 1:
            raise ValueError(f"Both must be at least 1: got {self.shear_span=} and {self.shear_stride=}.")
