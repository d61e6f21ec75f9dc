"""Rows of a dataset on the Hub or in local files, with only the columns that are needed."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from datasets import Dataset

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


def main_process_first() -> AbstractContextManager:
    """The main process fills the caches on disk; the others then read them."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return nullcontext()
    from accelerate import PartialState

    return PartialState().main_process_first()


def read_rows(
    name_or_path: str,
    texts: Mapping[str, str],
    *,
    optional: Sequence[str] = (),
    required: Sequence[str] = (),
    split: str = "train",
    revision: str | None = None,
) -> "Dataset":
    """
    Rows of a dataset, cached on disk, so that a second run or another process neither downloads nor converts.

    Args:
        name_or_path: Hub id, a local .jsonl, .json or .parquet file, or a folder of such files.
        texts: New name and name in the source of the columns that are read as text.
        optional: Further columns that are read as they are where the source has them.
        required: Further columns that are read as they are and must be there.

    Raises:
        ValueError: Missing columns, or a file that is empty or broken, with its name and line.
        FileNotFoundError: A local path without data files.
    """
    from datasets import Dataset, load_dataset_builder

    path = Path(name_or_path)
    files = []
    if path.exists() or path.suffix in FORMATS:
        files = sorted(p for p in (path.rglob("*") if path.is_dir() else [path]) if p.suffix in FORMATS)
        if not path.exists():
            raise FileNotFoundError(f"There is no file {name_or_path}.")
        if not files:
            raise FileNotFoundError(f"{name_or_path} holds no .jsonl, .json or .parquet file.")
        kinds = {FORMATS[p.suffix] for p in files}
        if len(kinds) > 1:
            raise ValueError(
                f"{name_or_path} mixes Parquet and JSON files. Name one of them, or a folder of one kind."
            )
        for file in files:
            if not file.stat().st_size:
                raise ValueError(f"{file} is empty.")
        source: dict[str, Any] = {"path": kinds.pop(), "data_files": {split: [str(p) for p in files]}}
        version = [(p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    else:
        source = {"path": name_or_path, "revision": revision}
        version = None

    try:
        # A stream reads the schema, not the rows.
        builder = load_dataset_builder(**source)
        stream = builder.as_streaming_dataset(split=split)
        names = stream.column_names or list(next(iter(stream), {}))
        _check_columns(name_or_path, texts, required, names)
        extra = [c for c in (*optional, *required) if c in names and c not in texts.values()]
        return Dataset.from_generator(
            _rows,
            gen_kwargs={
                "source": source,
                "split": split,
                "texts": tuple(texts.items()),  # a list would be taken for shards
                "extra": tuple(extra),
                "is_parquet": hasattr(builder.config, "columns"),
                "version": f"{builder.hash} {version}",
            },
        )
    except Exception as error:  # the readers raise whatever their formats do
        reason = next((e for e in (error, error.__cause__, error.__context__) if isinstance(e, UnusableValue)), None)
        if reason is not None:
            raise ValueError(f"{name_or_path}: {reason}") from None
        for file in files:
            if fault := find_fault(file):
                raise ValueError(fault) from None
        raise


class UnusableValue(ValueError):
    """A value that cannot be read as text."""


def _check_columns(name: str, texts: Mapping[str, str], required: Sequence[str], names: list[str]) -> None:
    missing = [column for column in (*texts.values(), *required) if column not in names]
    if missing:
        raise ValueError(
            f"{name} has no column {' and no column '.join(map(repr, missing))}. It has: {', '.join(names) or 'none'}. "
            "Name the problem's and the answer's columns with question_column and answer_column."
        )


def _rows(
    source: dict[str, Any],
    split: str,
    texts: tuple[tuple[str, str], ...],
    extra: tuple[str, ...],
    is_parquet: bool,
    version: str,
) -> Iterator[dict]:
    from datasets import load_dataset

    columns = [*(column for _, column in texts), *extra]
    # Parquet reads the chosen columns only, from disk or by range requests; other formats have to be read whole.
    stream = load_dataset(**source, split=split, streaming=True, **({"columns": columns} if is_parquet else {}))
    for number, row in enumerate(stream, start=1):
        yield {name: as_text(row[column], column, number) for name, column in texts} | {c: row[c] for c in extra}


def as_text(value: Any, column: str, row: int) -> str:
    """A value of a text column; a missing one (None, not a number) is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | dict):
        raise UnusableValue(
            f"column {column!r} holds a {type(value).__name__} in row {row}; a text or a number is needed. For chat "
            "prompts, name the column with the question's text and set prompt_format to 'chat'."
        )
    text = str(value).strip()
    return "" if text.lower() == "nan" else text  # how a missing value leaves a table as text


def find_fault(file: Path) -> str | None:
    """What is wrong with a data file that could not be read, with its line; None if nothing is found."""
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        try:
            pq.read_schema(file)
        except Exception as error:
            return f"{file} is no readable Parquet file: {error}"
        return None
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        return f"{file} is not encoded in UTF-8: {error}."
    if not text.strip():
        return f"{file} is empty."
    try:
        if isinstance(json.loads(text), list):
            return None
    except json.JSONDecodeError:
        pass
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            return f"{file}, line {number}: not valid JSON ({error.msg}, character {error.colno})."
        if not isinstance(row, dict):
            return f'{file}, line {number}: a JSON object is needed, such as {{"question": ...}}; got {line[:60]!r}.'
    return None
