"""What is run, under which limits, and what became of it."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass


FINISHED = "finished"
CRASHED = "crashed"
TIMED_OUT = "timed out"
OUT_OF_MEMORY = "out of memory"
TOO_MUCH_OUTPUT = "too much output"


class SandboxUnavailable(RuntimeError):
    """Programs cannot be isolated here, so they are not run. The text says what is missing and what to do."""


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Args:
        cpu_seconds: CPU time of one run or one call, > 0.
        wall_seconds: Time by the clock of one run or one call, > 0, for programs that sleep. Default:
            2 * cpu_seconds + 2, so that a busy machine does not turn right programs into wrong ones.
        memory_bytes: Memory (address space), > 0, beyond the worker's own.
        output_bytes: Size, > 0, of each of standard output, standard error and the returned values.

    All are watched from outside, where a program cannot change them.
    """

    cpu_seconds: float = 4.0
    wall_seconds: float | None = None
    memory_bytes: int = 2**30
    output_bytes: int = 16 * 2**20

    def __post_init__(self):
        for name, value in asdict(self).items():
            if value is not None and not (0 < value < math.inf):
                raise ValueError(f"Limits.{name} must be above 0 and finite, got {value}.")
        if self.wall_seconds is None:
            object.__setattr__(self, "wall_seconds", 2 * self.cpu_seconds + 2)

    def seconds_of_all(self, runs: int) -> float:
        """Time by the clock that so many runs or calls of one program get together: what one gets, and twice the CPU time of
        each of the others."""
        return self.wall_seconds + 2 * (max(1, runs) - 1) * self.cpu_seconds


@dataclass(frozen=True)
class Calls:
    """Calls of a function that the program defines, itself or as a method of a class `Solution`.

    Args:
        function: Its name.
        arguments: One entry a call: a list of plain (JSON) values, or, if `is_python`, the text of a Python expression of
            a tuple, which only the sandbox evaluates.
        is_python: See `arguments`.
        keep_going: Whether calls follow one that raised an exception.
        most_bytes: Size that all returned values may have together. Default: the limit of the output.
    """

    function: str
    arguments: Sequence
    is_python: bool = False
    keep_going: bool = False
    most_bytes: int | None = None


@dataclass(frozen=True)
class Result:
    """What became of a program. Its status and its time were seen from outside; all else is the program's word.

    Attributes:
        status: "finished" (exit status 0), "crashed", "timed out", "out of memory" or "too much output". Which of the last
            four it is may follow what the program wrote; whether it finished never does, but for a run before the last
            in one process: see `Sandbox.run_inputs`.
        stdout: What it wrote to standard output, at most `most_bytes` of it; b"" for calls.
        stderr: The last 64 KiB of what it wrote to standard error, of all runs in one process; b"" while others may follow.
            At the end the uncaught exception.
        returned: One text a call: `=` and the value as JSON, or `!` and the name of an exception as JSON.
        seconds: Time by the clock of this run, or of all calls.
    """

    status: str
    stdout: bytes
    stderr: bytes
    returned: list[bytes]
    seconds: float = 0.0
