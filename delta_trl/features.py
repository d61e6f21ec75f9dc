"""From a forward pass of the policy to token features (paper, appendix F).

The hidden states h that the LM head reads are recorded in a pass that is made anyway, packed (one row a token), and turned
into features, one row v a token:

- `output_row` (the published default): the gradient of log π with respect to the LM-head row of the sampled token,
  v = (1 − p)·h. The factor 1 − p stays apart, so the recorded states are used as they are.
- `hidden_gradient` (the paper's stronger proxy): v = ∂ log π / ∂h, through soft-capping, logit scaling and temperature.
  For a plain head that is (W_y − Wᵀp) / temperature; with `top_k` > 0, p is the softmax over the K most likely tokens.
- `temperature_gradient` (not in the paper): v = log π − E log π, one number, the gradient with respect to the logarithm of
  the inverse temperature.
- `local_temperature_gradient` (not in the paper): v = (log π − E log π)·h, the same where each place has a temperature of
  its own. It is the published feature with another factor.

A further feature is one function with the signature of these, and an entry in `FEATURES`.

Symbols: N tokens, H hidden size, V vocabulary size, (B, T) completions and their padded length.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate.utils import is_peft_model
from torch import nn
from torch.distributed.tensor import DTensor
from trl.trainer.utils import maybe_gather_lm_head_ctx


# With coef_offload="auto", recorded states go to host memory if they would take more than this share of the device
# memory that is free when the first of them arrive. The rest of the pass, the loss and its backward still need room.
OFFLOAD_SHARE = 0.25

# Elements of one chunk of logits: 256 MiB in float32. A few temporaries of this size exist at a time.
LOGIT_CHUNK_ELEMENTS = 2**26

# Largest median difference, in nats, between TRL's log-probabilities and those of the head as read here, before the
# features are refused. Logits around 30 are rounded by 0.06 in bf16; a missed scale or soft cap is off by whole nats.
LOG_PROB_TOLERANCE = 0.1


@dataclass(frozen=True)
class RolloutTokens:
    """
    What token credit may depend on: the N valid tokens of this process's share of a rollout batch.

    Attributes:
        hidden (`torch.Tensor`):
            Shape (N, H), in the policy's dtype: the LM head's inputs. May lie in host memory.
        log_probs (`torch.Tensor`):
            Shape (N,): TRL's log-probabilities of the sampled tokens, in nats.
        ids (`torch.Tensor`):
            Shape (N,), int64: the sampled tokens.
        advantages (`torch.Tensor`):
            Shape (N,): the advantage of each token's response.
        responses (`torch.Tensor`):
            Shape (N,), int64: the number of each token's response in the whole rollout batch, before TRL shuffles it. The
            G responses of prompt group g are numbers g·G to g·G + G − 1.
    """

    hidden: torch.Tensor
    log_probs: torch.Tensor
    ids: torch.Tensor
    advantages: torch.Tensor
    responses: torch.Tensor


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

    def _allocate(self, rows: torch.Tensor) -> torch.Tensor:
        """One buffer for the whole batch: joining chunks at the end would hold every state twice."""
        shape = (int(self.token_mask.sum()), rows.shape[1])
        device = rows.device
        if self.offload == "always":
            device = torch.device("cpu")
        elif self.offload == "auto" and rows.is_cuda:
            free, _ = torch.cuda.mem_get_info(rows.device)
            if shape[0] * shape[1] * rows.element_size() > OFFLOAD_SHARE * free:
                device = torch.device("cpu")
        # Copies between pinned memory and the device do not block, and casts happen on the device
        return torch.empty(shape, dtype=rows.dtype, device=device, pin_memory=device.type == "cpu" and rows.is_cuda)

    def check_complete(self, backbone: nn.Module) -> None:
        """Raise `RuntimeError` unless every row of the batch has passed through the backbone exactly once."""
        if self._rows != len(self.token_mask):
            raise RuntimeError(
                f"Recorded the hidden states of {self._rows} of {len(self.token_mask)} sequences from "
                f"{type(backbone).__name__}. DelTA needs a causal language model that computes logits from "
                "`model.base_model(...).last_hidden_state`, uncompiled. Set coef_min = coef_max to train without DelTA."
            )


@contextmanager
def record_hidden_states(model: nn.Module, token_mask: torch.Tensor, offload: str = "never") -> Iterator[HiddenStates]:
    """Record the LM head's inputs of the one pass over the batch that `model` makes inside this context.

    `model` is the unwrapped policy, with or without PEFT adapters; `token_mask` has shape (B, T), bool. TRL's fused LM head
    reads the head's weight directly, so a hook on the head never fires; the backbone's output is the same tensor.
    """
    backbone = _causal_lm(model).base_model
    hidden_states = HiddenStates(token_mask, offload)
    handle = backbone.register_forward_hook(
        lambda module, args, output: hidden_states.append(output.last_hidden_state.detach())
    )
    try:
        yield hidden_states
    finally:
        handle.remove()
    hidden_states.check_complete(backbone)


def output_row(
    hidden: torch.Tensor,
    log_probs: torch.Tensor,
    tokens: torch.Tensor,
    model: nn.Module,
    temperature: float,
    top_k: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    v = (1 − p)·h, the gradient with respect to the sampled token's row of the LM head.

    Args:
        hidden: Shape (N, H), the LM head's inputs. May lie in host memory.
        log_probs: Shape (N,), TRL's log-probabilities of the sampled tokens, in nats.
        tokens: Shape (N,), int64, the sampled tokens.
        model: The unwrapped policy.
        temperature: That TRL divides the logits by.
        top_k: For `hidden_gradient`.

    Returns:
        Features of shape (N, H), and a factor for each row of shape (N,), or `None` for 1.
    """
    return hidden, -torch.expm1(log_probs)  # 1 − p, exact also for p near 1


