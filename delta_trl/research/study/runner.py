"""Runs a study's training runs as subprocesses (`one_run`), as many at a time as there are cores.

A run is finished when its record is in results.jsonl, which only this process writes: it is never repeated. Whatever
else happens to a run (it fails, it is killed, the machine stops), the next start does it again from its beginning.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from ...jsonl import parse_json
from ...train.arguments import parse as parse_arguments
from ...train.stopping import stopped_by_signals
from .origin import git_state, versions
from .settings import WARM, Study, StudyRun
from .start import StudyStart
from .store import FINAL_FILE, append_record, read_records, write_records


POLL_SECONDS = 0.2
# What a stopped run gets to end by itself
ENDING_SECONDS = 10
LOG_LINES = 12
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # a run has one core
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # glibc keeps the memory of a step's large tensors instead of returning it and having it zeroed again: 5% of a run
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}


@dataclass(frozen=True)
class Failure:
    """A run that ended without a result."""

    run: StudyRun
    reason: str
    log: str


def placed(run: StudyRun, folder: Path, model: Path) -> dict[str, Any]:
    """The run's complete options for `python -m delta_trl.train`, which starts from `model`."""
    return {
        **run.options,
        "model_name_or_path": str(model),
        "dataset_name": str(folder / "data" / "train.jsonl"),
        "held_out_name": str(folder / "data" / "test.jsonl"),
        "max_prompt_length": None,
        "output_dir": str(folder / "runs" / run.name / "output"),
    }


def write_config(run: StudyRun, folder: Path, model: Path) -> Path:
    """The run's YAML file: `python -m delta_trl.train --config` of it repeats the run by hand."""
    path = folder / "runs" / run.name / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(placed(run, folder, model), sort_keys=False))
    return path


def open_runs(runs: list[StudyRun], folder: Path, fingerprint: str, discard: bool = False) -> list[StudyRun]:
    """The runs without a result.

    Args:
        discard: Take results that were made with other options, data or model out of results.jsonl and run them again.

    Raises:
        ValueError: There are such results, and `discard` is off.
    """
    keys = {(run.method, run.seed): run.key(fingerprint) for run in runs}
    records = read_records(folder)
    stale = [r for r in records if keys.get((r["method"], r["seed"]), r["key"]) != r["key"]]
    if stale and not discard:
        names = ", ".join(f"{r['method']}-seed{r['seed']}" for r in stale[:5]) + (" ..." if len(stale) > 5 else "")
        raise ValueError(
            f"{len(stale)} results in {folder} were made with other options, another model or other data ({names}), and "
            "results of two settings are not mixed. Undo the change, choose another --folder, or have them removed and "
            "run again with --discard."
        )
    if stale:
        write_records(folder, [r for r in records if r not in stale])
    done = {(r["method"], r["seed"]) for r in records if r not in stale}
    return [run for run in runs if (run.method, run.seed) not in done]


def execute(
    runs: list[StudyRun], folder: Path, start: StudyStart, *, jobs: int, done: int, lock: int
) -> list[Failure]:
    """Run what is open, `jobs` at a time, one thread each. Returns the runs that failed.

    Args:
        done: Runs finished by earlier starts, for the progress bar.
        lock: From `locked`.

    Raises:
        train.stopping.Stopped: after SIGINT or SIGTERM, when the running ones have been ended.
    """
    waiting, failures, shown = list(runs), [], None
    active: dict[subprocess.Popen, tuple[StudyRun, float]] = {}
    origin = {"git": git_state(Path(__file__).parent), "versions": versions()}
    bar = tqdm(total=done + len(runs), initial=done, desc="runs", unit="run", smoothing=0, dynamic_ncols=True)
    with bar, stopped_by_signals():
        try:
            while waiting or active:
                while waiting and len(active) < jobs:
                    run = waiting.pop(0)
                    active[_start(run, folder, start.model, lock)] = (run, time.monotonic())
                counts = {"running": len(active), "failed": len(failures), "waiting": len(waiting)}
                if shown != counts:
                    bar.set_postfix(counts)
                    shown = counts
                time.sleep(POLL_SECONDS)
                for process in [p for p in active if p.poll() is not None]:
                    run, began = active.pop(process)
                    wall = time.monotonic() - began
                    outcome = _outcome(run, process.returncode, folder)
                    if isinstance(outcome, Failure):
                        failures.append(outcome)
                        bar.write(f"{run.name} failed: {outcome.reason}")
                        continue
                    record = {
                        "method": run.method,
                        "seed": run.seed,
                        "key": run.key(start.fingerprint),
                        "options": run.options,
                        **origin,
                        "wall_seconds": wall,
                        "log_history": outcome,
                    }
                    append_record(folder, record)
                    # The model; everything logged is in the record
                    shutil.rmtree(folder / "runs" / run.name / "output")
                    bar.update()
        finally:
            _end(list(active))
    return failures


