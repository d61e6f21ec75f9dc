"""The methods that the benchmark compares: each gives every token of a rollout batch a coefficient.

They are those of `--trainer` that credit tokens, by their names; DelTA's by the names of its features and variants; and what
is only measured: the full gradient, and entropy. FIPO needs to know what an update did to the policy.
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from ...features import FEATURES
from ...methods.ablations import VARIANTS
from ...methods.fipo import fipo_weights
from ...methods.names import method_named, methods
from ...rollout import Rollout
from ..full_gradient import full_gradient_coefficients
from ..sampling import sampling_config


# From a rollout batch to its coefficients, shape (N,)
CreditMethod = Callable[[Rollout], torch.Tensor]

# Variants of what a feature is, for which the published stronger proxy is of interest as well
ALSO_ON_HIDDEN_GRADIENT = ("unit_length", "per_group", "unit_per_group", "mirror", "group_agreement")
# Other options than the defaults: STARE as if the policy's entropy was low, whatever it is
OPTIONS = {"stare": {"stare_target_entropy": float("inf")}}
# SHEAR with spans a tenth as long, as the made tasks' responses are
SHORT_SPANS = {"shear_span": 10, "shear_stride": 5}


def trained(trainer: str, **options) -> CreditMethod:
    """A method of `--trainer` with these options, as in the first rollout batch of a run."""
    chosen = method_named(trainer)
    # Now: to build one resets what accelerate knows, which a trainer needs
    args = sampling_config("", 1, 2, chosen.config_class, **{**chosen.preset, **options})
    return lambda rollout: args.credit(rollout, args).values


def full_gradient(rollout: Rollout) -> torch.Tensor:
    """Published DelTA on the gradient with respect to all parameters, which its features stand for."""
    return full_gradient_coefficients(rollout).values


def entropy(rollout: Rollout) -> torch.Tensor:
    """Entropy of the policy where the token was sampled, scaled to mean 1."""
    return rollout.mean_one(rollout.entropies)


def fipo(rollout: Rollout) -> torch.Tensor:
    """FIPO's weights in the second update on a rollout batch; in the first they are all 1. A dropped response gets 0."""
    lengths = rollout.responses.unique_consecutive(return_counts=True)[1].tolist()
    log_ratio, advantages, mask = (
        pad_sequence(values.split(lengths), batch_first=True)
        for values in (
            rollout.replay() - rollout.log_probs,
            rollout.advantages,
            torch.ones_like(rollout.responses, dtype=torch.bool),
        )
    )
    weights, dropped = fipo_weights(log_ratio, mask, advantages)
    return weights.masked_fill(dropped[:, None], 0.0)[mask]


# Those that are called after an update on the rollout batch
AFTER_UPDATE: dict[str, CreditMethod] = {"fipo": fipo}


def credit_methods() -> dict[str, CreditMethod]:
    """All others by name."""
    of_features = {name: trained("delta", coef_features=name) for name in FEATURES}
    by_trainer = {
        name: trained(name, **OPTIONS.get(name, {}))
        for name, method in methods().items()
        if name not in ("delta", "variant") and method.config_class.credit is not None
    }
    return {
        **of_features,
        "no_refinement": trained("delta", coef_refinement_steps=0),
        **{name: trained("variant", variant=name) for name in VARIANTS},
        **{
            f"hidden_gradient/{name}": trained("variant", variant=name, coef_features="hidden_gradient")
            for name in ALSO_ON_HIDDEN_GRADIENT
        },
        "full_gradient": full_gradient,
        "entropy": entropy,
        **by_trainer,
        "shear/10": trained("shear", **SHORT_SPANS),
    }


def choose_methods(names: Sequence[str] | None = None) -> tuple[dict[str, CreditMethod], dict[str, CreditMethod]]:
    """Those of `credit_methods` and of `AFTER_UPDATE` with these names, or all.

    Raises:
        `ValueError`: for an unknown name.
    """
    tables = credit_methods(), AFTER_UPDATE
    known = [name for table in tables for name in table]
    names = known if names is None else names
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"There is no method {', '.join(unknown)}; there are {', '.join(known)}.")
    return tuple({name: table[name] for name in names if name in table} for table in tables)  # ty: ignore[invalid-explicit-return]
