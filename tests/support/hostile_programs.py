# ruff: noqa: E501 - a program a line
"""Programs that try to get out of the sandbox. Each raises an exception if it is denied; what follows the last line says
that it was not. All are harmless outside, where they are run as positive controls: there every one of them succeeds.

`{folder}` is a folder that anybody may read and write, with the files `secret` and `planted.py`; `{port}` a port of
this machine and `{socket}` a Unix socket, at which a test listens; `{other}` a process of the same user.
"""

PRELUDE = """
import ctypes, errno, os, resource, signal, socket, subprocess, sys, time
FOLDER, PORT, OTHER, SOCKET = {folder!r}, {port}, {other}, {socket!r}
libc = ctypes.CDLL(None, use_errno=True)
X86 = sys.implementation._multiarch.startswith("x86_64")
def raw(x86, aarch64, *arguments):
    "A system call by number. The filter's answer is EPERM; others are the kernel's, so that the call went through."
    result = libc.syscall(ctypes.c_long(x86 if X86 else aarch64), *[ctypes.c_long(a) if type(a) is int else a for a in arguments])
    code = ctypes.get_errno()
    if result < 0 and code == errno.EPERM:
        raise PermissionError
    return result
def c(result):
    if result in (-1, None):
        raise OSError(ctypes.get_errno(), "libc")
    return result
"""
POSTLUDE = "\nos.write(1, b'ESCAPED')\n"

FILES = {
    "read /etc/passwd": "open('/etc/passwd').read()",
    "read a file": "open(FOLDER + '/secret').read()",
    "read a file by C's fopen": "libc.fopen.restype = ctypes.c_void_p; c(libc.fopen((FOLDER + '/secret').encode(), b'r'))",
    "read a file by openat": "assert raw(257, 56, -100, (FOLDER + '/secret').encode(), 0) >= 0",
    "read a file by openat2": "how = (ctypes.c_uint64 * 3)()\nassert raw(437, 437, -100, (FOLDER + '/secret').encode(), how, 24) >= 0",
    "open by a descriptor's link": "open('/proc/self/fd/0' if os.path.exists('/proc/self/fd/0') else '/proc/self/fd/1', 'rb', 0)",
    "read its environment": "open('/proc/self/environ', 'rb').read()",
    "read its memory": "open('/proc/self/mem', 'rb')",
    "read its parent's command": "open('/proc/%d/cmdline' % os.getppid(), 'rb').read()",
    "read another's maps": "open('/proc/%d/maps' % OTHER).read()",
    "list the root": "os.listdir('/')",
    "list with scandir": "next(os.scandir(FOLDER))",
    "stat": "os.stat(FOLDER + '/secret')",
    "stat past glibc": "assert raw(262, 79, -100, (FOLDER + '/secret').encode(), ctypes.create_string_buffer(256), 0x1000) == 0",
    "statx": "assert raw(332, 291, -100, (FOLDER + '/secret').encode(), 0, 0xFFF, ctypes.create_string_buffer(512)) == 0",
    "access": "assert os.access(FOLDER + '/secret', os.R_OK)",
    "read a link": "os.readlink('/proc/self/exe')",
    "statfs": "os.statvfs(FOLDER)",
    "write a file": "open(FOLDER + '/new', 'w').write('x')",
    "append to a file": "open(FOLDER + '/secret', 'a').write('')",
    "temporary file": "import tempfile; tempfile.TemporaryFile(dir=FOLDER)",
    "nameless file": "os.open(FOLDER, os.O_TMPFILE | os.O_RDWR)",
    "make a folder": "os.mkdir(FOLDER + '/made'); os.rmdir(FOLDER + '/made')",
    "rename": "os.rename(FOLDER + '/secret', FOLDER + '/moved'); os.rename(FOLDER + '/moved', FOLDER + '/secret')",
    "delete": "open(FOLDER + '/gone', 'w').close(); os.unlink(FOLDER + '/gone')",
    "symbolic link": "os.symlink('/', FOLDER + '/link%d' % os.getpid())",
    "hard link": "os.link(FOLDER + '/secret', FOLDER + '/hard%d' % os.getpid())",
    "named pipe": "os.mkfifo(FOLDER + '/pipe%d' % os.getpid())",
    "chmod": "os.chmod(FOLDER + '/mine', 0o777)",
    "chmod by descriptor": "os.fchmod(1, 0o777)",
    "chown": "os.chown(FOLDER + '/mine', -1, -1)",
    "utime": "os.utime(FOLDER + '/mine')",
    "extended attribute": "assert raw(188, 5, (FOLDER + '/mine').encode(), b'user.x', b'1', 1, 0) == 0 or ctypes.get_errno() == 95",
    "truncate": "os.truncate(FOLDER + '/mine', 0)",
    "chdir": "os.chdir(FOLDER)",
    "umask": "os.umask(0o22)",
    "import from a folder": "sys.path.insert(0, FOLDER); import planted",
    "import by its path": "import importlib.util as u; s = u.spec_from_file_location('p', FOLDER + '/planted.py'); s.loader.exec_module(u.module_from_spec(s))",
    "load a library": "ctypes.CDLL('libz.so.1' if os.path.exists('/lib') else '/lib/libz.so.1')",
    "a database": "import sqlite3; sqlite3.connect(FOLDER + '/db').execute('create table if not exists t (x)')",
    "watch files": "c(libc.inotify_init1(0))",
}

