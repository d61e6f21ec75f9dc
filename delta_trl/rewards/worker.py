"""The worker process: does one job, such as comparing two LaTeX answers, under limits, over pipes.

Run as a plain script by `pool.GradingWorker`: it imports nothing but the standard library and the job's module beside it
(no torch, no user script). One JSON array a line, the request, in; `[reply, last]` out: null for a job not finished, and
whether the worker exits now. The first line out is `["ready", false]`, or the error that prevents it.

A job is a class (`math.algebra.job.MathJob`, `gym_job.GymJob`): its constructor does what is slow, `prepare(*request)` what
is no fault of an answer and may take `PREPARE_SECONDS`, and `answer(*request)` gives the reply within the pool's limits.
"""

import importlib
import json
import os
import resource
import select
import signal
import sys
import traceback
import types
from pathlib import Path
from typing import Any


ORPHAN_POLL_SECONDS = 5.0  # how often an idle worker checks that its parent lives, should the pipe not tell
PREPARE_SECONDS = 120  # of CPU time


class OutOfTime(BaseException):
    """Not an Exception: sympy and math-verify swallow those."""


def _raise_out_of_time(signum: int, frame: Any) -> None:
    raise OutOfTime


def load_job(name: str) -> Any:
    """A job by folder, module and class, as in "math/algebra.job.MathJob", the folder beside this file.

    As part of a package that stands for the folder's: to import that one by name would need it on the path, and run the
    imports of its callers."""
    folder, _, name = name.rpartition("/")
    module, _, name = name.rpartition(".")
    package = types.ModuleType("package_of_job")
    package.__path__ = [str(Path(__file__).parent / folder)]
    sys.modules[package.__name__] = package
    return getattr(importlib.import_module(f"{package.__name__}.{module}"), name)()


def resident_bytes() -> int:
    """Memory of this process. Not getrusage's maximum, where /proc tells: that one starts at the size of the parent, which
    in training is far beyond any worker's, since it survives fork and exec."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def limit_cpu(seconds: int) -> None:
    """Have the kernel kill this process after so many more seconds of CPU time, or up to one more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + seconds, hard))


def main(job_name: str, parent: int, soft_seconds: float, hard_seconds: int, memory_bytes: int) -> None:
    # Whatever prints to standard output (the parser does) must not end up between the replies.
    replies = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end closes the pipe
    signal.signal(signal.SIGPROF, _raise_out_of_time)

    def reply(content: object, last: bool = False) -> None:
        replies.write(json.dumps([content, last]) + "\n")

    try:
        job = load_job(job_name)
    except Exception:
        reply(traceback.format_exc(), last=True)
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or memory_bytes < most:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, most))
    sys.setrecursionlimit(3000)
    reply("ready")

    pending = b""
    while True:
        while b"\n" not in pending:
            readable, _, _ = select.select([0], [], [], ORPHAN_POLL_SECONDS)
            if not readable:
                if os.getppid() != parent:
                    return
                continue
            chunk = os.read(0, 65536)
            if not chunk:
                return
            pending += chunk
        line, _, pending = pending.partition(b"\n")
        request = json.loads(line)
        content, last = None, True  # interrupted anywhere: what it left behind is not to be trusted
        try:
            limit_cpu(PREPARE_SECONDS)
            job.prepare(*request)
            # The kernel ends what the soft limit cannot (a computation inside C code, a swallowed exception)
            limit_cpu(hard_seconds)
            try:
                signal.setitimer(signal.ITIMER_PROF, soft_seconds)
                content = job.answer(*request)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            # A worker whose caches grew is replaced
            last = resident_bytes() > memory_bytes // 2
        except (OutOfTime, MemoryError):
            pass
        reply(content, last)
        if last:
            return


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
