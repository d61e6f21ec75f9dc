"""The worker processes: limits, crashes, forks, threads, and no process left behind."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.places import ROOT
from support.processes import is_running

from delta_trl.rewards import grade
from delta_trl.rewards import pool as pool_module
from delta_trl.rewards.math.verdicts import COMPARE
from delta_trl.rewards.pool import POOL, PoolConfig, WorkerPool


def ask(gold: str, answer: str) -> tuple:
    return (COMPARE, "algebra", gold, answer, False)


EASY = ask(r"2\sqrt{2}", r"\sqrt{8}")
HANGS = ask("7", r"\Gamma(10^{12})")


@pytest.fixture
def pool():
    pools = []

    def make(**settings) -> WorkerPool:
        pools.append(WorkerPool(PoolConfig(**{"workers": 1} | settings)))
        return pools[-1]

    yield make
    for each in pools:
        each.close()


def run_script(tmp_path: Path, code: str) -> subprocess.Popen:
    """Run a script of a user's: no `__main__` guard, and the package on its path."""
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)


def wait_until_gone(pids: list[int]) -> list[int]:
    """Those that a minute did not suffice for: a busy machine takes its time."""
    deadline = time.monotonic() + 60
    while (left := [pid for pid in pids if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def test_a_large_parent_does_not_make_its_workers_look_large(tmp_path):
    """A training process has gigabytes, and on Linux a child begins with its parent's memory as its own maximum."""
    child = run_script(
        tmp_path,
        "from delta_trl.rewards.pool import POOL\n"
        "ballast = b'x' * 800_000_000\n"
        f"first = POOL.run([{EASY!r}]), POOL.pids()\n"
        f"print(first[0] == POOL.run([{EASY!r}]), len(first[1]) > 0 and first[1] == POOL.pids())\n",
    )
    assert child.communicate(timeout=120)[0].split() == ["True", "True"]


def test_results_come_in_order_from_several_workers(pool):
    requests = [ask(f"{n}\\sqrt{{2}}", f"\\sqrt{{{2 * n * n}}}" if n % 3 else "x") for n in range(1, 31)]
    two = pool(workers=2)
    expected = [("correct" if n % 3 else "wrong", True) for n in range(1, 31)]
    assert two.run(requests) == expected
    assert len(two.pids()) == 2
    assert two.run([]) == []


def test_an_item_that_hangs_times_out_alone_and_its_worker_is_replaced(pool):
    one = pool(wall_seconds=60.0)  # far above the CPU limit, also on a busy machine
    assert one.run([EASY, HANGS, EASY]) == [("correct", True), (None, True), ("correct", True)]


@pytest.mark.slow
def test_the_kernel_ends_what_no_signal_can_interrupt(pool):
    # One power of integers inside C code; the cost guard, which is not asked here, would refuse it.
    one = pool(wall_seconds=60.0)
    assert one.run([ask("5", "9^{9^{9}}"), EASY]) == [(None, True), ("correct", True)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS ignores RLIMIT_AS")
def test_memory_is_limited(pool):
    one = pool(soft_seconds=50.0, hard_seconds=60, wall_seconds=60.0, memory_bytes=2**29)
    assert one.run([ask("5", "2^{20000000000}"), EASY]) == [(None, True), ("correct", True)]


def test_a_worker_that_stands_still_is_killed_at_the_wall_clock_and_says_nothing_about_its_item(pool):
    one = pool(wall_seconds=4.0)
    assert one.run([EASY]) == [("correct", True)]
    (pid,) = one.pids()
    os.kill(pid, signal.SIGSTOP)
    assert one.run([EASY, EASY]) == [(None, False), ("correct", True)]
    assert one.pids() != [pid]
    assert not wait_until_gone([pid])


def test_a_worker_that_gets_little_of_a_busy_machine_is_ended_by_its_cpu_time_and_not_by_the_clock(pool):
    one = pool(wall_seconds=1.6)
    assert one.run([EASY]) == [("correct", True)]
    (pid,) = one.pids()
    is_over = threading.Event()

    def starve() -> None:
        while not is_over.wait(0.15) and is_running(pid):
            os.kill(pid, signal.SIGSTOP)
            is_over.wait(0.1)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    starving = threading.Thread(target=starve)
    starving.start()
    try:
        # True: it would be the same on any day. Killed by the clock, as it would be after 1.6 seconds, it says False.
        assert one.run([HANGS, EASY]) == [(None, True), ("correct", True)]
    finally:
        is_over.set()
        starving.join()


def test_a_worker_that_dies_while_idle_is_replaced_unnoticed(pool):
    one = pool()
    one.run([EASY])
    os.kill(one.pids()[0], signal.SIGKILL)
    assert one.run([EASY, EASY]) == [("correct", True)] * 2


@pytest.mark.parametrize("victims", [{1}, {0, 2}])
def test_a_worker_killed_while_it_starts_is_no_loss_while_others_live(pool, monkeypatch, victims):
    started = []

    class Killed(pool_module.GradingWorker):
        def __init__(self, config, job):
            super().__init__(config, job)
            if len(started) in victims:
                self.process.kill()
            started.append(self)

    monkeypatch.setattr(pool_module, "GradingWorker", Killed)
    two = pool(workers=2)
    assert two.run([EASY] * 6) == [("correct", True)] * 6
    assert len(started) > max(victims)


def test_workers_that_cannot_start_are_an_error_that_says_why(pool, monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text("raise ImportError('this one is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    one = pool()
    with pytest.raises(RuntimeError, match="this one is broken"):
        one.run([EASY])
    monkeypatch.undo()
    assert one.run([EASY]) == [("correct", True)]


@pytest.mark.parametrize("settings", [{"workers": 0}, {"soft_seconds": 0}, {"soft_seconds": 5.0}])
def test_limits_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match="must be"):
        PoolConfig(**settings)


def test_threads_and_asyncio_share_the_pool():
    def is_right(n: int) -> bool:
        verdicts = grade([rf"\boxed{{\sqrt{{{2 * n * n}}}}}", rf"\boxed{{{n}}}"], [rf"{n}\sqrt{{2}}"] * 2)
        return [v.score for v in verdicts] == [1.0, 0.0]

    results = {}
    threads = [threading.Thread(target=lambda n=n: results.update({n: is_right(n)})) for n in range(2, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert results == dict.fromkeys(range(2, 8), True)

    async def gather():
        return await asyncio.gather(*(asyncio.to_thread(is_right, n) for n in range(8, 12)))

    assert asyncio.run(gather()) == [True] * 4
    # Threads end; the workers that they started must not.
    assert all(is_running(pid) for pid in POOL.pids())
    assert len(POOL.pids()) <= POOL.config.workers


def test_a_script_without_main_guard_leaves_no_process_behind(tmp_path):
    script = run_script(
        tmp_path,
        r"""
from delta_trl.rewards import grade
from delta_trl.rewards import pool as pool_module
from delta_trl.rewards.pool import POOL
print("once", flush=True)
print(grade([r"\boxed{\sqrt8}"], [r"2\sqrt2"])[0].score, *POOL.pids(), flush=True)
""",
    )
    output, _ = script.communicate(timeout=300)
    assert script.returncode == 0
    once, result = output.splitlines()
    assert once == "once"  # spawned children would import the script and print again
    assert result.startswith("1.0 ")
    assert not wait_until_gone([int(pid) for pid in result.split()[1:]])


FORKING = r"""
import os, sys, time
from delta_trl.rewards import grade
from delta_trl.rewards import pool as pool_module
from delta_trl.rewards.pool import POOL
easy = ([r"\boxed{\sqrt8}"], [r"2\sqrt2"])
assert grade(*easy)[0].score == 1.0
mine = POOL.pids()
child = os.fork()
if child == 0:
    assert POOL.pids() == []
    score = grade([r"\boxed{\sqrt{18}}"], [r"3\sqrt2"])[0].score
    print(score, *POOL.pids(), flush=True)
    if "stay" in sys.argv:
        os.close(1)
        time.sleep(60)
    os._exit(0)
if "stay" not in sys.argv:
    os.waitpid(child, 0)
    assert grade([r"\boxed{\sqrt{32}}"], [r"4\sqrt2"])[0].score == 1.0
    assert POOL.pids() == mine
print("parent", *mine, flush=True)
"""


def test_a_forked_child_starts_workers_of_its_own_and_leaves_its_parents_alone(tmp_path):
    output, _ = run_script(tmp_path, FORKING).communicate(timeout=300)
    child, parent = output.splitlines()
    assert child.startswith("1.0 ")
    assert parent.startswith("parent ")
    pids = [int(word) for line in (child, parent) for word in line.split()[1:]]
    assert len(set(pids)) == len(pids) >= 2
    assert not wait_until_gone(pids)


@pytest.mark.parametrize("state", ["idle", "busy", "forked"])
def test_no_worker_outlives_a_parent_that_is_killed(tmp_path, state):
    code = r"""
import os, threading, time
from delta_trl.rewards import grade
from delta_trl.rewards import pool as pool_module
from delta_trl.rewards.pool import POOL
grade([r"\boxed{\sqrt8}"], [r"2\sqrt2"])
STATE
print(os.getpid(), *POOL.pids(), flush=True)
time.sleep(60)
"""
    more = {
        "idle": "",
        "busy": r"""
threading.Thread(target=grade, args=([r"\boxed{\Gamma(10^{12})}"], ["7"]), daemon=True).start()
time.sleep(0.3)""",
        # The child holds on to everything that it inherited.
        "forked": "if os.fork() == 0:\n    os.close(1)\n    time.sleep(90)\n    os._exit(0)",
    }[state]
    script = run_script(tmp_path, code.replace("STATE", more))
    parent, *workers = map(int, script.stdout.readline().split())
    assert workers
    assert all(is_running(pid) for pid in workers)
    os.kill(parent, signal.SIGKILL)
    script.wait()
    script.stdout.close()
    assert not wait_until_gone(workers)
