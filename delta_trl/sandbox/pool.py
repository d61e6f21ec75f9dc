"""Runs programs nobody trusts, in worker processes that no program can hang, crash or outlive.

Why not a library: none isolates a program inside an ordinary container without privileges in milliseconds, and none
starts processes from any thread of a daemonic process, where multiprocessing refuses and forking with torch is unsafe.

Workers start with the first program and live until this process ends. They exit when their socket closes, which the
kernel does even for a process killed with SIGKILL; a program dies with its worker. A forked child closes the sockets it
inherited and starts workers of its own. Linux on x86-64 and aarch64.
"""

import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Generator, Iterator, Sequence

from .handle import WORKERS, Worker, WorkerDied
from .jobs import CRASHED, Calls, Limits, Result, SandboxUnavailable


TRIES = 3  # of one program, if its worker is killed from outside
MOST_WORKERS = 16
MOST_INPUTS = 100  # of one process
KILLED = Result(CRASHED, b"", b"the worker died each time", [])


class Sandbox:
    """Workers of one process, shared by its threads.

    Args:
        workers: Most worker processes, at least 1. Default: the cores of this process, shared with the other training
            processes of the machine (LOCAL_WORLD_SIZE), at most 16.
        use_landlock: False leaves out Landlock, as on a kernel without it. For tests: the other layers have to hold alone.

    >>> Sandbox().run("print(int(input()) + 1)", stdin=b"41").stdout
    b'42\\n'
    """

    def __init__(self, workers: int | None = None, use_landlock: bool = True):
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}.")
        self.workers = default_workers() if workers is None else workers
        self._use_landlock = use_landlock
        self.reset()
        _SANDBOXES.add(self)

    def reset(self) -> None:
        """Know of no worker."""
        self._all: list[Worker] = []
        self._idle: list[Worker] = []
        self._starting = 0
        self._changed = threading.Condition()

    def run(self, program: str, stdin: bytes = b"", limits: Limits | None = None) -> Result:
        """Run a program once, in a process of its own, and wait for it. Any number of threads may do so at a time.

        Args:
            program: The text of a Python program, which runs as `__main__`.
            stdin: What its standard input holds.
            limits: What it may use.

        Raises:
            SandboxUnavailable: Programs cannot be isolated on this machine. Nothing was run.
        """
        (result,) = self.run_inputs(program, [stdin], limits)
        return result

    def run_inputs(
        self,
        program: str,
        stdins: Sequence[bytes],
        limits: Limits | None = None,
        most_bytes: Sequence[int] | None = None,
        seconds: float | None = None,
    ) -> Iterator[Result]:
        """Run a program on several inputs, one after another in one process, each with fresh standard streams.

        Ten times faster than a process each. What ordinary programs leave behind for their next run (a changed module, a
        thread) is put back or ends the process; see `inside/state.py`. A program can hide more, but never finds a later
        input or an earlier output. That a run before the last is over is the program's word: believe it only if the process
        ended well, that is if the last result is "finished". See `delta_trl.rewards.code.grading`.

        Args:
            program: See `run`.
            stdins: What standard input holds, 1 to 100.
            limits: What one run may use; memory and standard error are of all runs together.
            most_bytes: How much is read of each output; more is "too much output". Default: the limit of the output.
            seconds: Time by the clock of all runs together. Default: `Limits.seconds_of_all`.

        Returns:
            One result a run, at least 1, each as soon as it is there; the next run begins when the next result is asked for.
            They end with the first run that did not finish, or after which no other could follow in the same process.
        """
        if not 1 <= len(stdins) <= MOST_INPUTS:
            raise ValueError(
                f"stdins must hold 1 to {MOST_INPUTS} inputs, got {len(stdins)}. Run the others separately."
            )
        limits = limits or Limits()
        most_bytes = [limits.output_bytes] * len(stdins) if most_bytes is None else most_bytes
        seconds = limits.seconds_of_all(len(stdins)) if seconds is None else seconds
        return self._run_inputs(program, stdins, limits, most_bytes, seconds)

    def _run_inputs(
        self, program: str, stdins: Sequence[bytes], limits: Limits, most_bytes: Sequence[int], seconds: float
    ) -> Iterator[Result]:
        for _ in range(TRIES):
            has_begun = False
            try:
                with (
                    self._worker() as worker,
                    contextlib.closing(worker.run(program, stdins, limits, most_bytes, seconds)) as results,
                ):
                    for result in results:
                        has_begun = True
                        yield result
                return
            except WorkerDied:
                if has_begun:
                    break  # nobody knows how its process would have ended
        yield KILLED

    def call(self, program: str, calls: Calls, limits: Limits | None = None, seconds: float | None = None) -> Result:
        """Run a program's top level (not as `__main__`), then call its function, all in one process.

        It gets the arguments of a call after it has answered the one before. See `run` and `run_inputs`.
        """
        limits = limits or Limits()
        seconds = limits.seconds_of_all(len(calls.arguments)) if seconds is None else seconds
        for _ in range(TRIES):
            try:
                with self._worker() as worker:
                    return worker.call(program, calls, limits, seconds)
            except WorkerDied:
                continue
        return KILLED

    @contextlib.contextmanager
    def _worker(self) -> Generator[Worker, None, None]:
        worker = self._take()
        try:
            yield worker
        except GeneratorExit:  # nobody asked for its further results
            raise
        except BaseException:  # Ctrl-C in the middle of an answer: the next program must not get it
            self._remove(worker)
            raise
        finally:
            with self._changed:
                if worker in self._all:
                    self._idle.append(worker)
                self._changed.notify()

    def _take(self) -> Worker:
        with self._changed:
            while not self._idle and len(self._all) + self._starting >= self.workers:
                self._changed.wait()
            if self._idle:
                return self._idle.pop()
            self._starting += 1
        worker = None
        try:
            worker = Worker(self._use_landlock)
            worker.get_ready()
        except BaseException as error:
            if worker is not None:
                worker.stop()
            if isinstance(error, WorkerDied):
                raise SandboxUnavailable("The sandbox's worker died in its self-test.") from None
            raise
        finally:
            with self._changed:
                self._starting -= 1
                self._changed.notify()
        with self._changed:
            self._all.append(worker)
        return worker

    def _remove(self, worker: Worker) -> None:
        with self._changed:
            if worker in self._all:
                self._all.remove(worker)
        worker.stop()

    def pids(self) -> list[int]:
        """Process ids of the workers that run now."""
        return [worker.process.pid for worker in self._all]

    def layers(self) -> list[str]:
        """The layers of isolation in place, after `run`."""
        return self._all[0].layers if self._all else []

    def close(self) -> None:
        """End all workers. The sandbox can be used again."""
        with self._changed:
            workers, self._all, self._idle = self._all, [], []
        for worker in workers:
            worker.stop()


def default_workers() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE") or 1)))


_SANDBOXES: "weakref.WeakSet[Sandbox]" = weakref.WeakSet()


def _close_all() -> None:
    for sandbox in list(_SANDBOXES):
        sandbox.close()


def _forget_all() -> None:
    """In a forked child, which starts workers of its own."""
    for worker in list(WORKERS):
        worker.forget()
    for sandbox in list(_SANDBOXES):
        sandbox.reset()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
