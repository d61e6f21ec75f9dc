"""Token features from recorded hidden states and the LM head (paper, appendix F).

A feature is one row v for each token:

- `output_row` (the published default): the gradient of log π with respect to the LM-head row of the sampled token,
  v = (1 − p)·h. The factor 1 − p stays apart, so the recorded states are used as they are.
- `hidden_gradient` (the paper's stronger proxy): v = ∂ log π / ∂h, through soft-capping, logit scaling and temperature.
  For a plain head that is (W_y − Wᵀp) / temperature; with `top_k` > 0, p is the softmax over the K most likely tokens.
- `temperature_gradient` (not in the paper): v = log π − E log π, one number, the gradient with respect to the logarithm of
  the inverse temperature.
- `local_temperature_gradient` (not in the paper): v = (log π − E log π)·h, the same where each place has a temperature of
  its own. It is the published feature with another factor.

A further feature is one function with the signature of these, and an entry in `FEATURES`:

    feature(tokens, policy, *, out=None) -> (rows, scale)

    tokens (`Tokens`): N tokens, a [`Rollout`] say, which stay as they are, unless `out` is their `hidden`.
    policy (`Policy`): gives the LM head, where the feature needs it.
    out (`torch.Tensor`, *optional*): where a feature that has to compute (N, H) values writes them. `tokens.hidden` itself,
        when nothing needs it any more, so that no second tensor of that size exists. `None`: new memory.
    rows, scale: features of shape (N, ·), without gradient, and a factor for each row of shape (N,), or `None` for 1.

Those that read the LM head hold one chunk of logits at a time. Under ZeRO-3 and FSDP2 they gather the head once, on all
processes, and raise `RuntimeError` if the head as read here does not give TRL's log-probabilities.

Symbols: N tokens, H hidden size, V vocabulary size.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from trl.trainer.utils import maybe_gather_lm_head_ctx

from .hidden_states import causal_lm


# Elements of one chunk of logits: 256 MiB in float32. A few temporaries of this size exist at a time.
LOGIT_CHUNK_ELEMENTS = 2**26

# Largest median difference, in nats, between TRL's log-probabilities and those of the head as read here, before the
# features are refused. Logits around 30 are rounded by 0.06 in bf16; a missed scale or soft cap is off by whole nats.
LOG_PROB_TOLERANCE = 0.1


class Tokens(Protocol):
    """What features read of N tokens: the LM head's inputs, log-probabilities, and the sampled tokens; see [`Rollout`]."""

    hidden: torch.Tensor
    log_probs: torch.Tensor
    ids: torch.Tensor


Rows = tuple[torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True)
class Policy:
    """
    Where features find the LM head.

    Attributes:
        model: The unwrapped policy, with or without PEFT adapters.
        temperature: That TRL divides the logits by.
        top_k: For `hidden_gradient`: how many of the most likely tokens its softmax runs over. 0: the whole vocabulary.
    """

    model: nn.Module
    temperature: float = 1.0
    top_k: int = 0


def output_row(tokens: Tokens, policy: Policy, *, out: torch.Tensor | None = None) -> Rows:
    """v = (1 − p)·h, the gradient with respect to the sampled token's row of the LM head. `rows` is `tokens.hidden`."""
    return tokens.hidden, -torch.expm1(tokens.log_probs)  # 1 − p, exact also for p near 1


def hidden_gradient(tokens: Tokens, policy: Policy, *, out: torch.Tensor | None = None) -> Rows:
    """v = ∂ log π(token) / ∂h, over the whole vocabulary or, with `policy.top_k` > 0, over the K most likely tokens."""
    rows = torch.empty_like(tokens.hidden) if out is None else out
    for part, y, head, log_pi, slope in _log_probs_in_chunks(tokens, policy):
        # ∂ log π_y / ∂h = slope_y W_y − Σ_j p_j slope_j W_j, with slope_j = ∂(logit_j) / ∂(W_j·h)
        p = log_pi.exp_()
        if policy.top_k > 0:
            most, index = p.topk(min(policy.top_k, p.shape[1]), dim=1)
            p = torch.zeros_like(p).scatter_(1, index, most / most.sum(1, keepdim=True))
        weight_of_row = p.neg_().scatter_add_(1, y, torch.ones_like(y, dtype=p.dtype)).mul_(slope)
        rows[part].copy_(weight_of_row.to(head.weight.dtype) @ head.weight, non_blocking=True)
    return rows, None


