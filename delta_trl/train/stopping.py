"""Ending a run on Ctrl-C or SIGTERM: one line that says how to go on, and no process left behind."""

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..commands import end_with_parent, own_command
from ..hub import command_line


SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A signal to all processes may reach one after another has broken off their communication
SIGNAL_SECONDS = 2
LAUNCHERS = ("accelerate", "torchrun", "torch.distributed.run")


class Stopped(BaseException):
    """SIGINT or SIGTERM. Not an Exception, so that nothing on the way takes it for a failure."""

    def __init__(self, number: int):
        super().__init__(f"Stopped by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def stopped_by_signals() -> Generator[None, None, None]:
    """The first SIGINT or SIGTERM raises `Stopped`; later ones are ignored, so that they cannot disturb the ending."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return

    def stop(number: int, frame: Any) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    except Stopped:
        raise  # with signals ignored
    except BaseException:
        _restore(before)
        raise
    else:
        _restore(before)


def _restore(handlers: dict) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextmanager
def ending_on_signals(say: Callable[[Stopped], str]) -> Generator[None, None, None]:
    """SIGINT and SIGTERM end the process, with the line that `say` gives from the main one."""
    processes = PartialState()
    end_with_launcher()
    try:
        with stopped_by_signals():
            try:
                yield
            except Exception:
                if processes.num_processes > 1:
                    time.sleep(SIGNAL_SECONDS)
                raise
    except Stopped as stop:
        if processes.is_main_process:
            sys.stderr.write(f"\n{say(stop)}\n")
            sys.stderr.flush()
        if processes.num_processes > 1:
            os._exit(128 + stop.number)  # leaving in order waits for processes that no longer answer
        sys.exit(128 + stop.number)


@functools.cache
def launcher() -> list[str] | None:
    """
    The command of the launcher that started this process; None without one, or where that cannot be known. First asked while
    it lives.
    """
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_text().rstrip("\0").split("\0")
    except OSError:
        return None
    is_launcher = any(Path(word).name in LAUNCHERS or word in ("accelerate.commands.launch",) for word in words[:3])
    return words if is_launcher else None


def end_with_launcher() -> None:
    """Have the system send SIGTERM to this process when its launcher ends.

    `accelerate launch` with one process does not hand a SIGTERM on to it, and would leave it behind. Linux only.
    """
    if launcher() is not None:
        end_with_parent()


def continuing_command() -> str:
    """The command that continues this run, as it was typed as far as that can be known."""
    words = [word for word in launcher() or own_command() if word != "--overwrite_output_dir"]
    if "--resume_from_checkpoint" not in words:
        words += ["--resume_from_checkpoint", "true"]
    program, *rest = words
    if rest and Path(rest[0]).name in LAUNCHERS:  # python /.../bin/accelerate launch ...
        program, *rest = rest
    return command_line([program, *rest], hide_folders=False)
