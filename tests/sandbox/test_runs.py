# ruff: noqa: E501 - some programs are one line
"""What programs, and the runs of one program, can reach of each other and of the process that started them."""

import os
import signal
import time
import tracemalloc
from pathlib import Path

import pytest
from support.changed_sandbox import change_inside
from support.processes import children

from delta_trl.rewards.code.grading import grade_program
from delta_trl.rewards.code.tests import read_tests
from delta_trl.sandbox import Calls, Limits, Sandbox, SandboxUnavailable


SUM = {"inputs": ["1 2\n", "3 4\n", "5 6\n"], "outputs": ["3\n", "7\n", "11\n"]}
ADD = {"inputs": [[1, 2], [3, 4], [5, 6]], "outputs": [3, 7, 11], "fn_name": "add"}
SOLVE = "print(sum(map(int, input().split())), flush=True)\n"


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox(workers=1)
    yield sandbox
    sandbox.close()


def grade(sandbox, program, tests=SUM, limits=None, fraction=False):
    return grade_program(program, read_tests(tests), sandbox, limits, fraction)


def look_at_program(sandbox, look):
    """What `look(pid of the program's process)` finds while a program waits for its next run."""
    results = sandbox.run_inputs("", [b"", b""])
    next(results)
    (worker,) = sandbox.pids()
    (pid,) = children(worker)
    try:
        return look(pid)
    finally:
        results.close()


def writable_and_shared(pid: int) -> tuple[int, list[str]]:
    """(number of mappings, those that are shared and are or can be made writable) of a process."""
    found, count, header = [], 0, ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if line.startswith("VmFlags:"):
            count += 1
            flags = line.split()[1:]
            if "sh" in flags and ("wr" in flags or "mw" in flags):
                found.append(header)
        elif ":" not in line.split()[0]:
            header = line
    return count, found


def test_no_writable_memory_is_shared(sandbox):
    sandbox.run("")
    count, found = writable_and_shared(sandbox.pids()[0])
    assert count > 20
    assert found == []
    count, found = look_at_program(sandbox, writable_and_shared)
    assert count > 20
    assert found == []


def test_the_check_of_mappings_sees_one_that_is_shared():
    import mmap

    with mmap.mmap(-1, 4096):
        assert len(writable_and_shared(os.getpid())[1]) >= 1


def test_a_program_has_its_own_descriptors_only(sandbox):
    def look(pid):
        return {int(name): os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}

    found = look_at_program(sandbox, look)
    assert sorted(found) == [0, 1, 2, 3, 4, 5]
    assert {link.partition(":")[0] for link in found.values()} == {"/memfd", "socket"}


REACH = {
    "write over the sources": "for m in maps: m[:1] = b'#'",
    "write over them by force": """
for m in maps:
    view = (ctypes.c_void_p * 16)()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(m), view, 0)
    n = (len(m) + 4095) // 4096 * 4096
    assert libc.mprotect(ctypes.c_void_p(view[0]), n, 3) == 0
    source = b"print('planted')\\nraise SystemExit\\n"
    for f in sys.meta_path:
        for offset, size, _ in getattr(f, '_places', {}).values():
            if size > len(source):
                ctypes.memmove(view[0] + offset, source, len(source))
import colorsys""",
    "map them anew, shared": """
for m in maps:
    view = (ctypes.c_void_p * 16)()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(m), view, 0)
    libc.mremap.restype = ctypes.c_void_p
    address = libc.mremap(ctypes.c_void_p(view[0]), 0, len(m), 1)
    ctypes.memset(address, 35, 1)""",
    "change where they are": "for f in sys.meta_path:\n    getattr(f, '_places', {}).clear()",
    "change a module": "import json, builtins\njson.dumps = builtins.print = None",
    "write to all descriptors": "for n in range(300):\n    try: os.write(n, b'planted')\n    except OSError: pass",
}


