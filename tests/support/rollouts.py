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
