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
