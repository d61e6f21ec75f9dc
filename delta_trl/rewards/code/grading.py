"""Verdicts on programs: `grade_program` runs one on a problem's tests.

Expected outputs never enter the sandbox: a program gets one input after the other, and what it gives is compared here
(`compare`) as soon as it is there. So a program that looks for the answers finds none, and one that reports success reports
nothing: a run counts only if its process ends by itself with status 0, which the kernel says.
"""

import collections
import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from ...sandbox import Calls, Limits, Sandbox
from ...sandbox.jobs import CRASHED, FINISHED, OUT_OF_MEMORY, TIMED_OUT, Result
from ...sandbox.pool import MOST_INPUTS
from .compare import ORACLES, read_value, same_text
from .tests import CodeTests


RIGHT = "right"
NO_CODE = "no code"
WRONG = "wrong"
UNUSABLE_TESTS = "unusable tests"
CODE_REASONS = (RIGHT, NO_CODE, CRASHED, WRONG, TIMED_OUT, OUT_OF_MEMORY, UNUSABLE_TESTS)
LONGER = 8  # times the expected output
LONGER_BYTES = 2**16  # and this many bytes are read of what a program gives: more is wrong
MIN_LITERAL = 4  # characters of an expected output that tell something when the program contains it

_COMMENT = re.compile(r"(\"{3}|'{3}).*?\1|#[^\n]*", re.DOTALL)  # docstrings repeat the examples of the problem


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
    """(tests passed, (reason, detail)) on standard input.

    Runs share a process, and count if it ends well. What an earlier run left behind may have spoilt a later one: a run that
    fails counts only as the first of its process. If one fails later, it is repeated; if it then passes, an earlier run does
    matter, and all that were not the first of their process are repeated, since a second try is for no program.
    """
    stdins = [text.encode("utf-8", "surrogatepass") for text in tests.inputs]
    expected = tests.outputs[0]
    most = [LONGER * len(text) + LONGER_BYTES for text in expected]
    left = limits.seconds_of_all(len(stdins))
    pending, together = list(range(len(stdins))), True
    failures: dict[int, tuple[str, str]] = {}
    behind_another: set[int] = set()  # passed, but not as the first of their process
    suspects: set[int] = set()  # failed behind another
    while pending:
        if left <= 0:
            failures |= dict.fromkeys(pending, (TIMED_OUT, "all tests together took too long"))
            break
        batch = pending[:MOST_INPUTS] if together else pending[:1]
        failed: dict[int, tuple[str, str]] = {}
        passed = set()
        with contextlib.closing(
            sandbox.run_inputs(program, [stdins[i] for i in batch], limits, [most[i] for i in batch], left)
        ) as results:
            for i, result in zip(batch, results, strict=False):
                left -= result.seconds
                failure = _failure(result) or _wrong_text(expected[i], result)
                if failure is None:
                    passed.add(i)
                else:
                    failed[i] = failure
                    if not fraction:
                        break
        ended_well = result.status == FINISHED and (fraction or not failed)
        decided = passed if ended_well else set()
        if batch[0] in failed:
            failures[batch[0]] = failed[batch[0]]
            if not fraction:
                break
            decided = decided | {batch[0]}
        together = together and not (passed | failed.keys()) - decided
        pending = [i for i in pending if i not in decided]
        behind_another |= decided - {batch[0]}
        if batch[0] in passed & suspects:
            pending += behind_another
            behind_another.clear()
        suspects |= failed.keys() - {batch[0]}
        pending.sort(key=lambda i: i not in failed)  # the likeliest to fail first
    first = failures[min(failures)] if failures else (RIGHT, "")
    return len(stdins) - len(failures), first


def _wrong_text(expected: str, result: Result) -> tuple[str, str] | None:
    got = result.stdout.decode("utf-8", "surrogateescape")
    return None if same_text(expected, got) else (WRONG, "")


def _grade_calls(program: str, tests: CodeTests, sandbox: Sandbox, limits: Limits, fraction: bool) -> tuple:
    """(tests passed, (reason, detail)) of calls: all fail unless the program gives one line a call and ends well."""
    most_bytes = LONGER * tests.output_size + LONGER_BYTES * len(tests)
    calls = Calls(tests.function, tests.inputs, tests.is_python, keep_going=fraction, most_bytes=most_bytes)
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
    if line[:1] != b"=" or (
        len(line) > LONGER_BYTES and len(line) > LONGER_BYTES + LONGER * len(json.dumps(expected))
    ):
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
    return len(texts) > 1 and any(_contains_word(program, text) for text in single)


def _contains_word(program: str, text: str) -> bool:
    """Whether a text is in a program, with no letter, digit or underscore next to it."""
    start = program.find(text)
    while start >= 0:
        end = start + len(text)
        if not any(c.isalnum() or c == "_" for c in (program[max(0, start - 1) : start] + program[end : end + 1])):
            return True
        start = program.find(text, end)
    return False
