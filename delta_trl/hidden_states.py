"""Recording of hidden states: the LM head's inputs, kept from a forward pass of the policy, one row for each token.

Symbols: N tokens, H hidden size, (B, T) completions and their padded length.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import nn
from transformers import PreTrainedModel


# With coef_offload="auto", recorded states go to host memory if they would take more than this share of the device
# memory that is free when the first of them arrive. The rest of the pass, the loss and its backward still need room.
OFFLOAD_SHARE = 0.25


class HiddenStates:
    """
    The LM head's inputs at the positions that predict the valid tokens of a batch of completions.

    Args:
        token_mask (`torch.Tensor`):
            Shape (B, T), bool: which completion tokens to keep.
        offload (`str`, *optional*, defaults to `"never"`):
            Whether to keep them in host memory: `"always"`, `"never"`, or `"auto"` (if they would take more than
            `OFFLOAD_SHARE` of the free device memory).

    Attributes:
        packed (`torch.Tensor` or `None`):
            Shape (N, H) with N = `token_mask.sum()`: kept rows only, in the order of `token_mask`, in the dtype they came
            in. `None` until the first pass.
    """

    def __init__(self, token_mask: torch.Tensor, offload: str = "never"):
        self.token_mask = token_mask
        self.offload = offload
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
            self.packed = self._allocate(rows)
        self.packed[self._tokens : self._tokens + len(rows)].copy_(rows, non_blocking=True)
        self._rows += len(mask)
        self._tokens += len(rows)

    def put(self, rows: torch.Tensor, packed: torch.Tensor) -> None:
        """Keep the states of some rows of the batch, in any order: numbers of rows, and (n, H), their kept states."""
        if self.packed is None:
            self.packed = self._allocate(packed)
        lengths = self.token_mask.sum(1)
        places = (lengths.cumsum(0) - lengths)[:, None] + self.token_mask.cumsum(1) - 1
        places = places[rows][self.token_mask[rows]]
        self.packed[places.to(self.packed.device)] = packed.to(self.packed.device)
        self._rows += len(rows)

    @property
    def is_complete(self) -> bool:
        """Whether as many rows were kept as the batch has."""
        return self._rows == len(self.token_mask)

    def _allocate(self, rows: torch.Tensor) -> torch.Tensor:
        """One buffer for the whole batch: joining chunks at the end would hold every state twice."""
        shape = (int(self.token_mask.sum()), rows.shape[1])
        device = rows.device
        free = free_memory(device) if self.offload == "auto" else None
        is_large = free is not None and shape[0] * shape[1] * rows.element_size() > OFFLOAD_SHARE * free
        if self.offload == "always" or is_large:
            device = torch.device("cpu")
        # Copies between pinned memory and the device do not block, and casts happen on the device
        return torch.empty(shape, dtype=rows.dtype, device=device, pin_memory=device.type == "cpu" and rows.is_cuda)

    def check_complete(self, backbone: nn.Module) -> None:
        """Raise `RuntimeError` unless every row of the batch has passed through the backbone exactly once."""
        if not self.is_complete:
            raise RuntimeError(
                f"Recorded the hidden states of {self._rows} of {len(self.token_mask)} sequences from "
                f"{type(backbone).__name__}. DelTA needs a causal language model that computes logits from "
                "`model.base_model(...).last_hidden_state`, uncompiled. Set coef_min = coef_max to train without DelTA."
            )


@contextmanager
def record_hidden_states(
    model: nn.Module, token_mask: torch.Tensor, offload: str = "never"
) -> Generator[HiddenStates, None, None]:
    """Record the LM head's inputs of the one pass over the batch that `model` makes inside this context.

    `model` is the unwrapped policy, with or without PEFT adapters; `token_mask` has shape (B, T), bool. TRL's fused LM head
    reads the head's weight directly, so a hook on the head never fires; the backbone's output is the same tensor.
    """
    backbone = causal_lm(model).base_model
    hidden_states = HiddenStates(token_mask, offload)
    handle = backbone.register_forward_hook(
        lambda module, args, output: hidden_states.append(output.last_hidden_state.detach())
    )
    try:
        yield hidden_states
    finally:
        handle.remove()
    hidden_states.check_complete(backbone)


def causal_lm(model: Any) -> PreTrainedModel:
    """The causal language model below PEFT adapters, if there are any."""
    return model.get_base_model() if is_peft_model(model) else model


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a GPU; `None` for a device without memory of its own."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
