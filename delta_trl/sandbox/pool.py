"""Runs programs nobody trusts, in worker processes that no program can hang, crash or outlive.

Why not a library: none isolates a program inside an ordinary container without privileges in milliseconds, and none
starts processes from any thread of a daemonic process, where multiprocessing refuses and forking with torch is unsafe.

Workers start with the first program and live until this process ends. They exit when their socket closes, which the
kernel does even for a process killed with SIGKILL; a program dies with its worker. A forked child closes the sockets it
inherited and starts workers of its own. Linux on x86-64 and aarch64.
"""

import atexit
import contextlib
import json
import math
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


HERE = Path(__file__).parent
START_SECONDS = 120.0  # importing from a slow network file system takes a while
GRACE_SECONDS = 10.0  # beyond the wall limit, after which a silent worker is taken for dead
TRIES = 3  # of one program, if its worker is killed from outside
MOST_WORKERS = 16
MOST_INPUTS = 100  # two descriptors each; the kernel passes 253 at a time
COUNT_EVERY_SECONDS = 10.0
SEALED = 1 | 2 | 4 | 8  # F_SEAL_SEAL, SHRINK, GROW, WRITE

FINISHED = "finished"
CRASHED = "crashed"
TIMED_OUT = "timed out"
OUT_OF_MEMORY = "out of memory"
TOO_MUCH_OUTPUT = "too much output"


class SandboxUnavailable(RuntimeError):
    """Programs cannot be isolated here, so they are not run. The text says what is missing and what to do."""


class WorkerDied(Exception):
    """The worker ended without an answer."""


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Args:
        cpu_seconds: CPU time of one run or one call, > 0.
        wall_seconds: Time by the clock of one run or one call, > 0, for programs that sleep. Default:
            2 * cpu_seconds + 2, so that a busy machine does not turn right programs into wrong ones.
        memory_bytes: Memory (address space), > 0, beyond the worker's own.
        output_bytes: Size, > 0, of each of standard output, standard error and the returned values.
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


@dataclass(frozen=True)
class Calls:
    """Calls of a function that the program defines, itself or as a method of a class `Solution`.

    Args:
        function: Its name.
        arguments: One entry a call: a list of plain (JSON) values, or, if `is_python`, the text of a Python expression of
            a tuple, which only the sandbox evaluates.
        is_python: See `arguments`.
        keep_going: Whether calls follow one that raised an exception.
    """

    function: str
    arguments: Sequence
    is_python: bool = False
    keep_going: bool = False


@dataclass(frozen=True)
class Result:
    """What became of a program. All of it is the program's word, apart from `status`.

    Attributes:
        status: "finished" (exit status 0), "crashed", "timed out", "out of memory" or "too much output".
        stdout: What it wrote to standard output.
        stderr: What it wrote to standard error, of all runs in one process; at the end the uncaught exception.
        returned: One line of bytes a call: `=` and the value as JSON, or `!` and the name of an exception as JSON.
    """

    status: str
    stdout: bytes
    stderr: bytes
    returned: list[bytes]


def _memory_file(content: bytes | None = None) -> int:
    """A file in memory: with a content that nobody can change, or empty."""
    flags = os.MFD_CLOEXEC | (0 if content is None else os.MFD_ALLOW_SEALING)
    file = os.memfd_create("program", flags)
    if content is not None:
        import fcntl  # not on Windows, where this module can be imported

        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.lseek(file, 0, os.SEEK_SET)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, SEALED)
    return file


