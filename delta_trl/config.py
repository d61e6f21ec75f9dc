"""Every option of DelTA on top of TRL's `GRPOConfig`, and every check that can be made before a model is loaded."""

import math
import warnings
from dataclasses import dataclass, field, fields

from ._versions import require_tested_trl
from .coefficients import check_options


require_tested_trl()

from trl import GRPOConfig  # noqa: E402 (the version check must speak first)

from .features import FEATURES  # noqa: E402


@dataclass
class RolloutConfig(GRPOConfig):
    """What the configs of this package share: no option, but how rollout batches and updates go together."""

    def __getstate__(self):
        # transformers pickles the config as training_args.bin, which is pushed to the Hub: not with the token in it
        return {**self.__dict__, "hub_token": None}

    @property
    def generation_boundary(self) -> int:
        """Every so many optimiser steps, an update ends together with a rollout batch.

        A rollout batch serves `steps_per_generation * num_iterations` micro-batches, and an update takes
        `gradient_accumulation_steps` of them: both end together at their least common multiple. 1 if every update uses
        whole rollout batches, 4 in the published recipe.
        """
        micro_batches = self.steps_per_generation * self.num_iterations
        return micro_batches // math.gcd(micro_batches, self.gradient_accumulation_steps)

    def warn_of_inexact_checkpoints(self) -> None:
        """Warn if checkpoints lie inside a rollout batch. For the end of a subclass's own `__post_init__`."""
        boundary, every = self.generation_boundary, self.save_steps
        if self.save_strategy != "steps" or boundary == 1 or self.process_index != 0:
            return
        if every < 1:  # a share of all steps, which only max_steps tells in advance
            every = math.ceil(every * self.max_steps) if self.max_steps > 0 else None
        if every is not None and every % boundary == 0:
            return
        next_boundary = boundary if every is None else math.ceil(every / boundary) * boundary
        warnings.warn(
            f"save_steps={self.save_steps} is {'not known to be' if every is None else 'not'} a multiple of {boundary}, the "
            f"number of updates after which a rollout batch (steps_per_generation={self.steps_per_generation} x "
            f"num_iterations={self.num_iterations} micro-batches) and an update (gradient_accumulation_steps="
            f"{self.gradient_accumulation_steps}) end together. Rollouts are not saved, so a run resumed from another "
            f"checkpoint differs from an uninterrupted one. Set save_steps={next_boundary}.",
            stacklevel=4,  # the caller of the dataclass's __init__
        )


