"""
`python()`: an interpreter for tests that start many commands, which has imported torch, transformers and TRL already.

It is given to `subprocess` in place of `sys.executable`. Behind it a server imports once and forks for every command: a
process with a pid, a session, arguments, variables, a folder, streams, signals and an exit status of its own, whose start
takes 0.1 seconds of processor time in place of 7. A fresh interpreter it is not, so these start `sys.executable`:

- what is about importing,
- what is about limits, process groups or sessions, which are the server's, and about SIGKILL, which ends the client first,
  and the command a moment later,
- one test of every command, at least.

In such a process `sys.executable` is what `python()` gave, so that what a launcher or a study starts is forked, too.
"""

import atexit
import os
import shlex
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path


HERE = Path(__file__).parent


def python(**environment: str) -> str:
    """
    A path for the place of `sys.executable`. What is no module or script (`-c`, `-P`), and what has another value of a
    variable that might be read when something is imported, starts `sys.executable` itself.

    Args:
        environment: Variables of the server, beside those of this process: for what is read when it is imported.
    """
    if sys.platform != "linux":  # frameworks of macOS do not outlive a fork
        return sys.executable
    return _start(tuple(sorted(environment.items())))


@cache
def _start(environment: tuple[tuple[str, str], ...]) -> str:
    folder = Path(
        tempfile.mkdtemp(prefix="forked-")
    )  # its path must be short, as that of a socket; the server removes it
    place, address = folder / "python", folder / "socket"
    variables = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    log = folder / "log.txt"
    with log.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, HERE / "server.py", address],
            stdin=subprocess.PIPE,  # it ends when this is closed, as it is when this process ends
            stdout=subprocess.PIPE,
            stderr=stream,
            env={**variables, **dict(environment)},
            start_new_session=True,
        )
    if server.stdout.readline() != b"ready\n":
        raise RuntimeError(f"The server of tests/support/forked did not start:\n{log.read_text()}")

    @atexit.register
    def stop():
        server.stdin.close()
        server.wait()

    words = shlex.join([sys.executable, "-IS", str(HERE / "client.py"), str(place), str(address)])
    place.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    place.chmod(0o755)
    return str(place)
