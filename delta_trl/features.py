"""From a forward pass of the policy to token features (paper, appendix F).

The output-row feature of a token is v = (1 − p)·h: h is the LM head's input at the position that predicts the token, p the
token's probability. TRL computes log-probabilities with a fused LM head that reads the head's weight directly, so a hook
on the head never fires; the backbone's output is the same tensor, and is recorded instead.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils import is_peft_model
from torch import nn


class HiddenStates:
    """
    The LM head's inputs at the positions that predict the valid tokens of a batch of completions.

    Args:
        token_mask (`torch.Tensor`):
            Shape (B, T), bool: which completion tokens to keep, T being the padded completion length.

    Attributes:
        packed (`torch.Tensor` or `None`):
            Shape (N, H) with N = `token_mask.sum()`: kept rows only, in the order of `token_mask`, in the dtype and on the
            device they came in. `None` until the first pass.
    """

    def __init__(self, token_mask: torch.Tensor):
        self.token_mask = token_mask
        self.packed: torch.Tensor | None = None
        self._rows = self._tokens = 0  # filled so far: TRL runs the batch in chunks of rows

    def append(self, last_hidden_state: torch.Tensor) -> None:
        """Keep the next rows of the batch from a backbone output of shape (rows, prompt + T, H)."""
        length = self.token_mask.shape[1]
        # Position t predicts token t + 1, so the last T tokens are predicted one position earlier
        predicting = last_hidden_state[:, -length - 1 : -1]
        mask = self.token_mask[self._rows : self._rows + len(predicting)].to(predicting.device)
        rows = predicting[mask]
        if self.packed is None:
            # One buffer for the whole batch: joining chunks at the end would hold every feature twice
            self.packed = rows.new_empty(int(self.token_mask.sum()), rows.shape[1])
        self.packed[self._tokens : self._tokens + len(rows)] = rows
        self._rows += len(mask)
        self._tokens += len(rows)

    def check_complete(self, backbone: nn.Module) -> None:
        """Raise `RuntimeError` unless every row of the batch has passed through the backbone exactly once."""
        if self._rows != len(self.token_mask):
            raise RuntimeError(
                f"Recorded the hidden states of {self._rows} of {len(self.token_mask)} sequences from "
                f"{type(backbone).__name__}. DelTA needs a causal language model that computes logits from "
                "`model.base_model(...).last_hidden_state`, uncompiled. Set coef_min = coef_max to train without DelTA."
            )


@contextmanager
def record_hidden_states(model: nn.Module, token_mask: torch.Tensor) -> Iterator[HiddenStates]:
    """Record the LM head's inputs of the one pass over the batch that `model` makes inside this context, without gradient.

    `model` is the unwrapped policy, with or without PEFT adapters; `token_mask` has shape (B, T), bool.
    """
    backbone = (model.get_base_model() if is_peft_model(model) else model).base_model
    hidden_states = HiddenStates(token_mask)
    handle = backbone.register_forward_hook(
        lambda module, args, output: hidden_states.append(output.last_hidden_state.detach())
    )
    try:
        yield hidden_states
    finally:
        handle.remove()
    hidden_states.check_complete(backbone)
