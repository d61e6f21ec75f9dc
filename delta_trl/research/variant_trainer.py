"""`VariantGRPOTrainer`: DelTA's trainer with one of `VARIANTS` in place of the published coefficients."""

from dataclasses import dataclass, field, fields

import torch

from ..coefficients import Coefficients
from ..config import DeltaGRPOConfig
from ..hidden_states import RolloutTokens
from ..trainer import DeltaGRPOTrainer
from .rollouts import Rollouts
from .variants import VARIANTS


SELECTIONS = tuple(name for name, variant in VARIANTS.items() if variant.selects)


@dataclass
class VariantGRPOConfig(DeltaGRPOConfig):
    """
    Configuration of the [`VariantGRPOTrainer`]: [`DeltaGRPOConfig`] and the name of a variant.

    Raises:
        `ValueError`: for an unknown variant, or an option that the variant would ignore.
    """

    variant: str | None = field(
        default=None, metadata={"help": f"What replaces the published coefficients: {', '.join(VARIANTS)}."}
    )
    variant_share: float = field(
        default=0.5, metadata={"help": f"For {', '.join(SELECTIONS)}: the share of tokens kept."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}; got {self.variant!r}.")
        if not self.coef_enabled:
            raise ValueError(
                f"variant={self.variant!r} needs coef_min < coef_max: equal bounds switch every coefficient off."
            )
        if not 0 < self.variant_share < 1:
            raise ValueError(f"variant_share must lie between 0 and 1; got {self.variant_share}.")
        ignored = VARIANTS[self.variant].ignores + (() if VARIANTS[self.variant].selects else ("variant_share",))
        for option in fields(self):
            if option.name in ignored and getattr(self, option.name) != option.default:
                raise ValueError(f"variant={self.variant!r} does not read {option.name}: leave it out.")


class VariantGRPOTrainer(DeltaGRPOTrainer):
    """[`DeltaGRPOTrainer`] with the coefficients of `VARIANTS[args.variant]` in place of the published ones."""

    config_class = VariantGRPOConfig
    _tag_names = ["trl", "grpo", "delta", "delta-variant"]

    def __init__(self, model, reward_funcs=None, args: VariantGRPOConfig | None = None, *positional, **kwargs):
        super().__init__(model, reward_funcs, args, *positional, **kwargs)
        self._memory: dict[str, torch.Tensor] = {}

    def _compute_coefficients(self, tokens: RolloutTokens) -> Coefficients:
        if self.args.variant == "fixed_temperature" and self.state.global_step > 0 and not self._memory:
            raise RuntimeError(
                "variant='fixed_temperature' cannot be resumed: it keeps the temperatures of the run's first rollout batch, "
                "which no checkpoint holds. Start the run again."
            )
        process, step = self.accelerator.process_index, self.state.global_step
        seed = (self.args.seed * 1_000_003 + step) * 65_537 + process
        rollouts = Rollouts.of(self, tokens, seed=seed, memory=self._memory, share=self.args.variant_share)
        return VARIANTS[self.args.variant](rollouts)
