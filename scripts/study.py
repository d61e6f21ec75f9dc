#!/usr/bin/env python
"""Compare methods over seeds on a task that one core learns in minutes:

    python scripts/study.py --config configs/study/ledger.yaml

1. Make the task's data, and warm up the model that all runs start from, or take the pretrained one that the task names.
2. Train every method on every seed, one thread each, as many at a time as there are cores.
3. Write tables, plots and the records of every run into outputs/study/NAME.

The same command continues a study that was stopped: a finished run is never repeated, a broken one is reported, counted
and tried again. To repeat one run by hand:

    python -m delta_trl.train --config outputs/study/NAME/runs/METHOD-seedN/config.yaml
"""

import argparse
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", type=Path, required=True, help="the study, such as configs/study/ledger.yaml")
    add("--methods", nargs="+", help="only these (default: all)")
    add("--seeds", type=int, help="only the first so many seeds (default: all)")
    add("--jobs", type=int, help="runs at a time (default: the number of cores; with --gpu 1)")
    add(
        "--gpu",
        action="store_true",
        help="train on the GPU whatever the settings' use_cpu says; not to be mixed with a CPU's",
    )
    add("--model", help="a pretrained model's folder or name on the Hub, in place of the one that the task names")
    add("--folder", type=Path, help="where everything is written (default: outputs/study/NAME)")
    add("--tables", action="store_true", help="only tables and plots, from finished runs or else docs/results")
    add("--discard", action="store_true", help="remove results that were made with other settings, and run them again")
    return parser.parse_args(arguments)


def main() -> None:
    args = parse()
    from delta_trl.commands import one_line_errors, quiet_dependencies

    quiet_dependencies()
    from delta_trl.research.study.settings import load_study

    with one_line_errors():
        if args.jobs is not None and args.jobs < 1:
            raise ValueError(f"--jobs must be at least 1; got {args.jobs}.")
        study = load_study(args.config)
        if args.model is not None:
            study = with_model(study, args.model)
        if args.gpu:
            study = replace(study, settings={**study.settings, "use_cpu": False})
        folder = (args.folder or ROOT / "outputs" / "study" / study.name).resolve()
        if args.tables:
            take_shipped_records(study, folder)
        failures = [] if args.tables else run(study, folder, args)
        for failure in failures:
            log = folder / "runs" / failure.run.name / "log.txt"
            print(f"\n{failure.run.name} failed: {failure.reason}. The end of {log}:\n{failure.log}", file=sys.stderr)
        print(report(study, folder))
    if failures:
        sys.exit(f"error: {len(failures)} runs failed. The same command tries them again.")


def with_model(study, model: str):
    """The study with another place, or another pretrained model, to start from."""
    if study.task.model is None:
        raise ValueError(
            f"--model {model} has no place here: {study.name} warms a model of its own up. Leave --model out, or name "
            "task.model in the study's file."
        )
    place = str(Path(model).resolve()) if Path(model).is_dir() else model
    return replace(study, task=replace(study.task, model=place))


def take_shipped_records(study, folder: Path) -> None:
    """Tables of a study that was not run here are made from the records in docs/results/study."""
    shipped = ROOT / "docs" / "results" / "study" / study.name / "results.jsonl.gz"
    if any(folder.glob("results.jsonl*")) or not shipped.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(shipped, folder)
    print(f"No results in {folder}: taken from {shipped.relative_to(ROOT)}.")


def report(study, folder: Path) -> str:
    """Write tables, plots and the packed records; the tables as text."""
    from delta_trl.research.study.analysis import analyse, write_tables
    from delta_trl.research.study.plots import plot_differences, plot_rewards
    from delta_trl.research.study.store import pack_records, read_records

    records = read_records(folder)
    if not records:
        return f"There are no results in {folder} yet."
    text = write_tables(study, records, folder)
    plot_rewards(study, records, folder / "reward.png")
    plot_differences(analyse(study, records), folder / "differences.png")
    return f"{text}\n\nTables, plots and {pack_records(folder).name} are in {folder}."


def run(study, folder: Path, args: argparse.Namespace) -> list:
    """Everything that is open; what failed."""
    os.chdir(ROOT)
    if study.task.model is None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from delta_trl.research.study import runner
    from delta_trl.research.study.start import prepare
    from delta_trl.rewards.pool import available_cores
    from delta_trl.train.stopping import Stopped

    runs = study.runs(args.methods, args.seeds)
    runner.check_runs(study)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with runner.locked(folder) as lock:
            start = prepare(study.task, folder)
            todo = runner.open_runs(runs, folder, start.fingerprint, args.discard)
            jobs, done = args.jobs or (1 if args.gpu else available_cores()), len(runs) - len(todo)
            return runner.execute(todo, folder, start, jobs=jobs, done=done, lock=lock)
    except Stopped as stop:
        print(f"{stop}: finished runs are kept, and the same command does the others.", file=sys.stderr)
        sys.exit(128 + stop.number)


if __name__ == "__main__":
    main()
