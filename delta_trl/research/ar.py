"""AR, advantage reweighting (arXiv 2505.12929): unlikely tokens weigh less, w = α·p + (1 − α)."""

from dataclasses import dataclass, field

import torch

from .weights import WeightedGRPOConfig, WeightedGRPOTrainer


def ar_weights(log_probs: torch.Tensor, alpha: float = 0.3) -> torch.Tensor:
    """w = α·p + (1 − α). `log_probs` are those of the sampled tokens, any shape."""
    return alpha * log_probs.exp() + (1 - alpha)


@dataclass
class ARConfig(WeightedGRPOConfig):
    """
    Configuration of the [`ARTrainer`]: [`GRPOBaseConfig`] and α.

    Raises:
        `ValueError`: for an α outside (0, 1], and for `importance_sampling_level="sequence"`.
    """

    method = "AR"

    ar_alpha: float = field(
        default=0.3,
        metadata={"help": "α of a token's weight α·p + (1 - α). Above 0 and at most 1. Default as published."},
    )

    def __post_init__(self):
        super().__post_init__()
        self._require_share("ar_alpha")


class ARTrainer(WeightedGRPOTrainer):
    """
    Trainer for AR, advantage reweighting (https://huggingface.co/papers/2505.12929), with an [`ARConfig`] as `args`.

    p is the policy's probability when the rollout batch was sampled, and stays for all updates on it.
    """

    config_class = ARConfig
    metrics_prefix = "ar"
    _tag_names = ["trl", "grpo", "ar"]
    _name = "AR"
    _paper = {"title": "Do Not Let Low-Probability Tokens Over-Dominate in RL for LLMs", "id": "2505.12929"}

    def token_weights(self, batch, recorded, mask):
        return ar_weights(recorded.log_probs[mask].float(), self.args.ar_alpha)
