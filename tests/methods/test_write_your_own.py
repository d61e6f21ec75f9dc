"""The method of docs/methods.md, "Write your own": its very text is installed as a package, trained, scored and compared."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from support.forked import python
from support.places import ROOT


pytestmark = [pytest.mark.slow, pytest.mark.trained]


def block(language: str) -> str:
    page = (ROOT / "docs" / "methods.md").read_text()
    section = page[page.index("## Write your own") :]
    return re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a command of this Python in which the package is installed, at the root of the repository."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text(block("python"))
    (folder / "pyproject.toml").write_text(block("toml"))
    site = folder / "site"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT), str(ROOT / "tests")])}

    def run(*arguments, start=None):
        command = [start or python(), *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    options = ["-q", "--no-deps", "--no-build-isolation", "--no-index"]
    run("-m", "pip", "install", *options, "--target", site, folder, start=sys.executable)
    return run


def commands() -> list[list[str]]:
    """The three commands without `python`."""
    lines = [line.split()[1:] for line in block("bash").splitlines()]
    assert [line[:2] for line in lines] == [
        ["-m", "delta_trl.train"],
        ["scripts/credit_benchmark.py", "--methods"],
        ["scripts/study.py", "--config"],
    ]
    return lines


def test_it_is_about_20_lines():
    code = [line for line in block("python").splitlines() if line.strip()]
    assert len(code) <= 20


def test_it_is_trained(run, project):
    line = commands()[0]
    line[line.index("configs/quickstart.yaml")] = project / "config.yaml"
    run(*line)
    history = json.loads((project / "run" / "trainer_state.json").read_text())["log_history"]
    assert all(entry["mine/mean"] == pytest.approx(1, abs=1e-5) for entry in history if "loss" in entry)
    assert any(0 < entry["mine/share_above_1"] < 1 for entry in history if "loss" in entry)
    assert json.loads((project / "run" / "delta_trl_run.json").read_text())["settings"]["mine_size"] == 0.8


def test_it_is_compared_and_scored(run, tmp_path):
    """The study's warm model, which knows the format and little else, serves both."""
    study = yaml.safe_load((ROOT / "configs/study/precedence_own.yaml").read_text())
    study |= yaml.safe_load(block("yaml"))
    study |= {"seeds": [1], "final_samples": None}
    study["task"] |= {"warm_up_steps": 100}
    study["settings"] |= {"max_steps": 1, "per_device_train_batch_size": 16}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(study))
    line = commands()[2]
    line[line.index("mine.yaml")] = tmp_path / "mine.yaml"
    printed = run(*line, "--folder", tmp_path / "study", "--jobs", "1")
    assert re.search(r"^\| mine ", printed, re.MULTILINE)

    sizes = ["--task", "precedence", "--batches", "1", "--prompts", "16"]
    folders = ["--model", tmp_path / "study" / "warm", "--folder", tmp_path / "credit"]
    printed = run(*commands()[1], *sizes, *folders)
    assert re.search(r"^\| mine .*\d\.\d{3}", printed, re.MULTILINE)
