"""`make test-portable`: what it runs, what it says where time is short, and that no test of a model is missing there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import ROOT
from support.portable import NO_TIME, instruction_sets, run


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("AVX512", {"default": "default", "avx2": "avx2", "own (AVX512)": None}),
        ("AVX2", {"default": "default", "own (AVX2)": None}),
        ("DEFAULT", {"own (DEFAULT)": None}),
        ("SVE256", {"default": "default", "own (SVE256)": None}),
    ],
)
def test_older_instruction_sets_come_before_the_cpus_own(own, expected):
    assert instruction_sets(own) == expected
    assert list(instruction_sets(own)) == list(expected)


@pytest.fixture
def sample(tmp_path):
    """A file of tests that passes with AVX2 and two threads only, and is slow where it is told to be."""
    path = tmp_path / "test_sample.py"
    path.write_text(
        "import os, time, pytest\n"
        "@pytest.mark.trained\n"
        "def test_environment():\n"
        "    time.sleep(float(os.environ.get('SAMPLE_SECONDS', 0)))\n"
        "    assert os.environ['ATEN_CPU_CAPABILITY'] == 'avx2'\n"
        "    assert os.environ['DELTA_TRL_TEST_THREADS'] == '2'\n"
        "def test_without_a_model(): assert False\n"
    )
    return [str(path), "-q", "-p", "no:cacheprovider"]


def test_each_run_has_its_instructions_and_threads(sample, monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")  # of the caller: a run has its own
    assert run("avx2", 2, sample, 120) == "1 passed, 0 skipped"
    assert run("avx2", 1, sample, 120) == "failed: 1, 0 passed, 0 skipped"
    assert run(None, 2, sample, 120) == "failed: 1, 0 passed, 0 skipped"
    assert run("avx2", 2, [*sample, "--no-such-option"], 120) == "failed: pytest ended with status 4"


def test_what_time_does_not_suffice_for_is_named(sample, monkeypatch):
    monkeypatch.setenv("SAMPLE_SECONDS", "600")
    assert run("avx2", 2, sample, 0.5) == f"{NO_TIME}, ended after 0 minutes"
    # The target's own line, without what pytest gave this process
    (line,) = [line.strip() for line in (ROOT / "Makefile").read_text().splitlines() if "support.portable" in line]
    line = line.replace("$(BIN)/python", shlex.quote(sys.executable)).replace("$(PORTABLE_ARGS)", "--minutes -5")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(line, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = re.findall(rf"^(\S.*?) +([12]) +0\.0  {NO_TIME}$", done.stdout, re.MULTILINE)
    assert len(rows) >= 2
    assert f"{len(rows)} of {len(rows)} runs were left out: -5 minutes did not suffice." in done.stdout


def test_every_test_of_a_model_that_answers_is_among_them():
    """By module: one that uses the answering model or warms one up has the marker."""
    for path in sorted(Path(__file__).parent.rglob("test_*.py")):
        if path.parent.name == "real":  # in an environment of its own
            continue
        text = path.read_text()
        if re.search(r"^from support\.evaluation_model|warm_up\(str\(folder|--warm_up_steps", text, re.MULTILINE):
            assert "pytest.mark.trained" in text, f"{path.name} asks a model, and make test-portable does not run it"
