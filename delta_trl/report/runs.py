"""Read what a run left in its folder: metrics from `trainer_state.json`, settings from `delta_trl_run.json`.

A run that is going, or was killed, may leave any of its files torn. What cannot be read is left out, and the report says so.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..jsonl import parse_json
from ..run_folder import RUN_FILE, STATE_FILE, checkpoints, step_of, token_record_files
from .token_records import Completions


# Coefficients are float32 in the records and in the log
COEFFICIENT_TOLERANCE = 1e-5
ONE_FOLDER = "Give each training a folder of its own."


@dataclass
class TrainingRun:
    """
    One run's folder.

    Attributes:
        name: The shortest end of the folder's path that tells it from the report's other runs.
        state: Content of the newest `trainer_state.json` that can be read, without its log. Empty if there is none.
        history: The logged metrics.
        settings: Content of `delta_trl_run.json`. Empty if there is none.
        files: Token records in the order of steps.
        left_out: What the folder holds of another run, or damaged, a sentence each. A report shows them.
    """

    folder: Path
    name: str
    state: dict[str, Any] = field(repr=False)
    history: list[dict[str, Any]] = field(repr=False)
    settings: dict[str, Any] = field(repr=False)
    files: list[Path] = field(repr=False)
    state_file: Path | None = None
    left_out: list[str] = field(default_factory=list)

    def curve(self, key: str) -> tuple[list[float], list[float]]:
        """Steps and values of a logged metric, without what is missing or not finite."""
        points = {entry["step"]: float(entry[key]) for entry in self.history if _is_finite(entry.get(key))}
        return list(points), list(points.values())

    @property
    def has_coefficients(self) -> bool | None:
        """Whether the run computed coefficients: its trainer logs them, or why there are none. None without a log."""
        return any(key.startswith("delta/") for entry in self.history for key in entry) if self.history else None

    @property
    def last_step(self) -> int:
        return max((entry["step"] for entry in self.history), default=0)


def read_training_runs(folders: list[str | Path]) -> list[TrainingRun]:
    """
    Find what runs left behind.

    Raises:
        `ValueError`: if a folder is missing, holds no run, or is given twice.
    """
    resolved = [Path(folder).expanduser().resolve() for folder in folders]
    if not resolved or len(set(resolved)) < len(resolved):
        raise ValueError(f"A report needs one or more different run folders; got {[str(f) for f in folders]}.")
    depth = 1
    while len({folder.parts[-depth:] for folder in resolved}) < len(resolved):
        depth += 1
    return [_read_run(folder, "/".join(folder.parts[-depth:])) for folder in resolved]


def _read_run(folder: Path, name: str) -> TrainingRun:
    files, left_out = token_record_files(folder), []
    states = [path / STATE_FILE for path in reversed(checkpoints(folder)) if (path / STATE_FILE).is_file()]
    final, settings = folder / STATE_FILE, folder / RUN_FILE
    if not (files or states or final.is_file()):
        raise ValueError(
            f"{folder} holds neither {STATE_FILE} (nor a checkpoint with one) nor completions/coefficients_*.parquet. Name "
            "the output_dir of a run that has saved or logged something."
        )
    state_file, state = _newest_state(final, states, left_out)
    return TrainingRun(
        folder=folder,
        name=name,
        history=state.pop("log_history", []),
        state=state,
        settings=(_read_json(settings, left_out) or {}) if settings.is_file() else {},
        files=files,
        state_file=state_file,
        left_out=left_out,
    )


def _newest_state(final: Path, saved: list[Path], left_out: list[str]) -> tuple[Path | None, dict[str, Any]]:
    """The state with the most steps of the run that wrote last, and its file; `saved` are the checkpoints', newest first."""
    state = _read_state(final, left_out) if final.is_file() else None
    path, other = next(((p, s) for p in saved if (s := _read_state(p, left_out)) is not None), (None, None))
    if state is None or other is None:
        return (path, other or {}) if state is None else (final, state)
    # A run that goes on keeps its log: the first entries are the same, if it logged anything before that checkpoint
    first = other["log_history"][:1]
    if first and first != state["log_history"][:1]:
        left_out.append(f"{path.parent.name} has another run's log than the folder's {STATE_FILE}. {ONE_FOLDER}")
    elif other.get("global_step", 0) > state.get("global_step", 0):
        return path, other
    return final, state


