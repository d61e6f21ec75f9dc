"""Tests from a reference solution and a check of assertions, as HumanEval has them.

A check that ran next to a program under test could be fooled by it: the expected values would be in the same process. So
the check only runs with the reference, once, in the sandbox, to see what it calls it with. The values that the reference
gives are the expected ones; a program under test gets the arguments alone.
"""

from ...sandbox import Calls, Limits, Sandbox
from .compare import read_value


# What the reference is called with, as texts, since arguments may be tuples and sets; noted before it can change them.
_RECORDER = """

def __recorded__():
    texts = {{}}
    def recorder(*arguments):
        texts.setdefault(repr(arguments))
        return {function}(*arguments)
    check(recorder)
    return list(texts)
"""


def reference_tests(
    reference: str, check: str, function: str, sandbox: Sandbox, limits: Limits | None = None
) -> dict[str, object]:
    """Tests in the form that `code_reward` takes.

    Args:
        reference: A program that is right.
        check: The text of a program that defines `check(candidate)`, which calls it and asserts.
        function: The name of the function in the reference.
        sandbox: Where the reference and the check run.
        limits: What the whole check, and each call, may use.

    Returns:
        `inputs` (texts of tuples of arguments, each once), `outputs`, `fn_name` and `format`.

    Raises:
        ValueError: The reference fails the check, or gives values that cannot be compared.
    """
    program = f"{reference}\n\n{check}\n{_RECORDER.format(function=function)}"
    recorded = sandbox.call(program, Calls("__recorded__", [[]]), limits)
    if len(recorded.returned) != 1:
        raise ValueError(f"The reference of {function} does not pass its check: {_last_line(recorded.stderr)}")
    arguments = read_value(recorded.returned[0][1:])
    outputs = reference_outputs(reference, function, arguments, sandbox, limits)
    return {"inputs": arguments, "outputs": outputs, "fn_name": function, "format": "python"}


def reference_outputs(
    reference: str, function: str, arguments: list[str], sandbox: Sandbox, limits: Limits | None = None
) -> list[object]:
    """What a reference gives for arguments, each the text of a Python tuple. ValueError if it does not give all."""
    given = sandbox.call(reference, Calls(function, arguments, is_python=True), limits)
    if not arguments or given.status != "finished" or len(given.returned) != len(arguments):
        raise ValueError(f"The reference of {function} gives no values to compare: {_last_line(given.stderr)}")
    return [read_value(line[1:]) for line in given.returned]


def _last_line(text: bytes) -> str:
    return text.rstrip().rpartition(b"\n")[2].decode("utf-8", "replace")
