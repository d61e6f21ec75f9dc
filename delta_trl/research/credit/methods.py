"""The methods that the benchmark compares: each gives every token of a rollout batch a coefficient.

A further one is an entry in `CREDIT_METHODS`, or, if it needs to know what an update did to the policy, in `AFTER_UPDATE`.
"""

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from ...coefficients import Coefficients, delta_coefficients
from ...features import gathered_lm_head
from ...hidden_states import RolloutTokens
from ...token_mask import token_mask
from ..ar import ar_weights
from ..fipo import fipo_weights
from ..full_gradient import full_gradient_coefficients
from ..gtpo import gtpo_weights
from ..rlsd import RLSDConfig, rlsd_weights, teacher_log_probs
from ..rollouts import Rollouts
from ..stare import stare_weights
from ..variants import VARIANTS


if TYPE_CHECKING:
    from .run import CreditTrainer

CreditMethod = Callable[[RolloutTokens, "CreditTrainer"], torch.Tensor]
# From log-ratio (B, T), token mask (B, T) and advantages (B,) to weights (B, T)
AfterUpdate = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

# Rows whose logits are held at a time
ENTROPY_ROWS = 4096


def delta(features: str, **options) -> CreditMethod:
    """Published DelTA on one of `FEATURES`; `options` replace those of the trainer, by `delta_coefficients`' names."""

    def method(tokens: RolloutTokens, trainer: "CreditTrainer") -> torch.Tensor:
        return _published(features, tokens, trainer, **options).values

    return method


def variant(name: str, features: str = "output_row") -> CreditMethod:
    """One of `VARIANTS` on one of `FEATURES`, as in the first rollout batch of a run."""

    def method(tokens: RolloutTokens, trainer: "CreditTrainer") -> torch.Tensor:
        options = copy.copy(trainer.args)
        options.coef_features = features
        return VARIANTS[name](Rollouts.of(trainer, tokens, seed=trainer.batch_seed, options=options)).values

    return method


def full_gradient(tokens: RolloutTokens, trainer: "CreditTrainer") -> torch.Tensor:
    """Published DelTA on the gradient with respect to all parameters, which its features stand for."""
    args, policy = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    return full_gradient_coefficients(
        policy,
        trainer.sequences,
        temperature=trainer.temperature,
        coef_min=args.coef_min,
        coef_max=args.coef_max,
        refinement_steps=args.coef_refinement_steps,
    ).values


def entropies(tokens: RolloutTokens, trainer: "CreditTrainer") -> torch.Tensor:
    """Entropy of the policy where the token was sampled, in nats."""
    with gathered_lm_head(trainer.accelerator.unwrap_model(trainer.model), trainer.temperature) as head:
        parts = [head.log_probs_and_slope(rows)[0] for rows in tokens.hidden.split(ENTROPY_ROWS)]
    return torch.cat([torch.special.entr(part.exp()).sum(1) for part in parts])


def entropy(tokens: RolloutTokens, trainer: "CreditTrainer") -> torch.Tensor:
    """Entropy, scaled to mean 1."""
    values = entropies(tokens, trainer)
    return values / values.mean()


def ar(tokens: RolloutTokens, trainer: "CreditTrainer") -> torch.Tensor:
    return ar_weights(tokens.log_probs)


def gtpo(tokens: RolloutTokens, trainer: "CreditTrainer") -> torch.Tensor:
    return gtpo_weights(entropies(tokens, trainer), tokens.responses)


def stare(tokens: RolloutTokens, trainer: "CreditTrainer") -> torch.Tensor:
    """STARE's weights as if the policy's entropy was low, whatever it is."""
    return stare_weights(tokens.log_probs, entropies(tokens, trainer), tokens.advantages, target_entropy=float("inf"))


def rlsd(tokens: RolloutTokens, trainer: "CreditTrainer") -> torch.Tensor:
    """RLSD's weights with the default hint."""
    batch = trainer.batch
    teacher = teacher_log_probs(trainer, batch, trainer.inputs, RLSDConfig.rlsd_hint)[token_mask(batch)]
    return rlsd_weights(teacher, tokens.log_probs, tokens.advantages)


def fipo(log_ratio: torch.Tensor, mask: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """FIPO's weights in the second update on a rollout batch; in the first they are all 1. A dropped response gets 0."""
    weights, dropped = fipo_weights(log_ratio, mask, advantages)
    return weights.masked_fill(dropped[:, None], 0.0)


def _published(features: str, tokens: RolloutTokens, trainer: "CreditTrainer", **options) -> Coefficients:
    rows, scale = trainer._features(tokens, features)
    args = trainer.args
    published = {
        "coef_min": args.coef_min,
        "coef_max": args.coef_max,
        "refinement_steps": args.coef_refinement_steps,
    }
    return delta_coefficients(rows, tokens.advantages, feature_scale=scale, **{**published, **options})


# Variants of what a feature is, for which the published stronger proxy is of interest as well
ALSO_ON_HIDDEN_GRADIENT = ("unit_length", "per_group", "unit_per_group", "mirror", "group_agreement")

CREDIT_METHODS: dict[str, CreditMethod] = {
    "output_row": delta("output_row"),
    "hidden_gradient": delta("hidden_gradient"),
    "temperature_gradient": delta("temperature_gradient"),
    "local_temperature_gradient": delta("local_temperature_gradient"),
    "no_refinement": delta("output_row", refinement_steps=0),
    **{name: variant(name) for name in VARIANTS},
    **{f"hidden_gradient/{name}": variant(name, "hidden_gradient") for name in ALSO_ON_HIDDEN_GRADIENT},
    "full_gradient": full_gradient,
    "entropy": entropy,
    "rlsd": rlsd,
    "stare": stare,
    "ar": ar,
    "gtpo": gtpo,
}
AFTER_UPDATE: dict[str, AfterUpdate] = {"fipo": fipo}


def method_names() -> list[str]:
    return [*CREDIT_METHODS, *AFTER_UPDATE]


def choose_methods(names: Sequence[str] | None) -> tuple[dict[str, CreditMethod], dict[str, AfterUpdate]]:
    """Those of `CREDIT_METHODS` and of `AFTER_UPDATE` with these names, or all.

    Raises:
        `ValueError`: for an unknown name.
    """
    names = method_names() if names is None else names
    unknown = [name for name in names if name not in method_names()]
    if unknown:
        raise ValueError(f"There is no method {', '.join(unknown)}; there are {', '.join(method_names())}.")
    return tuple({name: table[name] for name in names if name in table} for table in (CREDIT_METHODS, AFTER_UPDATE))