def temperature_gradient(tokens: Tokens, policy: Policy, *, out: torch.Tensor | None = None) -> Rows:
    """
    v = ∂ log π(token) / ∂ log β at β = 1, for logits β·z: z_y − Σ_j p_j z_j = log π(token) + entropy, shape (N, 1).

    Not in the paper. The output row says where the policy is and how unsure, but not which token it chose there. This says
    how much likelier the chosen token was than a choice at this place is on average, and nothing about the place: positive
    for the favourite, negative for a slip, near 0 where all choices are alike.
    """
    return _likelier_than_average(tokens, policy)[:, None], None


def local_temperature_gradient(tokens: Tokens, policy: Policy, *, out: torch.Tensor | None = None) -> Rows:
    """
    v = (log π(token) + entropy)·h = ∂ log π(token) / ∂w at w = 0, for logits exp(w·h)·z. `rows` is `tokens.hidden`.

    Not in the paper. As [`temperature_gradient`], but the inverse temperature is a function of the hidden state: of two
    places where the favourite was chosen, the batch may show that it decides at one and does not matter at the other.
    """
    return tokens.hidden, _likelier_than_average(tokens, policy)


FEATURES: dict[str, Callable[..., Rows]] = {
    "output_row": output_row,
    "hidden_gradient": hidden_gradient,
    "temperature_gradient": temperature_gradient,
    "local_temperature_gradient": local_temperature_gradient,
}


def _likelier_than_average(tokens: Tokens, policy: Policy) -> torch.Tensor:
    """log π(token) − E log π, shape (N,), float32."""
    values = torch.empty(len(tokens.hidden), device=tokens.log_probs.device)
    for part, _, _, log_pi, _ in _log_probs_in_chunks(tokens, policy):
        # An impossible token adds 0 · −∞ to the mean: its limit is 0
        values[part] = tokens.log_probs[part] - (log_pi.exp() * log_pi).nan_to_num(nan=0.0).sum(1)
    return values


def _log_probs_in_chunks(tokens: Tokens, policy: Policy) -> Iterator[tuple]:
    """
    Yield, for as many tokens as one chunk of logits has room for: their slice, the sampled tokens (n, 1), the head,
    log-probabilities of every token (n, V), which may be overwritten, and ∂ logit / ∂ (W h + b).
    """
    with gathered_lm_head(policy.model, policy.temperature) as head:
        step = max(1, LOGIT_CHUNK_ELEMENTS // len(head.weight))
        for start in range(0, len(tokens.hidden), step):
            part = slice(start, start + step)
            y = tokens.ids[part, None]
            log_pi, slope = head.log_probs_and_slope(tokens.hidden[part].to(y.device, non_blocking=True))
            head.check(log_pi.gather(1, y)[:, 0], tokens.log_probs[part])
            yield part, y, head, log_pi, slope


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
def gathered_lm_head(model: nn.Module, temperature: float) -> Generator[LMHead, None, None]:
    """The policy's LM head with its full weight, also under ZeRO-3 and FSDP2. All processes must enter together."""
    policy = causal_lm(model)
    config = policy.config.get_text_config()
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
    head = policy.get_output_embeddings()
    bias = getattr(head, "bias", None)
    with maybe_gather_lm_head_ctx(head.weight, bias):
        full = [
            t.full_tensor().detach() if isinstance(t, DTensor) else None if t is None else t.detach()
            for t in (head.weight, bias)
        ]
        soft_cap = getattr(config, "final_logit_softcapping", None)
        yield LMHead(*full, 1.0 if scale is None else scale, soft_cap, temperature)
