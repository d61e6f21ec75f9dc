"""Read what a run left in its folder: metrics from `trainer_state.json`, settings from `delta_trl_run.json`."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..train.folder import RUN_FILE, STATE_FILE, checkpoints
from .token_records import Completions, record_files


# Coefficients are float32 in the records and in the log
COEFFICIENT_TOLERANCE = 1e-5


@dataclass
class TrainingRun:
    """
    One run's folder.

    Attributes:
        name: The shortest end of the folder's path that tells it from the report's other runs.
        state: Content of the newest `trainer_state.json`, without its log. Empty if there is none.
        history: The logged metrics.
        settings: Content of `delta_trl_run.json`. Empty if there is none.
        files: Token records in the order of steps.
        left_out: What the folder holds of another run, a sentence each. A report shows them.
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
        points = {
            entry["step"]: float(entry[key])
            for entry in self.history
            if isinstance(entry.get(key), int | float) and math.isfinite(entry[key])
        }
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
        `ValueError`: if a folder is missing, holds no run, or is given twice, or a file in it is damaged.
    """
    resolved = [Path(folder).resolve() for folder in folders]
    if not resolved or len(set(resolved)) < len(resolved):
        raise ValueError(f"A report needs one or more different run folders; got {[str(f) for f in folders]}.")
    depth = 1
    while len({folder.parts[-depth:] for folder in resolved}) < len(resolved):
        depth += 1
    return [_read_run(folder, "/".join(folder.parts[-depth:])) for folder in resolved]


def _read_run(folder: Path, name: str) -> TrainingRun:
    files = record_files(folder)
    state_file, state, left_out = _newest_state(folder)
    if state_file is None and not files:
        raise ValueError(
            f"{folder} holds neither {STATE_FILE} (nor a checkpoint with one) nor completions/coefficients_*.parquet. Name "
            "the output_dir of a run that has saved or logged something."
        )
    settings = folder / RUN_FILE
    return TrainingRun(
        folder=folder,
        name=name,
        history=state.pop("log_history", []),
        state=state,
        settings=_read_json(settings) if settings.is_file() else {},
        files=files,
        state_file=state_file,
        left_out=left_out,
    )


def _newest_state(folder: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """The state with the most steps of the run that wrote last, and what was left out."""
    saved = [path / STATE_FILE for path in checkpoints(folder) if (path / STATE_FILE).is_file()][-1:]
    final = folder / STATE_FILE
    if not final.is_file():
        return (saved[0], _read_json(saved[0]), []) if saved else (None, {}, [])
    state = _read_json(final)
    if saved:
        other = _read_json(saved[0])
        # A run that goes on keeps its log: the first entries are the same, if it logged anything before that checkpoint
        first = other.get("log_history", [])[:1]
        if first and first != state.get("log_history", [])[:1]:
            return final, state, [f"{saved[0].parent.name} has another run's log than the folder's {STATE_FILE}."]
        if other.get("global_step", 0) > state.get("global_step", 0):
            return saved[0], other, []
    return final, state, []


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also text that is not UTF-8
        raise ValueError(
            f"{path} cannot be read as JSON: {error}. If the run is going, try again; else the file is damaged."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object; it holds a {type(content).__name__}.")
    return content


def step_of(path: Path) -> int:
    return int(path.stem.removeprefix("coefficients_"))


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
    entry = next((e for e in run.history if e["step"] == completions.steps[0] and "delta/coef/min" in e), None)
    _, counted = completions.token_advantages()
    if entry is None or run.state.get("logging_steps") != 1 or not counted.any():
        return True  # an entry over several steps has their means, and the records only the last one's coefficients
    values = completions.coefficients[counted]
    low, high = entry["delta/coef/min"] - COEFFICIENT_TOLERANCE, entry["delta/coef/max"] + COEFFICIENT_TOLERANCE
    return bool(low <= values.min() and values.max() <= high)


def leave_out_records(run: TrainingRun) -> None:
    """Note that all token records are another run's."""
    _leave_out(run, run.files, "Their coefficients are not those that this run logged.")


def _leave_out(run: TrainingRun, files: list[Path], reason: str) -> None:
    if files:
        steps = [step_of(path) for path in files]
        which = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]} ({len(steps)} files)"
        run.left_out.append(f"Token records of {which} are another run's. {reason}")