@pytest.mark.parametrize("attack", REACH.values(), ids=REACH)
def test_no_program_changes_a_later_one(sandbox, attack):
    prelude = "import ctypes, mmap, os, sys\nlibc = ctypes.CDLL(None)\nmaps = [v for f in sys.meta_path for v in vars(f).values() if isinstance(v, mmap.mmap)]\nassert maps\n"
    sandbox.run(prelude + attack)
    later = sandbox.run("import colorsys, json\nprint(json.dumps(colorsys.rgb_to_hsv(0, 0, 0)), input())", b"mine")
    assert (later.status, later.stdout) == ("finished", b"[0.0, 0.0, 0] mine\n"), later


def test_a_sandbox_whose_programs_share_memory_refuses_to_run(tmp_path, monkeypatch):
    """The self-test is what notices: here the sources are shared and writable."""
    change_inside(
        tmp_path,
        monkeypatch,
        "library.py",
        ("            fcntl.fcntl(sources, fcntl.F_ADD_SEALS, SEALS)\n", ""),
        ("flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ", "flags=mmap.MAP_SHARED"),
    )
    with pytest.raises(SandboxUnavailable, match="change what a later program imports"):
        Sandbox(workers=1).run("print(1)")


# None of these is right: each is late, or wrong, whatever it reports
FORGED = {
    "the old end mark": "import os\nos.write(3, b'.\\n')\nprint(8)",
    "done, then hang": f"import os\n{SOLVE}os.write(3, b'=0\\n')\nwhile True: pass",
    "done, then sleep": f"import os, time\n{SOLVE}os.write(3, b'.')\ntime.sleep(60)",
    "done a hundred times": f"import os\n{SOLVE}for _ in range(100): os.write(3, b'.')\nwhile True: pass",
    "done before the answer": "import os\nn = sum(map(int, input().split()))\nos.write(3, b'.')\nprint(n + (n == 7), flush=True)\nwhile True: pass",
    "from a thread": f"import os, threading\n{SOLVE}threading.Thread(target=lambda: [os.write(3, b'.') for _ in range(9)]).start()\nwhile True: pass",
    "a channel that is closed": f"import os\n{SOLVE}os.close(3)\nwhile True: pass",
    "long reports": f"import os\n{SOLVE}os.write(3, b'=0\\n' * 30000)\nwhile True: pass",
}


@pytest.mark.parametrize("program", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize("fraction", [False, True])
def test_what_a_program_reports_decides_nothing(sandbox, program, fraction):
    verdict = grade(sandbox, program, limits=Limits(cpu_seconds=0.3, wall_seconds=1.0), fraction=fraction)
    assert verdict.score == 0.0, verdict
    assert grade(sandbox, SOLVE).score == 1.0


def test_forged_answers_of_calls_are_out_of_order(sandbox):
    ahead = "import os\ndef add(a, b):\n    if a == 1: os.write(5, b'=3\\n=7\\n=11\\n')\n    return a + b"
    assert grade(sandbox, ahead, ADD).score == 0.0
    reports = "import os\ndef add(a, b):\n    os.write(5, b'=%d' % (a + b))\n    for _ in range(5): os.write(3, b'.')\n    while True: pass"
    assert grade(sandbox, reports, ADD, Limits(cpu_seconds=0.3)).score == 0.0


DISARM = "import signal\nfor timer in (signal.ITIMER_PROF, signal.ITIMER_REAL, signal.ITIMER_VIRTUAL): signal.setitimer(timer, 0)\nfor n in (signal.SIGPROF, signal.SIGALRM, signal.SIGXCPU): signal.signal(n, signal.SIG_IGN)\n"
BURN = "import time\ndef burn(seconds):\n    start = time.process_time()\n    while time.process_time() - start < seconds: pass\n"


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        (f"{DISARM}{BURN}n = sum(map(int, input().split()))\nif n == 7: burn(0.6)\nprint(n)", SUM),
        (f"{DISARM}{BURN}n = sum(map(int, input().split()))\nif n == 11: burn(0.6)\nprint(n)", SUM),
        (f"{DISARM}{BURN}import threading\nn = sum(map(int, input().split()))\nif n == 3:\n    t = threading.Thread(target=burn, args=[0.6]); t.start(); t.join()\nprint(n)", SUM),
        (f"{DISARM}{BURN}def add(a, b):\n    if a == 3: burn(0.6)\n    return a + b", ADD),
        (f"{DISARM}{BURN}burn(0.6)\ndef add(a, b): return a + b", ADD),
    ],
)  # fmt: skip
def test_time_is_measured_outside(sandbox, program, tests):
    verdict = grade(sandbox, program, tests, Limits(cpu_seconds=0.25, wall_seconds=30.0))
    assert (verdict.score, verdict.reason) == (0.0, "timed out")
    assert grade(sandbox, program, tests, Limits(cpu_seconds=5.0, wall_seconds=60.0)).score == 1.0


