"""No process of the package outlives the one that started it, however that ends. Workers of rewards and the sandbox: see
tests/rewards/test_pool.py and tests/sandbox/test_pool.py."""

import os
import signal
import subprocess
import sys
import time

import pytest
from support.places import ROOT
from support.processes import is_running

from delta_trl.evaluation.engine_guard import PATIENCE


ENGINES = """
import os, sys, time
from delta_trl.evaluation.vllm_backend import run_data_parallel

def engine(rank, data, text):
    print(os.getpid(), flush=True)
    end = time.monotonic() + 120
    while time.monotonic() < end:
        sum(range(1000))

if __name__ == "__main__":
    run_data_parallel(engine, tensor=1, data=1, arguments=("text",))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_an_evaluations_engine_ends_with_an_evaluation_that_is_killed(tmp_path):
    script = tmp_path / "evaluate.py"
    script.write_text(ENGINES)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        engine = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        wait_for_the_end_of(engine)


GUARDED = """
import os, subprocess, sys, time
from delta_trl.evaluation.engine_guard import descendants, guard

others = subprocess.Popen(["sleep", "120"])
before = descendants(os.getpid())
willing = subprocess.Popen(["sleep", "120"])
stubborn = subprocess.Popen(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"], stdout=subprocess.PIPE)
stubborn.stdout.readline()
guard(descendants(os.getpid()) - before)
print(others.pid, willing.pid, stubborn.pid, flush=True)
time.sleep(120)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the guard is Linux's")
def test_a_guarded_process_ends_with_one_that_is_killed_and_no_other_does():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", GUARDED], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        other, willing, stubborn = map(int, parent.stdout.readline().split())
        assert all(map(is_running, (other, willing, stubborn)))
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        try:
            wait_for_the_end_of(willing)
            wait_for_the_end_of(stubborn, seconds=PATIENCE + 20)
            assert is_running(other)
        finally:
            os.kill(other, signal.SIGKILL)


def wait_for_the_end_of(pid: int, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
