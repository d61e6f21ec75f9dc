r"""Pools of `worker.py` processes that no answer can hang, crash or outlive: one for mathematics, one for reasoning-gym.

Why not a library: TRL's asynchronous GRPO calls rewards from a thread of a daemonic process, where multiprocessing,
`concurrent.futures` and pebble refuse to start children; forking with torch loaded is unsafe; and spawning imports
the user's script again, which need not have a `__main__` guard. loky starts its workers through multiprocessing's
machinery too. `subprocess` has none of these limits.

Three limits hold an item, each for the case that the one before it fails:
1. `soft_seconds` of CPU time: a signal in the worker raises an exception. CPU time, so that a busy machine does not
   turn right answers into wrong ones.
2. `hard_seconds` of CPU time and `memory_bytes` of address space: the kernel ends the worker. macOS ignores the
   memory limit.
3. `wall_seconds`: this process kills a worker that has burnt no CPU time for so long (it stands still). One that only
   waits for its turn on a busy machine goes on: the limits of CPU time end it if need be, so that load cannot change a
   verdict. Where the system does not tell the CPU time of a process (no /proc), the clock alone decides.
Whatever happens, the item gets a verdict, the other items keep theirs, and a new worker takes over.

Workers start with the first item, and live until this process ends: they exit when their input pipe closes, which the
kernel does even for a process killed with SIGKILL, and an idle one also looks for its parent every few seconds.
(PR_SET_PDEATHSIG is not used: it fires when the *thread* that started the worker ends.) A forked child closes the
pipes it inherited and starts workers of its own. POSIX only.
"""

import atexit
import collections
import os
import selectors
import signal
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

from .child import START_SECONDS, GradingWorker, JobRequest, PoolConfig, available_cores


__all__ = ["POOL", "GradingWorker", "PoolConfig", "WorkerPool", "available_cores"]

DIED = "It died without a message."
MOST_FAILED_STARTS = 3  # in a row, while other workers live


class _Batch:
    """The items of one call, and what is known about them."""

    def __init__(self, requests: Sequence[JobRequest]):
        self.requests = requests
        self.results: list[tuple[Any, bool]] = [(None, False)] * len(requests)
        self.waiting = collections.deque(range(len(requests)))
        self.unfinished = len(requests)
        self._crashed: set[int] = set()

    def finish(self, index: int, reply: Any, *, repeatable: bool) -> None:
        self.results[index] = (reply, repeatable)
        self.unfinished -= 1

    def bury(self, index: int, exit_status: int) -> None:
        """The worker that had this item died."""
        if exit_status == -signal.SIGXCPU:  # the kernel's CPU limit, reached on any day
            self.finish(index, None, repeatable=True)
        elif index in self._crashed:
            self.finish(index, None, repeatable=False)
        else:  # perhaps killed by something else, before it even read the item: once more
            self._crashed.add(index)
            self.waiting.append(index)


