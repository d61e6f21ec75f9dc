"""Rows of local files: JSON Lines, JSON, CSV and Parquet, perhaps compressed, and folders that `save_to_disk` wrote.

Rows are read here and not by `datasets.load_dataset`, which takes the columns and types of a file's first rows for those of
all others.
"""

import bz2
import csv
import gzip
import json
import lzma
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features


READ_FORMATS = ".jsonl, .json, .csv or .parquet"
_OPEN: dict[str, Callable[..., IO]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_WRAPPERS = ("data", "rows", "examples")  # besides the split's name, keys that hold the rows of a JSON document
_PARQUET_ROWS_AT_A_TIME = 32  # a row of code may hold megabytes of tests
_SPACE = re.compile(r"\s*")


class UnusableValue(ValueError):
    """Data that cannot be read, with its place."""


def format_of(path: Path) -> str | None:
    """The suffix of a format that can be read, without that of the compression; None for other files."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _OPEN:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in _READERS else None


def is_saved_dataset(path: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def read_saved_dataset(path: Path, split: str) -> "Dataset":
    """The `datasets.Dataset` of a folder that `save_to_disk` wrote. Raises ValueError for a split that it has not."""
    from datasets import load_from_disk

    return split_of(load_from_disk(str(path)), split, str(path))


def split_of(dataset: "Dataset | DatasetDict", split: str, name: str) -> "Dataset":
    """One of a `DatasetDict`; any other dataset as it is."""
    if not isinstance(dataset, Mapping):
        return dataset
    if split not in dataset:
        raise ValueError(f"{name} has no split {split!r}. It has: {', '.join(dataset)}. Name one with dataset_split.")
    return dataset[split]


def read_file(path: Path, split: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of one file. Of Parquet only these columns are read; other formats give all.

    Raises:
        UnusableValue: With the file, the line where there is one, and what is wrong with it.
    """
    try:
        yield from _READERS[format_of(path)](path, split, columns)
    except UnicodeDecodeError as error:
        raise UnusableValue(f"{path} is not encoded in UTF-8: {error}.") from error
    except (EOFError, OSError, lzma.LZMAError) as error:
        if format_of(path) == path.suffix.lower() or isinstance(error, FileNotFoundError):
            raise
        raise UnusableValue(f"{path} cannot be decompressed: {error}.") from error


def file_columns(path: Path, split: str, rows: int | None) -> list[str]:
    """The columns of one file, of Parquet from its schema, of others from its first rows (None: all)."""
    if format_of(path) == ".parquet":
        return _open_parquet(path).schema_arrow.names
    names: dict[str, None] = {}
    for number, row in enumerate(read_file(path, split)):
        if number == rows:
            break
        names.update(dict.fromkeys(row))
    if not names:
        raise UnusableValue(f"{path} is empty.")
    return list(names)


def parquet_features(files: Sequence[Path]) -> "Features":
    """The `datasets.Features` of all columns of Parquet files."""
    import pyarrow as pa
    from datasets import Features

    schemas = [_open_parquet(file).schema_arrow for file in files]
    try:
        return Features.from_arrow_schema(pa.unify_schemas(schemas, promote_options="permissive"))
    except pa.ArrowException as error:
        raise UnusableValue(f"the Parquet files do not go together: {error}") from error


def _open_text(path: Path, **options: Any) -> IO[str]:
    opened = _OPEN.get(path.suffix.lower(), open)
    return opened(path, "rt", encoding="utf-8-sig", **options)


def _json_rows(path: Path, split: str, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    """JSON Lines, which are read line by line, or else whole documents."""
    lines = _json_lines(path)
    try:
        first = next(lines, None)
    except UnusableValue:
        first = None
    if first is None or (second := next(lines, None)) is None:
        for document in _documents(path):
            yield from _rows_of_document(document, path, split)
    else:
        yield first
        yield second
        yield from lines


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with _open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UnusableValue(
                    f"{path}, line {number}: not valid JSON ({error.msg}, character {error.colno})."
                ) from error
            except RecursionError as error:
                raise UnusableValue(f"{path}, line {number}: JSON that is nested too deep.") from error
            yield _require_object(row, f"{path}, line {number}")


def _require_object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        shown = json.dumps(row)[:60]
        raise UnusableValue(f'{where}: a JSON object is needed, such as {{"question": ...}}; got {shown}.')
    return row


def _documents(path: Path) -> Iterator[Any]:
    with _open_text(path) as file:
        text = file.read()
    decoder, position = json.JSONDecoder(), _SPACE.match(text).end()
    while position < len(text):
        try:
            document, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise UnusableValue(
                f"{path}, line {error.lineno}: not valid JSON ({error.msg}, character {error.colno})."
            ) from error
        except RecursionError as error:
            raise UnusableValue(f"{path}: JSON that is nested too deep.") from error
        yield document
        position = _SPACE.match(text, position).end()


def _rows_of_document(document: Any, path: Path, split: str) -> Iterator[dict[str, Any]]:
    """A list of rows, a key that holds them, a list or dict of values for each column, or one row."""
    if isinstance(document, dict):
        wrapped = next((document[key] for key in (split, *_WRAPPERS) if isinstance(document.get(key), list)), None)
        values = list(document.values())
        if wrapped is not None and (not wrapped or isinstance(wrapped[0], dict)):
            document = wrapped
        elif values and all(isinstance(v, list) and len(v) == len(values[0]) for v in values):
            document = [dict(zip(document, row, strict=True)) for row in zip(*values, strict=True)]
        elif values and all(isinstance(v, dict) and v.keys() == values[0].keys() for v in values):  # as pandas writes
            document = [{name: column[key] for name, column in document.items()} for key in values[0]]
        else:
            document = [document]
    for number, row in enumerate(document if isinstance(document, list) else [document], start=1):
        yield _require_object(row, f"{path}, item {number}")


def _csv_rows(path: Path, split: str, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(2**31 - 1)  # a cell may hold the tests of a program
    with _open_text(path, newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            names = reader.fieldnames or []
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise UnusableValue(f"{path}: the first line names {repeated[0]!r} twice. Rename one of the two.")
            for row in reader:
                if None in row:
                    raise UnusableValue(
                        f"{path}, line {reader.line_num}: {len(row) - 1 + len(row[None])} cells, and the first line names "
                        f"{len(reader.fieldnames)}. A text with commas or line breaks needs quotes around it."
                    )
                yield row
        except csv.Error as error:
            raise UnusableValue(f"{path}: not valid CSV after line {reader.line_num} ({error}).") from error


def _open_parquet(path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UnusableValue(f"{path} is no readable Parquet file: {error}") from error


def _parquet_rows(path: Path, split: str, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    file = _open_parquet(path)
    names = file.schema_arrow.names
    chosen = names if columns is None else [name for name in names if name in columns]
    for batch in file.iter_batches(_PARQUET_ROWS_AT_A_TIME, columns=chosen):
        yield from batch.to_pylist()


_READERS = {".jsonl": _json_rows, ".json": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
