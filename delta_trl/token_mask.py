"""Which tokens count: exactly those whose advantage TRL's loss can turn into gradient.

All that is computed over the tokens of a rollout batch runs over these: centroids, temperatures, quantiles, means, logged
statistics. A token that the loss multiplies by 0 would shape the weights of others, and learn nothing by its own.

Symbols: B completions of a padded length of T tokens.
"""

from typing import Any

import torch
from trl import GRPOTrainer


# Entries that are added to TRL's rollout batch. Shapes (B,): whether any reward function gave the completion a number, and
# its number in the process's share of the rollout batch, which TRL shuffles; and (B, T): the tokens that count.
SCORED, ROWS, COUNTED = "scored", "rows", "counted_tokens"


def token_mask(batch: dict[str, Any]) -> torch.Tensor:
    """Shape (B, T), bool: the tokens of a rollout batch that count, as `counted_tokens` found; its loss's without that."""
    return batch[COUNTED] if COUNTED in batch else loss_mask(batch)


def loss_mask(batch: dict[str, Any]) -> torch.Tensor:
    """Shape (B, T), bool: no padding, no truncated completion that is masked out, nothing that a tool wrote."""
    mask = batch["completion_mask"].bool()
    return mask & batch["tool_mask"].bool() if "tool_mask" in batch else mask


@torch.no_grad()
def counted_tokens(trainer: GRPOTrainer, batch: dict[str, Any], log_probs: torch.Tensor) -> torch.Tensor:
    """
    Shape (B, T), bool: the tokens of a (rollout or micro-) batch whose advantage can reach the gradient.

    Besides what `loss_mask` leaves out, these do not count:

    - completions that no reward function scored (`None`): their advantage of 0 says nothing about them. One of a group
      with equal rewards does count, with an advantage of 0.
    - what TRL's vLLM correction multiplies by 0: sequences under its default `sequence_mask`, tokens under `token_mask`.
    - completions that the off-policy mask (`off_policy_mask_threshold`) drops for these log-probabilities. It is drawn
      again in every update, so that a later one may still differ.

    Clipping and `top_entropy_quantile` depend on the update and its micro-batch: any token may come through them.

    Args:
        trainer: Whose loss it is.
        batch: TRL's, with advantages of shape (B,).
        log_probs: Shape (B, T), of the completions under the policy.
    """
    mask = loss_mask(batch)
    if SCORED in batch:
        # Older versions of TRL give an unscored completion the reward 0, and so perhaps an advantage
        mask = mask & (batch[SCORED] | (batch["advantages"] != 0))[:, None]
    # vespo's weight of a sequence absorbs the ratio instead: a masked token has gradient as the others have
    if "importance_sampling_ratio" in batch and trainer.loss_type != "vespo":
        mask = mask & (batch["importance_sampling_ratio"] != 0)
    if trainer.off_policy_mask_threshold is not None:
        sampled = batch.get("sampling_per_token_logps", batch.get("old_per_token_logps", log_probs))
        kept = trainer.get_off_policy_mask(
            advantages=batch["advantages"][:, None],
            per_token_logps=log_probs,
            sampling_per_token_logps=sampled,
            mask=loss_mask(batch),
            off_policy_threshold=trainer.off_policy_mask_threshold,
        )
        mask = mask & kept.bool()
    return mask
