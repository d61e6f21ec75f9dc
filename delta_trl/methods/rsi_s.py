"""RSI-S (arXiv 2606.31575): train on the tokens whose surprisal, relative to the policy's entropy, lies in a band.

RSI = −log p / H. Tokens below the band are redundant, those above it an unstable tail. Formula and bounds are those of
digests and of open implementations: the paper itself was not at hand.
"""

import math
from dataclasses import dataclass, field

import torch

from ..coefficients import Coefficients
from ..config import TokenCreditConfig
from ..credit import Credit
from ..rollout import Rollout


# In nats: where there was no choice, a token is redundant, and its index is 0
CERTAIN = 1e-8


def relative_surprisal(log_probs: torch.Tensor, entropies: torch.Tensor) -> torch.Tensor:
    """−log p / H, shape (N,); 0 where the policy was certain. 1 is what a sampled token has on average."""
    return torch.where(entropies > CERTAIN, -log_probs / entropies.clamp(min=CERTAIN), 0.0)


def rsi_s(rollout: Rollout, options: "RSISConfig") -> Coefficients:
    """The mean loss of the tokens in the band: they weigh alike, the others 0."""
    index = relative_surprisal(rollout.log_probs.float(), rollout.entropies)
    return Coefficients(rollout.mean_one(((index >= options.rsi_s_min) & (index <= options.rsi_s_max)).float()))


@dataclass
class RSISConfig(TokenCreditConfig):
    """
    Configuration of RSI-S: [`TokenCreditConfig`] and the band.

    Raises:
        `ValueError`: for a band that is empty, and for `importance_sampling_level="sequence"`.
    """

    credit = Credit(
        "RSI-S",
        rsi_s,
        needs=frozenset({"entropies"}),
        paper={
            "title": "Which Tokens Matter? Adaptive Token Selection for RLVR with the Relative Surprisal Index",
            "id": "2606.31575",
        },
        prefix="rsi_s",
    )

    rsi_s_min: float = field(
        default=0.5,
        metadata={"help": "Lowest -log p / H of a token that is trained on. Default: that of open implementations."},
    )
    rsi_s_max: float = field(
        default=2.0,
        metadata={"help": "Highest -log p / H of a token that is trained on. Default: that of open implementations."},
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.rsi_s_min < self.rsi_s_max < math.inf:
            raise ValueError(f"It takes 0 <= rsi_s_min < rsi_s_max; got {self.rsi_s_min} and {self.rsi_s_max}.")
