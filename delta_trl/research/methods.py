"""Names for `--trainer` that research adds, as entry points of the group `delta_trl.trainers`."""

from ..train.methods import TrainingMethod


FIPO = TrainingMethod(
    "tokens weighted by how the response goes on to change, options fipo_*",
    config="delta_trl.research.fipo:FIPOConfig",
    trainer="delta_trl.research.fipo:FIPOTrainer",
)
VARIANT = TrainingMethod(
    "DelTA with other coefficients, option variant",
    config="delta_trl.research.variant_trainer:VariantGRPOConfig",
    trainer="delta_trl.research.variant_trainer:VariantGRPOTrainer",
)


def _weighted(name: str, config_and_trainer: str, what: str) -> TrainingMethod:
    module = f"delta_trl.research.{name}"
    return TrainingMethod(
        f"{what}, options {name}_*",
        config=f"{module}:{config_and_trainer}Config",
        trainer=f"{module}:{config_and_trainer}Trainer",
    )


RLSD = _weighted("rlsd", "RLSD", "tokens weighted by the same policy that knows the answer")
STARE = _weighted("stare", "STARE", "more weight on surprising tokens of right responses while entropy is low")
AR = _weighted("ar", "AR", "less weight on unlikely tokens")
GTPO = _weighted("gtpo", "GTPO", "tokens weighted by entropy within a response")