ENVIRONMENT = {
    "os.environ": "assert os.environ",
    "os.environb": "assert os.environb",
    "C's environ": "assert ctypes.POINTER(ctypes.c_char_p).in_dll(libc, 'environ')[0]",
    "a secret variable": "libc.getenv.restype = ctypes.c_char_p; assert libc.getenv(b'SANDBOX_TEST_SECRET')",
    "the name of the machine": "assert socket.gethostname()",
    "the kernel": "os.uname()",
    "the name of the user": "import pwd; pwd.getpwuid(0)",
}

NETWORK = {
    "TCP": "socket.create_connection(('127.0.0.1', PORT), 5)",
    "TCP by number": "assert raw(41, 198, 2, 1, 0) >= 0",
    "UDP": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))",
    "listen": "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()",
    "Unix socket": "socket.socket(socket.AF_UNIX).connect(SOCKET)",
    "abstract Unix socket": "socket.socket(socket.AF_UNIX).bind('\\0sandbox-test-%d' % os.getpid())",
    "pair of sockets": "socket.socketpair()",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "HTTP": "import http.client; c = http.client.HTTPConnection('127.0.0.1', PORT, timeout=5); c.connect()",
    "a socket from another's descriptor": "assert raw(434, 434, OTHER, 0) >= 0",
}

PROCESSES = {
    "fork": "pid = os.fork()\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0)",
    "fork in a loop": "for _ in range(3):\n    pid = os.fork()\n    if pid == 0: os._exit(0)\n    os.waitpid(pid, 0)",
    "fork by number": "pid = raw(56, 220, 17, 0, 0, 0, 0)\nif pid == 0: os._exit(0)",
    "clone3": "a = (ctypes.c_uint64 * 8)(); a[4] = 17\npid = raw(435, 435, a, 64)\nif pid == 0: os._exit(0)\nassert pid > 0",
    "clone without a thread": "raw(56, 220, 0x00000100 | 0x7E000000, 0, 0, 0, 0)",
    "posix_spawn": "os.posix_spawn('/bin/true', ['true'], {{}})",
    "system": "assert os.system('true') == 0",
    "popen": "assert os.popen('echo hi').read()",
    "subprocess": "subprocess.run(['/bin/true'], check=True)",
    "multiprocessing": "import multiprocessing as m; p = m.get_context('fork').Process(target=len, args=('',)); p.start(); p.join()",
    "exec": "pid = os.getpid(); raw(59, 221, b'/nonexistent', None, None)",
    "daemon": "pid = os.fork()\nif pid == 0:\n    os.setsid()\n    os._exit(0)",
    "signal its parent": "os.kill(os.getppid(), 0)",
    "signal another": "os.kill(OTHER, 0)",
    "signal all": "os.kill(-os.getpgid(0), 0)",
    "signal a thread": "raw(234, 131, os.getppid(), os.getppid(), 0)",
    "queue a signal": "raw(129, 138, OTHER, 0, None)",
    "pidfd": "os.pidfd_open(os.getppid())",
    "trace": "raw(101, 117, 16, 0x7FFFFFF0, 0, 0)",
    "be traced": "raw(101, 117, 99, 0, 0, 0)",
    "read another's memory": "raw(310, 270, OTHER, None, 0, None, 0, 0)",
    "write another's memory": "raw(311, 271, OTHER, None, 0, None, 0, 0)",
    "compare processes": "raw(312, 272, os.getpid(), OTHER, 1, 0, 0)",
    "outlive the worker": "assert libc.prctl(1, 0, 0, 0, 0) == 0",
    "rename itself": "assert libc.prctl(15, b'innocent', 0, 0, 0) == 0",
    "personality": "assert libc.personality(0xFFFFFFFF) >= 0",
    "choose its cores": "os.sched_setaffinity(0, os.sched_getaffinity(0))",
    "renice": "os.nice(1)",
    "renice another": "os.setpriority(os.PRIO_PROCESS, OTHER, os.getpriority(os.PRIO_PROCESS, OTHER))",
    "schedule": "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))",
    "priority of disks": "raw(251, 30, 1, 0, 0)",
    "new session": "raw(112, 157)",
    "new group": "os.setpgid(0, 0)",
    "change its user": "os.setuid(os.getuid())",
    "set groups": "raw(116, 159, 0x7FFFFFFF, None)",
    "capabilities": "raw(126, 91, None, None)",
    "namespaces": "raw(272, 97, 0)",
    "enter a namespace": "raw(308, 268, -1, 0)",
    "the time of another": "time.clock_gettime((~OTHER << 3) | 2)",
    "sleep by the time of another": "assert raw(230, 115, (~OTHER << 3) | 2, 0, (ctypes.c_long * 2)(), None) == 0",
    "the cores of another": "os.sched_getaffinity(OTHER)",
    "another filter": "raw(317, 277, 99, 0, None)",
}

