"""Train a causal language model with DelTA, or with another method for comparison (`--trainer`):

    accelerate launch -m delta_trl.train --config configs/quickstart.yaml --learning_rate 2e-5

Every option of the trainer's config, of TRL's ModelConfig (PEFT and quantization) and of the data is accepted, in the YAML
file and on the command line, which wins. An unknown key is an error. `--help` lists them all (those of FIPO with `--trainer
fipo`). `--plan` says what a run would do and need, and stops; `--plan --plan_processes 8` says it for 8 GPUs on a machine
without any. `--rehearse` makes the whole run in small, and stops.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..commands import one_line_errors, quiet_dependencies
from .option_names import answer, trainer_argument


if TYPE_CHECKING:
    from trl import ModelConfig

    from ..config import GRPOBaseConfig
    from ..data import DataArguments
    from .arguments import ScriptArguments


def train(
    script_args: "ScriptArguments", data_args: "DataArguments", args: "GRPOBaseConfig", model_args: "ModelConfig"
) -> None:
    """Train, or print the plan, with what `arguments.parse` returns."""
    from .training import build, run

    if script_args.plan:
        print_plan(script_args, data_args, args, model_args)
    else:
        run(*build(script_args, data_args, args, model_args), data_args)


def print_plan(
    script_args: "ScriptArguments", data_args: "DataArguments", args: "GRPOBaseConfig", model_args: "ModelConfig"
) -> None:
    from .checks import check_start
    from .plan import make_plan
    from .rewards import load_rewards

    notes = check_start(script_args, data_args, args, model_args)
    load_rewards(script_args)  # for its errors
    plan = make_plan(
        args,
        data_args,
        model_args,
        trainer=script_args.trainer,
        gpu_memory=script_args.plan_gpu_memory,
        recipe=script_args.config_file,
    )
    if args.process_index == 0:
        print(plan, *(f"Note: {note}" for note in notes), sep="\n")


def main(arguments: list[str] | None = None, callbacks: Sequence[Any] = ()) -> None:
    """The command. `callbacks` are added to the trainer's."""
    quiet_dependencies()
    with one_line_errors(arguments):
        answer(f"train {trainer_argument(arguments)}", arguments)
        from .arguments import parse
        from .early import early_arguments

        if early_arguments(arguments).rehearse:
            from .rehearsal import rehearse

            if (report := rehearse(arguments)) is not None:
                print(report)
            return
        parsed = parse(arguments)
        if parsed[0].plan:
            print_plan(*parsed)
            return
        from .training import build, run  # TRL's trainers, which take seconds, after the options were found right

        trainer, start = build(*parsed)
    for callback in callbacks:
        trainer.add_callback(callback)
    from ..hub import PushError

    with one_line_errors(arguments, (PushError,), status=1):  # any other error while training keeps its traceback
        run(trainer, start, parsed[1])


if __name__ == "__main__":
    main()
