"""Verified rewards for code: the program in a completion runs in the sandbox on the tests of its problem.

`code_reward` is a TRL reward function; `make_code_reward` makes one with other settings. Policy of the comparison:
`compare`. Forms of tests: `tests`. Where a program is found: `extraction`. What the sandbox promises: docs/rewards_code.md.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ...responses import response_texts
from ...sandbox import Limits, Sandbox
from .extraction import extract_code
from .grading import CODE_REASONS, NO_CODE, UNUSABLE_TESTS, CodeVerdict, grade_program
from .tests import CodeTests, read_tests


def grade_code(
    completions: Sequence[str],
    tests: Sequence[object],
    sandbox: Sandbox,
    limits: Limits | None = None,
    most_tests: int | None = None,
    fraction: bool = False,
) -> list[CodeVerdict]:
    """Grade one completion after another on the tests of its problem, as many at a time as the sandbox has workers.

    Args:
        completions: The generated texts. A text that continues an opened `<think>` of its prompt must include it.
        tests: As many rows of tests (see `read_tests`).
        sandbox: Where the programs run.
        limits: What one run or call may use.
        most_tests: Run at most so many tests of a row.
        fraction: Whether a score is the share of tests passed.

    Returns:
        One `CodeVerdict` a completion. Never raises for what a completion or a row contains.

    Raises:
        ValueError: Different numbers of completions and tests.
        SandboxUnavailable: Programs cannot be isolated here. Nothing was run.
    """
    if len(completions) != len(tests):
        raise ValueError(
            f"grade_code() needs the tests of each completion, got {len(completions)} completions and {len(tests)} rows "
            "of tests. Repeat the row for every sample of a problem."
        )
    known: dict[Any, CodeTests | str] = {}  # a group of completions shares a row: read it once

    def grade_one(completion: str, row: object) -> CodeVerdict:
        key = row if isinstance(row, str) else id(row)
        if key not in known:
            try:
                known[key] = read_tests(row, most_tests)
            except ValueError as error:
                known[key] = str(error)
        found = known[key]
        if isinstance(found, str):
            return CodeVerdict(None, UNUSABLE_TESTS, found)
        program = extract_code(completion)
        if program is None:
            return CodeVerdict(0.0, NO_CODE)
        return grade_program(program, found, sandbox, limits, fraction)

    with ThreadPoolExecutor(sandbox.workers) as executor:
        try:
            return list(executor.map(grade_one, completions, tests))
        except BaseException:  # Ctrl-C, or no sandbox: do not run the others first
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def make_code_reward(
    fraction: bool = False,
    tests: int = 15,
    timeout: float = 4.0,
    memory: int = 1024,
    workers: int | None = None,
) -> Callable[..., list[float | None]]:
    """A reward function like `code_reward` with other settings.

    Args:
        fraction: Reward the share of tests passed instead of 1.0 for all of them. Every test is run then.
        tests: Run at most so many tests of a problem, >= 1: those with the longest inputs, the same ones each time.
        timeout: CPU seconds of one test, > 0. By the clock it gets 2 seconds more than twice as long.
        memory: MiB that one program may use, >= 1.
        workers: Programs that run at a time, >= 1. Default: one a core, shared by the training processes of the machine.

    >>> reward = make_code_reward(fraction=True)
    """
    if tests < 1:
        raise ValueError(f"tests must be at least 1, got {tests}.")
    if memory < 1:
        raise ValueError(f"memory must be at least 1 MiB, got {memory}.")
    if timeout <= 0:
        raise ValueError(f"timeout must be above 0 seconds, got {timeout}.")
    limits = Limits(cpu_seconds=timeout, memory_bytes=memory * 2**20)
    sandbox = Sandbox(workers)
    most_tests = tests

    def code_reward(
        completions: Sequence[str | list[dict[str, Any]]],
        tests: Sequence[object],
        log_extra: Callable[[str, list], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **kwargs,
    ) -> list[float | None]:
        texts = response_texts(completions, kwargs)
        verdicts = grade_code(texts, tests, sandbox, limits, most_tests, fraction)
        if log_extra is not None:
            log_extra("verdict", [verdict.reason for verdict in verdicts])
            log_extra("detail", [verdict.detail for verdict in verdicts])
        if log_metric is not None and verdicts:
            for reason in CODE_REASONS:
                share = sum(verdict.reason == reason for verdict in verdicts) / len(verdicts)
                log_metric(f"code_reward/{reason.replace(' ', '_')}", share)
            hard_coded = sum(verdict.is_hard_coded for verdict in verdicts) / len(verdicts)
            log_metric("code_reward/hard_coded", hard_coded)
        return [verdict.score for verdict in verdicts]

    code_reward.__qualname__ = "code_reward"  # so that the one of this module can be pickled
    code_reward.__doc__ = _DOCUMENTATION
    return code_reward


_DOCUMENTATION = """Verified reward for code: 1.0 if the completion's program passes all tests of its problem, else 0.0.

    A TRL reward function: `GRPOTrainer(reward_funcs=code_reward, ...)`, or `delta_trl.rewards.code_reward` by name. The
    program is the last closed fenced block of Python after the last closed `</think>`. It runs in `delta_trl.sandbox`, or
    not at all.

    Args:
        completions: Plain texts, or conversations (lists of messages), as TRL passes them.
        tests: The tests of each problem, from the dataset's column of that name: dicts or JSON texts
            `{"inputs": [...], "outputs": [...], "fn_name": optional}`; see `delta_trl.rewards.code.tests`.
        log_extra: Given by the trainer. Gets the columns `verdict` and `detail` of the completions table.
        log_metric: Given by the trainer. Gets the share of each reason as `code_reward/<reason>`, and the share of
            completions that were right and contain an expected output as `code_reward/hard_coded`.
        **kwargs: TRL's other columns. Of these `prompts` and `opens_thought` are used, as in `math_reward`: where a prompt
            opens a thought, a completion without `</think>` is an unfinished one.

    Returns:
        A reward a completion; None, which TRL leaves out, only where the tests cannot be used.

    Raises:
        SandboxUnavailable: Programs cannot be isolated on this machine. Nothing was run.
    """


code_reward = make_code_reward()
