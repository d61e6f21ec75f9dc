"""Responses sampled from one policy, kept in a file: what stability is measured on."""

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch

from ..rollout import Rollout


@dataclass(frozen=True)
class Pool:
    """
    Responses sampled from one policy, with everything that coefficients are computed from. N tokens, B responses.

    Attributes:
        features (`dict`): From a name of `FEATURES` to v, shape (N, ·), float32.
        hidden (`torch.Tensor`): Shape (N, H): as in `Rollout`.
        log_probs, entropies, ids, responses (`torch.Tensor`): Shape (N,): as in `Rollout`.
        classes (`np.ndarray`): Shape (N,): indices of `credit.tokens.CLASSES`.
        wording (`torch.Tensor`): Shape (N,), bool: tokens without a digit and outside the box.
        rewards (`torch.Tensor`): Shape (B,), 0 or 1.
        group (`int`): Responses of a prompt; those of prompt g are numbers g·group to g·group + group − 1.
    """

    features: dict[str, torch.Tensor]
    hidden: torch.Tensor
    log_probs: torch.Tensor
    entropies: torch.Tensor
    ids: torch.Tensor
    responses: torch.Tensor
    classes: np.ndarray
    wording: torch.Tensor
    rewards: torch.Tensor
    group: int

    def rollout(self, numbers: torch.Tensor, advantages: torch.Tensor, first: int, responses: int) -> Rollout:
        """
        A rollout batch of the tokens with these numbers, with these advantages, both shape (N,): those of `responses`
        responses from number `first` on.
        """
        return Rollout(
            hidden=self.hidden[numbers],
            log_probs=self.log_probs[numbers],
            entropies=self.entropies[numbers],
            ids=self.ids[numbers],
            advantages=advantages,
            responses=self.responses[numbers] - first,
            group_size=self.group,
            n_groups=responses // self.group,
        )


def save_pool(pool: Pool, path: Path) -> None:
    """Tensors and a number, which can be read again without running what a file says."""
    torch.save({**vars(pool), "classes": torch.from_numpy(pool.classes)}, path)


def load_pool(path: Path) -> Pool:
    """What `save_pool` wrote; `ValueError` for any other file."""
    try:
        content = torch.load(path, weights_only=True)
        return Pool(**{**content, "classes": content["classes"].numpy()})
    except (RuntimeError, OSError, EOFError, TypeError, LookupError, UnpicklingError) as error:
        raise ValueError(
            f"{path} holds no pool of responses: {error} Delete it, and they are sampled again."
        ) from error
