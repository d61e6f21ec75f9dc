"""What a program is denied, and how: a seccomp filter, Landlock, a dropped user, an empty root directory, limits.

Part of the worker process (`worker.py`): standard library only.

- seccomp is the barrier: the kernel refuses every system call that is not on `ALLOWED`. No call that takes a path, makes
  a socket, a process or a memory file, or reaches another process is on it. It needs no privilege.
- Landlock, where the kernel has it (5.13), denies every file, TCP port, abstract socket and foreign signal once more,
  should the filter have a hole.
- Root drops to a user without rights, one of its own for each worker, and to an empty root directory.

The filter is built by libseccomp, not written by hand: it knows the numbers of x86-64 and aarch64 and adds the checks of
the calling convention. apt on Debian and Ubuntu, and systemd everywhere, depend on it, so that ordinary images have it;
where it is missing the sandbox refuses to start and names the package. It builds the filter once (5 ms); a child loads
the finished bytes with one call.
"""

import ctypes
import errno
import math
import os
import resource
import signal
import struct
import tempfile


ALLOWED = (
    # Open descriptors: those the program starts with, or copies of them
    *("read", "write", "readv", "writev", "pread64", "pwrite64", "lseek", "fstat", "close", "dup", "dup2", "dup3"),
    *("poll", "ppoll", "select", "pselect6"),
    # Memory
    *("brk", "mmap", "munmap", "mremap", "mprotect", "madvise"),
    # Its own signals and timers
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall", "pause"),
    *("alarm", "getitimer", "setitimer"),
    # Clocks
    *("nanosleep", "gettimeofday", "time", "times"),
    # Threads: programs use them for deep recursion. `clone` is added below, for threads only.
    *("set_robust_list", "set_tid_address", "rseq", "sched_yield", "gettid", "exit", "membarrier"),
    # Harmless facts
    *("getpid", "getppid", "getuid", "geteuid", "getgid", "getegid", "getcwd", "sysinfo"),
    *("getrlimit", "getrusage", "getrandom", "exit_group"),
)
# Calls that take a path find no file, as honest programs expect where there is none
PATHS = ("openat", "openat2", "newfstatat", "statx", "faccessat", "faccessat2", "readlinkat")
FCNTL_COMMANDS = (0, 1, 2, 3, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC
F_SETFL = 4
# A program shares its files with the process that reads them. So it may set no flag but O_NONBLOCK, and those that
# F_GETFL gives for every file (access, O_LARGEFILE of both machines). Of a pipe it may set O_NONBLOCK and O_CLOEXEC.
FILE_FLAGS = 0xFFFFFFFF & ~(0o4000 | 0o3 | 0o100000 | 0o400000)
PIPE_FLAGS = 0xFFFFFFFF & ~(0o4000 | 0o2000000)
IOCTL_REQUESTS = (0x5401, 0x541B)  # TCGETS (isatty), FIONREAD
# The system's clocks and the caller's own have small numbers; those of other processes, which would tell that they exist and
# what they do, and those of descriptors have negative ones
CLOCKS = ("clock_gettime", "clock_getres", "clock_nanosleep")
OTHER_CLOCKS = 0xFFFFFFF0
# WAIT, WAKE, REQUEUE, CMP_REQUEUE, WAKE_OP, WAIT_BITSET, WAKE_BITSET: those that inherit priorities name any thread of the
# machine as the owner, and no lock of Python's is one
FUTEX_OPERATIONS, FUTEX_MASK = (0, 1, 3, 4, 5, 9, 10), 0x7F

CLONE_THREAD = 0x00010000 | 0x00000800 | 0x00000100  # THREAD, SIGHAND, VM
CLONE_WATCHED = (
    CLONE_THREAD | 0x7E020000 | 0x00000080 | 0x00002000 | 0x00008000
)  # and namespaces, TIME, PTRACE, PARENT

SCMP_ACT_ALLOW = 0x7FFF0000
SCMP_ACT_ERRNO = 0x00050000
SCMP_CMP_NE, SCMP_CMP_EQ, SCMP_CMP_MASKED_EQ = 1, 4, 7
SCMP_FLTATR_CTL_OPTIMIZE = 8

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
# The same numbers on x86-64 and aarch64, as for every call since 2019
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
LANDLOCK_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # by version: how many bits of rights; 16 from version 5 on

NOBODY = 65534  # "nobody"
FIRST_PRIVATE_UID = 0x60000000
THREADS = 256  # a program's
DESCRIPTORS = 256
RLIMIT_MSGQUEUE = 12  # the resource module does not name it
STACK_BYTES = 64 * 2**20

_libc = ctypes.CDLL(None, use_errno=True)


class IsolationError(Exception):
    """A layer of the isolation cannot be set up. The text says which and what helps."""


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise IsolationError(f"{what} failed: {os.strerror(code)}")
    return result


class _Comparison(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def load_libseccomp() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError:
        raise IsolationError(
            "libseccomp.so.2 is missing. Install it: `apt-get install libseccomp2`, `dnf install libseccomp`, "
            "`apk add libseccomp` or `conda install -c conda-forge libseccomp`."
        ) from None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_rule_add_array.argtypes = [
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Comparison))
    ]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    return library