def _read_state(path: Path, left_out: list[str]) -> dict[str, Any] | None:
    """A state whose log has entries with a step each, and whose numbers are numbers; None if there is no such log."""
    content = _read_json(path, left_out)
    if content is None:
        return None
    history = content.get("log_history")
    if not isinstance(history, list):
        left_out.append(f"{_place(path)} has no list log_history: it is damaged.")
        return None
    entries = [entry for entry in history if isinstance(entry, dict) and _is_finite(entry.get("step"))]
    if len(entries) < len(history):
        left_out.append(f"{_place(path)}: {len(history) - len(entries)} of {len(history)} log entries have no step.")
    numbers = {key: value for key, value in content.items() if _is_finite(value)}
    return {**numbers, "log_history": entries}


def _read_json(path: Path, left_out: list[str]) -> dict[str, Any] | None:
    try:
        content = parse_json(path.read_bytes())
        if isinstance(content, dict):
            return content
        reason = f"it holds a {type(content).__name__}, and not an object"
    except (ValueError, OSError) as error:
        reason = str(error)
    left_out.append(
        f"{_place(path)} cannot be read as JSON ({reason}). If the run is going, make the report again; else it is damaged."
    )
    return None


def _place(path: Path) -> str:
    """A file as seen from the run's folder."""
    inside = path.parent.name.startswith("checkpoint-") or path.parent.name == "completions"
    return f"{path.parent.name}/{path.name}" if inside else path.name


def _is_finite(value: Any) -> bool:
    if not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def own_record_files(run: TrainingRun) -> list[Path]:
    """
    The token records that belong to the run whose log the folder holds. The others are noted in `run.left_out`.

    Records are written when metrics are logged. So another run's are those of steps that this run did not log, and all of
    them if this run logged no coefficients.
    """
    if not run.history:
        return run.files
    if not run.has_coefficients:
        _leave_out(run, run.files, "The run whose log the folder holds computed no coefficients.")
        return []
    logged, last = {entry["step"] for entry in run.history}, run.last_step
    finished = last >= run.state.get("max_steps", math.inf)
    written = run.state_file.stat().st_mtime_ns
    own, unlogged, beyond = [], [], []
    for path in run.files:
        step = step_of(path)
        if step <= last:
            (own if step in logged else unlogged).append(path)
        else:  # later than the newest saved log: of this run only if it is still going, or was stopped
            (beyond if finished or path.stat().st_mtime_ns < written else own).append(path)
    _leave_out(run, unlogged, "The log of this run has no such steps.")
    _leave_out(run, beyond, f"This run's log ends at step {last}.")
    return own


def logged_by(run: TrainingRun, completions: Completions) -> bool:
    """Whether the coefficients of these records lie within what the run logged at that step, as far as that can be told."""
    step = completions.steps[0]
    low, high = (dict(zip(*run.curve(f"delta/coef/{end}"), strict=True)).get(step) for end in ("min", "max"))
    _, counted = completions.token_advantages()
    if low is None or high is None or run.state.get("logging_steps") != 1 or not counted.any():
        return True  # an entry over several steps has their means, and the records only the last one's coefficients
    values = completions.coefficients[counted]
    return bool(low - COEFFICIENT_TOLERANCE <= values.min() and values.max() <= high + COEFFICIENT_TOLERANCE)


def leave_out_records(run: TrainingRun) -> None:
    """Note that all token records are another run's."""
    _leave_out(run, run.files, "Their coefficients are not those that this run logged.")


def _leave_out(run: TrainingRun, files: list[Path], reason: str) -> None:
    if files:
        steps = [step_of(path) for path in files]
        which = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]} ({len(steps)} files)"
        run.left_out.append(f"Token records of {which} are another run's. {reason} {ONE_FOLDER}")


def leave_out_damaged(run: TrainingRun, path: Path, error: ValueError) -> None:
    """Note that a file of token records cannot be read."""
    run.left_out.append(f"{_place(path)}: {error}")
