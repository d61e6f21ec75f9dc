"""GTPO (arXiv 2508.04349): within a response, tokens weigh by entropy, w = 1 + β (H / mean H − 1)."""

from dataclasses import dataclass, field

import torch

from ..coefficients import Coefficients
from ..config import TokenCreditConfig
from ..credit import Credit


def gtpo_weights(entropies: torch.Tensor, responses: torch.Tensor, beta: float = 0.1) -> torch.Tensor:
    """
    w = 1 + β (H / mean H − 1), the mean over the tokens of a response. 1 in a response without any entropy.

    Args:
        entropies: Entropy of the policy at every token, in nats, shape (N,).
        responses: Number of each token's response, from 0, shape (N,), int64.
        beta: Share of a token's weight that entropy distributes.
    """
    n_responses = int(responses.max()) + 1 if len(responses) else 0
    sums, counts = entropies.new_zeros(2, n_responses).index_add_(
        1, responses, torch.stack([entropies, torch.ones_like(entropies)])
    )
    means = (sums / counts.clamp(min=1))[responses]
    # A certain response has nothing to distribute
    return torch.where(means == 0, 1.0, 1 + beta * (entropies / means - 1))


@dataclass
class GTPOConfig(TokenCreditConfig):
    """
    Configuration of GTPO: [`TokenCreditConfig`] and β. The weights multiply the advantage of the response; the paper shapes
    rewards in the same proportion before it normalises them.

    Raises:
        `ValueError`: for a β outside (0, 1], and for `importance_sampling_level="sequence"`.
    """

    credit = Credit(
        "GTPO",
        lambda rollout, options: Coefficients(gtpo_weights(rollout.entropies, rollout.responses, options.gtpo_beta)),
        needs=frozenset({"entropies"}),
        paper={
            "title": "GTPO and GRPO-S: Token and Sequence-Level Reward Shaping with Policy Entropy",
            "id": "2508.04349",
        },
    )

    gtpo_beta: float = field(
        default=0.1,
        metadata={
            "help": "β of a token's weight 1 + β (H / mean H - 1). Above 0 and at most 1, so that no weight is negative. "
            "Default: that of an open implementation, not the paper's."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        self._require_share("gtpo_beta")
