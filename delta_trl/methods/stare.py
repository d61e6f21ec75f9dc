"""STARE (arXiv 2606.19236): the most surprising tokens of right responses weigh more while the policy's entropy is low."""

import math
from dataclasses import dataclass, field

import torch

from ..coefficients import Coefficients
from ..config import TokenCreditConfig
from ..credit import Credit
from ..metrics import Collective
from ..rollout import Rollout


def stare_weights(
    log_probs: torch.Tensor,
    entropies: torch.Tensor,
    advantages: torch.Tensor,
    *,
    weight: float = 1.1,
    share: float = 0.1,
    target_entropy: float = 0.3,
    reduce: Collective = lambda sums: sums,
    gather: Collective = lambda values: values,
) -> torch.Tensor:
    """
    `weight` on the `share` of the tokens with A > 0 that have the lowest log-probs, if the mean entropy of all tokens is
    below `target_entropy`; else 1. Ties at the threshold all count as surprising.

    Args:
        log_probs, entropies, advantages: Of the tokens of this process, shape (N,).
        reduce, gather: Sums a tensor over processes; concatenates the 1-D tensors of all processes. Every process calls
            each of them once.
    """
    total, count = reduce(torch.stack([entropies.double().sum(), entropies.new_tensor(len(entropies)).double()]))
    surprisals = gather(-log_probs[advantages > 0])
    weights = torch.ones_like(log_probs)
    # NaN is not below
    if len(surprisals) and total / count < target_entropy:
        kept = math.ceil(share * len(surprisals))
        threshold = surprisals.kthvalue(len(surprisals) - kept + 1).values
        weights[(advantages > 0) & (-log_probs >= threshold)] = weight
    return weights


def stare(rollout: Rollout, options: "STAREConfig") -> Coefficients:
    """Quantile and entropy are those of the rollout batch on all processes."""
    weights = stare_weights(
        rollout.log_probs.float(),
        rollout.entropies,
        rollout.advantages,
        weight=options.stare_weight,
        share=options.stare_share,
        target_entropy=options.stare_target_entropy,
        reduce=rollout.reduce,
        gather=rollout.gather,
    )
    return Coefficients(weights)


@dataclass
class STAREConfig(TokenCreditConfig):
    """
    Configuration of STARE: [`TokenCreditConfig`] and STARE's options.

    Raises:
        `ValueError`: for values that the method does not define, and for `importance_sampling_level="sequence"`.
    """

    credit = Credit(
        "STARE",
        stare,
        needs=frozenset({"entropies"}),
        paper={
            "title": "STARE: Surprisal-Guided Token-Level Advantage Reweighting for Policy Entropy Stability",
            "id": "2606.19236",
        },
    )

    stare_weight: float = field(
        default=1.1,
        metadata={
            "help": "Weight of the most surprising tokens with a positive advantage. Above 1. Default as published."
        },
    )
    stare_share: float = field(
        default=0.1,
        metadata={
            "help": "Share of the rollout batch's tokens with a positive advantage that count as most surprising. Above 0 "
            "and below 1. Default as published."
        },
    )
    stare_target_entropy: float = field(
        default=0.3,
        metadata={
            "help": "Weights are all 1 unless the mean entropy of the rollout batch's tokens, in nats, is below this. "
            "Default as published."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if not 1 < self.stare_weight < math.inf:
            raise ValueError(f"stare_weight must exceed 1; got {self.stare_weight}. 1 is DAPO: --trainer dapo.")
        if not 0 < self.stare_share < 1:
            raise ValueError(f"stare_share must lie between 0 and 1; got {self.stare_share}.")
        if not self.stare_target_entropy > 0:
            raise ValueError(
                f"stare_target_entropy must be positive; got {self.stare_target_entropy}. No entropy is below 0, so that "
                "nothing would ever be weighted."
            )
