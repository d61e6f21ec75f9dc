"""The worker process: forks, confines and watches one program after another.

Run as a plain script by `sandbox.Worker`, with an empty environment, so that no program can find anything of the training
process in its memory. Standard library only.

For each program it receives the limits and the open memory files (the job, standard input, output and error, results)
over a socket, forks, waits, and answers with the exit status. Programs never meet: each has its own process, which
starts with nothing but those files, and cannot start another.
"""

import gc
import json
import os
import select
import signal
import socket
import sys
import time


sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from isolation import Isolation, IsolationError
from library import SourceImporter, names_for_called_programs, preload
from program import run_program
from state import State


ORPHAN_POLL_SECONDS = 5.0  # how often an idle worker checks that its parent lives, should the socket not tell
CONTROL = 3
FILES = 250  # the kernel's limit is 253


def wait_for(pid: int, wall_seconds: float, control: socket.socket, wake: int) -> tuple[int, bool, float]:
    """(wait status, whether the clock ended it, CPU seconds) of a child. Exits if the parent has died."""
    deadline = time.monotonic() + wall_seconds
    is_late = False
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return status, is_late, usage.ru_utime + usage.ru_stime
        readable, _, _ = select.select([wake, control], [], [], max(0.0, deadline - time.monotonic()))
        if control in readable:  # nothing is sent while a program runs: the parent closed its end
            os._exit(0)  # which ends the program, too
        if wake in readable:
            os.read(wake, 4096)
        elif not is_late:
            is_late, deadline = True, time.monotonic() + ORPHAN_POLL_SECONDS
            os.kill(pid, signal.SIGKILL)


def serve(control: socket.socket, isolation: Isolation, names: dict[str, object], state: State, parent: int) -> None:
    wake, signalled = os.pipe()
    os.set_blocking(signalled, False)
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)
    signal.set_wakeup_fd(signalled)
    while True:
        readable, _, _ = select.select([control], [], [], ORPHAN_POLL_SECONDS)
        if not readable:
            if os.getppid() != parent:
                return
            continue
        message, files, _, _ = socket.recv_fds(control, 4096, FILES)
        if not message:
            return
        limits = json.loads(message)
        total_wall_seconds = limits.pop("total_wall_seconds")
        pid = os.fork()
        if pid == 0:
            for file in (control.fileno(), wake, signalled):
                os.close(file)
            run_program(files, limits, isolation, names, state)
        for file in files:
            os.close(file)
        outcome = wait_for(pid, total_wall_seconds, control, wake)
        control.send(json.dumps({"outcome": outcome}).encode())


def main(control_file: int, use_landlock: bool, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end closes the socket
    os.dup2(control_file, CONTROL)
    os.closerange(CONTROL + 1, 65536)
    control = socket.socket(fileno=CONTROL)
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
