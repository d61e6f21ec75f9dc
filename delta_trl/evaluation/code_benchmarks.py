"""Programming problems of a benchmark, read from a file, the Hub or a package. References are tests as JSON text."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from ..rewards.code.tests import read_tests
from ..sandbox import Sandbox
from .livecodebench import PLACE, question_of
from .problem import QUESTION_COLUMNS, Benchmark, Problem
from .rows import read_json_rows


# Of `livecodebench/code_generation_lite`: release_v6 is all of them
LIVECODEBENCH_FILES = ("test.jsonl", *(f"test{number}.jsonl" for number in range(2, 7)))


def read_references(reader: Callable, benchmark: Benchmark, sandbox: Sandbox) -> list[Problem]:
    """Rows with a reference solution, whose outputs in the sandbox are the expected ones; `reader` is of `evalplus`."""
    problems = reader(benchmark.rows(), sandbox)
    return [Problem(identity, question, json.dumps(tests)) for identity, question, tests in problems]


def read_own_tests(benchmark: Benchmark, sandbox: Sandbox) -> list[Problem]:
    """Rows of a local file with a column `tests`.

    Raises:
        ValueError: Tests of a row cannot be used.
    """
    problems = []
    for number, row in enumerate(benchmark.rows()):
        name = benchmark.question or next((name for name in QUESTION_COLUMNS if name in row), "question")
        tests = row["tests"] if isinstance(row["tests"], str) else json.dumps(row["tests"])
        try:
            read_tests(tests)
        except ValueError as error:
            raise ValueError(f"the tests in row {number} cannot be used: {error}") from None
        problems.append(Problem(str(row.get("id", number)), str(row[name]), tests))
    return problems


def read_livecodebench(benchmark: Benchmark, sandbox: Sandbox) -> list[Problem]:
    """LiveCodeBench's own files, or those of the Hub. A problem knows where its tests are; its answer is their digest."""
    path = Path(benchmark.source)
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
    elif path.suffix == ".jsonl":
        files = [path]
    else:
        from huggingface_hub import hf_hub_download

        files = [Path(hf_hub_download(benchmark.source, name, repo_type="dataset")) for name in LIVECODEBENCH_FILES]
    return [
        Problem(
            id=str(row["question_id"]),
            question=question_of(row),
            answer=hashlib.sha256(line).hexdigest(),
            place=PLACE + json.dumps({"file": str(file), "offset": offset}),
        )
        for file in files
        for row, line, offset in read_json_rows(file)
    ]
