"""Completions with the coefficient of every token, as `run_folder` keeps them for pictures."""

from typing import TYPE_CHECKING, Any

import torch
from tokenizers.decoders import DecodeStream


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
        token_mask: Shape (B, T), bool: the tokens that count.
        rewards: Total reward of each row to keep.
        tokenizer: Decodes prompts and completions.

    Returns:
        Records with `prompt` (text, as the model saw it), `completion_ids`, `tokens` (the text that each id adds),
        `is_token` (False for what does not count, such as the words of a tool), `coefficients`, `log_probs`, `advantage`
        and `reward`.
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
                "tokens": token_texts(ids, tokenizer),
                "is_token": token_mask[i][written].tolist(),
                "coefficients": batch["token_coefficients"][i][written].tolist(),
                "log_probs": per_token_logps[i][written].tolist(),
                "advantage": batch["advantages"][i].item(),
                "reward": reward,
            }
        )
    return records


def token_texts(ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """
    The text that each token adds to a completion; joined, they are its text, special tokens included.

    A token decoded by itself may lose its leading space, and a character that is split over tokens would be unreadable: it
    is shown whole at the last of them.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # written in Python: it has no stream
        return tokenizer.batch_decode([[token] for token in ids])
    stream = DecodeStream(skip_special_tokens=False)
    return [stream.step(backend, token) or "" for token in ids]