class Worker:
    """One worker process, which runs one program at a time."""

    def __init__(self, use_landlock: bool = True):
        if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "aarch64"):
            raise SandboxUnavailable(
                f"Programs can only be isolated on Linux (x86-64 and aarch64); this is {sys.platform} on "
                f"{platform.machine()}. Run code rewards in a Linux container or virtual machine. Loading data and "
                "comparing outputs work everywhere."
            )
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # -P and an environment of our own instead of -I, which would ignore the hash seed: the order of sets follows
            # it, and the same program must get the same verdict in every run.
            command = [sys.executable, "-s", "-P", "-B", str(HERE / "worker.py")]
            command += [str(theirs.fileno()), "landlock" if use_landlock else "no landlock", str(os.getpid())]
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}  # to find libpython
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0", **threads, **kept},
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.layers: list[str] = []
        _WORKERS.add(self)

    def get_ready(self) -> None:
        """Wait for the worker and try to break out of it. Raises SandboxUnavailable."""
        try:
            answer = self._receive(START_SECONDS)
        except WorkerDied:
            raise SandboxUnavailable(
                f"The sandbox's worker did not start ({' '.join(self.process.args[:5])}); its exit status is "
                f"{self.process.poll()}. Run that command with the arguments `0 landlock 0` to see why."
            ) from None
        if "error" in answer:
            raise SandboxUnavailable(f"Programs cannot be isolated here: {answer['error']}")
        self.layers = answer["layers"]
        probes = (HERE / "probes.py").read_text()
        result = self.run(probes, [b""], None, Limits(cpu_seconds=20.0, wall_seconds=60.0))[0]
        lines = result.stdout.decode(errors="replace").splitlines()
        escapes = [line.removeprefix("allowed: ") for line in lines if line.startswith("allowed: ")]
        if result.status != FINISHED or not lines or lines[-1] != "done":
            raise SandboxUnavailable(
                f"The sandbox's self-test did not finish ({result.status}): {result.stderr.decode(errors='replace')}"
            )
        if escapes:
            raise SandboxUnavailable(
                f"The sandbox does not hold on this machine: a program could {', '.join(escapes)}. Nothing is run. Layers "
                f"in place: {', '.join(self.layers)}. If the kernel is emulated (gVisor, an old WSL), use another machine."
            )

    def _receive(self, seconds: float) -> dict:
        self._socket.settimeout(seconds)
        try:
            message = self._socket.recv(65536)
        except OSError:  # a time-out too
            raise WorkerDied from None
        if not message:
            raise WorkerDied
        return json.loads(message)

    def run(self, program: str, stdins: Sequence[bytes], calls: Calls | None, limits: Limits) -> list[Result]:
        """See `Sandbox.run_inputs` and `Sandbox.call`. Raises WorkerDied."""
        job: dict = {"program": program}
        if calls is not None:
            job |= {"function": calls.function, "calls": list(calls.arguments)}
            job |= {"is_python": calls.is_python, "keep_going": calls.keep_going}
        rounds = len(stdins) if calls is None else max(1, len(calls.arguments))
        total_wall_seconds = rounds * limits.cpu_seconds + limits.wall_seconds
        message = {
            "cpu_seconds": limits.cpu_seconds,
            "wall_seconds": limits.wall_seconds,
            "total_cpu_seconds": rounds * limits.cpu_seconds,
            "total_wall_seconds": total_wall_seconds,
            "memory_bytes": limits.memory_bytes,
            "file_bytes": limits.output_bytes,
            "other_threads": THREAD_COUNT.get(),
        }
        files: list[int] = []
        try:
            files += [_memory_file(json.dumps(job).encode()), _memory_file(), _memory_file()]
            for stdin in stdins:
                files += [_memory_file(stdin), _memory_file()]
            try:
                socket.send_fds(self._socket, [json.dumps(message).encode()], files)
            except OSError:
                raise WorkerDied from None
            outcome = self._receive(total_wall_seconds + GRACE_SECONDS)["outcome"]
            returned, stderr = (os.pread(file, limits.output_bytes, 0) for file in files[1:3])
            last = _status(*outcome, stderr, limits)
            lines = returned.splitlines()
            if calls is not None:
                return [Result(last, os.pread(files[4], limits.output_bytes, 0), stderr, lines)]
            results = []
            for i, output in enumerate(files[4::2]):
                if lines[i : i + 1] == [b"."]:
                    break
                status = FINISHED if lines[i : i + 1] == [b"=0"] else last
                results.append(Result(status, os.pread(output, limits.output_bytes, 0), stderr, []))
                if i >= len(lines) or status != FINISHED:
                    break
            return results
        finally:
            for file in files:
                os.close(file)

    def stop(self) -> None:
        """End the process, whatever it does, and reap it."""
        self._socket.close()
        self.process.kill()
        self.process.wait()

    def forget(self) -> None:
        """In a forked child: close what the parent's worker would wait for, and leave the process alone."""
        self._socket.close()
        self.process.returncode = 0