def test_all_runs_together_are_limited_by_the_clock(sandbox):
    """Each run is in time, all together are not."""
    many = {"inputs": ["1 2\n"] * 12, "outputs": ["3\n"] * 12}
    limits = Limits(cpu_seconds=0.05, wall_seconds=1.0)
    assert limits.seconds_of_all(12) == pytest.approx(2.1)
    start = time.monotonic()
    verdict = grade(sandbox, f"import time\ntime.sleep(0.6)\n{SOLVE}", many, limits)
    assert (verdict.score, verdict.reason) == (0.0, "timed out")
    verdict = grade(sandbox, f"import time\ntime.sleep(0.6)\n{SOLVE}", many, limits, fraction=True)
    assert verdict.score < 0.5
    calls = {"inputs": [[1, 2]] * 12, "outputs": [3] * 12, "fn_name": "add"}
    verdict = grade(sandbox, "import time\ndef add(a, b):\n    time.sleep(0.6)\n    return a + b", calls, limits)
    assert (verdict.score, verdict.reason) == (0.0, "timed out")
    assert time.monotonic() - start < 60  # 3 times 2.1 s, and what a busy machine adds


def test_a_program_that_sleeps_from_its_second_run_on_is_given_a_process_a_run(sandbox):
    program = f"import time, colorsys, unittest.mock as m\nif hasattr(m.Mock, 'seen'): time.sleep(60)\nm.Mock.seen = 1\n{SOLVE}"
    many = {"inputs": ["1 2\n"] * 12, "outputs": ["3\n"] * 12}
    start = time.monotonic()
    assert grade(sandbox, program, many, Limits(cpu_seconds=4.0, wall_seconds=3.0)).score == 1.0
    assert time.monotonic() - start < 30  # it slept once, not eleven times


def test_runs_find_no_later_input_and_no_earlier_output(sandbox):
    read = "import os\nfound = []\nfor n in range(300):\n    try: found.append(os.pread(n, 1000, 0))\n    except OSError: pass\nos.write(1, b'|'.join(sorted({f for f in found if f})))\n"
    outputs = [result.stdout for result in sandbox.run_inputs(read, [b"one", b"two", b"three"])]
    assert outputs == [b"one", b"two", b"three"]
    read = "import os\ndef f(n):\n    found = []\n    for d in range(300):\n        try: found.append(os.pread(d, 1000, 0).decode())\n        except OSError: pass\n    return sorted({f for f in found if f})"
    result = sandbox.call(read, Calls("f", [[1], [2], [3]]))
    assert result.returned == [b'=["[1]"]', b'=["[2]"]', b'=["[3]"]']


@pytest.mark.parametrize("fraction", [False, True])
def test_output_costs_the_trainer_no_memory(sandbox, fraction):
    many = {"inputs": ["1 2\n"] * 15, "outputs": ["3\n"] * 15}
    flood = "import os\nfor _ in range(15): os.write(1, b'3\\n' * 2**19)"
    returned = "def add(a, b): return 'x' * (15 * 2**20)"
    calls = {"inputs": [[1, 2]] * 15, "outputs": [3] * 15, "fn_name": "add"}
    tests = read_tests(many), read_tests(calls)
    tracemalloc.start()
    try:
        assert grade_program(flood, tests[0], sandbox, fraction=fraction).score == 0.0
        assert grade_program(returned, tests[1], sandbox, fraction=fraction).score == 0.0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20


def test_a_program_whose_further_results_nobody_wants_is_ended(sandbox):
    results = sandbox.run_inputs("while input() == '0': pass", [b"1", b"0"])
    assert next(results).status == "finished"
    results.close()
    assert sandbox.run("print(1)").stdout == b"1\n"
    worker = sandbox.pids()[0]
    assert children(worker) == []


