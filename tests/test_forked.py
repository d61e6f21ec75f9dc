"""Commands that tests/support/forked starts: as a fresh interpreter would run them, but for what is imported already."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from support.forked import python


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="commands are forked on Linux only")

SHOW = """
import json, os, sys
seen = {"argv": sys.argv, "cwd": os.getcwd(), "name": __name__, "file": __file__, "path": sys.path[:2]}
seen |= {"orig_argv": sys.orig_argv[1:], "variable": os.environ["MASTER_PORT"], "group": os.getpgrp() == os.getpid()}
seen |= {"umask": os.umask(0), "stdin": sys.stdin.read(), "main": sys.modules["__main__"].__dict__ is globals()}
seen |= {"imported": "trl" in sys.modules}
print(json.dumps(seen))
print("said", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""
WAIT = """
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where pytest runs in the background
print(os.getpid(), flush=True)
time.sleep(600)
"""
RANDOM = "import random, numpy, torch; print(random.random(), numpy.random.rand(), float(torch.rand(1)))"


@pytest.fixture
def place(tmp_path):
    for name, text in {
        "show.py": SHOW,
        "random_numbers.py": RANDOM,
        "killed.py": "import os; os.kill(os.getpid(), 9)",
        "raising.py": "raise KeyError('answer')",
        "waiting.py": WAIT,
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run(start, folder, *arguments, **environment):
    variables = {**os.environ, "PYTHONPATH": f"{folder / 'more'}", "MASTER_PORT": "5", **environment}
    return subprocess.run([start, *arguments], cwd=folder, env=variables, input="read", capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [("show.py", "0"), ("-u", "show.py", "0"), ("-m", "show", "3", "--steps", "2")])
def test_a_command_runs_as_in_a_fresh_interpreter(place, arguments):
    forked, fresh = (run(start, place, *arguments) for start in (python(), sys.executable))
    assert (forked.returncode, forked.stderr) == (fresh.returncode, "said\n")
    forked, fresh = json.loads(forked.stdout), json.loads(fresh.stdout)
    assert (forked.pop("imported"), fresh.pop("imported")) == (True, False)
    assert (forked.pop("group"), fresh.pop("group")) == (True, False)  # a group of its own
    assert forked == fresh


def test_what_is_read_when_it_is_imported_starts_afresh(place):
    assert not json.loads(run(python(), place, "show.py", "0", HF_ENDPOINT="http://127.0.0.1:9").stdout)["imported"]
    assert run(python(), place, "-c", "import sys; print('trl' in sys.modules)").stdout == "False\n"


def test_every_process_draws_its_own_random_numbers(place):
    one, other = (run(python(), place, "random_numbers.py").stdout.split() for _ in range(2))
    assert len(one) == 3
    assert all(map(str.__ne__, one, other))


def test_how_a_command_ends_is_seen(place):
    assert run(python(), place, "killed.py").returncode == -signal.SIGKILL
    raised = run(python(), place, "raising.py")
    assert raised.returncode == 1
    assert raised.stderr.startswith("Traceback")
    assert raised.stderr.endswith("KeyError: 'answer'\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_reaches_the_command(place, number):
    with subprocess.Popen([python(), place / "waiting.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        process = int(command.stdout.readline())
        command.send_signal(number)
        assert command.wait(timeout=300) == -number
        assert (b"KeyboardInterrupt" in command.stderr.read()) == (number == signal.SIGINT)
    deadline = time.monotonic() + 300
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(process, 0)
            time.sleep(0.05)
        pytest.fail("the command outlives its client")
