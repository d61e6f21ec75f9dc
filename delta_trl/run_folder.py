"""What a training run leaves in its folder besides the model: the names of its files, each written and read here.

The record of how the run was made, its checkpoints, and token records: completions with the coefficient of every token, as
`completions/coefficients_STEP.parquet`.
"""

import json
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


RUN_FILE = "delta_trl_run.json"
STATE_FILE = "trainer_state.json"
STATISTICS_FILE = "coef_statistics.pt"  # in a checkpoint: what the next coefficients are made from
CHECKPOINT = "checkpoint-"  # and the step: a checkpoint's folder, as transformers names it
REPORT = "report.html"
COMPARISON = "comparison.html"  # a report of this run and others
COMPLETIONS = "completions"  # the folder of TRL's own completions, as TRL names it, and of token records
TOKEN_RECORDS = "coefficients_"  # and the step, with five digits or more
# Files and folders of a run, by which one is recognised and which --overwrite_output_dir removes
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
CONTENTS = (f"{CHECKPOINT}*", STATE_FILE, *WEIGHTS, f"{COMPLETIONS}/*")
REMOVED = (*CONTENTS, COMPLETIONS, RUN_FILE, "*.safetensors.index.json", "training_args.bin", REPORT)
# Of a token record: lists with one entry for each token, and all columns without which it cannot be shown
TOKEN_LISTS = ("completion_ids", "tokens", "coefficients", "log_probs")
TOKEN_COLUMNS = ("step", "prompt", "advantage", "reward", *TOKEN_LISTS)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record in a run's folder or one of its checkpoints, which may have it from the folder; None without one."""
    for place in (folder, folder.parent) if folder.name.startswith(CHECKPOINT) else (folder,):
        try:
            record = json.loads((place / RUN_FILE).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            continue
        if isinstance(record, dict):
            return record
    return None


def write_record(record: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{RUN_FILE}"
    temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / RUN_FILE)


def describe_contents(folder: Path) -> str | None:
    """What run a folder holds, in a few words; None if none."""
    if not any(path for pattern in CONTENTS for path in folder.glob(pattern)):
        return None
    record = read_record(folder)
    known = f"a run of trainer {record['trainer']!r} of {record['date'][:10]}" if record else "a run"
    number = len(checkpoints(folder))
    return f"{known} with {number} checkpoint{'s' * (number != 1)}"


def clear(folder: Path) -> None:
    """Remove a run from its folder, and leave everything else in it."""
    for pattern in REMOVED:
        for path in list(folder.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, complete or not, oldest first."""
    steps = {path: path.name.removeprefix(CHECKPOINT) for path in folder.glob(f"{CHECKPOINT}*") if path.is_dir()}
    return sorted((path for path, step in steps.items() if step.isdigit()), key=lambda path: int(steps[path]))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint."""
    return next((path for path in reversed(checkpoints(folder)) if find_damage(path) is None), None)


def find_damage(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be continued from, as after a process was killed while saving; None if it can."""
    state = checkpoint / STATE_FILE  # which transformers writes last
    if not state.is_file():
        return f"no {STATE_FILE}"
    for path in checkpoint.glob("*.json"):
        try:
            if path.name != RUN_FILE:  # without which a run continues
                json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return f"{path.name} is cut off"
    # DeepSpeed and FSDP may keep the weights in folders of their own
    if not any(any(checkpoint.glob(pattern)) for pattern in (*WEIGHTS, "*/")):
        return "no weights"
    for path in checkpoint.rglob("*"):
        if path.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(path):
            return f"{path.name} is cut off"
        if path.suffix == ".safetensors" and not _is_whole(path):
            return f"{path.name} is cut off"
    return None


def _is_whole(path: Path) -> bool:
    """Whether a safetensors file has all the bytes that its header announces."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8 or (length := struct.unpack("<Q", start)[0]) > size - 8:
            return False
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return False
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return size == 8 + length + max(ends, default=0)


def write_token_records(records: list[dict[str, Any]], folder: Path, step: int) -> None:
    """
    Write the records of all processes, each a completion, next to TRL's own completions.

    Args:
        records: Of the rollout batch; see `records.completion_records`.
        folder: The run's.
    """
    frame = pd.DataFrame(records)
    frame.insert(0, "step", step)
    place = folder / COMPLETIONS
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{TOKEN_RECORDS}{step:05d}.parquet"
    partial = path.with_name(f"{path.name}.partial")
    frame.to_parquet(partial)
    partial.replace(path)  # whole, or not there: a report may read while the run goes on, and the run may be killed


def token_record_files(folder: Path) -> list[Path]:
    """The files of token records, in the order of steps."""
    files = [path for path in folder.glob(f"{COMPLETIONS}/{TOKEN_RECORDS}*.parquet") if _step_text(path).isdigit()]
    return sorted(files, key=step_of)


def step_of(token_records: Path) -> int:
    """The step of a file of token records."""
    return int(_step_text(token_records))


def _step_text(path: Path) -> str:
    return path.stem.removeprefix(TOKEN_RECORDS)


def read_token_records(path: Path) -> pa.Table:
    """
    The table of one file: a row for each completion, with `TOKEN_COLUMNS` and, if the model did not write all tokens,
    `is_token`.

    Raises:
        ValueError: It is damaged, or lacks a column.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(damaged(path, error)) from error
    missing = [column for column in TOKEN_COLUMNS if column not in table.column_names]
    if missing:
        raise ValueError(
            f"{path} lacks the columns {missing}; it has {table.column_names}. Token records are written by "
            f"DeltaGRPOTrainer with log_completions=True; another file in {COMPLETIONS}/ must not be named {TOKEN_RECORDS}*."
        )
    if table["step"].null_count or not pa.types.is_integer(table["step"].type):
        raise ValueError(f"{path}: the column step must hold whole numbers; the file is damaged, so delete it.")
    return table


def damaged(token_records: Path, error: Exception) -> str:
    """What to say of a file of token records that cannot be read."""
    return (
        f"{token_records} cannot be read as token records: {error} If the run is going, the file may be half written: try "
        "again. Otherwise it is damaged: delete it, and the report does without that step."
    )
