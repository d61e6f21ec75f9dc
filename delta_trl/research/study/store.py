"""One JSON line a finished run, with every metric it logged: all that tables and plots need."""

import gzip
import json
from pathlib import Path
from typing import Any

from ...jsonl import append_lines, read_lines, replace_lines


RESULTS_FILE = "results.jsonl"
# In a run's output folder: pass rates of the trained model
FINAL_FILE = "final.json"
# In a logged step; see `one_run.StepClock`
CPU_SECONDS = "cpu_seconds"
# Logged floats are float32 averages: more digits are noise, and half of the file
LOGGED_DIGITS = 6


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records of a study's folder, from results.jsonl, or else from results.jsonl.gz."""
    for path in (folder / RESULTS_FILE, folder / f"{RESULTS_FILE}.gz"):
        if path.exists():
            return read_lines(path)
    return []


def append_record(folder: Path, record: dict[str, Any]) -> None:
    """Add a record, on disk when this returns."""
    if not (folder / RESULTS_FILE).exists():
        write_records(folder, read_records(folder))  # packed ones, or none: they would be overlooked beside a new file
    append_lines(folder / RESULTS_FILE, [rounded(record)])


def write_records(folder: Path, records: list[dict[str, Any]]) -> None:
    """Replace all records at once. Only one process may write at a time."""
    replace_lines(folder / RESULTS_FILE, records)


def pack_records(folder: Path) -> Path:
    """results.jsonl.gz, to be kept with the code; the same records give the same bytes."""
    text = "".join(json.dumps(record) + "\n" for record in read_records(folder))
    packed = folder / f"{RESULTS_FILE}.gz"
    packed.write_bytes(gzip.compress(text.encode(), mtime=0))
    return packed


def rounded(value: Any) -> Any:
    """The same with floats at six significant digits, in lists and mappings too."""
    if isinstance(value, float):
        return float(f"{value:.{LOGGED_DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value