@dataclass
class DeltaGRPOConfig(RolloutConfig):
    r"""
    Configuration of the [`DeltaGRPOTrainer`]: every option of [`~trl.GRPOConfig`], and DelTA's own.

    Defaults that differ from `GRPOConfig`: `epsilon_high` (0.28) and `disable_dropout` (`True`). `loss_type` (`"dapo"`) and
    `beta` (0.0) are stated because the method depends on them.

    Parameters:
        coef_min (`float`, *optional*, defaults to `0.8`):
            λ_min, the coefficient of a token whose gradient belongs wholly to the other advantage side, before
            coefficients are normalised to mean 1. Must satisfy 0 < coef_min ≤ coef_max. Published: 0.8.
        coef_max (`float`, *optional*, defaults to `1.2`):
            λ_max, the coefficient of a token whose gradient belongs wholly to its own side. `coef_min == coef_max`
            switches DelTA off: no feature is computed and training equals `GRPOTrainer` bit for bit. Published: 1.2.
        coef_refinement_steps (`int`, *optional*, defaults to `1`):
            K, how often the side centroids are recomputed with the tokens' soft assignments. Published: 1; 0 is the
            paper's ablation, 2 and 3 scored lower.
        coef_features (`str`, *optional*, defaults to `"output_row"`):
            What represents a token's gradient (appendix F): `"output_row"`, (1 − p)·h, as in the published main results; or
            `"hidden_gradient"`, ∂ log π / ∂h over the whole vocabulary, the paper's stronger proxy, at the cost of about one
            more forward and backward pass of the LM head alone. Not in the paper, and at the cost of about one more forward
            pass of the LM head: `"temperature_gradient"`, log π − E log π, and `"local_temperature_gradient"`,
            (log π − E log π)·h.
        coef_top_k (`int`, *optional*, defaults to `0`):
            With `coef_features="hidden_gradient"`, take the softmax over the K most likely tokens only, as the paper does
            (without giving K). 0: the whole vocabulary.
        coef_offload (`str`, *optional*, defaults to `"auto"`):
            Where the rollout batch's hidden states wait (N tokens × hidden size, in the policy's dtype): `"never"` on the
            device, `"always"` in host memory, `"auto"` in host memory if they would take more than a quarter of the free
            device memory. Coefficients are the same.
        coef_log_completions (`int`, *optional*, defaults to `64`):
            With `log_completions`, how many completions of a logged rollout batch are kept with the coefficient of every
            token, in `completions/coefficients_STEP.parquet` of the output folder (TRL's own file there has no tokens).

    A checkpoint continues the run exactly only where a rollout batch ends, since rollouts are not saved. `save_steps` that
    lie elsewhere are warned about; `generation_boundary` is the distance between such steps.

    Raises:
        `ValueError`: for bounds or steps that the method does not define, and for `importance_sampling_level="sequence"`,
            where token credit would be lost without a word.
    """

    coef_min: float = field(
        default=0.8,
        metadata={
            "help": "Lower bound of the token coefficients before they are normalised to mean 1. Must be positive and at "
            "most coef_max; equal bounds switch DelTA off. Default as published."
        },
    )
    coef_max: float = field(
        default=1.2,
        metadata={
            "help": "Upper bound of the token coefficients before they are normalised to mean 1. Default as published."
        },
    )
    coef_refinement_steps: int = field(
        default=1,
        metadata={
            "help": "How often the centroids of the two advantage sides are refined with the tokens' soft assignments. "
            "Default as published; 0 skips refinement."
        },
    )
    coef_features: str = field(
        default="output_row",
        metadata={
            "help": "Token features: 'output_row', (1 - p)h, as in the published main results; 'hidden_gradient', the "
            "gradient of log pi with respect to the LM head's input, the paper's stronger proxy; or, not in the paper, "
            "'temperature_gradient', log pi - E log pi, and 'local_temperature_gradient', (log pi - E log pi)h."
        },
    )
    coef_top_k: int = field(
        default=0,
        metadata={
            "help": "With coef_features='hidden_gradient', the number of most likely tokens over which probabilities are "
            "taken. 0: the whole vocabulary, exactly."
        },
    )
    coef_offload: str = field(
        default="auto",
        metadata={
            "help": "Where hidden states wait for the coefficients: 'never' on the device, 'always' in host memory, 'auto' "
            "in host memory if they would take more than a quarter of the free device memory."
        },
    )
    coef_log_completions: int = field(
        default=64,
        metadata={
            "help": "With log_completions, how many completions of a logged rollout batch are kept with the coefficient of "
            "every token, for pictures. A multiple of num_generations keeps whole prompt groups."
        },
    )

    # Parameters whose default values are overridden from GRPOConfig, or stated because the method depends on them
    loss_type: str = field(
        default="dapo",
        metadata={
            "help": "Loss formulation, any of GRPOConfig's. DelTA's surrogate is the token-mean loss 'dapo', with each "
            "token's advantage multiplied by its coefficient."
        },
    )
    epsilon_high: float | None = field(
        default=0.28,
        metadata={
            "help": "Upper-bound epsilon value for clipping. DelTA's default is the published 0.28 (GRPOConfig: the value "
            "of epsilon). loss_type='cispo' reads it as its bound on the ratio itself, where 5.0 is recommended."
        },
    )
    beta: float = field(
        default=0.0,
        metadata={
            "help": "KL coefficient. The published recipe has no KL term; with 0.0 the reference model is not loaded."
        },
    )
    disable_dropout: bool = field(
        default=True,
        metadata={
            "help": "Whether to disable dropout in the model. DelTA's default is True (GRPOConfig: False): coefficients "
            "come from a forward pass of their own, and under dropout they would describe another network than the "
            "one that is updated."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        check_options(self.coef_min, self.coef_max, self.coef_refinement_steps)
        if self.coef_features not in FEATURES:
            raise ValueError(f"coef_features must be one of {sorted(FEATURES)}; got {self.coef_features!r}.")
        if self.coef_top_k < 0 or (self.coef_top_k > 0 and self.coef_features != "hidden_gradient"):
            raise ValueError(
                f"coef_top_k must be at least 0, and only coef_features='hidden_gradient' reads it; got {self.coef_top_k} "
                f"with coef_features={self.coef_features!r}."
            )
        if self.coef_offload not in ("auto", "never", "always"):
            raise ValueError(f"coef_offload must be 'auto', 'never' or 'always'; got {self.coef_offload!r}.")
        if self.coef_log_completions < 0:
            raise ValueError(
                f"coef_log_completions must be at least 0; got {self.coef_log_completions}. 0 keeps no coefficients."
            )
        if self.importance_sampling_level != "token" and self.coef_enabled:
            raise ValueError(
                f"importance_sampling_level={self.importance_sampling_level!r} cannot be combined with DelTA: the gradient "
                "of a sequence-level ratio is spread evenly over the sequence's tokens, so coefficients would be ignored "
                "in silence. Set importance_sampling_level='token', or coef_min = coef_max to train without DelTA."
            )

        self.warn_of_inexact_checkpoints()

    @property
    def coef_enabled(self) -> bool:
        """Whether coefficients are computed at all: equal bounds leave nothing to compute."""
        return self.coef_min != self.coef_max

    @property
    def coef_changed(self) -> list[str]:
        """Names of DelTA's own options that differ from their defaults."""
        own = (f for f in fields(self) if f.name.startswith("coef_"))
        return [f.name for f in own if getattr(self, f.name) != f.default]
