# ruff: noqa: E501 - some programs are one line
"""The sandbox with honest and clumsy programs: streams, limits, calls, and workers that nothing can lose or outlive."""

import ctypes
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from support.changed_sandbox import change_inside
from support.places import ROOT
from support.processes import children, is_running

from delta_trl.sandbox import Calls, Limits, Sandbox, SandboxUnavailable, handle
from delta_trl.sandbox.inside import isolation


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox(workers=2)
    yield sandbox
    sandbox.close()


READERS = {
    "input": "print(input() + input())",
    "sys.stdin": "import sys\nprint(''.join(line.strip() for line in sys.stdin))",
    "readline": "import sys\ninput = sys.stdin.readline\nprint(input().strip() + input().strip())",
    "buffer": "import sys\nprint(b''.join(sys.stdin.buffer.read().split()).decode())",
    "open(0)": "print(''.join(open(0).read().split()))",
    "os.read": "import os\nprint(os.read(0, os.fstat(0).st_size).decode().replace('\\n', ''))",
    "BytesIO": "import io, os\nb = io.BytesIO(os.read(0, os.fstat(0).st_size))\nprint((b.readline().strip() + b.readline().strip()).decode())",
    "fileinput": "import fileinput\nprint(''.join(line.strip() for line in fileinput.input(files=('-',))))",
    "fdopen": "import os\nprint(''.join(os.fdopen(0).read().split()))",
}
WRITERS = {
    "print": "print('done')",
    "sys.stdout": "import sys\nsys.stdout.write('done\\n')",
    "os.write": "import os\nos.write(1, b'done\\n')",
    "buffer": "import sys\nsys.stdout.buffer.write(b'done\\n')",
    "a file nobody closes": "f = open(1, 'w')\nf.write('done\\n')",
    "at exit": "import atexit, sys\natexit.register(lambda: sys.stdout.write('done\\n'))",
    "a thread nobody joins": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.05), print('done'))).start()",
    "replaced": "import io, os, sys\nclass Out(io.StringIO):\n    def flush(self): os.write(1, self.getvalue().encode())\nsys.stdout = Out()\nprint('done')",
    "then leave": "import sys\nprint('done')\nsys.exit()",
    "then leave at once": "import os\nprint('done', flush=True)\nos._exit(0)",
    "as main": "if __name__ == '__main__':\n    print('done')",
}


@pytest.mark.parametrize("program", READERS.values(), ids=READERS)
def test_every_way_of_reading_works(sandbox, program):
    result = sandbox.run(program, stdin=b"4\n2\n")
    assert (result.status, result.stdout) == ("finished", b"42\n"), result


@pytest.mark.parametrize("program", WRITERS.values(), ids=WRITERS)
def test_every_way_of_writing_works(sandbox, program):
    result = sandbox.run(program)
    assert (result.status, result.stdout) == ("finished", b"done\n"), result


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("while True: pass", "timed out"),
        ("import signal\nsignal.signal(signal.SIGPROF, signal.SIG_IGN)\nwhile True: pass", "timed out"),
        ("import signal\nsignal.setitimer(signal.ITIMER_PROF, 0)\nsignal.setitimer(signal.ITIMER_REAL, 0)\nwhile True: pass", "timed out"),
        ("import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass", "timed out"),
        ("import time\ntime.sleep(100)", "timed out"),
        ("import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0)\ntime.sleep(100)", "timed out"),
        ("import threading\nthreading.Lock().acquire()\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()", "timed out"),
        ("9 ** 9 ** 9", "timed out"),
        ("x = [0] * 10**10", "out of memory"),
        ("x = []\nwhile True: x.append(' ' * 10**6)", "out of memory"),
        ("while True: print('x' * 10**5)", "too much output"),
        ("1 / 0", "crashed"),
        ("this is no program", "crashed"),
        ("import sys\nsys.exit(3)", "crashed"),
        ("import ctypes\nctypes.string_at(0)", "crashed"),
        ("import os\nos.abort()", "crashed"),
        ("def f(): f()\nf()", "crashed"),
        ("\udc80", "crashed"),
    ],
)  # fmt: skip
def test_programs_that_fail_say_how(sandbox, program, status):
    time_limits = (
        {"cpu_seconds": 0.5, "wall_seconds": 1.5} if status == "timed out" else {}
    )  # or a busy machine ends it
    limits = Limits(**time_limits, memory_bytes=2**28, output_bytes=2**20)
    result = sandbox.run(program, limits=limits)
    assert result.status == status, result
    assert sandbox.run("print(1)").stdout == b"1\n"


def test_the_exception_is_the_last_line_of_standard_error(sandbox):
    assert sandbox.run("x = 1\nx / 0").stderr == b"line 2: ZeroDivisionError: division by zero\n"


def test_contest_programs_raise_limits_and_recurse(sandbox):
    program = """
import resource, sys, threading
resource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sys.setrecursionlimit(10**6)
threading.stack_size(2**27)
def depth(n):
    return 0 if n == 0 else 1 + depth(n - 1)
thread = threading.Thread(target=lambda: print(depth(50_000)))
thread.start()
thread.join()
"""
    assert sandbox.run(program).stdout == b"50000\n"


