"""One JSON line a finished run, with every metric it logged: all that tables and plots need."""

import gzip
import json
import os
from pathlib import Path
from typing import Any


RESULTS = "results.jsonl"
# Logged floats are float32 averages: more digits are noise, and half of the file
DIGITS = 6


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records of a study's folder, from results.jsonl, or else from results.jsonl.gz.

    A last line without an end was being written when the machine stopped: it is left out.
    """
    path = folder / RESULTS
    if path.exists():
        content = path.read_bytes()
    elif (packed := folder / f"{RESULTS}.gz").exists():
        content = gzip.decompress(packed.read_bytes())
    else:
        return []
    return [json.loads(line) for line in content.split(b"\n")[:-1]]


def append_record(folder: Path, record: dict[str, Any]) -> None:
    """Add a record, on disk when this returns. Only one process may write at a time."""
    if not (folder / RESULTS).exists():
        write_records(folder, read_records(folder))  # packed ones, or none: they would be overlooked beside a new file
    with (folder / RESULTS).open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)  # the torn line of an earlier crash
        file.write(json.dumps(rounded(record)).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def write_records(folder: Path, records: list[dict[str, Any]]) -> None:
    """Replace all records at once."""
    partial = folder / f"{RESULTS}.partial"
    partial.write_text("".join(json.dumps(record) + "\n" for record in records))
    partial.replace(folder / RESULTS)


def pack_records(folder: Path) -> Path:
    """results.jsonl.gz, to be kept with the code; the same records give the same bytes."""
    text = "".join(json.dumps(record) + "\n" for record in read_records(folder))
    packed = folder / f"{RESULTS}.gz"
    packed.write_bytes(gzip.compress(text.encode(), mtime=0))
    return packed


def rounded(value: Any) -> Any:
    """The same with floats at six significant digits, in lists and mappings too."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value
