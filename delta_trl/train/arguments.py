"""The options of `python -m delta_trl.train`, in the YAML file and on the command line."""

from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from trl import GRPOConfig, ModelConfig

from ..config import GRPOBaseConfig
from ..data import DataArguments
from ..methods.names import DEFAULT, check_method, method_named, methods, methods_help
from .early import EarlyArguments, config_on, early_arguments
from .option_names import UnknownOptionError, foreign_option, remember, trainer_argument
from .parser import Parser


USAGE = "accelerate launch -m delta_trl.train --config FILE.yaml [--option value ...]"
DESCRIPTION = (
    "Train a causal language model with DelTA, or with another method for comparison (--trainer). Every option may stand in "
    "the YAML file or on the command line, which wins. --plan says what a run would do and need, and stops; --rehearse "
    "makes the whole run in small. A bare --debug shows the traceback of an error."
)


@dataclass
class ScriptArguments(EarlyArguments):
    trainer: str = field(
        default=DEFAULT,
        metadata={
            "choices": list(methods()),
            "help": f"Training method. {methods_help()}. A method's own settings are defaults that may not be contradicted.",
        },
    )
    reward_funcs: list[str] = field(
        default_factory=lambda: ["math_reward"],
        metadata={
            "help": "Reward functions: 'math_reward' (1 for a right boxed answer, else 0), 'code_reward' (1 for a program "
            "that passes all tests, else 0), 'reasoning_gym' (reasoning-gym's score, for its problems), 'soft_overlong' "
            "(TRL's length penalty), or a dotted import path such as 'my_package.my_reward'."
        },
    )
    soft_overlong_max_length: int | None = field(
        default=None, metadata={"help": "For 'soft_overlong': response length in tokens from which the penalty is -1."}
    )
    soft_overlong_cache: int | None = field(
        default=None, metadata={"help": "For 'soft_overlong': the penalty grows over this many tokens before that."}
    )
    code_reward_fraction: bool | None = field(
        default=None, metadata={"help": "For 'code_reward': reward the share of tests passed. Default: false."}
    )
    code_reward_tests: int | None = field(
        default=None,
        metadata={
            "help": "For 'code_reward': run at most so many tests of a problem, the longest inputs. Default: 15."
        },
    )
    code_reward_timeout: float | None = field(
        default=None, metadata={"help": "For 'code_reward': CPU seconds of one test. Default: 4."}
    )
    code_reward_memory: int | None = field(
        default=None, metadata={"help": "For 'code_reward': MiB of memory of one program. Default: 1024."}
    )
    code_reward_workers: int | None = field(
        default=None,
        metadata={
            "help": "For 'code_reward': programs that each training process runs at a time. Default: the machine's cores, "
            "shared by its training processes, at most 16."
        },
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Remove the run that output_dir holds (checkpoints, completions, model, records) when training "
            "starts. Without it, such a folder is refused."
        },
    )
    given: dict[str, Any] = field(init=False, repr=False, default_factory=dict)  # options that differ from defaults
    named: set[str] = field(init=False, repr=False, default_factory=set)  # options with whatever value
    config_file: Path | None = field(init=False, repr=False, default=None)


def parse(
    arguments: list[str] | None = None, change: Callable[[Namespace], None] | None = None
) -> tuple[ScriptArguments, DataArguments, GRPOBaseConfig, ModelConfig]:
    """
    Parse the command line and its YAML file. The config of a plan, and that of a rehearsal without `change`, is built as on
    the number of processes planned for.

    Args:
        arguments: Default: those of the process.
        change: Changes the values of options before anything is built of them.
    """
    name, early = trainer_argument(arguments), early_arguments(arguments)
    method = method_named(name)
    is_planned = early.plan or (early.rehearse and change is None)
    config_class = config_on(early.plan_processes, method.config_class) if is_planned else method.config_class
    parser = Parser(
        (ScriptArguments, DataArguments, config_class, ModelConfig),
        sections=_sections(name, config_class),
        usage=USAGE,
        description=DESCRIPTION,
    )
    try:
        parsed = parser.parse_command(arguments, preset=method.preset, change=change)
    except (SystemExit, UnknownOptionError) as asked:  # SystemExit: for the help
        owners = _owners()
        remember(f"train {name}", parser, [*parser.dataclass_types, Parser], owners)
        if isinstance(asked, UnknownOptionError) and asked.name in owners:
            raise foreign_option(asked.name, owners[asked.name], name) from None
        raise
    except ValueError as error:
        if "bf16/gpu" not in str(error):  # of transformers
            raise
        raise ValueError(
            "No GPU that computes in bfloat16 is seen here, and bf16 is on by default. Without a GPU add --use_cpu true; on "
            "a GPU that lacks bfloat16, --bf16 false; where there is one, look why torch does not see it."
        ) from error
    script_args, data_args, args, model_args = parsed
    if script_args.early != early.early:
        raise ValueError(
            "plan, rehearse and their options belong on the command line: the YAML file describes the run."
        )
    check_method(name, args)
    script_args.given, script_args.named, script_args.config_file = parser.given, parser.named, parser.config_file
    args.output_dir = output_folder(parser.given.get("output_dir"), name, parser.config_file, data_args.dataset_name)
    return script_args, data_args, args, model_args


def output_folder(given: str | None, trainer: str, config_file: Path | None, dataset: str) -> str:
    """
    `output_dir` with `{trainer}` replaced; `outputs/<task>/<trainer>` if none is given.

    The task is the YAML file's name, or its folder's where the file has the name of a trainer, as in
    configs/qwen3_8b/delta.yaml; without a file, the dataset's.
    """
    if given is not None:
        return str(Path(given.replace("{trainer}", trainer)).expanduser())
    if config_file is None:
        task = Path(dataset).stem
    else:
        task = config_file.absolute().parent.name if config_file.stem in methods() else config_file.stem
    return str(Path("outputs", task, trainer))


def _owners() -> dict[str, list[str]]:
    """The trainers that have an option, by the option's name."""
    owners: dict[str, list[str]] = {}
    for name, method in methods().items():
        for option in fields(method.config_class):
            owners.setdefault(option.name, []).append(name)
    return owners


def _sections(name: str, config_class: type) -> dict[str, Iterable[str]]:
    """Own options first, then data, then the options of TRL and of transformers."""

    def names(dataclass: type, besides: Iterable[str] = ()) -> list[str]:
        return [f.name for f in fields(dataclass) if f.init and f.name not in besides]

    trl, transformers = names(GRPOConfig), names(TrainingArguments)
    return {
        "the command": ["help", *names(ScriptArguments)],
        f"trainer {name}": names(config_class, besides=trl),
        "data": names(DataArguments),
        "model (TRL)": names(ModelConfig),
        "training (TRL)": [option for option in trl if option not in transformers],
        "training (transformers)": transformers,
    }