def test_a_worker_that_is_killed_between_two_runs_makes_no_run_count(sandbox):
    """Nobody knows how the process would have ended."""
    results = sandbox.run_inputs("print(input())", [b"1", b"2", b"3"])
    assert next(results).status == "finished"
    os.kill(sandbox.pids()[0], signal.SIGKILL)
    assert [result.status for result in results] == ["crashed"]
    results = sandbox.run_inputs("print(input())", [b"1", b"2", b"3"])
    assert next(results).status == "finished"
    os.kill(sandbox.pids()[0], signal.SIGKILL)
    results.close()
    assert sandbox.run("print(1)").stdout == b"1\n"


def test_flags_of_shared_files_cannot_be_changed(sandbox):
    """A program shares its files with the process that reads them."""
    program = "import fcntl, os\nfor flag in (os.O_APPEND, os.O_DIRECT, os.O_NOATIME, os.O_ASYNC):\n    try: fcntl.fcntl(1, fcntl.F_SETFL, flag)\n    except PermissionError: print('denied')\nfcntl.fcntl(1, fcntl.F_SETFL, fcntl.fcntl(1, fcntl.F_GETFL) | os.O_NONBLOCK)\nos.pipe2(os.O_NONBLOCK)\ntry: os.pipe2(os.O_DIRECT)\nexcept PermissionError: print('denied')"
    assert sandbox.run(program).stdout == b"denied\n" * 5


HONEST = {
    "np.unique": "import numpy as np\na = list(map(int, input().split()))\nassert list(np.unique(a)) == sorted(set(a))\nprint(sum(a))",
    "other parts of numpy": "import numpy as np\na = list(map(int, input().split()))\nnp.percentile(a, 50), np.quantile(a, 0.5), np.setdiff1d(a, [1]), np.nanmedian(a), np.histogram(a), np.intersect1d(a, a)\nnp.polynomial.Polynomial(a), np.char.add('a', 'b'), np.testing.assert_equal(1, 1), np.ma.array(a)\nprint(sum(a))",
    "an executor not shut down": "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(2)\nprint(pool.submit(sum, map(int, input().split())).result())",
    "an executor that still works": "from concurrent.futures import ThreadPoolExecutor\nimport time\na = list(map(int, input().split()))\nThreadPoolExecutor(2).submit(lambda: (time.sleep(0.1), print(sum(a))))",
    "a pool of threads": "from multiprocessing.pool import ThreadPool\nwith ThreadPool(2) as pool: print(sum(pool.map(int, input().split())))",
    "at exit": "import atexit\nn = sum(map(int, input().split()))\natexit.register(print, n)",
    "a buffer written at exit": "import atexit, io, sys\nb = io.StringIO()\nsys.stdout = b\natexit.register(lambda: sys.__stdout__.write(b.getvalue()))\nprint(sum(map(int, input().split())))",
    "the system's name": "import platform\na = list(map(int, input().split()))\nassert platform.system() == 'Linux' and platform.platform() and platform.processor() is not None\nprint(sum(a))",
    "the machine's kind": "import platform\nassert platform.machine() in ('x86_64', 'aarch64')\nassert (platform.node(), platform.release(), platform.version()) == ('localhost', '', '')\nprint(sum(map(int, input().split())))",
    "as many threads as cores": "from concurrent.futures import ThreadPoolExecutor\nimport os\nassert os.cpu_count() >= 1\nwith ThreadPoolExecutor() as pool: print(sum(pool.map(int, input().split())))",
    "a file that may be there": "import sys\ntry: sys.stdin = open('input.txt')\nexcept FileNotFoundError: pass\nprint(sum(map(int, input().split())))",
    "a path that may be there": "from pathlib import Path\ntry: Path('in').read_text()\nexcept FileNotFoundError: pass\nassert not Path('in').exists()\nprint(sum(map(int, input().split())))",
    "/dev/stdin": "print(sum(map(int, open('/dev/stdin').read().split())))",
    "/dev/stdin by numpy": "import numpy as np\nprint(int(np.loadtxt('/dev/stdin').sum()))",
    "/dev/stdin and out": "from pathlib import Path\nimport os\nPath('/dev/stdout').open('w').write(str(sum(map(int, os.read(os.open('/dev/stdin', 0), 99).split()))))",
    "standard input mapped": "import mmap\nprint(sum(map(int, mmap.mmap(0, 0, prot=mmap.PROT_READ).readline().split())))",
    "asyncio.run": "import asyncio\nasync def main():\n    await asyncio.sleep(0.01)\n    print(sum(await asyncio.gather(*[asyncio.to_thread(int, n) for n in input().split()])))\nasyncio.run(main())",
    "asyncio and standard input": "import asyncio, sys\nasync def main():\n    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)\n    print(sum(map(int, line.split())))\nasyncio.run(main())",
    "__del__": "class A:\n    def __init__(self, n): self.n = n\n    def __del__(self): print(self.n)\na = A(sum(map(int, input().split())))",
    "__del__ in a cycle": "class A:\n    def __init__(self, n): self.n, self.me = n, self\n    def __del__(self): print(same(self.n))\ndef same(n): return n\na = A(sum(map(int, input().split())))",
    "weakref.finalize": "import weakref\nclass A: pass\na = A()\nweakref.finalize(a, print, sum(map(int, input().split())))",
    "its own alarm": "import signal\nn = sum(map(int, input().split()))\nsignal.signal(signal.SIGALRM, lambda *_: (print(n), exit()))\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\nsignal.pause()",
}  # fmt: skip