class WorkerPool:
    """Workers of one process that do one job. Threads may share it; their batches take turns.

    Args:
        config: Their limits.
        job: The job's class, see `worker.load_job`.
        needs: The packages that it imports.
    """

    def __init__(
        self, config: PoolConfig | None = None, job: str = "math/algebra.job.MathJob", needs: str = "math-verify 0.9"
    ):
        self.config = config or PoolConfig()
        self._job, self._needs = job, needs
        self._workers: list[GradingWorker] = []
        self._lock = threading.Lock()
        self._failed_starts = 0  # in a row
        self._most_workers = self.config.workers
        _POOLS.add(self)

    def run(self, requests: Sequence[JobRequest]) -> list[tuple[Any, bool]]:
        """The replies of the job, in order, None where it did not finish.

        Returns (reply, whether it would be the same on another day) pairs: a worker killed by the clock or from
        outside says nothing about its item.
        Raises RuntimeError if workers cannot start, for instance because math-verify is not installed.
        """
        with self._lock:
            self._failed_starts, self._most_workers = 0, self.config.workers
            return self._run(requests)

    def _run(self, requests: Sequence[JobRequest]) -> list[tuple[Any, bool]]:
        batch = _Batch(requests)
        for worker in [w for w in self._workers if w.process.poll() is not None or w.index is not None]:
            self._remove(worker)  # it died while idle, or an exception (Ctrl-C) left an item behind
        most = len(self._workers)
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
            while batch.unfinished:
                while len(self._workers) < min(self._most_workers, batch.unfinished):
                    worker = GradingWorker(self.config, self._job)
                    self._workers.append(worker)
                    selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
                most = max(most, len(self._workers))
                for worker in [w for w in self._workers if w.is_ready and w.index is None]:
                    if not self._give_item(worker, batch):
                        self._remove(worker, selector)
                pause = min((w.deadline for w in self._workers if w.is_waited_for), default=0.0) - time.monotonic()
                for key, _ in selector.select(max(0.0, pause)):
                    if not self._take_reply(key.data, batch):
                        self._remove(key.data, selector)
                now = time.monotonic()
                for worker in [w for w in self._workers if w.is_waited_for and w.deadline <= now]:
                    if not worker.is_ready:
                        self._bear_failed_start(worker, f"It was not ready after {START_SECONDS:.0f} seconds.")
                    elif not worker.stands_still():
                        worker.deadline = now + self.config.wall_seconds
                        continue
                    else:
                        batch.finish(worker.index, None, repeatable=False)
                    self._remove(worker, selector)
        while len(self._workers) < most:  # successors of those that ended: ready when the next call comes
            self._workers.append(GradingWorker(self.config, self._job))
        return batch.results

    def _give_item(self, worker: "GradingWorker", batch: "_Batch") -> bool:
        """Send the next item to an idle worker; False if the worker is dead."""
        if batch.waiting:
            index = batch.waiting[0]
            try:
                worker.send(index, batch.requests[index], self.config.wall_seconds)
            except BrokenPipeError:
                return False
            batch.waiting.popleft()
        return True

    def _take_reply(self, worker: "GradingWorker", batch: "_Batch") -> bool:
        """Read from a worker; False if it is dead or about to exit."""
        try:
            reply = worker.receive()
        except EOFError:
            if not worker.is_ready:
                self._bear_failed_start(worker, DIED)
            if worker.index is not None:
                batch.bury(worker.index, worker.process.wait())
            return False
        if reply is None:
            return True
        content, last = reply
        if not worker.is_ready:
            if content != "ready":
                self._bear_failed_start(worker, content)
                return False
            worker.is_ready = True
            self._failed_starts = 0
            return True
        batch.finish(worker.index, content, repeatable=True)
        worker.index = None
        return not last

    def _remove(self, worker: "GradingWorker", selector: selectors.BaseSelector | None = None) -> None:
        if selector is not None:
            selector.unregister(worker.process.stdout)
        self._workers.remove(worker)
        worker.stop()

    def _bear_failed_start(self, worker: "GradingWorker", reason: str) -> None:
        """A worker that something kills while it starts is no loss as long as another one lives, which a few are
        allowed; RuntimeError where none is left, or none of several starts: then something is missing."""
        self._failed_starts += 1
        others_live = any(w is not worker and w.is_ready and w.process.poll() is None for w in self._workers)
        if self._failed_starts < MOST_FAILED_STARTS and (others_live or reason == DIED):
            return
        if others_live:
            self._most_workers = sum(w.is_ready for w in self._workers)  # go on with those
            return
        command = " ".join(worker.command[:4])
        self.close()
        raise RuntimeError(
            f"The process that checks answers did not start ({command}). It needs {self._needs} and POSIX. {reason}"
        )

    def pids(self) -> list[int]:
        """Process ids of the workers that run now."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """End all workers. The pool can be used again."""
        for worker in self._workers:
            worker.stop()
        self._workers.clear()

    def forget(self) -> None:
        """In a forked child: let go of the parent's workers without touching them."""
        for worker in self._workers:
            # Else the parent's death would not close its workers' pipes; and Popen must not try to reap a cousin.
            worker.close_pipes()
            worker.process.returncode = 0
        self._workers.clear()
        self._lock = threading.Lock()


_POOLS: "weakref.WeakSet[WorkerPool]" = weakref.WeakSet()


def _close_all() -> None:
    for pool in list(_POOLS):
        pool.close()


def _forget_all() -> None:
    for pool in list(_POOLS):
        pool.forget()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):  # not on Windows, where no worker can start
    os.register_at_fork(after_in_child=_forget_all)
POOL = WorkerPool()
