"""`delta-trl COMMAND`: thin doors to the modules, and a help that loads nothing."""

import json
import re
import subprocess
import sys
import tomllib

import pytest
from support.commands import run_command
from support.places import ROOT

from delta_trl.__main__ import COMMANDS, main
from delta_trl.hub import typed_command
from delta_trl.run_folder import RUN_FILE
from delta_trl.train.stopping import continuing_command
from delta_trl.version import __version__


def test_the_help_names_every_command_and_loads_nothing():
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "delta_trl", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0
    assert re.findall(r"^  (\w+)", result.stdout, flags=re.MULTILINE) == list(COMMANDS)
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert not loaded & {"torch", "transformers", "trl", "datasets", "numpy", "pandas", "yaml"}


def test_the_installed_command_is_this_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"delta-trl": "delta_trl.__main__:main"}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_command_the_help_is_shown(capsys, arguments):
    assert main(arguments) is None
    assert "usage: delta-trl COMMAND" in capsys.readouterr().out


def test_the_version():
    assert run_command("--version").stdout == f"delta_trl {__version__}\n"


@pytest.mark.parametrize(
    ("name", "hint"), [("trian", " Did you mean train?"), ("xyzzy", ""), ("reports", " Did you mean report?")]
)
def test_a_command_that_does_not_exist_is_one_line(name, hint):
    failed = run_command(name)
    assert failed.returncode == 2
    (line,) = failed.stderr.splitlines()
    assert line.startswith(f"error: There is no command {name!r}; there are train, evaluate, ")
    assert line.endswith(f".{hint}")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("train", "--coef_min"),
        ("evaluate", "--benchmark"),
        ("compare", "--allow_different_settings"),
        ("report", "--min_support"),
        ("inspect", "--picture"),
        ("grade", "--completion"),
    ],
)
def test_a_command_has_the_help_of_its_module(command, option):
    shown = run_command(command, "--help")
    assert shown.returncode == 0, shown.stderr
    assert option in shown.stdout


def test_every_command_is_tested_for_its_help():
    (cases,) = [mark.args[1] for mark in test_a_command_has_the_help_of_its_module.pytestmark]
    assert [name for name, _ in cases] == list(COMMANDS)


@pytest.mark.parametrize(("gold", "answer", "status"), [(r"\frac{1}{2}", "0.5", 0), ("5", "15", 1)])
def test_grading_through_the_door_ends_with_its_status(gold, answer, status):
    assert run_command("grade", gold, answer).returncode == status


def test_training_through_the_door(project):
    done = run_command("train", "--config", project / "config.yaml", "--max_steps", 1)
    assert done.returncode == 0, done.stderr
    assert "step 1/1  reward" in done.stdout
    record = json.loads((project / "run" / RUN_FILE).read_text())
    assert record["command"] == "delta-trl train --config config.yaml --max_steps 1"
    failed = run_command("train", "--config", project / "config.yaml")
    assert failed.returncode == 2
    assert "holds a run of trainer 'delta'" in failed.stderr


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        (["/venv/bin/delta-trl", "train", "--seed", "1"], "delta-trl train --seed 1"),
        (["/x/delta_trl/train/__main__.py", "--seed", "1"], "python -m delta_trl.train --seed 1"),
        (["/x/delta_trl/__main__.py", "train", "--seed", "1"], "python -m delta_trl train --seed 1"),
    ],
)
def test_a_run_knows_how_it_was_started_and_is_continued(monkeypatch, typed, command):
    monkeypatch.setattr(sys, "argv", typed)
    monkeypatch.setattr("delta_trl.train.stopping.launcher", lambda: None)
    assert typed_command() == command
    assert continuing_command() == f"{command} --resume_from_checkpoint true"
