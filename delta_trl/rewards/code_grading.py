"""Verdicts on programs: `extract_code` finds the program in a completion, `grade_program` runs it on a problem's tests.

Expected outputs never enter the sandbox: a program gets the inputs, and what it gives is compared here
(`code_compare`). So a program that looks for the answers finds none, and one that reports success reports nothing.
"""

import collections
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..responses import after_thoughts
from ..sandbox import Calls, Limits, Sandbox
from ..sandbox.jobs import CRASHED, FINISHED, OUT_OF_MEMORY, TIMED_OUT, Result
from ..sandbox.pool import MOST_INPUTS
from .code_compare import ORACLES, read_value, same_text
from .code_tests import CodeTests


RIGHT = "right"
NO_CODE = "no code"
WRONG = "wrong"
UNUSABLE_TESTS = "unusable tests"
CODE_REASONS = (RIGHT, NO_CODE, CRASHED, WRONG, TIMED_OUT, OUT_OF_MEMORY, UNUSABLE_TESTS)
LONGER = 8  # times the expected output is what a program may give at most,
LONGER_BYTES = 2**16  # and this many bytes: nothing longer is read
MIN_LITERAL = 4  # characters of an expected output that tell something when the program contains it

_FENCE = re.compile(r"^[ \t]*(`{3,})[ \t]*([^\s`]*)[^`\n]*$", re.MULTILINE)
_COMMENT = re.compile(r"(\"{3}|'{3}).*?\1|#[^\n]*", re.DOTALL)  # docstrings repeat the examples of the problem
_LANGUAGES = ("python", "python3", "py")


@dataclass(frozen=True)
class CodeVerdict:
    """The outcome for one program.

    Attributes:
        score: Share of tests passed where fractions are asked for, else 1.0 (all) or 0.0; None if the tests are unusable.
        reason: One of `CODE_REASONS`; that of the first test that failed.
        detail: The exception or why the tests are unusable, "" otherwise. In part the program's own words.
        is_hard_coded: Whether a program that is right contains an expected output (`contains_outputs`).
    """

    score: float | None
    reason: str
    detail: str = ""
    is_hard_coded: bool = False


def extract_code(completion: str) -> str | None:
    """The last closed fenced block marked as Python after the last `</think>`; else the last block without a language.

    None without one, or if a thought does not end.
    """
    text = after_thoughts(completion)
    if text is None:
        return None
    marked = unmarked = None
    opening = None
    for fence in _FENCE.finditer(text):
        if opening is None:
            opening = fence
        elif not fence[2] and len(fence[1]) >= len(opening[1]):
            block = text[opening.end() + 1 : fence.start()]
            if opening[2].lower() in _LANGUAGES:
                marked = block
            elif not opening[2]:
                unmarked = block
            opening = None
        elif fence[2].lower() in _LANGUAGES:
            opening = fence  # the one before was never closed
    return unmarked if marked is None else marked


def grade_program(
    program: str, tests: CodeTests, sandbox: Sandbox, limits: Limits | None = None, fraction: bool = False
) -> CodeVerdict:
    """Run a program on tests and compare.

    Args:
        program: Its text.
        tests: See `read_tests`.
        sandbox: Where it runs.
        limits: What one run or call may use. The output may always be longer than the expected one.
        fraction: Run all tests and give the share of those passed, instead of stopping at the first that fails.

    Raises:
        SandboxUnavailable: Programs cannot be isolated here.
    """
    limits = limits or Limits()
    longest = max(len(value) if isinstance(value, str) else 0 for value in tests.outputs[0])
    if limits.output_bytes < LONGER * longest:
        limits = replace(limits, output_bytes=LONGER * longest)
    passed, (reason, detail) = (_grade_calls if tests.function else _grade_runs)(
        program, tests, sandbox, limits, fraction
    )
    score = passed / len(tests) if fraction else float(passed == len(tests))
    return CodeVerdict(score, reason, detail, reason == RIGHT and contains_outputs(program, tests))


def _grade_runs(program: str, tests: CodeTests, sandbox: Sandbox, limits: Limits, fraction: bool) -> tuple:
    """(tests passed, (reason, detail)) on standard input."""
    stdins = [text.encode("utf-8", "surrogatepass") for text in tests.inputs]
    expected = tests.outputs[0]
    passed, first = 0, None
    start = 0
    while start < len(stdins):
        results = sandbox.run_inputs(program, stdins[start : start + MOST_INPUTS], limits)
        # What an earlier run left behind in the process may have spoilt a later one: a run that fails counts only as the
        # first of its process. The next round begins with it.
        for i, result in enumerate(results):
            failure = _failure(result) or _wrong_text(expected[start], result)
            if failure is None:
                passed += 1
            elif i > 0:
                break
            else:
                first = first or failure
                if not fraction:
                    return passed, first
            start += 1
    return passed, first or (RIGHT, "")


def _wrong_text(expected: str, result: Result) -> tuple[str, str] | None:
    got = result.stdout.decode("utf-8", "surrogateescape")
    return None if same_text(expected, got) else (WRONG, "")


def _grade_calls(program: str, tests: CodeTests, sandbox: Sandbox, limits: Limits, fraction: bool) -> tuple:
    """(tests passed, (reason, detail)) of calls: all fail unless the program gives one line a call and ends well."""
    calls = Calls(tests.function, tests.inputs, tests.is_python, keep_going=fraction)
    result = sandbox.call(program, calls, limits)
    failure = _failure(result)
    if failure:
        return 0, failure
    if len(result.returned) != len(tests):
        return 0, (WRONG, "")
    best, reason = 0, (WRONG, "")
    for expected in tests.outputs:
        right = [
            _is_right(value, line, ORACLES[tests.oracle])
            for value, line in zip(expected, result.returned, strict=True)
        ]
        best = max(best, sum(right))
    if best == len(tests):
        reason = (RIGHT, "")
    else:
        raised = [line for line in result.returned if line[:1] == b"!"]
        if raised:
            reason = (CRASHED, raised[0][1:].decode("utf-8", "replace"))
    return best, reason


def _is_right(expected: object, line: bytes, same: Callable[[object, object], bool]) -> bool:
    if line[:1] != b"=" or (len(line) > LONGER_BYTES and len(line) > LONGER * len(json.dumps(expected))):
        return False
    try:
        return same(expected, read_value(line[1:]))
    except ValueError:
        return False


def _failure(result: Result) -> tuple[str, str] | None:
    if result.status == FINISHED:
        return None
    detail = result.stderr.rstrip().rpartition(b"\n")[2][-500:].decode("utf-8", "replace")
    return (result.status if result.status in CODE_REASONS else WRONG), detail


def contains_outputs(program: str, tests: CodeTests) -> bool:
    """Whether a program contains an expected output word for word: a sign, not a proof, that it lists answers.

    Comments do not count, and outputs only if they have some length and belong to a single test: "Impossible" is part of
    many honest programs.
    """
    texts = [str(value).strip() for value in tests.outputs[-1] if value is not None and not isinstance(value, bool)]
    counts = collections.Counter(texts)
    single = [text for text, count in counts.items() if count == 1 and MIN_LITERAL <= len(text) <= len(program)]
    program = _COMMENT.sub("", program)
    return len(texts) > 1 and any(re.search(rf"(?<!\w){re.escape(text)}(?!\w)", program) for text in single)
