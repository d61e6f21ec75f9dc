"""Rows with a programming problem and its tests, in the schemas that data sets have.

| schema | columns that tell it | problem | tests |
|---|---|---|---|
| own | `tests` and the question column | question column | `tests`: a dict or its JSON text, see `rewards.code.tests` |
| Eurus-2 | `prompt`, `reward_model` | last user message | `reward_model.ground_truth` |
| APPS, TACO | `question`, `input_output` | `question`, `starter_code` | `input_output` |
| MBPP | `text` or `prompt`, `test_list` | text and the first assertion | `test_list`, `challenge_test_list` |

Rows are read and checked one at a time and written to Arrow files, from which a row's tests are read when it is graded.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .asserts import tests_of_asserts
from .filters import Steps, column
from .reading import kept_columns, kept_values
from .sources import open_source


if TYPE_CHECKING:
    from datasets import Dataset

    from .arguments import DataArguments
    from .sources import Rows

OTHER_ABILITY = "not code"  # Eurus-2-RL-Data holds mathematics, too
MADE = ("question", "tests", "fault", "origin")  # the columns of converted rows
ROWS_AT_A_TIME = 16  # in memory; a row's tests may have megabytes
_INSTRUCTION = re.compile(
    r"(?<!\s)\s*Write Python code to solve the problem\.\s*Present the code in\s*"
    r"```python\s*Your code\s*```\s*at the end\.?\s*$"
)

DatasetRow = Mapping[str, Any]


def _own(row: DatasetRow, question_column: str) -> tuple[str, object]:
    return row.get(question_column) or "", row.get("tests")


def _eurus(row: DatasetRow, question_column: str) -> tuple[str, object]:
    prompt = row.get("prompt")
    if not isinstance(prompt, str):
        texts = [message["content"] for message in prompt or () if message.get("role") == "user"]
        prompt = texts[-1] if texts else ""
    # The prompt format puts an instruction after the question
    return _INSTRUCTION.sub("", prompt), (row.get("reward_model") or {}).get("ground_truth")


def _apps(row: DatasetRow, question_column: str) -> tuple[str, object]:
    question = row.get("question") or ""
    starter = (row.get("starter_code") or "").strip()
    if question.strip() and starter:
        question += f"\n\nUse this starter code:\n```python\n{starter}\n```"
    return question, row.get("input_output")


def _mbpp(row: DatasetRow, question_column: str) -> tuple[str, object]:
    question = (row.get("text") or row.get("prompt") or "").strip()
    asserts = [*(row.get("test_list") or ()), *(row.get("challenge_test_list") or ())]
    # Only assertions tell the function's name. One is shown, so that not all answers are in the prompt.
    if question and asserts:
        question += f"\nYour code should pass this test:\n{asserts[0].strip()}"
    return question, tests_of_asserts(asserts)[0]


SCHEMAS: dict[str, tuple[tuple[str, ...], Callable[[DatasetRow, str], tuple[str, object]]]] = {
    "Eurus-2": (("prompt", "reward_model"), _eurus),
    "APPS, TACO": (("question", "input_output"), _apps),
    "MBPP": (("test_list",), _mbpp),
}
FURTHER = ("ability", "data_source", "starter_code", "text", "prompt", "challenge_test_list")


def find_schema(names: list[str], question_column: str, where: str) -> str:
    """The schema of a dataset with these columns; ValueError if it has none."""
    if "tests" in names and question_column in names:
        return "own"
    for schema, (columns, _) in SCHEMAS.items():
        if set(columns) <= set(names):
            return schema
    known = "; ".join(f"{schema}: {', '.join(columns)}" for schema, (columns, _) in SCHEMAS.items())
    raise ValueError(
        f"{where} has the columns {', '.join(names) or '(none)'}, in which no programming problems are found. Needed are "
        f"{question_column!r} (question_column) and 'tests', or those of a known schema ({known}). For mathematics set "
        "problem_type to 'math'."
    )


def read_code_rows(arguments: "DataArguments", steps: Steps, rows: "Rows | None" = None) -> "Dataset":
    """Rows with `question`, `tests` (JSON text, "" if they cannot be used), `fault` (why), `origin` and further columns.

    Raises:
        ValueError: No known schema, or a file that is empty or broken.
        FileNotFoundError: A local path without data files.
    """
    question_column = arguments.question_column
    source = open_source(arguments, rows).with_columns(arguments.extra_columns)
    arguments.format.check_placeholders(source.names)
    schema = find_schema(source.names, question_column, source.name)
    columns = (question_column, "tests") if schema == "own" else SCHEMAS[schema][0]
    kept = kept_columns(source, arguments, MADE)
    wanted = [c for c in dict.fromkeys((*columns, *FURTHER, *kept)) if c in source.names]
    options = {"schema": schema, "question_column": question_column, "kept": kept}
    rows = source.rows(wanted, convert_row, options, MADE, kept, ROWS_AT_A_TIME)
    steps.say(f"{source.name}: {len(rows)} rows, schema {schema}")
    return rows


def convert_row(
    row: DatasetRow, number: int, schema: str, question_column: str, kept: tuple[str, ...]
) -> dict[str, Any]:
    """One row of a known schema. Never raises for what it contains."""
    from ..rewards.code.tests import read_tests

    found = dict.fromkeys(MADE, "") | {"origin": str(row.get("data_source") or "")}
    found |= kept_values(row, kept)
    if row.get("ability", "code") != "code":
        return found | {"fault": OTHER_ABILITY}
    try:
        question, tests = (_own if schema == "own" else SCHEMAS[schema][1])(row, question_column)
        found["question"] = str(question).strip()
        read_tests(tests)
        found["tests"] = tests if isinstance(tests, str) else json.dumps(tests)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        found["fault"] = f"row {number}: {error}"
    return found


def keep_testable(rows: "Dataset", steps: Steps, allow_unusable: bool) -> "tuple[Dataset, float]":
    """Rows whose tests can be used, and the share of the others among the rows with code."""
    faults = column(rows, "fault")
    if OTHER_ABILITY in faults:
        rows = steps.keep(rows, "ability other than code", [fault != OTHER_ABILITY for fault in faults])
        faults = column(rows, "fault")
    origins = Counter(column(rows, "origin"))
    if set(origins) != {""}:
        steps.say("sources: " + ", ".join(f"{name or '(none)'} {count}" for name, count in origins.most_common()))
    bad = [fault[:200] for fault in faults if fault]
    what, probably = "tests that cannot be used", "not the schema it looks like"
    share = steps.check_share(what, bad, len(faults), "; ", probably, allow_unusable)
    return steps.keep(rows, what, [not fault for fault in faults]), share
