"""FIPO, Future-KL Influenced Policy Optimization (arXiv 2603.19835), as a baseline: each token's advantage is weighted by
how the current update has so far changed the tokens that follow it.

With δ the log-ratio of a token between the current policy and the one that sampled it, A the advantage, and c the
dual-clip bound (TRL's option `delta`):

    F_t = Σ_{k≥t} γ^(k−t) M_k δ_k,   γ = 2^(−1 / half-life),   M_k: a token that counts, with δ_k ≤ ln c
    f_t = clip(exp F_t, 1.0, 1.2),   and where A < 0 and δ_t > ln c: clip(f_t, 0.8, 1.0)
    A'_t = A f_t, in the loss of DAPO with dual clip c

A response with more than one token with A < 0 and δ > ln c is dropped: its advantages become 0. The settings are those
under which the DelTA paper compares with FIPO.
"""

import math
import textwrap
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.logging import get_logger
from torch.nn.functional import pad
from trl import GRPOTrainer

from ..base import GRPOBaseTrainer
from ..config import GRPOBaseConfig
from ..seams import with_signature_of
from ..token_mask import counted_tokens


logger = get_logger(__name__)

# Of a dual-clipped token with a negative advantage: never weighted up
DUAL_CLIPPED_MIN, DUAL_CLIPPED_MAX = 0.8, 1.0
# A response with more dual-clipped tokens of negative advantage is dropped
DUAL_CLIPPED_ALLOWED = 1

# The losses that read the dual-clip bound, and have one ratio for each token
LOSS_TYPES = ("dapo", "grpo", "bnpo", "dr_grpo")


