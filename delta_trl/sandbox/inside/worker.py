"""The worker process: forks, confines and watches one program after another.

Run as a plain script by `sandbox.handle`, with an empty environment, so that no program can find anything of the training
process in its memory. Standard library only.

For each program it receives limits and open memory files over a socket, and passes them to a fork of itself. The program's
process says when a run is over and waits; that word ends no more than the run. What became of it is told by the kernel:
whether the process lives, its exit status and its CPU time. All limits are watched from here, where no program can disarm
them. The worker reads none of the files: what it had in memory, every later program could find.
"""

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time


sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from adapted import adapt
from isolation import Isolation, IsolationError
from library import SourceImporter, names_for_called_programs, preload
from program import run_program
from state import State


ORPHAN_POLL_SECONDS = 5.0  # how often an idle worker checks that its parent lives, should the socket not tell
SHORTEST_POLL_SECONDS = 0.01
CONTROL = 3
FILES = 16  # more than any program gets
CORES = len(os.sched_getaffinity(0))  # so many CPU seconds can pass in a second


class Program:
    """The process of one program, as the worker sees it.

    Args:
        pid: Its process id.
        channel: Where it says that a run is over and waits for the next.
    """

    def __init__(self, pid: int, channel: socket.socket):
        self._pid = pid
        self._channel: socket.socket | None = channel
        self._clock = (~pid << 3) | 2  # the CPU time of all threads of that process, as the kernel numbers its clocks
        self._cpu_seconds = 0.0  # of the runs before

    def go_on(self) -> None:
        if self._channel:
            try:
                self._channel.send(b".", socket.MSG_DONTWAIT)
            except OSError:
                self._close()

    def watch(self, limits: dict, control: socket.socket, wake: int) -> dict:
        """One run: until the program says that it is over, or the process ends. Exits if the parent has died.

        Args:
            limits: `cpu_seconds` and `wall_seconds` of this run, and `is_last`: after the last run the process is to end.

        Returns:
            `status`, the process's wait status or None if it waits; `is_late`, whether it was ended or took too long;
            `cpu_seconds` and `seconds` by the clock of this run.
        """
        start = time.monotonic()
        deadline = start + limits["wall_seconds"]
        is_late = is_over = False
        while True:
            ended, status, usage = os.wait4(self._pid, os.WNOHANG)
            now = time.monotonic()
            total = usage.ru_utime + usage.ru_stime if ended else time.clock_gettime(self._clock)
            cpu_seconds = total - self._cpu_seconds
            is_late = is_late or cpu_seconds > limits["cpu_seconds"]
            if ended or (is_over and not is_late):
                self._cpu_seconds = total  # what a thread burns while nobody asked for it belongs to the next run
                status = status if ended else None
                return {"status": status, "is_late": is_late, "cpu_seconds": cpu_seconds, "seconds": now - start}
            timeout = ORPHAN_POLL_SECONDS
            if is_late or now > deadline:
                is_late = True
                self.kill()
            else:
                timeout = min((limits["cpu_seconds"] - cpu_seconds) / CORES, deadline - now)
            sources = [wake, control] + ([self._channel] if self._channel else [])
            readable, _, _ = select.select(sources, [], [], max(SHORTEST_POLL_SECONDS, timeout))
            if control in readable:  # nothing is sent while a program runs: the parent closed its end
                os._exit(0)  # which ends the program, too
            if wake in readable:
                os.read(wake, 4096)
            if self._channel in readable:
                said = self._hear()
                if not said or limits["is_last"]:
                    self._close()  # the program reads the end of the channel and ends
                else:
                    is_over = True

    def _hear(self) -> bytes:
        try:
            return self._channel.recv(1)
        except OSError:
            return b""

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)

    def end(self) -> None:
        self.kill()
        os.waitpid(self._pid, 0)
        self._close()

    def _close(self) -> None:
        if self._channel:
            self._channel.close()
            self._channel = None


def serve(control: socket.socket, isolation: Isolation, names: dict[str, object], state: State, parent: int) -> None:
    wake, signalled = os.pipe()
    os.set_blocking(signalled, False)
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)
    signal.set_wakeup_fd(signalled)
    while True:
        order, files = receive(control, parent)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            run_program(files, theirs.fileno(), order["isolation"], isolation, names, state)
        theirs.close()
        for file in files:
            os.close(file)
        program = Program(pid, ours)
        while True:  # the runs, for as long as the parent asks for the next and the process lives
            outcome = program.watch(order, control, wake)
            control.send(json.dumps(outcome).encode())
            if outcome["status"] is not None:
                break
            order, _ = receive(control, parent)
            if order["is_stop"]:
                program.end()
                break
            program.go_on()


def receive(control: socket.socket, parent: int) -> tuple[dict, list[int]]:
    """The parent's next order and the files with it. Exits if the parent has died."""
    while not select.select([control], [], [], ORPHAN_POLL_SECONDS)[0]:
        if os.getppid() != parent:
            os._exit(0)
    message, files, _, _ = socket.recv_fds(control, 4096, FILES)
    if not message:
        os._exit(0)
    return json.loads(message), files


def main(control_file: int, use_landlock: bool, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end closes the socket
    os.dup2(control_file, CONTROL)
    os.closerange(CONTROL + 1, 65536)
    control = socket.socket(fileno=CONTROL)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")  # where memory runs out, the kernel is to end programs, not the training process
    adapt()  # first: modules keep what they find when they are imported
    try:
        preload()
        importer = SourceImporter()
        names = names_for_called_programs()
        isolation = Isolation(use_landlock)
    except (IsolationError, OSError) as error:
        control.send(json.dumps({"error": str(error)}).encode())
        return
    importer.install()
    os.environ.clear()
    sys.argv[:] = ["program.py"]
    state = State()
    gc.collect()
    gc.freeze()  # a program's garbage collection must not touch, and so copy, the worker's pages
    control.send(json.dumps({"layers": isolation.layers}).encode())
    serve(control, isolation, names, state, parent)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "landlock", int(sys.argv[3]))
