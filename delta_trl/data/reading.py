"""Rows of a dataset on the Hub or in local files, with only the columns that are needed."""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from datasets import Dataset

    from .arguments import DataArguments

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


def main_process_first() -> AbstractContextManager:
    """The main process fills the caches on disk; the others then read them."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return nullcontext()
    from accelerate import PartialState

    return PartialState().main_process_first()


@dataclass(frozen=True)
class Source:
    """Where rows are: found, but not read.

    Args:
        name: As the user gave it.
        arguments: Of `datasets.load_dataset`, without the split.
        split: Which.
        files: Local data files, if they are local.
        names: Of the columns.
        is_parquet: Whether single columns can be read.
        by_line: Whether the files are read here, line by line.
        version: Changes with the data.
    """

    name: str
    arguments: dict[str, Any]
    split: str
    files: list[Path]
    names: Sequence[str] = ()
    is_parquet: bool = False
    by_line: bool = False
    version: str = ""

    def require(self, columns: Sequence[str]) -> None:
        """Raise ValueError unless it has these columns."""
        missing = [column for column in columns if column not in self.names]
        if missing:
            with self.explained():
                raise ValueError(
                    f"{self.name} has no column {' and no column '.join(map(repr, missing))}. It has: "
                    f"{', '.join(self.names) or 'none'}. Name the problem's and the answer's columns with question_column "
                    "and answer_column."
                )

    def rows(
        self,
        columns: Sequence[str],
        convert: Callable[..., dict[str, Any]],
        options: Mapping[str, Any],
        rows_at_a_time: int | None = None,
    ) -> "Dataset":
        """Converted rows, cached on disk, so that a second run or another process neither downloads nor converts.

        Args:
            columns: Those that are read.
            convert: From a row, its number (from 1) and `options` to the new row.
            options: Of `convert`.
            rows_at_a_time: In memory, at most. Default: 1,000.
        """
        from datasets import Dataset

        # No lists: `from_generator` would take them for shards
        arguments = {"source": self, "columns": tuple(columns), "convert": convert, "options": options}
        with self.explained():
            return Dataset.from_generator(_rows, gen_kwargs=arguments, writer_batch_size=rows_at_a_time)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Errors that name the file and what is wrong with it."""
        try:
            yield
        except Exception as error:  # the readers raise whatever their formats do
            reason = next(
                (e for e in (error, error.__cause__, error.__context__) if isinstance(e, UnusableValue)), None
            )
            if reason is not None:
                raise ValueError(f"{self.name}: {reason}") from None
            for file in self.files:
                if fault := find_fault(file):
                    raise ValueError(fault) from None
            raise


def open_source(arguments: "DataArguments", *, by_line: bool = False) -> Source:
    """
    Find the dataset that the options name, and the names of its columns.

    Args:
        by_line: Read local .jsonl files line by line, which lets a column hold values of different types.

    Raises:
        ValueError: A file that is empty or broken, with its name and line.
        FileNotFoundError: A local path without data files.
    """
    from datasets import load_dataset_builder

    name, split, files = arguments.dataset_name, arguments.dataset_split, arguments.dataset_files
    path = Path(name)
    if not (path.exists() or path.suffix in FORMATS):
        found, version = [], None
        source = {"path": name, "revision": arguments.dataset_revision}
        if files is not None:
            source["data_files"] = {split: files}
    else:
        if files is not None:
            raise ValueError(f"dataset_files ({files!r}) is for datasets on the Hub. Name the local file or folder.")
        if not path.exists():
            raise FileNotFoundError(f"There is no file {name}.")
        found = sorted(p for p in (path.rglob("*") if path.is_dir() else [path]) if p.suffix in FORMATS)
        if not found:
            raise FileNotFoundError(f"{name} holds no .jsonl, .json or .parquet file.")
        kinds = {FORMATS[p.suffix] for p in found}
        if len(kinds) > 1:
            raise ValueError(f"{name} mixes Parquet and JSON files. Name one of them, or a folder of one kind.")
        for file in found:
            if not file.stat().st_size:
                raise ValueError(f"{file} is empty.")
        source = {"path": kinds.pop(), "data_files": {split: [str(p) for p in found]}}
        version = [(p.stat().st_size, p.stat().st_mtime_ns) for p in found]
    opened = Source(name, source, split, found)
    with opened.explained():
        if by_line and found and all(file.suffix == ".jsonl" for file in found):
            return replace(opened, names=[*next(_lines(found), {})], by_line=True, version=f"{version}")
        # A stream reads the schema, not the rows.
        builder = load_dataset_builder(**source)
        stream = builder.as_streaming_dataset(split=split)
        names = stream.column_names or list(next(iter(stream), {}))
    return replace(
        opened, names=names, is_parquet=hasattr(builder.config, "columns"), version=f"{builder.hash} {version}"
    )


def read_rows(arguments: "DataArguments") -> "Dataset":
    """
    Rows with `question` and `solution` as text, `extra_columns`, and `difficulty` and `topic` where the source has them.

    Besides the errors of `open_source`, ValueError for missing columns and values that are no text.
    """
    source = open_source(arguments)
    texts = {"question": arguments.question_column, "solution": arguments.answer_column}
    source.require((*texts.values(), *arguments.extra_columns))
    arguments.format.check_placeholders(source.names)
    further = dict.fromkeys(("difficulty", "topic", *arguments.extra_columns))
    extra = tuple(c for c in further if c in source.names and c not in texts.values())
    return source.rows((*texts.values(), *extra), _as_texts, {"texts": tuple(texts.items()), "extra": extra})


def _as_texts(row: Mapping[str, Any], number: int, texts: tuple, extra: tuple[str, ...]) -> dict[str, Any]:
    return {name: as_text(row[column], column, number) for name, column in texts} | {c: row[c] for c in extra}


def _rows(
    source: Source, columns: tuple[str, ...], convert: Callable[..., dict[str, Any]], options: Mapping[str, Any]
) -> Iterator[dict]:
    from datasets import load_dataset

    if source.by_line:
        rows = _lines(source.files)
    else:
        # Parquet reads the chosen columns only, from disk or by range requests; other formats have to be read whole.
        chosen = {"columns": list(columns)} if source.is_parquet else {}
        rows = load_dataset(**source.arguments, split=source.split, streaming=True, **chosen)
    for number, row in enumerate(rows, start=1):
        yield convert(row, number, **options)


def _lines(files: Sequence[Path]) -> Iterator[dict]:
    for file in files:
        with open(file, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise UnusableValue(f"line {number} of {file} is no JSON object: {line[:60]!r}")
                    yield row


class UnusableValue(ValueError):
    """A value that cannot be read as text."""


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