def _status(wait_status: int, is_late: bool, cpu_seconds: float, stderr: bytes, limits: Limits) -> str:
    exit_code = os.waitstatus_to_exitcode(wait_status)
    if is_late or exit_code in (-signal.SIGPROF, -signal.SIGALRM, -signal.SIGXCPU):
        return TIMED_OUT
    if exit_code == -signal.SIGKILL:  # the kernel's: the hard limit of CPU time, or the machine ran out of memory
        return TIMED_OUT if cpu_seconds >= limits.cpu_seconds else OUT_OF_MEMORY
    if exit_code == -signal.SIGXFSZ:
        return TOO_MUCH_OUTPUT
    if exit_code == 0:
        return FINISHED
    last = stderr.rstrip().rpartition(b"\n")[2]
    return OUT_OF_MEMORY if b"MemoryError" in last else CRASHED


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
        return self._run(program, [stdin], None, limits)[0]

    def run_inputs(self, program: str, stdins: Sequence[bytes], limits: Limits | None = None) -> list[Result]:
        """Run a program on several inputs, one after another in one process, each with fresh standard streams.

        Ten times faster than a process each. A program can leave something behind for its next run (a changed module, a
        thread), so only the first result is what a process of its own would give. Whoever finds a later one wrong runs
        the program again from that input on; see `delta_trl.rewards.code`.

        Args:
            program: See `run`.
            stdins: What standard input holds, 1 to 100.
            limits: What one run may use; memory and standard error are of all runs together.

        Returns:
            One result a run, at least 1: it ends with the first run that did not finish, or after which no other could
            follow in the same process.
        """
        if not 1 <= len(stdins) <= MOST_INPUTS:
            raise ValueError(
                f"stdins must hold 1 to {MOST_INPUTS} inputs, got {len(stdins)}. Run the others separately."
            )
        return self._run(program, stdins, None, limits)

    def call(self, program: str, calls: Calls, limits: Limits | None = None) -> Result:
        """Run a program's top level (not as `__main__`), then call its function, all in one process. See `run`."""
        return self._run(program, [b""], calls, limits)[0]

    def _run(self, program: str, stdins: Sequence[bytes], calls: Calls | None, limits: Limits | None) -> list[Result]:
        for _ in range(TRIES):
            with self._worker() as worker:
                try:
                    return worker.run(program, stdins, calls, limits or Limits())
                except WorkerDied:
                    self._remove(worker)
        return [Result(CRASHED, b"", b"the worker died each time", [])]

    @contextlib.contextmanager
    def _worker(self) -> Iterator[Worker]:
        worker = self._take()
        try:
            yield worker
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


class _ThreadCount:
    """Threads of this user, all processes together: the kernel's limit on threads counts them all."""

    def __init__(self) -> None:
        self._counted = -math.inf
        self._count: int | None = None

    def get(self) -> int | None:
        """None if it is not known. Workers of root do not need it: each has a user of its own."""
        now = time.monotonic()
        if os.geteuid() != 0 and now > self._counted + COUNT_EVERY_SECONDS:
            self._counted, self._count = now, self._look()
        return self._count

    @staticmethod
    def _look() -> int | None:
        try:
            processes = [entry for entry in os.scandir("/proc") if entry.name.isdigit()]
        except OSError:
            return None
        total = 0
        for process in processes:
            with contextlib.suppress(OSError):  # it has just ended
                if process.stat().st_uid == os.getuid():
                    total += len(os.listdir(f"{process.path}/task"))
        return total


THREAD_COUNT = _ThreadCount()
_WORKERS: "weakref.WeakSet[Worker]" = weakref.WeakSet()
_SANDBOXES: "weakref.WeakSet[Sandbox]" = weakref.WeakSet()


def _close_all() -> None:
    for sandbox in list(_SANDBOXES):
        sandbox.close()


def _forget_all() -> None:
    """In a forked child, which starts workers of its own."""
    for worker in list(_WORKERS):
        worker.forget()
    for sandbox in list(_SANDBOXES):
        sandbox.reset()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
