"""One worker process as its parent sees it, and the limits that it gets."""

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


START_SECONDS = 120.0  # importing sympy from a slow network file system takes a while

JobRequest = tuple[Any, ...]  # what a job takes, as JSON


def available_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class PoolConfig:
    """Limits of the worker pool.

    Args:
        workers: Processes, at least 1. Default: one a core, at most 4. Each training process has its own pool.
        soft_seconds: CPU seconds for one item, > 0, before it counts as timed out.
        hard_seconds: CPU seconds, a whole number above `soft_seconds`, after which the kernel ends the worker (up to a
            second later).
        wall_seconds: Seconds by the clock, above `soft_seconds`, after which a worker is killed that burnt no CPU time in
            them.
        memory_bytes: Address space of a worker. An idle one maps about 200 MiB and uses 60.
    """

    workers: int = min(4, available_cores())
    soft_seconds: float = 1.5
    hard_seconds: int = 2
    wall_seconds: float = 3.5
    memory_bytes: int = 2**30

    def __post_init__(self):
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}.")
        if not 0 < self.soft_seconds < min(self.hard_seconds, self.wall_seconds):
            raise ValueError(
                "soft_seconds must be above 0 and below hard_seconds and wall_seconds, which catch what it misses; "
                f"got {self.soft_seconds}, {self.hard_seconds} and {self.wall_seconds}."
            )


class GradingWorker:
    """One child process and the item it is busy with."""

    def __init__(self, config: PoolConfig, job: str):
        limits = (config.soft_seconds, config.hard_seconds, config.memory_bytes)
        command = [
            sys.executable,
            "-P",
            str(Path(__file__).with_name("worker.py")),
            job,
            str(os.getpid()),
            *map(str, limits),
        ]
        self.command = command
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            # The order of sympy's sets follows the hash seed: the same answer must get the same verdict in every run.
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        self.index: int | None = None
        self.deadline = time.monotonic() + START_SECONDS
        self._burnt = 0
        self.is_ready = False
        self._received = b""

    @property
    def is_waited_for(self) -> bool:
        return self.index is not None or not self.is_ready

    def send(self, index: int, request: JobRequest, wall_seconds: float) -> None:
        line = (json.dumps(request) + "\n").encode("ascii")  # ASCII: lone surrogates must survive
        self.index, self.deadline = index, time.monotonic() + wall_seconds
        self._burnt, _ = self._activity()
        os.write(self.process.stdin.fileno(), line)

    def stands_still(self) -> bool:
        """Whether it burnt no CPU time since the item came or the last call, and does not wait for a core."""
        before, (self._burnt, is_runnable) = self._burnt, self._activity()
        return not is_runnable and self._burnt <= before

    def _activity(self) -> tuple[int, bool]:
        """(clock ticks of CPU time, whether it runs or waits for a core)."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0, False
        return int(fields[11]) + int(fields[12]), fields[0] == "R"

    def receive(self) -> tuple[Any, bool] | None:
        """(reply, whether the worker exits now); None if the line is not complete. EOFError if the worker died."""
        chunk = os.read(self.process.stdout.fileno(), 65536)
        if not chunk:
            raise EOFError
        self._received += chunk
        if not self._received.endswith(b"\n"):
            return None
        line, self._received = self._received, b""
        return tuple(json.loads(line))

    def stop(self) -> None:
        """End the process, whatever it does, and reap it."""
        self.process.kill()
        self.close_pipes()
        self.process.wait()

    def close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
