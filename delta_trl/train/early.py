"""Options that are read before the others, as the config is built by what they say: of the plan and of the rehearsal."""

import os
from dataclasses import dataclass, field

import torch
from transformers import HfArgumentParser

from ..config import DeltaGRPOConfig, GRPOBaseConfig


@dataclass
class EarlyArguments:
    """Options of the plan and of the rehearsal, for a script's own arguments to inherit from."""

    plan: bool = field(
        default=False,
        metadata={
            "help": "Print what the run would do and the memory it would need, and stop. Reads the model's config.json, "
            "not its weights; needs no GPU. Configurations that cannot work are refused."
        },
    )
    plan_processes: int | None = field(
        default=None,
        metadata={
            "help": "For plan and rehearse, on the command line: number of processes of the run. Default: the launcher's, "
            "or 1."
        },
    )
    plan_gpu_memory: float | None = field(
        default=None,
        metadata={"help": "For plan: memory of one GPU in GB. Default: that of the GPU here, or 80."},
    )
    rehearse: bool = field(
        default=False,
        metadata={
            "help": "Make the whole run in small, and stop: a random model of two layers, two rollout batches, a "
            "checkpoint, a resume from it, and what is saved at the end. Reads the model's config.json and tokenizer, not "
            "its weights; writes to output_dir/rehearsal alone."
        },
    )
    rehearse_push: bool = field(
        default=False,
        metadata={
            "help": "For rehearse: where push_to_hub is set, push the small model, to a private repository of its own."
        },
    )

    def __post_init__(self):
        if self.plan and self.rehearse:
            raise ValueError("plan and rehearse are two commands: give --plan first, then --rehearse.")
        if not (self.plan or self.rehearse) and self.plan_processes is not None:
            raise ValueError(
                "plan_processes describes a plan or a rehearsal: add --plan or --rehearse, or leave it out."
            )
        if not self.plan and self.plan_gpu_memory is not None:
            raise ValueError("plan_gpu_memory describes a plan: add --plan, or leave it out.")
        if self.rehearse_push and not self.rehearse:
            raise ValueError("rehearse_push describes a rehearsal: add --rehearse, or leave it out.")

    @property
    def early(self) -> tuple[bool | int | None, ...]:
        """What has to stand on the command line."""
        return self.plan, self.plan_processes, self.rehearse, self.rehearse_push


def early_arguments(arguments: list[str] | None) -> EarlyArguments:
    """These options alone, from the command line: the checks of a config depend on the number of processes."""
    parser = HfArgumentParser(EarlyArguments, add_help=False, allow_abbrev=False)
    return parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)[0]  # ty: ignore[invalid-explicit-return]


def config_on(processes: int | None, config_class: type[GRPOBaseConfig] = DeltaGRPOConfig) -> type[GRPOBaseConfig]:
    """`config_class` as it would be built by one of `processes` processes, on a machine that need not have a GPU.

    TRL derives the rollout batch from the number of processes, and refuses those that do not fit: with this class, a plan
    for 8 GPUs passes through the same checks.
    """

    class PlannedConfig(config_class):  # ty: ignore[unsupported-base]
        world_size = processes or int(os.environ.get("WORLD_SIZE", "1"))

        def __post_init__(self):
            self.use_cpu = self.use_cpu or not torch.cuda.is_available()  # which would refuse bf16 without a GPU
            super().__post_init__()

    return PlannedConfig
