"""The worker process: compares two LaTeX answers (see `algebra`), under limits, over pipes.

Run as a plain script by `pool.GradingWorker`: it imports nothing but math-verify, the standard library and the modules
beside it that need no more (no torch, no user script). One JSON array a line: `[gold, answer]` (answer null: can the gold be
parsed?), with a third item for a step of a chain (see `Comparer.compare`), in; `[reason, last]` out, where `last` says that
the worker exits now. The first line out is `["ready", false]`, or the error that prevents it.
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


ORPHAN_POLL_SECONDS = 5.0  # how often an idle worker checks that its parent lives, should the pipe not tell
MAX_RESIDENT_BYTES = 512 * 2**20  # a worker whose caches grew beyond this is replaced


class OutOfTime(BaseException):
    """Not an Exception: sympy and math-verify swallow those."""


def _raise_out_of_time(signum, frame):
    raise OutOfTime


WARM_UP = [
    (r"\frac{\sqrt{3}}{2}", r"\frac{3}{2\sqrt{3}}"),
    (r"x^2 + 2x - 1", r"(x+1)^2 - 2"),
    (r"\{1, 2\}", r"2, 1"),
    (r"(-\infty, 2) \cup [3, \infty)", r"(-\infty, 2) \cup [3, \infty)"),
    (r"\left(1, \frac{\pi}{2}\right)", r"(1, 0.5\pi)"),
    (r"2e^{-3} + \ln 2", r"\ln(2) + 2e^{-3}"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix}"),
    (r"y = 2x + 3", r"2x - y + 3 = 0"),
]


def load_comparer():
    """From `algebra` beside this file, as part of a package that stands for `delta_trl.rewards`: to import that one by name
    would need it on the path, and run the imports of its callers."""
    package = types.ModuleType("rewards_of_worker")
    package.__path__ = [str(Path(__file__).parent)]
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.algebra.compare").Comparer()


def resident_bytes() -> int:
    """Memory of this process. Not getrusage's maximum, where /proc tells: that one starts at the size of the parent, which
    in training is far beyond any worker's, since it survives fork and exec."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def main(parent: int, soft_seconds: float, hard_seconds: int, memory_bytes: int) -> None:
    # Whatever prints to standard output (the parser does) must not end up between the replies.
    replies = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end closes the pipe
    signal.signal(signal.SIGPROF, _raise_out_of_time)

    def reply(text: str, last: bool = False) -> None:
        replies.write(json.dumps([text, last]) + "\n")

    try:
        comparer = load_comparer()
        for gold, answer in WARM_UP:
            comparer.compare(gold, answer)
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
        # The kernel kills the process if the soft limit cannot (a computation inside C code, a swallowed exception).
        used = resource.getrusage(resource.RUSAGE_SELF)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + hard_seconds, hard))
        last = False
        try:
            try:
                signal.setitimer(signal.ITIMER_PROF, soft_seconds)
                reason = comparer.compare(*request)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        except OutOfTime:
            reason, last = "timed out", True  # interrupted anywhere: what it left behind is not to be trusted
        except MemoryError:
            reason, last = "timed out", True
        except Exception:
            # Nested beyond what the parser or sympy can follow, or a defect of theirs: no verdict in favour.
            reason = "unparseable answer" if request[1] is not None else "unscorable gold"
        last = last or resident_bytes() > MAX_RESIDENT_BYTES
        reply(reason, last)
        if last:
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
