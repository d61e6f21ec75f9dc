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
from collections.abc import Sequence
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


HERE = Path(__file__).parent
START_SECONDS = 120.0  # importing from a slow network file system takes a while
GRACE_SECONDS = 10.0  # beyond the wall limit, after which a silent worker is taken for dead
COUNT_EVERY_SECONDS = 10.0
SEALED = 1 | 2 | 4 | 8  # F_SEAL_SEAL, SHRINK, GROW, WRITE


class WorkerDied(Exception):
    """The worker ended without an answer."""


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
        WORKERS.add(self)

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
