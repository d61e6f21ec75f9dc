# ruff: noqa: E501 - some programs are one line
"""The code reward against programs that try for a reward without solving, and honest programs that looked like them."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from support.changed_sandbox import change_inside
from support.processes import children, is_running

from delta_trl.rewards.code.compare import read_value, same_set, same_text, same_value
from delta_trl.rewards.code.grading import grade_program
from delta_trl.rewards.code.tests import read_tests
from delta_trl.sandbox import Limits, Sandbox


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox(workers=1)
    yield sandbox
    sandbox.close()


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [
        ("Infinity", "5", False),
        ("-Infinity", "0", False),
        ("[1, Infinity]", "[1, 2.5]", False),
        ('{"a": 1e999}', '{"a": 7}', False),
        ("Infinity", "-Infinity", False),
        ("Infinity", "NaN", False),
        ("Infinity", "Infinity", True),
        ("-Infinity", "-1e999", True),
    ],
)
def test_no_number_is_near_infinity(expected, got, same):
    assert same_value(read_value(expected), read_value(got)) is same


@pytest.mark.parametrize(
    ("expected", "got"), [("1e999", "5"), ("12e4567", "0.5"), ("a -1e400", "a 1"), ("1e999", "2e999")]
)
def test_no_token_is_near_one_beyond_the_floats(expected, got):
    assert not same_text(expected, got)
    assert same_text(expected, expected)


def test_large_sets_cost_the_trainer_little():
    """A list of floats where integers are expected has no element word for word."""
    wanted = list(range(20_000))
    assert not same_set(wanted, [float(n) for n in wanted])  # 800 million comparisons otherwise
    assert same_set(wanted, wanted[::-1])
    assert same_set(wanted[:500], [float(n) for n in wanted[:500]])


ANSWERS = {"inputs": [str(n) for n in range(7)], "outputs": ["NO", "YES", "NO", "NO", "YES", "NO", "NO"]}
# Each gives one answer in the first run of a process and another in later ones
SECOND_TRIES = {
    "an attribute of a class": "import json\nD = json.JSONDecoder\nprint('YES' if hasattr(D, 'seen') else 'NO')\nD.seen = 1",
    "its standard error": "import os\nprint('YES' if os.lseek(2, 0, os.SEEK_END) else 'NO')\nos.write(2, b'seen')",
    "its descriptors": "import os\nprint('NO' if os.dup(3) == 6 else 'YES')",
}


@pytest.mark.parametrize("program", SECOND_TRIES.values(), ids=SECOND_TRIES)
def test_a_second_try_gains_no_share_of_the_reward(sandbox, program):
    """A run that fails behind another one is repeated: neither answer alone is right everywhere."""
    verdict = grade_program(program, read_tests(ANSWERS), sandbox, fraction=True)
    assert (verdict.score, verdict.reason) == (pytest.approx(5 / 7), "wrong")
    assert grade_program(program, read_tests(ANSWERS), sandbox).score == 0.0
    outputs = [result.stdout for result in sandbox.run_inputs(program, [b"", b"", b""])]
    assert outputs == [b"NO\n", b"YES\n", b"YES\n"]  # the control: there are two answers


def test_state_that_spoils_a_later_run_costs_an_honest_program_nothing(sandbox):
    program = "import json\nn = int(input())\nD = json.JSONDecoder\nD.seen = getattr(D, 'seen', 0) + n\nprint('YES' if D.seen in (1, 4) else 'NO')"
    for fraction in (True, False):
        assert grade_program(program, read_tests(ANSWERS), sandbox, fraction=fraction).score == 1.0


REPLACED_STREAMS = {
    "open": "import sys\nsys.stdin = open(0)\nprint(input())",
    "fdopen": "import os, sys\nsys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, 'w')\nprint(input())",
    "a path": "import sys\nsys.stdin = open('/dev/stdin')\nprint(input())",
    "nothing": "import os, sys\nsys.stderr = open(os.devnull, 'w')\nprint(input())\nsys.stdin = open(os.devnull)",
}


@pytest.mark.parametrize("program", REPLACED_STREAMS.values(), ids=REPLACED_STREAMS)
def test_programs_that_replace_their_streams_go_on_in_one_process(sandbox, program):
    """What closes its descriptor late must not close that of the next run."""
    results = list(sandbox.run_inputs(program, [b"1", b"2", b"3"]))
    assert [(result.status, result.stdout) for result in results] == [("finished", b"%d\n" % n) for n in (1, 2, 3)]


HONEST = {
    "__builtins__ of __main__": "__builtins__.print(getattr(__builtins__, 'input')())",
    "__builtins__ changed": "__builtins__.ask = __builtins__.input\nprint(ask())",
    "silence": "import contextlib, os\nwith open(os.devnull, 'w') as f, contextlib.redirect_stdout(f): print('debug' * 9999)\nprint(input())",
    "binary silence": "from pathlib import Path\nwith Path('/dev/null').open('wb') as f: f.write(b'debug')\nprint(input() + open('/dev/null').read())",
    "its own clocks": "import time\nfor n in ('MONOTONIC', 'REALTIME', 'PROCESS_CPUTIME_ID', 'THREAD_CPUTIME_ID', 'BOOTTIME'): time.clock_gettime(getattr(time, 'CLOCK_' + n))\ntime.sleep(0.001)\nprint(input())",
    "locks": "import queue, threading\nq = queue.Queue()\nlock = threading.Condition()\nt = threading.Thread(target=lambda: q.put(input()))\nt.start()\nwith lock: lock.wait(0.001)\nprint(q.get(timeout=9))\nt.join()",
    "cores": "import multiprocessing, os\nassert len(os.sched_getaffinity(0)) >= 1 and multiprocessing.cpu_count() >= 1\nprint(input())",
}  # fmt: skip


@pytest.mark.parametrize("program", HONEST.values(), ids=HONEST)
def test_honest_programs_are_right(sandbox, program):
    tests = read_tests({"inputs": ["1\n", "2\n"], "outputs": ["1\n", "2\n"]})
    verdict = grade_program(program, tests, sandbox)
    assert (verdict.score, verdict.reason) == (1.0, "right"), verdict


def child_of(worker: int, seconds: float = 60.0) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := children(worker):
            return found[0]
        time.sleep(0.01)
    raise TimeoutError


def test_where_memory_runs_out_programs_end_before_the_trainer(sandbox):
    results = sandbox.run_inputs("", [b"", b""])
    next(results)
    (worker,) = sandbox.pids()
    for pid in (worker, child_of(worker)):
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
    results.close()
    assert int(Path("/proc/self/oom_score_adj").read_text()) < 1000


def test_a_program_whose_worker_died_before_it_was_confined_is_not_run(tmp_path, monkeypatch):
    """Nothing would end it: here the worker is killed while its child has yet to ask to die with it."""
    enter = "        isolation.enter("
    change_inside(tmp_path, monkeypatch, "program.py", (enter, f"        __import__('time').sleep(1)\n{enter}"))
    sandbox = Sandbox(workers=1)
    sandbox.run("")
    (worker,) = sandbox.pids()
    sleeper = "import time\ntime.sleep(600)"
    thread = threading.Thread(target=sandbox.run, args=[sleeper, b"", Limits(wall_seconds=2.0)])
    thread.start()
    program = child_of(worker)
    os.kill(worker, signal.SIGKILL)
    sandbox.close()
    deadline = time.monotonic() + 30
    while is_running(program) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(program)
    monkeypatch.undo()
    thread.join(60)
    sandbox.close()
