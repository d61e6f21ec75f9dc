"""Ends an engine's processes when the process that started them is gone.

vLLM's engine is a child process that only its parent tells to end. A parent that is killed tells nobody, and the engine
keeps its memory until somebody finds it. So a third process waits for the parent's end: this file, run as a script that
imports the standard library only.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


PATIENCE = 10.0  # seconds from SIGTERM to SIGKILL


def descendants(pid: int) -> set[int]:
    """The numbers of the processes that a process has started, and those that they have. On Linux; elsewhere none."""
    direct = set()
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread or a process that has just ended
            direct.update(map(int, listed.read_text().split()))
    return direct.union(*map(descendants, direct))


def guard(pids: Iterable[int]) -> subprocess.Popen | None:
    """Has processes ended when this one ends, however that ends: with SIGTERM, and with SIGKILL if they do not follow.

    Returns:
        The guard, which ends them when its `stdin` is closed. None elsewhere than on Linux, where nothing is done.
    """
    if sys.platform != "linux":
        return None
    handles = []  # of the processes: their numbers may go to others
    for pid in pids:
        with suppress(OSError):  # it has ended, or this kernel or container gives no handles: no reason to end a run
            handles.append(os.pidfd_open(pid))
    try:
        # A session of its own: Ctrl-C is for the parent, which ends the engine by itself
        return subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *map(str, handles)],
            stdin=subprocess.PIPE,
            pass_fds=handles,
            start_new_session=True,
        )
    finally:
        for handle in handles:
            os.close(handle)


def _end(handles: list[int]) -> None:
    for handle in handles:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGTERM)
    for handle in handles:
        ended, _, _ = select.select([handle], [], [], PATIENCE)
        if not ended:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)


if __name__ == "__main__":
    sys.stdin.buffer.read()  # until the parent is gone or closes its end
    _end([int(handle) for handle in sys.argv[1:]])
