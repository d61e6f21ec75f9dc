"""Where problems come from: a dataset on the Hub, local files or rows in memory, of which only what is needed is read."""

import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import (
    READ_FORMATS,
    UnusableValue,
    file_columns,
    format_of,
    is_saved_dataset,
    parquet_features,
    read_file,
    read_saved_dataset,
    split_of,
)
from .fingerprint import code_fingerprint


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features

    from .arguments import DataArguments

    Rows = Dataset | DatasetDict | Sequence[Mapping[str, Any]]

FIRST_ROWS = 1000  # of a file, which tell its columns; more are looked at where one is missing
SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
_NOT_LETTERS = re.compile(r"[^a-z]")
# Of columns that are handed on; those of others are the types of their values
_TYPES = {"difficulty": "float64", "topic": "string"}


def main_process_first() -> AbstractContextManager:
    """The main process fills the caches on disk; the others then read them."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return nullcontext()
    from accelerate import PartialState

    return PartialState().main_process_first()


@dataclass(frozen=True)
class Source:
    """Where rows are: found, but not read.

    Attributes:
        name: As the user gave it.
        split: Which.
        files: Local data files, if they are local.
        given: Rows in memory or of a folder that `save_to_disk` wrote, if they are such.
        hub: Arguments of `datasets.load_dataset`, without the split, if they are on the Hub.
        names: Of the columns, as far as the first rows tell.
        features: Types of the columns, where they are known.
        is_parquet: Whether single columns can be read from the Hub.
        version: Changes with the data.
    """

    name: str
    split: str
    files: tuple[Path, ...] = ()
    given: Any = None
    hub: Mapping[str, Any] | None = None
    names: Sequence[str] = ()
    features: "Features | None" = None
    is_parquet: bool = False
    version: str = ""

    def with_columns(self, columns: Sequence[str]) -> "Source":
        """This source, after all rows were looked at if the first ones lack a column. ValueError if none has it."""
        names = self.names
        if self.files and not set(columns) <= set(names):
            with explained(self.name):
                names = _names(self.files, self.split, None)
        if missing := [column for column in columns if column not in names]:
            raise ValueError(
                f"{self.name} has no column {' and no column '.join(map(repr, missing))}. It has: "
                f"{', '.join(names) or 'none'}. Name the problem's and the answer's columns with question_column "
                "and answer_column."
            )
        return replace(self, names=names)

    def read(self, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """The rows as they are. A row may lack a column, or have more of them."""
        if self.given is not None:
            rows = self.given
            yield from rows.select_columns(list(columns)) if hasattr(rows, "select_columns") else rows
        elif self.files:
            for file in self.files:
                yield from read_file(file, self.split, columns)
        else:
            from datasets import load_dataset

            # Parquet reads the chosen columns only, by range requests; other formats have to be read whole
            chosen = {"columns": list(columns)} if self.is_parquet else {}
            yield from load_dataset(**self.hub, split=self.split, streaming=True, **chosen)

    def rows(
        self,
        columns: Sequence[str],
        convert: Callable[..., dict[str, Any]],
        options: Mapping[str, Any],
        names: Sequence[str],
        kept: Sequence[str],
        rows_at_a_time: int | None = None,
    ) -> "Dataset":
        """Converted rows, cached on disk, so that a second run or another process neither downloads nor converts.

        Args:
            columns: Those that are read.
            convert: From a row, its number (from 1) and `options` to the new row.
            options: Of `convert`.
            names: Of the text columns that `convert` makes, besides those it hands on.
            kept: Of the columns that it hands on.
            rows_at_a_time: In memory, at most. Default: 1,000.
        """
        from datasets import Dataset

        # No lists: `from_generator` would take them for shards. What is in the cache depends on the code, too.
        arguments = {"source": self, "columns": tuple(columns), "convert": convert, "options": options}
        arguments["code"] = code_fingerprint("data", "rewards", "sandbox")
        with explained(self.name):
            return Dataset.from_generator(
                _rows,
                features=self._features(names, kept),
                gen_kwargs=arguments,
                writer_batch_size=rows_at_a_time,
            )

    def _features(self, names: Sequence[str], kept: Sequence[str]) -> "Features | None":
        """The types of converted rows; None, which leaves them to the first rows, for files on the Hub that do not say."""
        from datasets import Features, Value

        others = [name for name in kept if name not in _TYPES]
        known = self.features
        if known is None:
            if others and self.hub is not None:
                return None
            known = _inferred(self.read(others), others) if others else Features()
        types = {name: Value("string") for name in names}
        return Features(types | {name: Value(_TYPES[name]) if name in _TYPES else known[name] for name in kept})


@contextmanager
def explained(name: str) -> Generator[None, None, None]:
    """Turn what `datasets` raises about data that cannot be read into the error that says what is wrong with it."""
    try:
        yield
    except Exception as error:  # the readers raise whatever their formats do
        reason = next((e for e in (error, error.__cause__, error.__context__) if isinstance(e, UnusableValue)), None)
        if reason is None:
            raise
        text = str(reason)
        raise ValueError(text if text.startswith(name) else f"{name}: {text}") from None


def _of_split(files: list[Path], split: str) -> list[Path]:
    """Of files that are named after splits, such as train-00000-of-00002.parquet or test.jsonl, those of one; else all."""
    splits = [next((s for s in SPLITS if s in _NOT_LETTERS.split(file.name.lower())[0:1]), None) for file in files]
    if len(set(splits)) == 1 or split not in splits:
        return files
    return [file for file, found in zip(files, splits, strict=True) if found == split]


def _names(files: Sequence[Path], split: str, rows: int | None) -> list[str]:
    return list(dict.fromkeys(name for file in files for name in file_columns(file, split, rows)))


def _inferred(rows: Iterator[Mapping[str, Any]], names: Sequence[str]) -> "Features":
    """The types of these columns that hold the values of all rows."""
    import pyarrow as pa
    from datasets import Features

    schema = pa.schema([(name, pa.null()) for name in names])
    while batch := list(islice(rows, FIRST_ROWS)):
        for name in names:
            try:
                found = pa.schema([(name, pa.array([row.get(name) for row in batch]).type)])
                schema = pa.unify_schemas([schema, found], promote_options="permissive")
            except pa.ArrowException as error:
                raise UnusableValue(
                    f"column {name!r} holds values of different types ({error}). Make them one type, for instance text."
                ) from error
    return Features.from_arrow_schema(schema)


def open_source(arguments: "DataArguments", rows: "Rows | None" = None) -> Source:
    """
    Find the dataset that the options name, or these rows in memory, and the names of its columns.

    Raises:
        ValueError: A file that is empty or broken, with its name and line; rows that are none.
        FileNotFoundError: A local path without data files.
    """
    name, split, files = arguments.dataset_name, arguments.dataset_split, arguments.dataset_files
    path = Path(name)
    if rows is not None:
        return _source_of_rows(name, split, rows)
    if not (path.exists() or format_of(path)):
        return _source_on_hub(arguments)
    if files is not None:
        raise ValueError(f"dataset_files ({files!r}) is for datasets on the Hub. Name the local file or folder.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {name}.")
    if path.is_dir() and is_saved_dataset(path):
        return _source_of_rows(name, split, read_saved_dataset(path, split))
    found = sorted(p for p in (path.rglob("*") if path.is_dir() else [path]) if format_of(p))
    if not found:
        raise FileNotFoundError(f"{name} holds no {READ_FORMATS} file, of which .gz, .bz2 and .xz are read as well.")
    found = _of_split(found, split)
    kinds = {format_of(p).replace("jsonl", "json") for p in found}
    if len(kinds) > 1:
        raise ValueError(f"{name} mixes {' and '.join(sorted(kinds))} files. Name one, or a folder of one kind.")
    version = [(p.stat().st_size, p.stat().st_mtime_ns) for p in found]
    features = None
    with explained(name):
        names = _names(found, split, FIRST_ROWS)
        if kinds == {".parquet"}:
            features = parquet_features(found)
    return Source(name, split, tuple(found), names=names, features=features, version=f"{version}")


def _source_of_rows(name: str, split: str, rows: "Rows") -> Source:
    rows = split_of(rows, split, name)
    if hasattr(rows, "column_names"):
        return Source(name, split, given=rows, names=rows.column_names, features=rows.features)
    if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(
            f"Rows must be a datasets.Dataset, a DatasetDict or a list of dicts, got {type(rows).__name__} "
            f"{str(rows)[:60]}. A list needs dicts such as {{'question': ..., 'final_answer': ...}}."
        )
    return Source(name, split, given=rows, names=list(dict.fromkeys(column for row in rows for column in row)))


def _source_on_hub(arguments: "DataArguments") -> Source:
    from datasets import load_dataset_builder

    split = arguments.dataset_split
    hub: dict[str, Any] = {"path": arguments.dataset_name, "revision": arguments.dataset_revision}
    if arguments.dataset_files is not None:
        hub["data_files"] = {split: arguments.dataset_files}
    # A stream reads the schema, not the rows
    builder = load_dataset_builder(**hub)
    stream = builder.as_streaming_dataset(split=split)
    return Source(
        arguments.dataset_name,
        split,
        hub=hub,
        names=stream.column_names or list(next(iter(stream), {})),
        features=stream.features,
        is_parquet=hasattr(builder.config, "columns"),
        version=builder.hash,
    )


def _rows(
    source: Source,
    columns: Sequence[str],
    convert: Callable[..., dict[str, Any]],
    options: Mapping[str, Any],
    code: str,
) -> Iterator[dict]:
    for number, row in enumerate(source.read(columns), start=1):
        yield {name: _encodable(value) for name, value in convert(row, number, **options).items()}


def _encodable(value: Any) -> Any:
    """A text without half of a surrogate pair, which JSON may hold and Arrow does not take."""
    if not isinstance(value, str) or value.isascii():
        return value
    return value.encode("utf-8", "replace").decode("utf-8")
