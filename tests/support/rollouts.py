"""Rollouts that no model made."""

import torch

from delta_trl.rollout import Rollout


def made_rollout(n=50, seed=0, **fields):
    generator = torch.Generator().manual_seed(seed)
    responses = torch.arange(n) // 10
    return Rollout(
        hidden=torch.empty(n, 0),
        log_probs=-3 * torch.rand(n, generator=generator),
        ids=torch.zeros(n, dtype=torch.int64),
        advantages=torch.tensor([1.5, -0.5, 0.0, -1.0, 0.7])[responses],
        responses=responses,
        entropies=torch.rand(n, generator=generator),
        **fields,
    )


def rollouts_with_tool_output(prompts, trainer):
    """Completions with two tokens in the middle that the model did not write."""
    encode = trainer.processing_class
    completions = [encode(f"{i}ab{'7' * (i * i % 5)}c?")["input_ids"] for i in range(len(prompts))]
    return {
        "prompt_ids": [encode(prompt)["input_ids"] for prompt in prompts],
        "completion_ids": completions,
        "logprobs": None,
        "env_mask": [[1, 0, 0] + [1] * (len(ids) - 3) for ids in completions],
    }
