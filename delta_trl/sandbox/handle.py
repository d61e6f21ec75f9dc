"""One worker process, seen from the process that started it."""

import contextlib
import json
import math
import os
import platform
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from .jobs import (
    CRASHED,
    FINISHED,
    OUT_OF_MEMORY,
    TIMED_OUT,
    TOO_MUCH_OUTPUT,
    Calls,
    Limits,
    Result,
    SandboxUnavailable,
)


INSIDE = Path(__file__).parent / "inside"
START_SECONDS = 120.0  # importing from a slow network file system takes a while
GRACE_SECONDS = 10.0  # beyond the wall limit, after which a silent worker is taken for dead
COUNT_EVERY_SECONDS = 10.0
STDERR_BYTES = 2**16  # of standard error that are read, from its end
SEALED = 1 | 2 | 4 | 8  # F_SEAL_SEAL, SHRINK, GROW, WRITE


class WorkerDied(Exception):
    """The worker ended without an answer."""


def _sealed_file(content: bytes) -> int:
    """A file in memory that nobody can change."""
    import fcntl  # not on Windows, where this module can be imported

    file = os.memfd_create("program", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    _write(file, content)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, SEALED)
    return file


def _write(file: int, content: bytes) -> None:
    """Make a memory file hold this, and whoever shares it read or write from its start."""
    os.ftruncate(file, 0)
    start = 0
    while start < len(content):
        start += os.pwrite(file, content[start : start + 2**26], start)
    os.lseek(file, 0, os.SEEK_SET)


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
            command = [sys.executable, "-s", "-P", "-B", str(INSIDE / "worker.py")]
            command += [str(theirs.fileno()), "landlock" if use_landlock else "no landlock", str(os.getpid())]
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}  # to find libpython
            self.command = command
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
        WORKERS.add(self)

    def get_ready(self) -> None:
        """Wait for the worker and try to break out of it. Raises SandboxUnavailable."""
        try:
            answer = self._receive(START_SECONDS)
        except WorkerDied:
            raise SandboxUnavailable(
                f"The sandbox's worker did not start ({' '.join(self.command[:5])}); its exit status is "
                f"{self.process.poll()}. Run that command with the arguments `0 landlock 0` to see why."
            ) from None
        if "error" in answer:
            raise SandboxUnavailable(f"Programs cannot be isolated here: {answer['error']}")
        self.layers = answer["layers"]
        probes = (INSIDE / "probes.py").read_text()
        limits = Limits(cpu_seconds=20.0, wall_seconds=60.0)
        escapes: dict[str, None] = {}
        for _ in range(2):  # the second looks for what the first left behind
            (result,) = self.run(probes, [b""], limits, [limits.output_bytes], 60.0)
            lines = result.stdout.decode(errors="replace").splitlines()
            if result.status != FINISHED or not lines or lines[-1] != "done":
                raise SandboxUnavailable(
                    f"The sandbox's self-test did not finish ({result.status}): {result.stderr.decode(errors='replace')}"
                )
            escapes |= {line.removeprefix("allowed: "): None for line in lines if line.startswith("allowed: ")}
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

    def run(
        self, program: str, stdins: Sequence[bytes], limits: Limits, most_bytes: Sequence[int], seconds: float
    ) -> Iterator[Result]:
        """See `Sandbox.run_inputs`. Raises WorkerDied."""
        return self._results({"program": program}, stdins, limits, most_bytes, seconds)

    def call(self, program: str, calls: Calls, limits: Limits, seconds: float) -> Result:
        """See `Sandbox.call`. Raises WorkerDied."""
        job = {"program": program, "function": calls.function}
        job |= {"is_python": calls.is_python, "keep_going": calls.keep_going}
        arguments = [text.encode() if calls.is_python else json.dumps(text).encode() for text in calls.arguments]
        left = limits.output_bytes if calls.most_bytes is None else calls.most_bytes
        returned: list[bytes] = []
        spent = 0.0
        # First its top level alone, which returns nothing
        results = self._results(job, [b"", *arguments], limits, [left] * (len(arguments) + 1), seconds)
        with contextlib.closing(results):
            for i, result in enumerate(results):
                spent += result.seconds
                left -= len(result.stdout)
                status = TOO_MUCH_OUTPUT if left < 0 else result.status
                if status != FINISHED:
                    break
                if i > 0:
                    returned.append(result.stdout)
        return replace(result, status=status, stdout=b"", returned=returned, seconds=spent)

    def _results(
        self, job: dict, inputs: Sequence[bytes], limits: Limits, most_bytes: Sequence[int], seconds: float
    ) -> Iterator[Result]:
        """One result for each input that is given, as soon as the program is done with it.

        There is only ever the present input, and what was written since it was given. `stdout` is what was taken from the
        program: standard output, or for calls the returned value.
        """
        static = {
            "memory_bytes": limits.memory_bytes,
            "total_cpu_seconds": len(inputs) * limits.cpu_seconds,
            "file_bytes": limits.output_bytes,
            "other_threads": THREAD_COUNT.get(),
        }
        files = [_sealed_file(json.dumps(job).encode())]
        files += [os.memfd_create("stream", os.MFD_CLOEXEC) for _ in range(5 if "function" in job else 3)]
        given, taken = files[1:3] if len(files) == 4 else files[4:]
        is_alive = False
        try:
            for i, (content, most) in enumerate(zip(inputs, most_bytes, strict=True)):
                _write(given, content)
                _write(taken, b"")
                wall_seconds = max(0.0, min(limits.wall_seconds, seconds))
                order = {"is_stop": False, "is_last": i == len(inputs) - 1}
                order |= {"cpu_seconds": limits.cpu_seconds, "wall_seconds": wall_seconds}
                if i == 0:
                    self._send(order | {"isolation": static}, [*files[:4], given, taken])
                else:
                    self._send(order)
                outcome = self._receive(wall_seconds + GRACE_SECONDS)
                seconds -= outcome["seconds"]
                is_alive = outcome["status"] is None
                size = os.fstat(files[3]).st_size
                stderr = b"" if is_alive else os.pread(files[3], STDERR_BYTES, max(0, size - STDERR_BYTES))
                status = FINISHED if is_alive else _status(outcome, stderr)
                written = os.fstat(taken).st_size
                if status == FINISHED and written > most:
                    status = TOO_MUCH_OUTPUT
                yield Result(status, os.pread(taken, min(written, most), 0), stderr, [], outcome["seconds"])
                if status != FINISHED or not is_alive:
                    break
        except GeneratorExit:  # nobody asks for more
            pass
        finally:
            for file in files:
                os.close(file)
        if is_alive:
            with contextlib.suppress(WorkerDied):  # whoever uses this worker next will find out
                self._send({"is_stop": True})

    def _send(self, order: dict, files: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self._socket, [json.dumps(order).encode()], files)
        except OSError:
            raise WorkerDied from None

    def stop(self) -> None:
        """End the process, whatever it does, and reap it."""
        self._socket.close()
        self.process.kill()
        self.process.wait()

    def forget(self) -> None:
        """In a forked child: close what the parent's worker would wait for, and leave the process alone."""
        self._socket.close()
        self.process.returncode = 0


def _status(outcome: dict, stderr: bytes) -> str:
    """What became of a process that ended."""
    exit_code = os.waitstatus_to_exitcode(outcome["status"])
    if outcome["is_late"]:
        return TIMED_OUT
    if exit_code == -signal.SIGKILL:  # the kernel's
        return OUT_OF_MEMORY
    if exit_code == -signal.SIGXFSZ:
        return TOO_MUCH_OUTPUT
    if exit_code == 0:
        return FINISHED
    last = stderr.rstrip().rpartition(b"\n")[2]
    return OUT_OF_MEMORY if b"MemoryError" in last else CRASHED


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
WORKERS: "weakref.WeakSet[Worker]" = weakref.WeakSet()  # that this process started
