"""HumanEval, HumanEval+ and MBPP+: rows to problems. Their reference solutions give the expected outputs, in the sandbox."""

import ast
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..rewards.code.checks import reference_outputs, reference_tests
from ..sandbox import Limits, Sandbox


# A reference may take long on the hardest inputs, which all run in one process
LIMITS = Limits(cpu_seconds=60.0, wall_seconds=120.0, memory_bytes=4 * 2**30, output_bytes=2**28)
# EvalPlus accepts more than equal values here: any zero of a polynomial, any order, any match
ROOT = {"find_zero"}
SETS = {
    *("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum"),
    *("intersection_array", "find_dissimilar", "Diff"),
}
NOT_NONE = {"check_str", "text_match_three", "text_starta_endb"}

# Types that JSON has not, by number of MBPP+'s tasks
_TUPLES = {2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809}
_LISTS_OF_TUPLES = {63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780}
_FIRST_LIST_OF_TUPLES = {75, 413, 444, 753}
_FIRST_TUPLE = {250, 307, 405, 446, 617, 720, 763, 808}
_SECOND_TUPLE = {106, 750}
_TUPLES_OF_TUPLES = {259, 278, 401, 445}
_ALL_TUPLES = {580, 615, 791}


def read_humaneval(rows: Sequence[Mapping[str, Any]], sandbox: Sandbox) -> list[tuple[str, str, dict]]:
    """(id, question, tests) of each problem. The reference's values on what the problem's check calls it with."""

    def read(row: Mapping[str, Any]) -> tuple[str, str, dict]:
        reference = row["prompt"] + row["canonical_solution"]
        tests = reference_tests(reference, row["test"], row["entry_point"], sandbox, LIMITS)
        return str(row["task_id"]), _complete(row["prompt"]), tests

    with ThreadPoolExecutor(sandbox.workers) as executor:
        return list(executor.map(read, rows))


def read_evalplus(rows: Sequence[Mapping[str, Any]], sandbox: Sandbox) -> list[tuple[str, str, dict]]:
    """The same of the JSONL release (`base_input`, `plus_input`) or of the Hub's rows (inputs inside `test`)."""

    def read(row: Mapping[str, Any]) -> tuple[str, str, dict]:
        identity = str(row["task_id"])
        function = row.get("entry_point") or _called(row["test"])
        is_function = row["prompt"].lstrip().startswith(("def ", "from ", "import ")) or "canonical_solution" in row
        if "base_input" in row:
            inputs = [*row["base_input"], *(row["plus_input"] or [])]
            if identity.startswith("Mbpp/"):
                inputs = [typed(int(identity.removeprefix("Mbpp/")), given) for given in inputs]
            arguments = [repr(tuple(given)) for given in inputs]
        else:
            arguments = [f"tuple({text})" for text in _inputs_inside(row["test"])]
        reference = row["prompt"] + row["canonical_solution"] if "canonical_solution" in row else row["code"]
        tests = {"inputs": arguments, "fn_name": function, "format": "python"}
        if function in ROOT:
            coefficients = [ast.literal_eval(text.removeprefix("tuple"))[0] for text in arguments]
            tests |= {"outputs": coefficients, "oracle": "root"}
        else:
            tests["outputs"] = reference_outputs(reference, function, arguments, sandbox, LIMITS)
            if identity.isdigit() or identity.startswith("Mbpp/"):
                tests |= {"oracle": "set"} if function in SETS else {}
                tests |= {"oracle": "not none"} if function in NOT_NONE else {}
        question = (
            _complete(row["prompt"]) if is_function and "def " in row["prompt"] else row["prompt"].strip().strip('"')
        )
        if f"{function}(" not in question:  # MBPP tells the function's name in an assertion
            shown = [text for text in row.get("test_list") or () if function in text][:1]
            question = (
                question.strip() + f"\nThe function must be called {function}." + "".join(f"\n{t}" for t in shown)
            )
        return identity, question.strip(), tests

    with ThreadPoolExecutor(sandbox.workers) as executor:
        return list(executor.map(read, rows))


def _complete(prompt: str) -> str:
    return f"Complete this function; write the whole program.\n```python\n{prompt.rstrip()}\n```"


def typed(number: int, arguments: list) -> list:
    """The arguments of one call of an MBPP+ task, with the types that they had before they were written as JSON."""
    if number in _TUPLES:
        return [tuple(argument) for argument in arguments]
    if number in _LISTS_OF_TUPLES:
        return [[tuple(item) for item in argument] for argument in arguments]
    if number in _FIRST_LIST_OF_TUPLES:
        return [[tuple(item) for item in arguments[0]], *arguments[1:]]
    if number in _FIRST_TUPLE:
        return [tuple(arguments[0]), *arguments[1:]]
    if number in _SECOND_TUPLE:
        return [arguments[0], tuple(arguments[1]), *arguments[2:]]
    if number in _TUPLES_OF_TUPLES:
        return [tuple(tuple(item) if isinstance(item, list) else item for item in argument) for argument in arguments]
    if number in _ALL_TUPLES:
        return [_all_tuples(argument) for argument in arguments]
    if number == 115:  # an empty set was written as an empty list or dict, and read as a dict
        return [[set(item) if item and isinstance(item, list) else {} for item in arguments[0]]]
    if number == 124:
        return [float(arguments[0]), complex(arguments[1])]
    if number == 252:
        return [complex(arguments[0])]
    if number == 722:
        return [{key: tuple(value) for key, value in arguments[0].items()}, *arguments[1:]]
    return arguments


def _all_tuples(value: Any) -> Any:
    return tuple(map(_all_tuples, value)) if isinstance(value, list) else value


def _called(test: str) -> str:
    found = re.search(r"(\w+)\(\*inp\)", test)
    if found is None:
        raise ValueError("the test calls no function with *inp")
    return found[1]


def _inputs_inside(test: str) -> list[str]:
    """The elements of the list `inputs` in the text of a test, which is only parsed."""
    for node in ast.walk(ast.parse(test)):
        is_list = isinstance(node, ast.Assign) and isinstance(node.value, ast.List)
        if is_list and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "inputs":
            return [ast.unparse(element) for element in node.value.elts]
    raise ValueError("the test holds no list `inputs`")