def rules() -> list[tuple[str, int, list[tuple[int, int, int, int]]]]:
    """(system call, action, comparisons of arguments as (index, operator, a, b)) triples; all else fails with EPERM."""
    found = [(name, SCMP_ACT_ALLOW, []) for name in ALLOWED]
    found += [(name, SCMP_ACT_ERRNO | errno.ENOENT, []) for name in PATHS]
    found += [("fcntl", SCMP_ACT_ALLOW, [(1, SCMP_CMP_EQ, command, 0)]) for command in FCNTL_COMMANDS]
    found.append(("fcntl", SCMP_ACT_ALLOW, [(1, SCMP_CMP_EQ, F_SETFL, 0), (2, SCMP_CMP_MASKED_EQ, FILE_FLAGS, 0)]))
    found.append(("pipe2", SCMP_ACT_ALLOW, [(1, SCMP_CMP_MASKED_EQ, PIPE_FLAGS, 0)]))  # within the process
    found += [("ioctl", SCMP_ACT_ALLOW, [(1, SCMP_CMP_EQ, request, 0)]) for request in IOCTL_REQUESTS]
    found += [(name, SCMP_ACT_ALLOW, [(0, SCMP_CMP_MASKED_EQ, OTHER_CLOCKS, 0)]) for name in CLOCKS]
    found += [("futex", SCMP_ACT_ALLOW, [(1, SCMP_CMP_MASKED_EQ, FUTEX_MASK, op)]) for op in FUTEX_OPERATIONS]
    # The caller's cores; glibc asks by the number of a thread, too, and takes this answer for "not known"
    found.append(("sched_getaffinity", SCMP_ACT_ALLOW, [(0, SCMP_CMP_EQ, 0, 0)]))
    found.append(("sched_getaffinity", SCMP_ACT_ERRNO | errno.ENOSYS, [(0, SCMP_CMP_NE, 0, 0)]))
    found.append(("clone", SCMP_ACT_ALLOW, [(0, SCMP_CMP_MASKED_EQ, CLONE_WATCHED, CLONE_THREAD)]))
    # Its flags are in memory, where no filter can look; the C library then falls back to clone.
    found.append(("clone3", SCMP_ACT_ERRNO | errno.ENOSYS, []))
    # Programs for contests raise their limits: that seems to succeed and changes nothing.
    found.append(("setrlimit", SCMP_ACT_ERRNO | 0, []))
    found.append(("prlimit64", SCMP_ACT_ALLOW, [(0, SCMP_CMP_EQ, 0, 0), (2, SCMP_CMP_EQ, 0, 0)]))
    found.append(("prlimit64", SCMP_ACT_ERRNO | 0, [(0, SCMP_CMP_EQ, 0, 0), (2, SCMP_CMP_NE, 0, 0)]))
    return found


def build_filter() -> bytes:
    """The seccomp filter for this machine, as the kernel takes it."""
    library = load_libseccomp()
    context = library.seccomp_init(SCMP_ACT_ERRNO | errno.EPERM)
    if not context:
        raise IsolationError("libseccomp does not know this machine's architecture.")
    try:
        library.seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, 2)  # a binary tree of numbers
        for name, action, comparisons in rules():
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number < 0:
                continue  # a call that this architecture never had (aarch64 has no `poll`)
            array = (_Comparison * len(comparisons))(*comparisons)
            result = library.seccomp_rule_add_array(context, action, number, len(comparisons), array)
            if result < 0:
                raise IsolationError(f"libseccomp refused the rule for {name}: {os.strerror(-result)}")
        with os.fdopen(os.memfd_create("filter"), "w+b") as file:
            result = library.seccomp_export_bpf(context, file.fileno())
            if result < 0:
                raise IsolationError(f"libseccomp could not export the filter: {os.strerror(-result)}")
            file.seek(0)
            return file.read()
    finally:
        library.seccomp_release(context)


