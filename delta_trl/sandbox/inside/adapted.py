"""What of the standard library has to work otherwise where no path, socket or epoll is allowed.

Part of the worker process (`worker.py`): standard library only. Conveniences for honest programs, not a barrier: a program
that goes around them meets the filter.
"""

import asyncio.selector_events
import builtins
import contextlib
import ctypes
import io
import mmap
import os
import platform
import selectors
import socket
import struct
import threading
import types
from multiprocessing import context

from isolation import DESCRIPTORS


STANDARD_FILES = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2, "/dev/fd/0": 0, "/dev/fd/1": 1, "/dev/fd/2": 2}
MACHINE = os.uname().machine
# For `platform`, which numpy asks as well. The system call is denied: it tells the machine's name and its kernel, too.
UNAME = platform.uname_result("Linux", "localhost", "", "", MACHINE)

_open, _os_open, _stat = io.open, os.open, os.stat


class Nothing(io.RawIOBase):
    """`/dev/null`: there is nothing to read, and what is written is gone."""

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        return 0

    def write(self, data) -> int:
        return len(data)


def adapt() -> None:
    """Put what is here in its place."""
    builtins.open = io.open = open_standard_file
    os.open, os.stat = os_open_standard_file, stat_standard_file
    os.closerange, platform.uname = closerange, lambda: UNAME
    os.getcwd = lambda: "/"  # of a removed directory the kernel knows no path
    mmap.mmap = SizedMmap
    selectors.DefaultSelector = selectors.PollSelector
    asyncio.selector_events.socket = types.SimpleNamespace(**{**vars(socket), "socketpair": pipe_as_socketpair})
    # There are no other processes to share locks with: for pools of threads, which ask for them all the same
    context.BaseContext.Lock = lambda self: threading.Lock()
    context.BaseContext.RLock = lambda self: threading.RLock()


def _path(file: object) -> str | bytes | None:
    try:
        return os.fspath(file)
    except TypeError:  # a descriptor
        return None


def _standard_file(file: object) -> int | None:
    return STANDARD_FILES.get(_path(file))


def open_standard_file(file, *arguments, **settings):
    """`open`, with the standard streams by their paths, and `/dev/null` without a descriptor."""
    if _path(file) == os.devnull:
        both = io.BufferedRWPair(Nothing(), Nothing())
        mode = arguments[0] if arguments else settings.get("mode", "r")
        return both if "b" in mode else io.TextIOWrapper(both, encoding="utf-8", errors="surrogateescape")
    number = _standard_file(file)
    return _open(file if number is None else os.dup(number), *arguments, **settings)


def os_open_standard_file(path, flags, *arguments, **settings):
    """`os.open`, with the standard streams by their paths."""
    number = _standard_file(path)
    return _os_open(path, flags, *arguments, **settings) if number is None else os.dup(number)


def stat_standard_file(path, **settings):
    """`os.stat`, with the standard streams by their paths."""
    number = _standard_file(path)
    return _stat(path, **settings) if number is None else os.fstat(number)


def closerange(fd_low, fd_high, /):
    """`os.closerange`, one descriptor after another, and only those that there can be.

    Where a range is refused, or the kernel has no call for it (before 5.9), Python 3.13's own may ask glibc for `closefrom`,
    which aborts the process, and older ones try every number up to the last.
    """
    for fd in range(max(0, fd_low), min(fd_high, DESCRIPTORS)):
        with contextlib.suppress(OSError):  # not open
            os.close(fd)


class SizedMmap(mmap.mmap):
    """`mmap.mmap`, which asks for the size of a whole file as `fstat` below does."""

    def __new__(cls, fileno, length, *arguments, **settings):
        if length == 0 and fileno >= 0:
            length = os.fstat(fileno).st_size - settings.get("offset", 0)
        return super().__new__(cls, fileno, length, *arguments, **settings)


class PipeEnd:
    """As much of a socket as asyncio's event loop needs to wake itself from another thread."""

    def __init__(self, file: int):
        self._file = file

    def fileno(self) -> int:
        return self._file

    def setblocking(self, is_blocking: bool) -> None:
        """Both ends were made non-blocking."""

    def recv(self, size: int) -> bytes:
        return os.read(self._file, size)

    def send(self, data: bytes) -> int:
        return os.write(self._file, data)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def pipe_as_socketpair() -> tuple[PipeEnd, PipeEnd]:
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    return PipeEnd(reader), PipeEnd(writer)


# (number of the system call, layout of its struct stat, where mode, inode and the other fields of os.stat_result are)
_FSTAT = {
    "x86_64": (5, "=QQQIIIIQqqqQQQQQQ24x", (3, 1, 0, 2, 4, 5, 8, 11, 13, 15)),
    "aarch64": (80, "=QQIIIIQQqiiqQQQQQQ8x", (2, 1, 0, 3, 4, 5, 8, 12, 14, 16)),
}


def fstat(fd: int) -> os.stat_result:
    """`os.fstat`, by the system call of that name.

    Some versions of glibc (2.33 to 2.38) use one that takes a path, which the filter refuses; and programs that read
    their input fast ask for its size.
    """
    number, layout, fields = _FSTAT[MACHINE]
    buffer = ctypes.create_string_buffer(struct.calcsize(layout))
    if ctypes.CDLL(None, use_errno=True).syscall(number, int(fd), buffer) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    found = struct.unpack(layout, buffer.raw)
    return os.stat_result(found[i] for i in fields)