LIMITS = {
    "raise the limit of descriptors": "resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000)); assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 1000",
    "raise the limit of memory": "most = resource.RLIM_INFINITY; resource.setrlimit(resource.RLIMIT_AS, (most, most)); assert resource.getrlimit(resource.RLIMIT_AS)[0] == most",
    "limits of its parent": "resource.prlimit(os.getppid(), resource.RLIMIT_CORE, resource.prlimit(os.getppid(), resource.RLIMIT_CORE))",
    "limits of another": "resource.prlimit(OTHER, resource.RLIMIT_CORE)",
    "64 GiB": "import mmap; mmap.mmap(-1, 64 * 2**30, flags=mmap.MAP_PRIVATE | 0x4000)",
    "8 GiB in parts": "import mmap; kept = [mmap.mmap(-1, 2**28, flags=mmap.MAP_PRIVATE | 0x4000) for _ in range(32)]",
    "a string of 3 GiB": "import mmap; bytes(3 * 2**30)",
    "lock memory": "assert libc.mlock(ctypes.create_string_buffer(4096), 4096) == 0",
    "600 threads": "import threading\nthreading.stack_size(2**16)\nstop = threading.Event()\nthreads = [threading.Thread(target=stop.wait, daemon=True) for _ in range(600)]\ntry:\n    for t in threads: t.start()\nfinally: stop.set()",
    "2000 descriptors": "resource.setrlimit(resource.RLIMIT_NOFILE, (4000, 4000))\nfor _ in range(2000): os.dup(1)",
    "40 MiB of output": "b = b'x' * 2**20\nfor _ in range(40): os.write(2, b)",
    "a large sparse output": "os.lseek(2, 2**33, 0); os.write(2, b'x')",
    "grow its output": "os.ftruncate(2, 2**33)",
    "allocate its output": "os.posix_fallocate(2, 0, 2**26)",
}

KERNEL = {
    "memory file": "os.memfd_create('x')",
    "secret memory": "raw(447, 447, 0)",
    "shared memory of System V": "i = c(libc.shmget(0, 4096, 0o600)); libc.shmctl(i, 0, None)",
    "queue of System V": "i = c(libc.msgget(0, 0o600)); libc.msgctl(i, 0, None)",
    "semaphore of System V": "i = c(libc.semget(0, 1, 0o600)); libc.semctl(i, 0, 0)",
    "shared memory of POSIX": "from multiprocessing import shared_memory as s; m = s.SharedMemory(create=True, size=10); m.unlink()",
    "queue of POSIX": "raw(240, 180, b'sandbox-test', 0, 0, None)",
    "io_uring": "raw(425, 425, 0, None)",
    "bpf": "raw(321, 280, 99, None, 0)",
    "userfaultfd": "raw(323, 282, 0x7FFFFFFF)",
    "performance events": "raw(298, 241, None, 0, 0, -1, 0)",
    "keys": "raw(250, 219, 99, 0, 0, 0, 0)",
    "add a key": "raw(248, 217, None, None, None, 0, 0)",
    "asynchronous input": "raw(206, 0, 0, None)",
    "watch the file system": "raw(300, 262, 0x7FFFFFFF, 0)",
    "mount": "raw(165, 40, None, b'/nonexistent', None, 0, None)",
    "open a tree": "raw(428, 428, -1, b'/nonexistent', 0)",
    "Landlock": "raw(444, 444, None, 0, 1)",
    "file handles": "raw(303, 264, -1, b'x', None, None, 0)",
    "epoll": "import select; select.epoll()",
    "timer as a descriptor": "raw(283, 85, 0, 0)",
    "event as a descriptor": "raw(290, 19, 0, 0)",
    "signal as a descriptor": "raw(289, 74, -1, None, 8, 0)",
    "copy between descriptors": "raw(326, 285, -1, None, -1, None, 0, 0)",
    "futexes that inherit priorities": "assert raw(202, 98, ctypes.byref(ctypes.c_uint32(0)), 6, 0, None) == 0",
    "splice": "raw(275, 76, -1, None, -1, None, 0, 0)",
    "move pages": "raw(279, 239, 0, 0, None, None, None, 0)",
    "advise another's memory": "raw(440, 440, -1, None, 0, 0, 0)",
}

DESCRIPTORS = {
    "an inherited descriptor": "[os.dup(n) for n in range(3, 300) if n in (77,)]",
    "signals from a descriptor": "import fcntl; fcntl.fcntl(1, fcntl.F_SETOWN, 0)",
    "seals": "import fcntl; fcntl.fcntl(1, 1034)",
    "locks": "import fcntl; fcntl.fcntl(1, fcntl.F_GETLK, b'\\0' * 32)",
    "control a device": "raw(16, 29, 1, 0x5452, None)",
    "lock a file": "import fcntl; fcntl.flock(1, fcntl.LOCK_EX | fcntl.LOCK_NB)",
}

KINDS = {
    "files": FILES,
    "environment": ENVIRONMENT,
    "network": NETWORK,
    "processes": PROCESSES,
    "limits": LIMITS,
    "kernel": KERNEL,
    "descriptors": DESCRIPTORS,
}