@pytest.mark.parametrize("program", HONEST.values(), ids=HONEST)
def test_honest_programs_are_right(sandbox, program):
    verdict = grade(sandbox, program)
    assert (verdict.score, verdict.reason) == (1.0, "right"), verdict


CLOSING = {
    "all files": "os.closerange(0, 300)",
    "as daemons do": "os.closerange(3, 2**30)",
    "up to the limit": "os.closerange(0, os.sysconf('SC_OPEN_MAX'))",
    "at exit": "import atexit\natexit.register(os.closerange, 0, 300)",
    "standard error": "os.close(2)",
    "standard error into the output": "print('not an output', file=sys.stderr, flush=True)\nos.dup2(1, 2)",
    "an unknown file": "os.close(5)",
    "the streams": "for f in (sys.stdin, sys.stdout, sys.stderr): f.close()",
    "what is below a stream": "sys.stdout.buffer.raw.close()",
}


@pytest.mark.parametrize("end", CLOSING.values(), ids=CLOSING)
def test_what_a_program_closes_at_its_end_changes_no_verdict(sandbox, end):
    verdict = grade(sandbox, f"import os, sys\n{SOLVE}{end}")
    assert (verdict.score, verdict.reason) == (1.0, "right"), verdict
    verdict = grade(sandbox, f"import os, sys\nprint(input(), flush=True)\n{end}")
    assert (verdict.score, verdict.reason) == (0.0, "wrong"), verdict


def test_a_range_of_files_is_closed_and_no_other(sandbox):
    program = """import os
r, w = os.pipe()
def is_open(n):
    try: return os.fstat(n) is not None
    except OSError: return False
os.closerange(w, w), os.closerange(-5, 0), os.closerange(w + 1, w)
print(is_open(r), is_open(w), is_open(0))
os.closerange(w, w + 1)
print(is_open(r), is_open(w))
os.closerange(r, r + 2**40)
print(is_open(r), is_open(r - 1))
try: os.closerange("0", 1)
except TypeError: print("TypeError")"""
    result = sandbox.run(program)
    assert result.status == "finished", result
    assert result.stdout.decode().split("\n")[:-1] == ["True True True", "True False", "False True", "TypeError"]


def test_paths_find_no_file_even_where_there_is_one(sandbox, tmp_path):
    (tmp_path / "there").write_text("x")
    tmp_path.chmod(0o755)
    program = f"import os\nfor f in (open, os.stat, os.readlink, os.listdir, os.scandir):\n    try: f({str(tmp_path / 'there')!r})\n    except OSError as e: print(type(e).__name__)"
    assert set(sandbox.run(program).stdout.split()) <= {b"FileNotFoundError", b"PermissionError"}
    assert sandbox.run(program).stdout.startswith(b"FileNotFoundError\nFileNotFoundError\n")
