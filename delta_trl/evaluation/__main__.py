"""Evaluate models on mathematics benchmarks; the defaults are the DelTA paper's (arXiv 2605.21467, section 4.1).

    delta-trl evaluate --model Qwen/Qwen3-8B-Base outputs/delta-8b --benchmark paper

A folder that training made is asked as in training: prompt format, longest completion and dtype are those of its run,
unless they are given here. Every sample is appended to OUTPUT/MODEL.jsonl as it finishes: run the same command again
to continue after an interruption. Compare finished models with `delta-trl compare`.

With several GPUs: --tensor_parallel_size and --data_parallel_size (vLLM), or for transformers start it with
`torchrun --nproc_per_node N -m delta_trl.evaluation` or `accelerate launch --num_processes N -m delta_trl.evaluation`.
On servers that are already running: --backend server --base_url http://host:8000/v1 [...].
"""

import argparse
import logging
import os.path
import sys
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..commands import one_line_errors
from .options import Decoding, Engine


@dataclass
class EvaluationArguments:
    """Options of the command beside those of `Decoding` and `Engine`."""

    model: list[str] = field(
        metadata={
            "help": "Hub ids or folders, evaluated in turn. A folder holds a model, a LoRA adapter, or a training's "
            "checkpoints, of which the newest complete one is taken"
        }
    )
    benchmark: list[str] = field(
        default_factory=lambda: ["paper"],
        metadata={
            "help": "aime24, aime25, aime26, hmmt25_feb, hmmt25_nov, hmmt26_feb, brumo25, math500; paper, which is all "
            "seven but math500; a local .jsonl, .json, .csv or .parquet; or name=file, a local copy"
        },
    )
    limit: int | None = field(
        default=None,
        metadata={
            "help": "only the first so many problems of each benchmark, for a trial; tables say that it is a part"
        },
    )
    output: str = field(default="outputs/evaluation", metadata={"help": "folder of the sample files and tables"})
    revision: str | None = field(
        default=None, metadata={"help": "branch, tag or commit on the Hub; needs a single --model"}
    )
    question_column: str | None = field(
        default=None, metadata={"help": "of local files; by default question, problem or prompt"}
    )
    answer_column: str | None = field(
        default=None, metadata={"help": "of local files; by default answer, final_answer or solution"}
    )
    debug: bool = field(default=False, metadata={"help": "show the traceback of an error"})

    def __post_init__(self):
        self.output = os.path.expanduser(self.output)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


class _NotGiven:
    pass


def parse(arguments: list[str] | None = None) -> dict[str, Any]:
    """The options that were given, by name; those that were not are missing."""
    from transformers.hf_argparser import HfArgumentParser

    kinds = (EvaluationArguments, Decoding, Engine)
    usage = "delta-trl evaluate --model MODEL [MODEL ...] [options]"
    parser = HfArgumentParser(kinds, usage=usage, description=__doc__, formatter_class=_HelpFormatter)
    # argparse leaves alone what the namespace has, which tells an option that was given from a default.
    unset = argparse.Namespace(**{option.name: _NotGiven for kind in kinds for option in fields(kind)})
    return {name: value for name, value in vars(parser.parse_args(arguments, unset)).items() if value is not _NotGiven}


def options_of(kind: type, given: dict[str, Any]) -> dict[str, Any]:
    """Those of the given options that are fields of a dataclass."""
    return {option.name: given[option.name] for option in fields(kind) if option.name in given}


def evaluate(given: dict[str, Any]) -> None:
    """Evaluates every model, each with its own settings, and prints the tables."""
    from .benchmarks import find_benchmarks
    from .inherit import inherited_settings, with_inherited
    from .results import write_results
    from .run import Task, evaluate_model, find_models, is_main_process

    args = EvaluationArguments(**options_of(EvaluationArguments, given))
    benchmarks = find_benchmarks(args.benchmark, args.question_column, args.answer_column)
    plans = []
    for source in find_models(args.model, args.revision):
        inherited, file = inherited_settings(source)
        inherited = with_inherited(given, inherited)
        if given.get("backend") == "server":
            inherited.pop("dtype", None)  # the server's own
        if inherited and is_main_process():
            listed = ", ".join(f"{name} {value!r}" for name, value in inherited.items())
            print(f"{source.label}: as in its training run ({file}): {listed}. Give an option to change it.")
        settings = {**given, **inherited}
        engine = Engine(**options_of(Engine, settings))
        plans.append((source, Decoding(**options_of(Decoding, settings)), tuple(sorted(inherited)), engine))
    if len({str((decoding, engine.dtype)) for _, decoding, _, engine in plans}) > 1 and is_main_process():
        print("The models are evaluated with different settings: give those options to compare the models.")
    if given.get("backend") == "server":
        from .server_backend import ServerBackend

        if "served_model" in given and len(plans) > 1:
            raise ValueError(f"served_model names one model, and {len(plans)} are given. Evaluate them one by one.")
        for source, decoding, _, engine in plans:
            ServerBackend(source, engine).check(decoding)  # before benchmarks are loaded
    loaded = Task.load(benchmarks, plans[0][1], args.limit)
    files = [
        evaluate_model(source, replace(loaded, decoding=decoding, inherited=inherited), engine, args.output)
        for source, decoding, inherited, engine in plans
    ]
    if is_main_process():
        print(write_results(files, args.output))


def main(arguments: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    given = parse(arguments)
    try:
        with one_line_errors(arguments):
            evaluate(given)
    except KeyboardInterrupt:
        if given.get("debug"):
            raise
        sys.exit("Stopped. What was finished is kept: the same command continues.")


if __name__ == "__main__":
    main()