def test_modules_are_imported_from_memory(sandbox):
    program = (
        "import sqlite3, email.mime.text, asyncio, xml.dom.minidom, encodings.cp1252\nprint('é'.encode('cp1252'))"
    )
    assert sandbox.run(program).stdout == b"b'\\xe9'\n"
    assert b"ModuleNotFoundError" in sandbox.run("import torch").stderr
    assert sandbox.run("import numpy\nprint(numpy.arange(3).sum())").stdout == b"3\n"


def test_the_same_program_gives_the_same_output(sandbox):
    program = (
        "import random\nprint({'a', 'b', 'c', 'd', 'e'}, random.random())\nimport numpy\nprint(numpy.random.rand())"
    )
    outputs = {sandbox.run(program).stdout for _ in range(3)}
    other = Sandbox(workers=1)
    try:
        assert outputs == {other.run(program).stdout}
    finally:
        other.close()


def test_inputs_in_one_process_do_not_see_each_other(sandbox):
    program = """
import builtins, random, sys
n = int(input())
print(n, 'seen' in globals(), hasattr(builtins, 'mark'), sys.getrecursionlimit(), random.random())
seen = builtins.mark = True
builtins.print = None
sys.setrecursionlimit(5000)
sys.stdout.flush()
sys.stdout = None
"""
    results = sandbox.run_inputs(program, [b"1", b"2", b"3"])
    lines = [result.stdout.decode().split() for result in results]
    assert [line[0] for line in lines] == ["1", "2", "3"]
    assert [line[1:] for line in lines] == [lines[0][1:]] * 3
    assert lines[0][1:4] == ["False", "False", "1000"]


@pytest.mark.parametrize(
    ("program", "statuses"),
    [
        ("import os\nprint(input(), flush=True)\nos._exit(0)", ["finished"]),
        ("print(10 // int(input()))", ["finished", "finished", "crashed"]),
        ("import threading, time\nthreading.Thread(target=time.sleep, args=[60], daemon=True).start()", ["finished"]),
        ("import os\nos.close(0)\nos.close(1)", ["finished"] * 4),
        ("import os\nos.closerange(3, 300)", ["finished"]),
        ("while input() == '0': pass", ["finished", "finished", "crashed"]),
        ("while True: pass", ["timed out"]),
    ],
)
def test_runs_end_where_the_next_would_not_be_like_the_first(sandbox, program, statuses):
    results = sandbox.run_inputs(program, [b"1", b"2", b"0", b"4"], Limits(cpu_seconds=0.3))
    assert [result.status for result in results] == statuses


def test_calls(sandbox):
    method = "class Solution:\n    def add(self, a: List[int], b: int):\n        return a + [b], Counter(a)"
    result = sandbox.call(method, Calls("add", [[[1, 1], 2], [[], 3]]))
    assert (result.status, result.returned) == ("finished", [b'=[[1, 1, 2], {"1": 2}]', b"=[[3], {}]"])
    python = Calls("f", ["((1, 2), {3})", "({1: inf}, b'x')"], is_python=True)
    result = sandbox.call("def f(a, b):\n    return [a, b, type(a).__name__]", python)
    assert [json.loads(line[1:]) for line in result.returned] == [
        [[1, 2], {"$set": [3]}, "tuple"],
        [{"1": float("inf")}, {"$bytes": "78"}, "dict"],
    ]
    result = sandbox.call(
        "import numpy as np\ndef f(n): return {'a': np.arange(n), 'b': np.float64(1)}", Calls("f", [[2]])
    )
    assert result.returned == [b'={"a": [0, 1], "b": 1.0}']


def test_calls_that_raise(sandbox):
    program = "def f(n):\n    return 1 // n"
    stopped = sandbox.call(program, Calls("f", [[1], [0], [1]]))
    assert (stopped.status, stopped.returned) == ("crashed", [b"=1"])
    going = sandbox.call(program, Calls("f", [[1], [0], [1]], keep_going=True))
    assert (going.status, going.returned) == ("finished", [b"=1", b'!"ZeroDivisionError"', b"=1"])
    missing = sandbox.call("g = 1", Calls("f", [[1]]))
    assert missing.status == "crashed"
    endless = sandbox.call("def f(n):\n    while n: pass", Calls("f", [[0], [1], [0]]), Limits(cpu_seconds=0.3))
    assert (endless.status, endless.returned) == ("timed out", [b"=null"])


def test_no_system_call_but_the_allowed_ones(sandbox):
    """All numbers, with arguments that do no harm if one passes; and the other conventions, which end the program."""
    library = isolation.load_libseccomp()
    numbers = {library.seccomp_syscall_resolve_name(name.encode()) for name, _, _ in isolation.rules()}
    numbers |= {335, 336}  # x86-64: the kernel's own probes, which no filter sees and which end a program with SIGILL
    program = f"""
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
passed = []
for number in range(600):
    if number not in {numbers!r}:
        if libc.syscall(ctypes.c_long(number), -1, -1, -1, -1, -1, -1) != -1 or ctypes.get_errno() != errno.EPERM:
            passed.append(number)
print(passed)
"""
    assert sandbox.run(program).stdout == b"[]\n"
    control = sandbox.run(program.replace("if number not in", "if number == 3 or number not in"))
    assert control.stdout in (b"[3]\n", b"[]\n")  # close: EBADF
    assert sandbox.run(program.replace("range(600)", "[0x40000000 + 39]")).stdout != b"[]\n"