def _start(run: StudyRun, folder: Path, model: Path, lock: int) -> subprocess.Popen:
    config = write_config(run, folder, model)
    samples = [] if run.final_samples is None else [str(run.final_samples)]
    command = ["delta_trl.research.study.one_run", str(config), *samples]
    shutil.rmtree(config.parent / "output", ignore_errors=True)  # what a broken run left
    with (config.parent / "log.txt").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the runs
            pass_fds=(lock,),  # held by the runs too: if this process is killed, no second study joins the orphans
        )


def _outcome(run: StudyRun, status: int, folder: Path) -> list[dict[str, Any]] | Failure:
    """The log history of a run that reached its last step, with the final evaluation, or what went wrong."""
    place = folder / "runs" / run.name
    state = place / "output" / "trainer_state.json"
    reason = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
    if status == 0:
        try:
            content = parse_json(state.read_bytes())
            if content["global_step"] == content["max_steps"]:
                history = content["log_history"]
                if run.final_samples is not None:
                    final = parse_json((place / "output" / FINAL_FILE).read_bytes())
                    history.append({"step": content["global_step"], **final})
                return history
            reason = f"it stopped at step {content['global_step']} of {content['max_steps']}"
        except FileNotFoundError as error:
            reason = f"exit status 0, but there is no {Path(error.filename).name}"
        except (ValueError, LookupError, TypeError) as error:
            reason = f"exit status 0, but what it left in {state.parent} is damaged: {error}"
    lines = (place / "log.txt").read_text(errors="replace").replace("\r", "\n").splitlines()
    return Failure(run, reason, "\n".join(lines[-LOG_LINES:]))


def _end(processes: list[subprocess.Popen]) -> None:
    """End runs with their worker processes."""
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + ENDING_SECONDS
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def locked(folder: Path) -> Generator[int, None, None]:
    """Keep the folder for this process and the runs that inherit the lock's file, which this gives.

    Raises:
        ValueError: Others have it.
    """
    import fcntl  # not on Windows, where this module can be imported

    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"Another study, or runs that one left behind when it was killed, are at work in {folder}. Wait for them, "
                "end them, or choose another --folder."
            ) from None
        yield file.fileno()


@contextlib.contextmanager
def _unchanged_environment() -> Generator[None, None, None]:
    """Take back what a run's options set with `env`, which every run started from here would inherit."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def check_runs(study: Study) -> None:
    """Have the training script's own parser read a run of every method, before anything starts.

    Raises:
        ValueError: An option that it does not know, or that does not fit; names the method.
    """
    for run in study.runs(seeds=1):
        if run.method == WARM:  # the baseline's options
            continue
        try:
            with tempfile.TemporaryDirectory() as folder, _unchanged_environment():
                parse_arguments(["--config", str(write_config(run, Path(folder), Path(folder)))])
        except (ValueError, TypeError) as error:
            message = f"The options of method {run.method!r} do not fit the training command: {error}"
            raise ValueError(message) from error