@torch.no_grad()
def fipo_weights(
    log_ratios: torch.Tensor,
    mask: torch.Tensor,
    advantages: torch.Tensor,
    *,
    half_life: float = 32.0,
    clip_min: float = 1.0,
    clip_max: float = 1.2,
    log_ratio_clamp: float = 20.0,
    dual_clip: float = 10.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Weights of the tokens' advantages, without gradient.

    Args:
        log_ratios: log π − log π_old of every token, shape (B, T), any floating dtype. What stands where `mask` is false,
            NaN included, does not matter.
        mask: True at the response's tokens that count, shape (B, T). Distances count the positions in between, too.
        advantages: Shape (B,) or (B, T).
        half_life: Distance in tokens at which a later token counts half.
        clip_min, clip_max: Bounds of the weights.
        log_ratio_clamp: Log-ratios are clamped to ± this.
        dual_clip: Ratio above which a token leaves the sum.

    Returns:
        The weights f, shape (B, T), float32 (float64 for float64), 1 where `mask` is false; and which responses are
        dropped, shape (B,), bool.
    """
    mask = mask.bool()
    log_ratios = log_ratios if log_ratios.dtype == torch.float64 else log_ratios.float()
    deltas = log_ratios.clamp(-log_ratio_clamp, log_ratio_clamp).masked_fill(~mask, 0.0)
    beyond = deltas > math.log(dual_clip)

    # Doubling: after j rounds each position holds the sum over its next 2^j positions. No (T, T) matrix, and no division
    # by a power of γ, which would overflow for long responses.
    future = deltas.masked_fill(beyond, 0.0)
    distance = 1
    while distance < future.shape[1]:
        future = future + 2.0 ** (-distance / half_life) * pad(future[:, distance:], (0, distance))
        distance *= 2

    weights = future.exp().clamp(clip_min, clip_max)
    negative = advantages.reshape(len(mask), -1) < 0
    dual_clipped = beyond & negative
    weights = torch.where(dual_clipped, weights.clamp(DUAL_CLIPPED_MIN, DUAL_CLIPPED_MAX), weights)
    return weights.masked_fill(~mask, 1.0), dual_clipped.sum(1) > DUAL_CLIPPED_ALLOWED


@dataclass
class FIPOConfig(GRPOBaseConfig):
    """
    Configuration of the [`FIPOTrainer`]: every option of [`GRPOBaseConfig`], and FIPO's own. Defaults are the settings under
    which the DelTA paper compares with FIPO.

    Raises:
        `ValueError`: for values out of range; without a dual clip (`delta`) above 1 + epsilon_high; for
            `importance_sampling_level="sequence"`, and for losses that do not read the dual clip.
    """

    fipo_half_life: float = field(
        default=32.0,
        metadata={
            "help": "Distance in tokens at which a later token's log-ratio counts half in a token's weight: γ = 2^(-1 / "
            "half-life). Must be positive. Default as published."
        },
    )
    fipo_clip_min: float = field(
        default=1.0,
        metadata={
            "help": "Lower bound of the tokens' weights, above 0 and at most 1, which is the weight of a token that nothing "
            "follows. Default: that of the DelTA paper."
        },
    )
    fipo_clip_max: float = field(
        default=1.2,
        metadata={"help": "Upper bound of the tokens' weights, at least 1. Default: that of the DelTA paper."},
    )
    fipo_log_ratio_clamp: float = field(
        default=20.0,
        metadata={
            "help": "Log-ratios are clamped to plus and minus this before they are summed. Must exceed the logarithm of "
            "delta, the dual-clip bound, or no token could be recognised as dual-clipped."
        },
    )

    # A parameter whose default value is overridden from GRPOConfig
    delta: float | None = field(
        default=10.0,
        metadata={
            "help": "Dual-clip bound on the ratio of a token with a negative advantage, above 1 + epsilon_high. FIPO's "
            "default is 10.0 (GRPOConfig: none), and it cannot do without: tokens beyond it leave the weights, and "
            f"responses with more than {DUAL_CLIPPED_ALLOWED} of them are dropped."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.fipo_half_life < math.inf:
            raise ValueError(f"fipo_half_life must be a positive number of tokens; got {self.fipo_half_life}.")
        if not 0 < self.fipo_clip_min <= 1 <= self.fipo_clip_max < math.inf:
            raise ValueError(
                "The bounds of FIPO's weights must satisfy 0 < fipo_clip_min <= 1 <= fipo_clip_max, so that a token that "
                f"nothing follows has weight 1; got {self.fipo_clip_min} and {self.fipo_clip_max}."
            )
        self._require_token_level("FIPO")
        if self.loss_type not in LOSS_TYPES:
            raise ValueError(
                f"FIPO is defined for losses that clip the ratio of each token at the dual-clip bound, loss_type "
                f"{', '.join(map(repr, LOSS_TYPES))}; got {self.loss_type!r}. The published one is 'dapo'."
            )
        lowest = 1 + (self.epsilon if self.epsilon_high is None else self.epsilon_high)
        if self.delta is None or not lowest < self.delta < math.inf:
            raise ValueError(
                f"FIPO needs a dual-clip bound: delta must exceed 1 + epsilon_high = {lowest:g}; got {self.delta}. The "
                "published one is 10.0."
            )
        if not math.log(self.delta) < self.fipo_log_ratio_clamp < math.inf:
            raise ValueError(
                f"fipo_log_ratio_clamp must exceed ln(delta) = {math.log(self.delta):.4g}, or no token could be recognised "
                f"as dual-clipped; got {self.fipo_log_ratio_clamp}."
            )


class FIPOTrainer(GRPOBaseTrainer):
    """
    Trainer for FIPO, Future-KL Influenced Policy Optimization (https://huggingface.co/papers/2603.19835).

    A drop-in replacement of [`~trl.GRPOTrainer`], with a [`FIPOConfig`] as `args`. The only change to training is that
    TRL's loss sees advantages of shape (B, T), multiplied by the weights of `fipo_weights`. These come from the
    log-probabilities that TRL's loss computes anyway; there is no further forward pass. On the first update of a rollout
    batch the policy is the one that sampled, all weights are 1, and FIPO is DAPO. Evaluation is TRL's.

    The advantages of a dropped response become 0: it adds nothing to the policy gradient, but its tokens still count in
    the loss's normaliser, and a KL penalty or an entropy bonus still sees them.

    Metrics, over the response tokens of all processes: `fipo/mean`, `fipo/share_at_min` and `fipo/share_at_max` of the
    weights, `fipo/share_dropped` of the responses.

    Raises:
        `ValueError`: when built with another config than a `FIPOConfig`, or with a policy whose dropout stays active.
        `RuntimeError`: while training, on all processes, when a reward function raises on any; a checkpoint is saved first.
    """

    config_class = FIPOConfig
    _seams = {
        **GRPOBaseTrainer._seams,
        "_get_per_token_logps_and_entropies": (),
        "compute_loss": ("model", "inputs", "return_outputs", "num_items_in_batch"),
    }
    _tag_names = ["trl", "grpo", "fipo"]
    _name = "FIPO"
    _paper = {
        "title": "FIPO: Eliciting Deep Reasoning with Future-KL Influenced Policy Optimization",
        "id": "2603.19835",
        # docstyle-ignore
        "citation": textwrap.dedent("""\
            @article{ma2026fipo,
                title        = {{FIPO: Eliciting Deep Reasoning with Future-KL Influenced Policy Optimization}},
                author       = {Chiyu Ma and Shuo Yang and Kexin Huang and Jinda Lu and Haoming Meng and Shangshang Wang and Bolin Ding and Soroush Vosoughi and Guoyin Wang and Jingren Zhou},
                year         = 2026,
                eprint       = {arXiv:2603.19835},
            }"""),  # noqa: E501
    }

    args: FIPOConfig

    @with_signature_of(GRPOTrainer.__init__)
    def __init__(
        self, model: Any, reward_funcs: Any = None, args: FIPOConfig | None = None, *rest: Any, **kwargs: Any
    ) -> None:
        self._loss_inputs: dict[str, Any] | None = None
        super().__init__(model, reward_funcs, args, *rest, **kwargs)
        self._require_no_dropout("Log-ratios would be noise, which FIPO's weights add up.")
        args = self.args
        if args.generation_boundary == 1:
            logger.warning(
                "Every update is the first one on its rollout batch (gradient_accumulation_steps="
                f"{args.gradient_accumulation_steps} is a multiple of steps_per_generation={args.steps_per_generation} x "
                f"num_iterations={args.num_iterations}). All of FIPO's weights will be 1, and this is DAPO. Raise "
                "steps_per_generation or num_iterations, or lower gradient_accumulation_steps."
            )

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if not self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # A copy, for the advantages: TRL keeps this dict for further updates, which would otherwise weight them again.
        # TRL reads them only after it has computed log-probabilities, so that these can still decide about them.
        self._loss_inputs = {**inputs}
        try:
            return super().compute_loss(model, self._loss_inputs, return_outputs, num_items_in_batch)
        finally:
            self._loss_inputs = None

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        outputs = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self._loss_inputs is not None:
            self._weight_advantages(self._loss_inputs, outputs[0].detach())
        return outputs

    @torch.no_grad()
    def _weight_advantages(self, inputs: dict[str, Any], per_token_logps: torch.Tensor) -> None:
        """Replace the advantages of a micro-batch by weighted ones, given its current log-probabilities, (B, T)."""
        mask = counted_tokens(self, inputs, per_token_logps)
        old_per_token_logps = inputs.get("old_per_token_logps")
        if old_per_token_logps is None:  # TRL's sign that the policy is still the one that sampled
            old_per_token_logps = per_token_logps
        advantages = inputs["advantages"]
        weights, dropped = fipo_weights(
            per_token_logps - old_per_token_logps,
            mask,
            advantages,
            half_life=self.args.fipo_half_life,
            clip_min=self.args.fipo_clip_min,
            clip_max=self.args.fipo_clip_max,
            log_ratio_clamp=self.args.fipo_log_ratio_clamp,
            dual_clip=self.args.delta,
        )
        advantages = advantages.reshape(len(mask), -1) * weights
        inputs["advantages"] = advantages.masked_fill(dropped[:, None], 0.0)
        self._log_weights(weights[mask], dropped)

    def _log_weights(self, weights: torch.Tensor, dropped: torch.Tensor) -> None:
        """Add the statistics of one micro-batch, over all processes, to TRL's metrics. `weights` has shape (N,)."""
        # Sums and counts from each process, so that a process without a token weighs nothing
        at_bounds = ((weights <= self.args.fipo_clip_min).sum(), (weights >= self.args.fipo_clip_max).sum())
        counts = (weights.new_tensor(len(weights)), dropped.sum(), weights.new_tensor(len(dropped)))
        sums = torch.stack([x.float() for x in (weights.sum(), *at_bounds, *counts)])
        total, at_min, at_max, tokens, dropped_responses, responses = self.accelerator.reduce(sums).tolist()
        metrics = self._metrics["train"]
        if tokens > 0:
            metrics["fipo/mean"].append(total / tokens)
            metrics["fipo/share_at_min"].append(at_min / tokens)
            metrics["fipo/share_at_max"].append(at_max / tokens)
        metrics["fipo/share_dropped"].append(dropped_responses / responses)
