"""The self-test of a worker: a program that tries to get out. It runs inside the sandbox before any other program.

Prints `allowed: ...` for what it should not have been able to do, then `done`. Each attempt is harmless if it succeeds.
It is run twice: the second time tells whether something of the first was left.
"""

import ctypes
import mmap
import os
import resource
import signal
import socket
import sys
import threading
import time


IS_X86 = sys.implementation._multiarch.startswith("x86_64")
NUMBERS = {  # of system calls: (x86-64, aarch64)
    "bpf": (321, 280),
    "clone": (56, 220),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "newfstatat": (262, 79),
    "openat": (257, 56),
    "process_vm_readv": (310, 270),
    "ptrace": (101, 117),
    "statx": (332, 291),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
AT_FDCWD, AT_EMPTY_PATH, O_TMPFILE = -100, 0x1000, 0o20200000
libc = ctypes.CDLL(None, use_errno=True)


def raw(name: str, *arguments) -> int:
    result = libc.syscall(NUMBERS[name][0 if IS_X86 else 1], *arguments)
    if name == "clone" and result == 0:
        os._exit(0)  # the new process, if there is one
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def raise_limit() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (10_000, 10_000))  # seems to succeed
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 10_000:
        raise PermissionError


def map_much() -> None:
    mmap.mmap(-1, 2**46)


def find_variable() -> None:
    if not os.environ:
        raise KeyError


def find_descriptor() -> None:
    for number in range(6, 1024):
        try:
            os.dup(number)
        except OSError:
            continue
        return
    raise OSError


def write_over_sources() -> None:
    """In the memory that all programs share, change the last byte of what they import, by force if need be."""
    for finder in sys.meta_path:
        for memory in filter(lambda value: isinstance(value, mmap.mmap), vars(finder).values()):
            if memory[-1:] == MARK:
                return  # an earlier program was here
            view = (ctypes.c_void_p * 16)()  # a Py_buffer: its first field is the address
            ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(memory), view, 0)
            last = view[0] + len(memory) - 1
            page = last // mmap.PAGESIZE * mmap.PAGESIZE
            if libc.mprotect(ctypes.c_void_p(page), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE) == 0:
                ctypes.memset(last, MARK[0], 1)
    raise PermissionError


MARK = b"\x07"
buffer = ctypes.create_string_buffer(4096)
ATTEMPTS = {
    "list the root directory": lambda: os.listdir("/"),
    "read /proc": lambda: os.open("/proc/self/environ", os.O_RDONLY),
    "read the interpreter": lambda: os.open(sys.executable, os.O_RDONLY),
    "look for a file": lambda: os.stat(sys.executable),
    "look for a file by a raw call": lambda: raw("newfstatat", AT_FDCWD, b"/", buffer, 0),
    "look for a file past glibc": lambda: raw("newfstatat", AT_FDCWD, b"/", buffer, AT_EMPTY_PATH),
    "look for a file by statx": lambda: raw("statx", AT_FDCWD, b"/", AT_EMPTY_PATH, 0xFFF, buffer),
    "open a file by a raw call": lambda: raw("openat", AT_FDCWD, b"/", 0),
    "make a temporary file": lambda: os.open("/tmp", os.O_RDWR | O_TMPFILE),
    "make a memory file": lambda: raw("memfd_create", b"x", 0),
    "change a mode": lambda: os.fchmod(1, 0o777),
    "make a socket": socket.socket,
    "make a pair of sockets": socket.socketpair,
    "fork": lambda: os.fork() or os._exit(0),
    "make a process by a raw call": lambda: raw("clone", signal.SIGCHLD, 0, 0, 0, 0),
    "start another program": lambda: os.execv("/", ["/"]),
    "signal its parent": lambda: os.kill(os.getppid(), 0),
    "signal all": lambda: os.kill(-1, 0),
    "trace its parent": lambda: raw("ptrace", 16, os.getppid(), 0, 0),
    "read its parent's memory": lambda: raw("process_vm_readv", os.getppid(), 0, 0, 0, 0, 0),
    "read its parent's clock": lambda: time.clock_gettime((~os.getppid() << 3) | 2),
    "see the cores of its parent": lambda: os.sched_getaffinity(os.getppid()),
    "use io_uring": lambda: raw("io_uring_setup", 1, buffer),
    "use bpf": lambda: raw("bpf", 0, buffer, 48),
    "use userfaultfd": lambda: raw("userfaultfd", 1),
    "use keys": lambda: raw("keyctl", 0, -3, 0),
    "make a namespace": lambda: raw("unshare", 0x10000000),
    "change its priority": lambda: os.nice(1),
    "change its cores": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
    "raise a limit": raise_limit,
    "map 64 TiB": map_much,
    "see the environment": find_variable,
    "use a descriptor of the worker": find_descriptor,
    "change what a later program imports": write_over_sources,
    "change its user": lambda: os.setuid(os.getuid()),
}

for what, attempt in ATTEMPTS.items():
    try:
        attempt()
    except (OSError, KeyError, OverflowError, ValueError):
        continue
    sys.stdout.write(f"allowed: {what}\n")
thread = threading.Thread(target=sys.stdout.write, args=["done\n"])  # a thread is allowed
thread.start()
thread.join()
