"""Completions with the coefficient of every token, kept on disk for pictures: `completions/coefficients_STEP.parquet`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def completion_records(
    batch: dict[str, Any],
    per_token_logps: torch.Tensor,
    token_mask: torch.Tensor,
    rewards: list[float],
    tokenizer: "PreTrainedTokenizerBase",
) -> list[dict[str, Any]]:
    """
    One record a completion, for the first `len(rewards)` rows of a rollout batch.

    Args:
        batch: TRL's rollout batch, with `token_coefficients`.
        per_token_logps: Shape (B, T), log-probabilities under the policy that sampled, in nats.
        token_mask: Shape (B, T), bool: tokens that the model wrote and that count in the loss.
        rewards: Total reward of each row to keep.
        tokenizer: Decodes prompts and single tokens.

    Returns:
        Records with `prompt` (text, as the model saw it), `completion_ids`, `tokens` (each id decoded by itself),
        `is_token` (False for what a tool wrote), `coefficients`, `log_probs`, `advantage` and `reward`.
    """
    records = []
    for i, reward in enumerate(rewards):
        # Without padding. A truncated completion that is masked out has no row left, and an empty record.
        written = batch["completion_mask"][i].bool()
        ids = batch["completion_ids"][i][written].tolist()
        records.append(
            {
                "prompt": tokenizer.decode(batch["prompt_ids"][i][batch["prompt_mask"][i].bool()]),
                "completion_ids": ids,
                "tokens": tokenizer.batch_decode([[token] for token in ids]),
                "is_token": token_mask[i][written].tolist(),
                "coefficients": batch["token_coefficients"][i][written].tolist(),
                "log_probs": per_token_logps[i][written].tolist(),
                "advantage": batch["advantages"][i].item(),
                "reward": reward,
            }
        )
    return records


def write_completion_records(records: list[dict[str, Any]], output_dir: str, step: int) -> None:
    """Write the records of all processes next to TRL's own completions."""
    frame = pd.DataFrame(records)
    frame.insert(0, "step", step)
    folder = Path(output_dir) / "completions"
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(folder / f"coefficients_{step:05d}.parquet")
