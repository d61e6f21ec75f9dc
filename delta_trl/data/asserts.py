"""Assertions such as MBPP's, turned into calls with expected values. Nothing is executed: the text is only parsed."""

import ast
import json
from collections.abc import Sequence
from typing import Any

from ..sandbox.inside.values import encode


def tests_of_asserts(asserts: Sequence[str]) -> tuple[dict[str, object], int]:
    """Tests in the form that `code_reward` takes, from assertions that all call one function.

    Understood are `assert f(1, [2]) == (3,)`, either way round, `assert f(1) is True`, `assert f(1)` and `assert not f(1)`,
    with plain values as arguments.

    Args:
        asserts: Texts of one assertion each.

    Returns:
        `inputs` (texts of tuples of arguments), `outputs`, `fn_name` and `format`; and how many assertions were left out.

    Raises:
        ValueError: None can be turned into a call, or they call different functions.
    """
    calls = [call for call in map(_call, asserts) if call is not None]
    names = sorted({name for name, _, _ in calls})
    if len(names) != 1:
        raise ValueError(
            f"assertions call {', '.join(names)}" if names else "no assertion is a call with plain values"
        )
    tests = {
        "inputs": [arguments for _, arguments, _ in calls],
        "outputs": [value for _, _, value in calls],
        "fn_name": names[0],
        "format": "python",
    }
    return tests, len(asserts) - len(calls)


def _call(text: str) -> tuple[str, str, object] | None:
    """The function's name, the text of a tuple of arguments, and the expected value."""
    try:
        body: list[Any] = ast.parse(text.strip()).body
        (statement,) = body
        test = statement.test  # AttributeError unless it is an assertion
        expected: object = True
        if isinstance(test, ast.Compare):
            (operator,), (right,) = test.ops, test.comparators
            if not isinstance(operator, (ast.Eq, ast.Is)):
                return None
            call, value = (test.left, right) if isinstance(test.left, ast.Call) else (right, test.left)
            expected = ast.literal_eval(value)
        elif isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            call, expected = test.operand, False
        else:
            call = test
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)) or call.keywords:
            return None
        for argument in call.args:
            ast.literal_eval(argument)
        arguments = "".join(f"{ast.unparse(argument)}, " for argument in call.args)
        return call.func.id, f"({arguments.rstrip()})", json.loads(encode(expected))
    except (SyntaxError, ValueError, AttributeError, TypeError, RecursionError, MemoryError):
        return None
