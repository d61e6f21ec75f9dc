"""A benchmark, which knows how its problems are read, and a problem, which is a question with a reference."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..sandbox import Sandbox
from .rows import load_rows


# Tried in this order in a local file. `answer` before `solution`: several sets have a full worked solution beside it.
QUESTION_COLUMNS = ("question", "problem", "prompt")
ANSWER_COLUMNS = ("answer", "final_answer", "solution")
ID_COLUMNS = ("id", "problem_idx", "unique_id")


@dataclass(frozen=True)
class Problem:
    """One problem.

    Args:
        id: Within the benchmark.
        question: Its text.
        answer: The reference: an answer, or tests of a program as JSON text; or a digest of them.
        letters: Of the options of a multiple-choice question.
        place: Where the reference is, if it is too large to keep; see `livecodebench.tests_at`.
    """

    id: str
    question: str
    answer: str
    letters: str = ""
    place: str = ""


def read_columns(benchmark: "Benchmark", sandbox: Sandbox) -> list[Problem]:
    """Problems from the columns for question, answer and id.

    Raises:
        ValueError: A column is missing, or a question or answer is empty.
    """
    rows = benchmark.rows()
    columns = sorted(rows[0])
    question = benchmark.question or _first_of(QUESTION_COLUMNS, columns, "question")
    answer = benchmark.answer or _first_of(ANSWER_COLUMNS, columns, "answer")
    identity = benchmark.problem_id or next((name for name in ID_COLUMNS if name in columns), None)

    problems = []
    for number, row in enumerate(rows):
        missing = [column for column in (question, answer, identity) if column is not None and column not in row]
        if missing:
            raise ValueError(
                f"no column {missing} in row {number}; its columns are {sorted(row)}. Of a file of your own, "
                "--question_column and --answer_column name them. If a named benchmark's dataset was changed, evaluate a "
                f"local copy with the columns {[question, answer]}, as NAME=file.jsonl."
            )
        empty = [column for column in (question, answer) if row[column] is None or not str(row[column]).strip()]
        if empty:
            raise ValueError(f"{empty} is empty in row {number}. Every problem needs both.")
        problems.append(
            Problem(str(number) if identity is None else str(row[identity]), str(row[question]), str(row[answer]))
        )
    return problems


@dataclass(frozen=True)
class Benchmark:
    """A set of problems with known answers.

    Args:
        name: How it is called on the command line and in records.
        title: How it is called in tables.
        source: Dataset id on the Hub, or path of a local file (see `data.files`).
        question: Column with the problem's text. For a local file, None: the first of `QUESTION_COLUMNS` it has.
        answer: Column with the reference answer, cast to str. For a local file, None: as above.
        problem_id: Column that names a problem. None: the first of `ID_COLUMNS`, or the row number, from 0.
        config: Configuration of the Hub dataset, where it has several.
        split: Split of the Hub dataset.
        size: Number of problems it must have, or None where any number will do.
        licence: What may be done with the problem texts.
        grader: The kind of its answers, one of `graders.GRADERS`.
        read: Reads its problems; the sandbox runs reference solutions, where they give the expected outputs.
        takes_folder: Whether a local copy may be a folder with files.
    """

    name: str
    title: str
    source: str
    question: str | None = "problem"
    answer: str | None = "answer"
    problem_id: str | None = "problem_idx"
    config: str | None = None
    split: str = "train"
    size: int | None = 30
    licence: str = "CC BY-NC-SA 4.0: load it, do not bundle it"
    grader: str = "math"
    read: Callable[["Benchmark", Sandbox], list[Problem]] = read_columns
    takes_folder: bool = False

    def rows(self) -> list[dict[str, Any]]:
        """The rows of its source, at least one.

        Raises:
            ValueError: As `rows.load_rows`, or there is no row.
            OSError: As `rows.load_rows`.
        """
        rows = load_rows(self.source, self.config, self.split)
        if not rows:
            raise ValueError("it has no rows.")
        return rows


def fingerprint(problems: Sequence[Problem]) -> str:
    """16 hexadecimal digits that change with any id, question or answer: tells whether two runs had the same set."""
    text = json.dumps([[problem.id, problem.question, problem.answer] for problem in problems])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _first_of(candidates: Sequence[str], columns: Sequence[str], role: str) -> str:
    for name in candidates:
        if name in columns:
            return name
    raise ValueError(
        f"the columns are {list(columns)}: none of {list(candidates)}, which are tried for the {role}. "
        f"Name it with --{role}_column."
    )