def hidden_gradient(
    hidden: torch.Tensor,
    log_probs: torch.Tensor,
    tokens: torch.Tensor,
    model: nn.Module,
    temperature: float,
    top_k: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    v = ∂ log π(token) / ∂h, over the whole vocabulary or, with `top_k` > 0, over the K most likely tokens.

    Arguments and result as in [`output_row`]; `hidden` is overwritten, so that no second (N, H) tensor exists. One chunk of
    logits is held at a time. Under ZeRO-3 and FSDP2 the head is gathered once, by all processes.

    Raises:
        `RuntimeError`: if the head as read here does not give TRL's log-probabilities.
    """
    with gathered_lm_head(model, temperature) as head:
        for part, h in _head_chunks(hidden, head, log_probs.device):
            y = tokens[part, None]
            log_pi, slope = head.log_probs_and_slope(h)
            head.check(log_pi.gather(1, y)[:, 0], log_probs[part])
            # ∂ log π_y / ∂h = slope_y W_y − Σ_j p_j slope_j W_j, with slope_j = ∂(logit_j) / ∂(W_j·h)
            p = log_pi.exp_()
            if top_k > 0:
                most, index = p.topk(min(top_k, p.shape[1]), dim=1)
                p = torch.zeros_like(p).scatter_(1, index, most / most.sum(1, keepdim=True))
            weight_of_row = p.neg_().scatter_add_(1, y, torch.ones_like(y, dtype=p.dtype)).mul_(slope)
            hidden[part].copy_(weight_of_row.to(head.weight.dtype) @ head.weight, non_blocking=True)
    return hidden, None


def temperature_gradient(
    hidden: torch.Tensor,
    log_probs: torch.Tensor,
    tokens: torch.Tensor,
    model: nn.Module,
    temperature: float,
    top_k: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    v = ∂ log π(token) / ∂ log β at β = 1, for logits β·z: z_y − Σ_j p_j z_j = log π(token) + entropy, shape (N, 1).

    Not in the paper. The output row says where the policy is and how unsure, but not which token it chose there. This says
    how much likelier the chosen token was than a choice at this place is on average, and nothing about the place: positive
    for the favourite, negative for a slip, near 0 where all choices are alike.

    Arguments as in [`output_row`]. One chunk of logits is held at a time. Under ZeRO-3 and FSDP2 the head is gathered once,
    by all processes.

    Raises:
        `RuntimeError`: if the head as read here does not give TRL's log-probabilities.
    """
    return _likelier_than_average(hidden, log_probs, tokens, model, temperature)[:, None], None


def local_temperature_gradient(
    hidden: torch.Tensor,
    log_probs: torch.Tensor,
    tokens: torch.Tensor,
    model: nn.Module,
    temperature: float,
    top_k: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    v = (log π(token) + entropy)·h = ∂ log π(token) / ∂w at w = 0, for logits exp(w·h)·z, shape (N, H).

    Not in the paper. As [`temperature_gradient`], but the inverse temperature is a function of the hidden state: of two
    places where the favourite was chosen, the batch may show that it decides at one and does not matter at the other.

    Arguments, cost and errors as there.
    """
    return hidden, _likelier_than_average(hidden, log_probs, tokens, model, temperature)


def _likelier_than_average(
    hidden: torch.Tensor, log_probs: torch.Tensor, tokens: torch.Tensor, model: nn.Module, temperature: float
) -> torch.Tensor:
    """log π(token) − E log π, shape (N,), float32."""
    values = torch.empty(len(hidden), device=log_probs.device)
    with gathered_lm_head(model, temperature) as head:
        for part, h in _head_chunks(hidden, head, log_probs.device):
            log_pi, _ = head.log_probs_and_slope(h)
            head.check(log_pi.gather(1, tokens[part, None])[:, 0], log_probs[part])
            # An impossible token adds 0 · −∞ to the mean: its limit is 0
            values[part] = log_probs[part] - (log_pi.exp() * log_pi).nan_to_num(nan=0.0).sum(1)
    return values


def _head_chunks(hidden: torch.Tensor, head: "LMHead", device: torch.device) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield (slice, hidden states on the device), as many as one chunk of logits has room for."""
    step = max(1, LOGIT_CHUNK_ELEMENTS // len(head.weight))
    for start in range(0, len(hidden), step):
        part = slice(start, start + step)
        yield part, hidden[part].to(device, non_blocking=True)


FEATURES: dict[str, Callable] = {
    "output_row": output_row,
    "hidden_gradient": hidden_gradient,
    "temperature_gradient": temperature_gradient,
    "local_temperature_gradient": local_temperature_gradient,
}


@dataclass(frozen=True)
class LMHead:
    """
    From hidden states to logits: logits = softcap(scale · (W h + b)) / temperature.

    Attributes:
        weight: Shape (V, H), gathered.
        bias: Shape (V,), or `None`.
        scale: Factor on the projection, before soft-capping.
        soft_cap: c of c·tanh(x / c), or `None`.
        temperature: Divides the logits last.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    scale: float
    soft_cap: float | None
    temperature: float

    def log_probs_and_slope(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Log-probabilities of every token, shape (n, V), float32 or better, and ∂ logit / ∂ (W h + b)."""
        logits = hidden.to(self.weight.dtype) @ self.weight.T
        if self.bias is not None:
            logits += self.bias
        if logits.dtype != torch.float64:
            logits = logits.float()
        logits *= self.scale
        slope = self.scale / self.temperature
        if self.soft_cap is not None:
            squashed = torch.tanh_(logits.div_(self.soft_cap))
            slope = (1 - squashed.square()).mul_(slope)
            logits = squashed.mul_(self.soft_cap)
        return logits.div_(self.temperature).log_softmax(1), slope

    def check(self, computed: torch.Tensor, expected: torch.Tensor) -> None:
        """Raise `RuntimeError` if this is not the head that TRL used. Both shapes (n,)."""
        difference = (computed - expected).abs()
        difference = difference[difference.isfinite()]  # a NaN falls back later, on all processes
        if len(difference) and difference.median() > LOG_PROB_TOLERANCE:
            raise RuntimeError(
                "coef_features other than 'output_row' read the LM head as softcap(scale · (W h + b)) / temperature, with "
                f"scale={self.scale}, soft_cap={self.soft_cap}, temperature={self.temperature}, but log-probabilities then "
                f"differ from TRL's by {difference.median():.3g} nats. This architecture computes its logits otherwise: use "
                "coef_features='output_row'."
            )


@contextmanager
def gathered_lm_head(model: nn.Module, temperature: float) -> Iterator[LMHead]:
    """The policy's LM head with its full weight, also under ZeRO-3 and FSDP2. All processes must enter together."""
    causal_lm = _causal_lm(model)
    config = causal_lm.config.get_text_config()
    # The names under which architectures keep a factor on the logits; `logits_scaling` divides, except in one of them
    scale = next(
        (
            getattr(config, name)
            for name in ("logit_scale", "output_multiplier", "lm_head_multiplier")
            if getattr(config, name, None) is not None
        ),
        None,
    )
    if scale is None and getattr(config, "logits_scaling", None) is not None:
        scale = config.logits_scaling if config.model_type == "hyperclovax" else 1 / config.logits_scaling
    head = causal_lm.get_output_embeddings()
    bias = getattr(head, "bias", None)
    with maybe_gather_lm_head_ctx(head.weight, bias):
        full = [
            t.full_tensor().detach() if isinstance(t, DTensor) else None if t is None else t.detach()
            for t in (head.weight, bias)
        ]
        soft_cap = getattr(config, "final_logit_softcapping", None)
        yield LMHead(*full, 1.0 if scale is None else scale, soft_cap, temperature)


def _causal_lm(model: nn.Module) -> nn.Module:
    return model.get_base_model() if is_peft_model(model) else model
