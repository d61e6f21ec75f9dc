"""Options: `GRPOBaseConfig`, what all trainers of this package share, and `DeltaGRPOConfig`, DelTA's own on top of it.

Everything that can be checked before a model is loaded is checked here.
"""

import copy
import math
import warnings
from dataclasses import dataclass, field
from typing import ClassVar

from trl import GRPOConfig

from . import option_checks
from .coefficients import check_options
from .credit import DELTA_CREDIT, Credit
from .features import FEATURES


# transformers gave the option another name after 5.19, which the recipes use
CHECKPOINTING = (
    "activation_checkpointing"
    if "activation_checkpointing" in GRPOConfig.__dataclass_fields__
    else "gradient_checkpointing"
)


@dataclass
class GRPOBaseConfig(GRPOConfig):
    """
    [`~trl.GRPOConfig`] with DAPO's defaults, for [`GRPOBaseTrainer`]: the baselines that DelTA is compared with.

    Defaults that differ: `epsilon_high` (0.28) and `disable_dropout` (`True`). `loss_type` (`"dapo"`) and `beta` (0.0) are
    those of `GRPOConfig`, stated because comparisons depend on them. There is no further option.

    A checkpoint continues a run exactly only where a rollout batch ends, since rollouts are not saved. `save_steps` that lie
    elsewhere are warned about; `generation_boundary` is the distance between such steps.
    """

    # The method of token credit; `None` for one that gives all tokens of a response the same
    credit: ClassVar[Credit | None] = None

    # Parameters whose default values are overridden from GRPOConfig, or stated because comparisons depend on them
    loss_type: str = field(
        default="dapo",
        metadata={
            "help": "Loss formulation, any of GRPOConfig's. DAPO's and DelTA's is the mean over all tokens, 'dapo', to "
            "which a token adds in proportion to its advantage."
        },
    )
    epsilon_high: float | None = field(
        default=0.28,
        metadata={
            "help": "Upper-bound epsilon value for clipping. Default: 0.28, published for DAPO and DelTA (GRPOConfig: the "
            "value of epsilon). loss_type='cispo' reads it as its bound on the ratio itself, where 5.0 is recommended."
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
            "help": "Whether to disable dropout in the model. Default: True (GRPOConfig: False). DelTA's coefficients and "
            "FIPO's weights compare forward passes, which under dropout belong to different networks."
        },
    )

    def __post_init__(self):
        option_checks.check_values(self)
        super().__post_init__()
        if self.credit_enabled:
            self._require_token_level(self.credit.name)
        notes = [*option_checks.doubts(self), self.find_inexact_checkpoints()]
        for note in notes if self.process_index == 0 else ():
            if note is not None:
                warnings.warn(note, stacklevel=4)  # the caller of the __init__ of a config one class below

    def __getstate__(self):
        # transformers pickles the config as training_args.bin, which is pushed to the Hub: not with the token in it
        return {**self.__dict__, "hub_token": None}

    # Copies stay in this process, with the token. Python would make them from the state above.
    def __copy__(self):
        return self._with_attributes(self.__dict__)

    def __deepcopy__(self, memo: dict):
        return self._with_attributes(copy.deepcopy(self.__dict__, memo))

    def _with_attributes(self, attributes: dict):
        made = object.__new__(type(self))
        made.__dict__.update(attributes)
        return made

    @property
    def credit_enabled(self) -> bool:
        """Whether a method of token credit computes coefficients."""
        return self.credit is not None

    @property
    def generation_boundary(self) -> int:
        """Every so many optimiser steps, an update ends together with a rollout batch.

        A rollout batch serves `steps_per_generation * num_iterations` micro-batches, and an update takes
        `gradient_accumulation_steps` of them: both end together at their least common multiple. 1 if every update uses
        whole rollout batches, 4 in the published recipe.
        """
        micro_batches = self.steps_per_generation * self.num_iterations
        return max(1, micro_batches // math.gcd(micro_batches, self.gradient_accumulation_steps))

    @property
    def has_old_log_probs(self) -> bool:
        """Whether TRL makes a pass over the rollout batch for old log-probabilities: a rollout batch serves several updates,
        or its generation is corrected for."""
        aligned = self.gradient_accumulation_steps % (self.steps_per_generation * self.num_iterations) == 0
        return not aligned or (self.use_vllm and self.vllm_importance_sampling_correction)

    def _require_share(self, option: str) -> None:
        """Raise `ValueError` unless the option, a method's share of the weights, lies above 0 and is at most 1."""
        value = getattr(self, option)
        if not 0 < value <= 1:
            raise ValueError(f"{option} must lie above 0 and be at most 1; got {value}. 0 is DAPO: --trainer dapo.")

    def _require_token_level(self, method: str) -> None:
        """Raise `ValueError` if a weight for each token would be lost in a ratio for the whole sequence."""
        if self.importance_sampling_level != "token":
            raise ValueError(
                f"importance_sampling_level={self.importance_sampling_level!r} cannot be combined with {method}: the "
                "gradient of a sequence-level ratio is spread evenly over the tokens of the sequence, so that their weights "
                "would have no effect. Set importance_sampling_level='token'."
            )

    @property
    def save_every(self) -> int | None:
        """Updates between checkpoints; `save_steps` below 1 is a share of `max_steps`. None if unknown or not in steps."""
        if self.save_strategy != "steps" or (self.save_steps < 1 and self.max_steps <= 0):
            return None
        return math.ceil(self.save_steps * self.max_steps) if self.save_steps < 1 else int(self.save_steps)

    def find_inexact_checkpoints(self) -> str | None:
        """What to change if checkpoints lie, or may lie, inside a rollout batch."""
        boundary, every = self.generation_boundary, self.save_every
        if self.save_strategy != "steps" or boundary == 1 or (every is not None and every % boundary == 0):
            return None
        following = boundary if every is None else math.ceil(every / boundary) * boundary
        return (
            f"save_steps={self.save_steps} is {'not known to be' if every is None else 'not'} a multiple of {boundary}, the "
            f"number of updates after which a rollout batch (steps_per_generation={self.steps_per_generation} x "
            f"num_iterations={self.num_iterations} micro-batches) and an update (gradient_accumulation_steps="
            f"{self.gradient_accumulation_steps}) end together. Rollouts are not saved, so a run resumed from another "
            f"checkpoint differs from an uninterrupted one. Set save_steps={following}."
        )


@dataclass
class TokenCreditConfig(GRPOBaseConfig):
    """
    [`GRPOBaseConfig`] for [`TokenCreditTrainer`]. A method's own config class adds its options, and names the method as the
    class attribute `credit`.

    Raises:
        `ValueError`: for `importance_sampling_level="sequence"`, where coefficients would have no effect.
    """

    credit: ClassVar[Credit]

    # Options of DeltaGRPOConfig, which are no options of other methods. Without annotation, so that they are no fields.
    coef_centroids = "batch"
    coef_features = "output_row"
    coef_offload = "auto"
    coef_top_k = 0


@dataclass
class DeltaGRPOConfig(TokenCreditConfig):
    """
    Configuration of the [`DeltaGRPOTrainer`]: every option of [`GRPOBaseConfig`], and DelTA's own, `coef_*`.

    Raises:
        `ValueError`: for values that the method does not define, and for `importance_sampling_level="sequence"`, where
            coefficients would have no effect.
    """

    credit = DELTA_CREDIT

    coef_min: float = field(
        default=0.8,
        metadata={
            "help": "Lower bound λ_min of the token coefficients before they are normalised to mean 1: that of a token "
            "whose gradient belongs wholly to the other advantage side. Must satisfy 0 < coef_min <= coef_max. Default as "
            "published."
        },
    )
    coef_max: float = field(
        default=1.2,
        metadata={
            "help": "Upper bound λ_max of the token coefficients before they are normalised to mean 1: that of a token "
            "whose gradient belongs wholly to its own advantage side. coef_min = coef_max switches DelTA off: no feature is "
            "computed, and training equals GRPOTrainer bit for bit. Default as published."
        },
    )
    coef_refinement_steps: int = field(
        default=1,
        metadata={
            "help": "K, how often the centroids of the two advantage sides are recomputed with the tokens' soft "
            "assignments. Default as published; 0 skips refinement (the paper's ablation), and 2 and 3 scored lower."
        },
    )
    coef_normalize: str = field(
        default="all",
        metadata={
            "help": "Tokens over which coefficients are normalised to mean 1. 'all', as published: of the whole rollout "
            "batch. Tokens of prompt groups without reward variance train nothing but count with coef_min, so that the mean "
            "over the tokens that train exceeds 1 as such groups get more frequent: a larger step than DAPO's. 'credited' "
            "(not in the paper): the tokens with a non-zero advantage, so that the step is as large as DAPO's."
        },
    )
    coef_features: str = field(
        default="output_row",
        metadata={
            "help": "What represents a token's gradient. 'output_row': (1 - p)h, as in the published main results. "
            "'hidden_gradient': the gradient of log pi with respect to the LM head's input, the paper's stronger proxy, at "
            "the cost of about one more forward and backward pass of the LM head. Not in the paper, at the cost of about "
            "one more forward pass of the LM head: 'temperature_gradient', log pi - E log pi, and "
            "'local_temperature_gradient', (log pi - E log pi)h."
        },
    )
    coef_top_k: int = field(
        default=0,
        metadata={
            "help": "With coef_features='hidden_gradient', the number of most likely tokens that the softmax runs over, as "
            "in the paper, which does not give the number. 0: the whole vocabulary, exactly."
        },
    )
    coef_centroids: str = field(
        default="batch",
        metadata={
            "help": "Of which rollout batch the centroids and temperatures are. 'batch', as published: of the one that is "
            "trained on. 'previous' (not in the paper): of the one before, so that coefficients come from the forward pass "
            "of the loss, and no pass is added where a rollout batch serves one update. The first rollout batch has "
            "coefficients of 1. Needs coef_features='output_row'."
        },
    )
    coef_offload: str = field(
        default="auto",
        metadata={
            "help": "Where the hidden states of a rollout batch wait for the coefficients (tokens x hidden size, in the "
            "policy's dtype): 'never' on the device, 'always' in host memory, 'auto' in host memory if they would take more "
            "than a quarter of the free device memory. Coefficients are the same."
        },
    )
    coef_log_completions: int = field(
        default=64,
        metadata={
            "help": "With log_completions, how many completions of a logged rollout batch are kept with the coefficient of "
            "every token, for the report: completions/coefficients_STEP.parquet in the output folder. A multiple of "
            "num_generations keeps whole prompt groups. 0 keeps none."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        check_options(self.coef_min, self.coef_max, self.coef_refinement_steps, self.coef_normalize)
        if self.coef_features not in FEATURES:
            raise ValueError(f"coef_features must be one of {sorted(FEATURES)}; got {self.coef_features!r}.")
        if self.coef_top_k < 0 or (self.coef_top_k > 0 and self.coef_features != "hidden_gradient"):
            raise ValueError(
                f"coef_top_k must be at least 0, and only coef_features='hidden_gradient' reads it; got {self.coef_top_k} "
                f"with coef_features={self.coef_features!r}."
            )
        if self.coef_centroids not in ("batch", "previous"):
            raise ValueError(f"coef_centroids must be 'batch' or 'previous'; got {self.coef_centroids!r}.")
        if self.coef_centroids == "previous" and self.credit_enabled:
            option_checks.check_pass_of_the_loss(self)
        if self.coef_offload not in ("auto", "never", "always"):
            raise ValueError(f"coef_offload must be 'auto', 'never' or 'always'; got {self.coef_offload!r}.")
        if self.coef_log_completions < 0:
            raise ValueError(
                f"coef_log_completions must be at least 0; got {self.coef_log_completions}. 0 keeps no coefficients."
            )

    @property
    def credit_enabled(self) -> bool:
        """Whether coefficients are computed at all: equal bounds leave nothing to compute."""
        return self.coef_min != self.coef_max
