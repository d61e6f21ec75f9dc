"""The training methods that `--trainer` knows by name.

Classes are named as text and imported on use, so that listing the names costs nothing. A package adds a method of its own by
an entry point.
"""

import functools
import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any


DEFAULT = "delta"
# The group under which a package registers further methods: NAME = "module:a TrainingMethod"
ENTRY_POINTS = "delta_trl.trainers"


@dataclass(frozen=True)
class TrainingMethod:
    """
    One way to train.

    Attributes:
        help: What it is, in a few words.
        config: Module and name of the config class.
        trainer: Module and name of the trainer class. Default: `TokenCreditTrainer` where the config class points to a
            method of token credit, else `GRPOBaseTrainer`.
        preset: Options that make the method what its name says: defaults that nothing may contradict.
    """

    help: str
    config: str = "delta_trl.config:GRPOBaseConfig"
    trainer: str | None = None
    preset: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config_class(self) -> Any:
        return _load(self.config)

    @property
    def trainer_class(self) -> Any:
        if self.trainer is not None:
            return _load(self.trainer)
        has_credit = self.config_class.credit is not None
        return _load("delta_trl.token_credit:TokenCreditTrainer" if has_credit else "delta_trl.base:GRPOBaseTrainer")


def _variant(what: str, name: str | None = None) -> TrainingMethod:
    return TrainingMethod(
        what,
        config="delta_trl.methods.ablations:VariantGRPOConfig",
        trainer="delta_trl.trainer:DeltaGRPOTrainer",
        preset={} if name is None else {"variant": name},
    )


METHODS = {
    "delta": TrainingMethod(
        "DelTA", config="delta_trl.config:DeltaGRPOConfig", trainer="delta_trl.trainer:DeltaGRPOTrainer"
    ),
    "dapo": TrainingMethod(
        "DelTA's settings without its coefficients",
        trainer="delta_trl.baselines:DAPOTrainer",
        preset={"loss_type": "dapo", "epsilon_high": 0.28},
    ),
    # None is TRL's default: the value of epsilon
    "grpo": TrainingMethod(
        "the loss of GRPO, clipped at epsilon on both sides", preset={"loss_type": "grpo", "epsilon_high": None}
    ),
    "forking_tokens": TrainingMethod(
        "DAPO on the fifth of the tokens with the highest entropy",
        trainer="delta_trl.baselines:ForkingTokensTrainer",
        preset={"loss_type": "dapo", "epsilon_high": 0.28, "top_entropy_quantile": 0.2},
    ),
    "sapo": TrainingMethod(
        "a soft gate instead of clipping", trainer="delta_trl.baselines:SAPOTrainer", preset={"loss_type": "sapo"}
    ),
    "fipo": TrainingMethod(
        "tokens weighted by how the response goes on to change, options fipo_*",
        config="delta_trl.methods.fipo:FIPOConfig",
        trainer="delta_trl.methods.fipo:FIPOTrainer",
    ),
    "rlsd": TrainingMethod(
        "tokens weighted by the same policy that knows the answer, options rlsd_*",
        config="delta_trl.methods.rlsd:RLSDConfig",
    ),
    "stare": TrainingMethod(
        "more weight on surprising tokens of right responses while entropy is low, options stare_*",
        config="delta_trl.methods.stare:STAREConfig",
    ),
    "ar": TrainingMethod("less weight on unlikely tokens, options ar_*", config="delta_trl.methods.ar:ARConfig"),
    "gtpo": TrainingMethod(
        "tokens weighted by entropy within a response, options gtpo_*", config="delta_trl.methods.gtpo:GTPOConfig"
    ),
    "shear": TrainingMethod(
        "tokens weighted by how far their span's hidden states lie from the opposite side's, options shear_*",
        config="delta_trl.methods.shear:SHEARConfig",
    ),
    "gmts": TrainingMethod(
        "the fifth of the tokens with the largest entropy x |advantage|, option gmts_share",
        config="delta_trl.methods.gmts:GMTSConfig",
    ),
    "rsi_s": TrainingMethod(
        "tokens whose surprisal is usual for their entropy, options rsi_s_*",
        config="delta_trl.methods.rsi_s:RSISConfig",
    ),
    "hashed_agreement": TrainingMethod(
        "our own: tokens weighted by what became of the same choice at the same place, in linear time",
        config="delta_trl.methods.hashed_agreement:HashedAgreementGRPOConfig",
        trainer="delta_trl.methods.hashed_agreement:HashedAgreementGRPOTrainer",
    ),
    "joined_agreement": TrainingMethod(
        "our own: the same, and a linear model of the advantage for places that nobody else visited",
        config="delta_trl.methods.joined_agreement:JoinedAgreementGRPOConfig",
        trainer="delta_trl.methods.hashed_agreement:HashedAgreementGRPOTrainer",
    ),
    "place_agreement": _variant(
        "our own: hashed_agreement with every pair of tokens compared, in quadratic time", "place_agreement"
    ),
    "group_agreement": _variant(
        "our own: tokens weighted by whether the prompt's other responses want the same", "group_agreement"
    ),
    "token_advantage": _variant("our own: tokens weighted by an estimate of their own advantage", "token_advantage"),
    "stake_and_choice": _variant(
        "our own: tokens weighted by how much the choice decides, and which one was made", "stake_and_choice"
    ),
    "variant": _variant("DelTA with other coefficients, option variant"),
}


def methods() -> dict[str, TrainingMethod]:
    """All methods by name: those above, and those that installed packages register under `ENTRY_POINTS`.

    A package whose method cannot be loaded is left out with a warning. Our own names cannot be taken.
    """
    return METHODS | _registered()


@functools.cache
def _registered() -> dict[str, TrainingMethod]:
    found = {}
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name in METHODS:
            continue
        try:
            method = entry.load()
            if not isinstance(method, TrainingMethod):
                raise TypeError(f"it must be a TrainingMethod; got {type(method).__name__}")
        except Exception as error:  # whatever is wrong with it, other methods can still be trained
            package = entry.dist.name if entry.dist else "an installed package"
            warnings.warn(
                f"--trainer {entry.name} of {package} cannot be used: {entry.value} does not load "
                f"({type(error).__name__}: {error}). Repair or remove {package}.",
                stacklevel=2,
            )
        else:
            found[entry.name] = method
    return found


def methods_help() -> str:
    """All names with what they are, for a script's help."""
    return "; ".join(f"'{name}': {method.help}" for name, method in methods().items())


def method_named(name: str) -> TrainingMethod:
    """The method of this name, or a `ValueError` that lists the names."""
    if not isinstance(name, str) or name not in methods():
        if str(name).startswith("async"):
            raise ValueError(f"There is no trainer {name!r}. {_load('delta_trl.base:NO_ASYNC')}")
        raise ValueError(f"Unknown trainer {name!r}: trainer must be one of {', '.join(map(repr, methods()))}.")
    return methods()[name]


def check_method(name: str, args: Any) -> None:
    """Raise `ValueError` if options of `args` contradict the method."""
    for option, value in method_named(name).preset.items():
        got = getattr(args, option)
        if option == "epsilon_high" and value is None and got == args.epsilon:
            continue  # TRL's None, spelled out
        if got != value:
            meaning = f"{value!r}, the value of epsilon" if option == "epsilon_high" and value is None else repr(value)
            raise ValueError(
                f"trainer {name!r} needs {option}={meaning}; got {option}={got!r}. Leave {option} out, in the YAML file and "
                f"on the command line, or set it to {value!r}; or choose another trainer ({', '.join(methods())})."
            )


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
