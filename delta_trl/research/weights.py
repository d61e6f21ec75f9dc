"""What the trainers of rival methods share that weigh each token's advantage: their config, and the trainer around the
formula. A rival is one function from packed tokens, shape (N,), to weights, a config with its options, and a trainer."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from accelerate.logging import get_logger

from ..config import GRPOBaseConfig
from ..token_coefficients import RecordedPass, TokenCoefficientsTrainer
from ..token_mask import token_mask


logger = get_logger(__name__)


@dataclass
class WeightedGRPOConfig(GRPOBaseConfig):
    """[`GRPOBaseConfig`] that refuses `importance_sampling_level="sequence"`, where weights would have no effect."""

    method: ClassVar[str]

    def __post_init__(self):
        super().__post_init__()
        self._require_token_level(self.method)

    def _require_share(self, option: str) -> None:
        """Raise `ValueError` unless the option, a method's share of the weights, lies above 0 and is at most 1."""
        value = getattr(self, option)
        if not 0 < value <= 1:
            raise ValueError(f"{option} must lie above 0 and be at most 1; got {value}. 0 is DAPO: --trainer dapo.")


class WeightedGRPOTrainer(TokenCoefficientsTrainer):
    """
    Multiplies each token's advantage by a weight, computed once for each rollout batch from one pass of the policy.

    Weights are used as they are, without normalisation. If one of them is not finite on any process, all weights of that
    rollout batch are 1 on all processes.

    Metrics, over the tokens of all processes: `NAME/mean`, `NAME/share_above_1`, `NAME/non_finite`, besides
    `NAME/extra_forward_passes` and `NAME/seconds`.
    """

    def token_weights(self, batch: dict[str, Any], recorded: RecordedPass, mask: torch.Tensor) -> torch.Tensor:
        """Weights of the N = `mask.sum()` tokens of a local rollout batch, shape (N,). All processes call it together."""
        raise NotImplementedError

    @torch.no_grad()
    def add_token_coefficients(self, batch: dict[str, Any], recorded: RecordedPass) -> None:
        mask = token_mask(batch)
        weights = self.token_weights(batch, recorded, mask).float()
        finite = weights.isfinite()
        sums = torch.stack([weights.sum(), (weights > 1).sum(), finite.sum(), (~finite).sum()])
        total, above, count, broken = self.accelerator.reduce(sums).tolist()
        if broken:
            logger.warning(
                f"A token weight of {self._name} is not finite: this rollout batch is trained on without weights."
            )
            weights = torch.ones_like(weights)
        batch["token_coefficients"] = torch.ones(mask.shape, device=mask.device)
        batch["token_coefficients"][mask] = weights
        metrics = self._metrics["train"]
        metrics[f"{self.metrics_prefix}/non_finite"].append(float(broken > 0))
        if count > 0 and not broken:
            metrics[f"{self.metrics_prefix}/mean"].append(total / count)
            metrics[f"{self.metrics_prefix}/share_above_1"].append(above / count)
