"""The ways of credit that the benchmark compares: each gives every token of a rollout batch a coefficient.

A further one is an entry in `METHODS`, or, if it needs to know what an update did to the policy, in `AFTER_UPDATE`.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from ..coefficients import delta_coefficients
from ..features import FEATURES, RolloutTokens, gathered_lm_head


if TYPE_CHECKING:
    from .run import CreditTrainer

Method = Callable[[RolloutTokens, "CreditTrainer"], torch.Tensor]
# From log-ratio (B, T), token mask (B, T) and advantages (B,) to weights (B, T)
AfterUpdate = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

# Rows whose logits are held at a time
ENTROPY_ROWS = 4096


def delta(features: str, unit: bool = False) -> Method:
    """Published DelTA on one of `FEATURES`, or on features of unit length."""

    def method(tokens: RolloutTokens, trainer: "CreditTrainer") -> torch.Tensor:
        args = trainer.args
        policy = trainer.accelerator.unwrap_model(trainer.model)
        rows, scale = FEATURES[features](
            tokens.hidden.clone(),  # some overwrite it
            *(tokens.log_probs, tokens.ids, policy, trainer.temperature, args.coef_top_k),
        )
        if unit:
            rows, scale = torch.nn.functional.normalize(rows, dim=1), None
        return delta_coefficients(
            rows,
            tokens.advantages,
            feature_scale=scale,
            coef_min=args.coef_min,
            coef_max=args.coef_max,
            refinement_steps=args.coef_refinement_steps,
        ).values

    return method


def mirror(tokens: RolloutTokens, trainer: "CreditTrainer") -> torch.Tensor:
    """Published DelTA, turned round on the positive side: λ_min + λ_max − λ."""
    values = delta("output_row")(tokens, trainer)
    turned = trainer.args.coef_min + trainer.args.coef_max - values
    return torch.where(tokens.advantages > 0, turned, values)


def entropy(tokens: RolloutTokens, trainer: "CreditTrainer") -> torch.Tensor:
    """Entropy of the policy where the token was sampled, scaled to mean 1."""
    with gathered_lm_head(trainer.accelerator.unwrap_model(trainer.model), trainer.temperature) as head:
        parts = [head.log_probs_and_slope(rows)[0] for rows in tokens.hidden.split(ENTROPY_ROWS)]
    values = torch.cat([torch.special.entr(part.exp()).sum(1) for part in parts])
    return values / values.mean()


def random(tokens: RolloutTokens, trainer: "CreditTrainer") -> torch.Tensor:
    """Uniform in the bounds: what chance looks like."""
    generator = torch.Generator().manual_seed(trainer.batch_seed)
    drawn = torch.rand(len(tokens.ids), generator=generator).to(tokens.advantages.device)
    return trainer.args.coef_min + (trainer.args.coef_max - trainer.args.coef_min) * drawn


METHODS: dict[str, Method] = {
    "output_row": delta("output_row"),
    "hidden_gradient": delta("hidden_gradient"),
    "unit_output_row": delta("output_row", unit=True),
    "mirror": mirror,
    "entropy": entropy,
    "random": random,
}
AFTER_UPDATE: dict[str, AfterUpdate] = {}


def method_names() -> list[str]:
    return [*METHODS, *AFTER_UPDATE]


def choose(names: Sequence[str] | None) -> tuple[dict[str, Method], dict[str, AfterUpdate]]:
    """Those of `METHODS` and of `AFTER_UPDATE` with these names, or all.

    Raises:
        `ValueError`: for an unknown name.
    """
    names = method_names() if names is None else names
    unknown = [name for name in names if name not in method_names()]
    if unknown:
        raise ValueError(f"There is no method {', '.join(unknown)}; there are {', '.join(method_names())}.")
    return tuple({name: table[name] for name in names if name in table} for table in (METHODS, AFTER_UPDATE))
