"""What stands around the code: the version in every place that names it, and what the workflow runs."""

import re

import pytest
import yaml
from support.commands import run_script
from support.places import ROOT

from delta_trl.rewards.math.grading import POOL
from delta_trl.version import __version__


def test_the_version_is_the_same_everywhere():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    version, date = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)[0]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert version == citation["version"] == __version__
    assert date == str(citation["date-released"])


def test_the_workflow_runs_what_is_here():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert ".ci/run" in commands
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in commands:
        for target in re.findall(r"^make ([\w-]+)", command):
            assert target in targets
        for path in re.findall(r"(?:\.ci|tests)/[\w/.]+", command):
            assert (ROOT / path).is_file()
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert workflow["jobs"]["other-systems"]["strategy"]["matrix"]["system"] == ["macos-latest", "windows-latest"]


@pytest.mark.slow  # imports every module
def test_what_the_workflow_checks_on_other_systems(monkeypatch):
    # Windows has no workers: what is graded there must not need them
    monkeypatch.setattr(POOL, "run", lambda questions: pytest.fail("a worker was asked") if questions else [])
    done = run_script("tests/support/other_systems.py")
    assert done.returncode == 0, done.stderr
    assert "math_reward [1.0, 0.0, 0.0]" in done.stdout
    assert "code_reward" in done.stdout