def test_every_rule_exists_on_both_architectures():
    """Each call has a number on x86-64 and on aarch64, except the old ones that aarch64 never had."""
    library = isolation.load_libseccomp()
    library.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    names = {name for name, _, _ in isolation.rules()}
    missing = {
        arch: {name for name in names if library.seccomp_syscall_resolve_name_arch(arch, name.encode()) < 0}
        for arch in (0xC000003E, 0xC00000B7)
    }
    assert missing[0xC000003E] == set()
    assert missing[0xC00000B7] == {"dup2", "poll", "select", "pause", "alarm", "time"}


def test_threads_share_the_workers(sandbox):
    outputs = {}

    def work(n):
        outputs[n] = sandbox.run(f"print({n})").stdout

    threads = [threading.Thread(target=work, args=[n]) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == {n: b"%d\n" % n for n in range(20)}
    assert len(sandbox.pids()) == 2


def test_a_killed_worker_loses_nothing():
    sandbox = Sandbox(workers=1)
    sandbox.run("")
    first = sandbox.pids()
    killer = threading.Timer(0.3, os.kill, [first[0], signal.SIGKILL])
    killer.start()
    assert sandbox.run("import time\ntime.sleep(2)\nprint(1)").stdout == b"1\n"
    assert sandbox.pids() != first
    os.kill(sandbox.pids()[0], signal.SIGKILL)  # while idle
    assert sandbox.run("print(2)").stdout == b"2\n"
    sandbox.close()
    assert sandbox.pids() == []
    assert sandbox.run("print(3)").stdout == b"3\n"
    sandbox.close()


def _in_daemon(queue):
    sandbox = Sandbox(workers=1)
    queue.put(sandbox.run("print(1)").stdout)
    sandbox.close()


def test_a_daemonic_process_may_use_it():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_in_daemon, args=[queue], daemon=True)
    process.start()
    assert queue.get(timeout=60) == b"1\n"
    process.join(60)


def test_a_forked_child_has_workers_of_its_own():
    sandbox = Sandbox(workers=1)
    sandbox.run("")
    before = sandbox.pids()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = sandbox.run("print(1)").stdout, sandbox.pids() != before
            sandbox.close()
            os.write(writer, repr(answer).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 100) == b"(b'1\\n', True)"
    assert sandbox.run("print(2)").stdout == b"2\n"
    assert sandbox.pids() == before
    sandbox.close()


def test_nothing_outlives_a_killed_parent():
    code = (
        "import threading, time\nfrom delta_trl.sandbox import Limits, Sandbox\n"
        "sandbox = Sandbox(workers=2)\n"
        "threads = [threading.Thread(target=sandbox.run, args=['while True: pass', b'', Limits(cpu_seconds=300.0)]) for _ in '12']\n"
        "for thread in threads: thread.start()\n"
        "while len(sandbox.pids()) < 2: time.sleep(0.01)\n"
        "print(*sandbox.pids(), flush=True)\ntime.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    deadline = time.monotonic() + 60
    while not all(programs := [children(worker) for worker in workers]) and time.monotonic() < deadline:
        time.sleep(0.02)
    everyone = workers + [pid for each in programs for pid in each]
    assert len(everyone) >= 4
    parent.kill()
    parent.wait()
    parent.stdout.close()
    while any(map(is_running, everyone)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [pid for pid in everyone if is_running(pid)] == []


def test_a_sandbox_with_a_hole_refuses_to_run(tmp_path, monkeypatch):
    """The self-test is what notices: here the filter is not loaded."""
    change_inside(tmp_path, monkeypatch, "isolation.py", ("        _load_filter(self._filter)\n", ""))
    sandbox = Sandbox(workers=1)
    with pytest.raises(SandboxUnavailable, match=r"does not hold.*make a memory file.*fork"):
        sandbox.run("print(1)")
    assert sandbox.pids() == []


def test_what_is_missing_is_named(monkeypatch):
    def no_library(*args, **kwargs):
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(isolation.ctypes, "CDLL", no_library)
        with pytest.raises(isolation.IsolationError, match="apt-get install libseccomp2"):
            isolation.load_libseccomp()
    monkeypatch.setattr(handle.sys, "platform", "darwin")
    with pytest.raises(SandboxUnavailable, match="only be isolated on Linux"):
        Sandbox(workers=1).run("print(1)")


def test_bad_settings():
    with pytest.raises(ValueError, match="cpu_seconds must be above 0"):
        Limits(cpu_seconds=0)
    with pytest.raises(ValueError, match="workers must be at least 1"):
        Sandbox(workers=0)
    with pytest.raises(ValueError, match="1 to 100 inputs"):
        Sandbox(workers=1).run_inputs("", [])
