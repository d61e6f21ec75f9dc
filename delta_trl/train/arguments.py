"""The options of `python -m delta_trl.train`: one parser for the YAML file and the command line, which wins."""

from dataclasses import dataclass, field

from trl import ModelConfig, TrlParser

from ..config import RolloutConfig
from ..data import DataArguments
from .methods import DEFAULT, check_method, describe, method_named, methods, trainer_argument
from .plan import PlanArguments, config_on, plan_arguments


@dataclass
class ScriptArguments(PlanArguments):
    trainer: str = field(
        default=DEFAULT,
        metadata={
            "choices": list(methods()),
            "help": f"Training method. {describe()}. A method's own settings are defaults that may not be contradicted.",
        },
    )
    reward_funcs: list[str] = field(
        default_factory=lambda: ["math_reward"],
        metadata={
            "help": "Reward functions: 'math_reward' (1 for a right boxed answer, else 0), 'soft_overlong' (TRL's length "
            "penalty), or a dotted import path such as 'my_package.my_reward'."
        },
    )
    soft_overlong_max_length: int | None = field(
        default=None, metadata={"help": "For 'soft_overlong': response length in tokens from which the penalty is -1."}
    )
    soft_overlong_cache: int | None = field(
        default=None, metadata={"help": "For 'soft_overlong': the penalty grows over this many tokens before that."}
    )


def parse(
    arguments: list[str] | None = None,
) -> tuple[ScriptArguments, DataArguments, RolloutConfig, ModelConfig]:
    """Parse the command line and its YAML file; a plan's config is built as on the number of processes planned for."""
    early, name = plan_arguments(arguments), trainer_argument(arguments)
    method = method_named(name)
    config_class = config_on(early.plan_processes, method.config_class) if early.plan else method.config_class
    parser = TrlParser((ScriptArguments, DataArguments, config_class, ModelConfig))
    unknown = parser.set_defaults_with_config(**method.preset)
    assert not unknown, f"the preset of {name!r} has options that its config lacks: {unknown}"
    parsed = parser.parse_args_and_config(arguments)
    if (parsed[0].plan, parsed[0].plan_processes) != (early.plan, early.plan_processes):
        raise ValueError("plan and plan_processes belong on the command line: the YAML file describes the run.")
    if parsed[0].trainer != name:  # argparse completes '--train sapo', which was parsed with another trainer's options
        raise ValueError(f"trainer {parsed[0].trainer!r} was given by an abbreviation. Write --trainer in full.")
    check_method(name, parsed[2])
    return parsed
