"""AR, advantage reweighting (arXiv 2505.12929): unlikely tokens weigh less, w = α·p + (1 − α)."""

from dataclasses import dataclass, field

import torch

from ..coefficients import Coefficients
from ..config import TokenCreditConfig
from ..credit import Credit


def ar_weights(log_probs: torch.Tensor, alpha: float = 0.3) -> torch.Tensor:
    """w = α·p + (1 − α). `log_probs` are those of the sampled tokens, any shape."""
    return alpha * log_probs.exp() + (1 - alpha)


@dataclass
class ARConfig(TokenCreditConfig):
    """
    Configuration of AR: [`TokenCreditConfig`] and α. p is the policy's probability when the rollout batch was sampled, and
    stays for all updates on it.

    Raises:
        `ValueError`: for an α outside (0, 1], and for `importance_sampling_level="sequence"`.
    """

    credit = Credit(
        "AR",
        lambda rollout, options: Coefficients(ar_weights(rollout.log_probs.float(), options.ar_alpha)),
        paper={"title": "Do Not Let Low-Probability Tokens Over-Dominate in RL for LLMs", "id": "2505.12929"},
    )

    ar_alpha: float = field(
        default=0.3,
        metadata={"help": "α of a token's weight α·p + (1 - α). Above 0 and at most 1. Default as published."},
    )

    def __post_init__(self):
        super().__post_init__()
        self._require_share("ar_alpha")