def _load_filter(instructions: bytes) -> None:
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    program = _FilterProgram(len(instructions) // 8, ctypes.addressof(buffer))
    result = _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
    _check(result, "Loading the seccomp filter (the kernel needs CONFIG_SECCOMP_FILTER)")


def landlock_version() -> int:
    """0 where the kernel has no Landlock, or a container's own filter denies it."""
    return max(0, _libc.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


def _enter_landlock() -> bool:
    """Allow this process and its children nothing that Landlock knows. False without Landlock."""
    version = landlock_version()
    if version == 0:
        return False
    attributes = struct.pack("=Q", (1 << LANDLOCK_FILE_RIGHTS.get(version, 16)) - 1)
    if version >= 4:
        attributes += struct.pack("=Q", 3)  # bind and connect of TCP
    if version >= 6:
        attributes += struct.pack("=Q", 3)  # abstract sockets and signals of other domains
    size = ctypes.c_size_t(len(attributes))
    ruleset = _libc.syscall(LANDLOCK_CREATE_RULESET, attributes, size, ctypes.c_uint32(0))
    _check(ruleset, "Making the rules of Landlock")
    _check(_libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)), "Entering Landlock")
    os.close(ruleset)
    return True


def _drop_capabilities() -> None:
    """Also where root may not change its user: then it is root by name only."""
    header = struct.pack("=Ii", 0x20080522, 0)
    _check(_libc.capset(header, bytes(24)), "Dropping capabilities")


def _enter_empty_root() -> bool:
    """False in a container without CAP_SYS_CHROOT, where the other layers stand."""
    empty = tempfile.mkdtemp(prefix="sandbox-")
    parent = os.open(os.path.dirname(empty), os.O_RDONLY)
    try:
        os.chroot(empty)
        os.chdir("/")
        return True
    except PermissionError:
        return False
    finally:
        os.rmdir(os.path.basename(empty), dir_fd=parent)  # nobody can put anything into a removed directory
        os.close(parent)


def _drop_user() -> bool:
    """Whether this process now has a user of its own."""
    for uid in (FIRST_PRIVATE_UID + os.getpid(), NOBODY):  # small user namespaces only map the second
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            return uid != NOBODY
        except OSError:
            continue
    return False


def mapped_bytes() -> int:
    """Address space of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


class Isolation:
    """What the worker enters itself, once, and what each program's process adds.

    Attributes:
        layers: Names of the layers in place.
    """

    def __init__(self, use_landlock: bool = True):
        self._filter = build_filter()
        self._worker = os.getpid()
        self._mapped_bytes = mapped_bytes()
        self.layers = ["seccomp"]
        self._has_own_user = False
        if os.geteuid() == 0:
            self.layers += ["empty root"] if _enter_empty_root() else []
            self._has_own_user = _drop_user()
            self.layers += ["own user"] if self._has_own_user else []
        _drop_capabilities()
        _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "Giving up new privileges")
        if use_landlock and _enter_landlock():
            self.layers.append("landlock")
        _limit(resource.RLIMIT_NOFILE, DESCRIPTORS)
        _limit(resource.RLIMIT_STACK, STACK_BYTES)
        for limit in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, RLIMIT_MSGQUEUE):
            _limit(limit, 0)

    def enter(self, memory_bytes: int, total_cpu_seconds: float, file_bytes: int, other_threads: int | None) -> None:
        """Confine this process for good.

        Args:
            memory_bytes: Address space that it may add to what it has.
            total_cpu_seconds: CPU time after which the kernel ends it, up to two seconds later, should the worker not.
            file_bytes: Size that each of its output files may reach; SIGXFSZ ends it there.
            other_threads: Threads of the same user, which the kernel counts in; None: do not limit threads.
        """
        _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "Following the worker's death")
        if os.getppid() != self._worker:
            raise IsolationError("The worker died before its death could be followed.")
        _limit(resource.RLIMIT_AS, self._mapped_bytes + memory_bytes)
        _limit(resource.RLIMIT_CPU, math.ceil(total_cpu_seconds) + 1)
        _limit(resource.RLIMIT_FSIZE, file_bytes)
        if self._has_own_user:
            _limit(resource.RLIMIT_NPROC, THREADS)
        elif other_threads is not None:
            _limit(resource.RLIMIT_NPROC, other_threads + THREADS)
        _load_filter(self._filter)


def _limit(limit: int, value: int) -> None:
    _, most = resource.getrlimit(limit)
    value = value if most == resource.RLIM_INFINITY else min(value, most)
    resource.setrlimit(limit, (value, value))
