"""Every way to start a run meets every state in which its folder may be, with and without logged completions."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from support.commands import make_project, parse
from support.forked import python
from support.places import ROOT

from delta_trl.run_folder import RUN_FILE
from delta_trl.train.__main__ import train


TRAINERS = ("delta", "dapo")
START, CONTINUE, RESTART, SKIP_TORN, REFUSED = "from the start", "from 2", "cleared", "from 1", "refused"
# State of the folder: what comes of a plain start, of --resume_from_checkpoint true and of --overwrite_output_dir
STATES = {
    "none": (START, RESTART, START),
    "no checkpoint yet": (REFUSED, RESTART, RESTART),
    "its only checkpoint is torn": (REFUSED, RESTART, RESTART),
    "its newest checkpoint is torn": (REFUSED, SKIP_TORN, RESTART),
    "finished": (REFUSED, CONTINUE, RESTART),
    "finished without a checkpoint": (REFUSED, REFUSED, RESTART),
}
OPTIONS = {
    "plain": (),
    "resume": ("--resume_from_checkpoint", "true"),
    "overwrite": ("--overwrite_output_dir",),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """For each trainer a project and a finished run of two steps in it, with completions and two checkpoints."""
    projects = {}
    for trainer in TRAINERS:
        projects[trainer] = make_project(tmp_path_factory.mktemp(trainer))
        start(projects[trainer], projects[trainer] / "run", trainer, "--log_completions", "true", "--max_steps", 2)
    return projects


def start(project, folder, trainer, *arguments) -> None:
    train(*parse("--config", project / "config.yaml", "--trainer", trainer, "--output_dir", folder, *arguments))


def put_into(state, run, folder) -> None:
    """Make of `folder` what a run leaves that ended in this state."""
    if state == "none":
        return
    shutil.copytree(run, folder)
    ended = state.startswith("finished")
    for path in folder.iterdir():
        is_checkpoint = path.name.startswith("checkpoint-")
        removed = {
            "no checkpoint yet": is_checkpoint,
            "its only checkpoint is torn": path.name == "checkpoint-2",
            "finished without a checkpoint": is_checkpoint,
        }.get(state, False)
        if is_checkpoint and removed:
            shutil.rmtree(path)
        elif not ended and path.is_file() and path.name != RUN_FILE:
            path.unlink()
    torn = {"its only checkpoint is torn": "checkpoint-1", "its newest checkpoint is torn": "checkpoint-2"}.get(state)
    if torn:
        (folder / torn / "trainer_state.json").unlink()


@pytest.mark.parametrize(("trainer", "logs"), [("delta", True), ("dapo", True), ("delta", False)])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("state", STATES)
def test_a_run_starts_from_every_state_of_its_folder(finished, tmp_path, trainer, state, option, logs):
    project, folder = finished[trainer], tmp_path / "run"
    put_into(state, project / "run", folder)
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    arguments = (*OPTIONS[option], "--log_completions", str(logs).lower(), "--max_steps", 3)
    outcome = STATES[state][list(OPTIONS).index(option)]
    if outcome == REFUSED:
        with pytest.raises(ValueError, match="--overwrite_output_dir"):
            start(project, folder, trainer, *arguments)
        assert before == sorted(path.relative_to(folder) for path in folder.rglob("*"))
        return

    start(project, folder, trainer, *arguments)
    state = json.loads((folder / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [1, 2, 3]
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == [
        "checkpoint-1",
        "checkpoint-2",
        "checkpoint-3",
    ]
    record = json.loads((folder / RUN_FILE).read_text())
    continued = outcome in (CONTINUE, SKIP_TORN)
    assert len(record.get("resumed", [])) == continued
    # Completions: of this run alone, unless it continues one
    of_this_run = {CONTINUE: {3}, SKIP_TORN: {2, 3}}.get(outcome, {1, 2, 3}) if logs else set()
    expected = of_this_run | ({1, 2} if continued else set())
    names = ("completions", "coefficients") if trainer == "delta" else ("completions",)
    for name in names:
        written = {int(path.stem.rpartition("_")[2]) for path in folder.glob(f"completions/{name}_*.parquet")}
        assert written == expected, name


@pytest.mark.parametrize("lost", ["nothing", "final model", "length"])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_finished_run_that_is_started_again_makes_no_further_step(finished, tmp_path, caplog, trainer, lost):
    project, folder = finished[trainer], tmp_path / "run"
    shutil.copytree(project / "run", folder)
    if lost == "final model":  # killed between the last checkpoint and the end
        (folder / "model.safetensors").unlink()
        (folder / "trainer_state.json").unlink()
    for _ in range(2):
        with caplog.at_level("INFO"):
            start(project, folder, trainer, *OPTIONS["resume"], "--max_steps", 1 if lost == "length" else 2)
        assert f"has 2 of {1 if lost == 'length' else 2} steps: nothing is left to train" in caplog.text
        assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == 2
        assert not (folder / "checkpoint-3").exists()
        assert (folder / "model.safetensors").read_bytes() == (folder / "checkpoint-2/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        (["optimizer.pt", "scheduler.pt", "rng_state.pth"], "optimizer and the learning-rate schedule and the random"),
        (["optimizer.pt"], "no state of the optimizer, as with save_only_model"),
        (["rng_state.pth"], "no state of the random generators, as with save_only_model"),
        ([], None),
    ],
)
def test_what_a_continued_run_lacks_of_its_state_is_said(finished, tmp_path, caplog, missing, named):
    project, folder = finished["dapo"], tmp_path / "run"
    shutil.copytree(project / "run", folder)
    for name in missing:
        (folder / "checkpoint-2" / name).unlink()
    with caplog.at_level("INFO"):
        start(project, folder, "dapo", *OPTIONS["resume"], "--max_steps", 3)
    assert ("has no state of the" in caplog.text) == bool(missing)
    assert named is None or named in caplog.text


@pytest.mark.slow
def test_a_job_that_was_killed_before_its_first_checkpoint_is_put_back_in_the_queue(project):
    command = ["-m", "delta_trl.train", "--config", str(project / "config.yaml")]
    command += ["--log_completions", "true", "--resume_from_checkpoint", "true"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    with (project / "log.txt").open("w") as log:
        options = {"env": environment, "stdout": log, "stderr": subprocess.STDOUT}
        first = subprocess.Popen([sys.executable, *command, "--max_steps", "5000", "--save_steps", "5000"], **options)
        deadline = time.monotonic() + 300
        try:
            while not list((project / "run").glob("completions/coefficients_*.parquet")):
                assert first.poll() is None, (project / "log.txt").read_text()[-3000:]
                assert time.monotonic() < deadline
                time.sleep(0.1)
        finally:
            first.kill()
        assert first.wait() == -signal.SIGKILL
        again = subprocess.run([python(), *command, "--max_steps", "2"], timeout=300, **options)
    assert again.returncode == 0, (project / "log.txt").read_text()[-3000:]
    assert (project / "run" / "checkpoint-2" / "trainer_state.json").exists()
    assert len(list((project / "run").glob("completions/coefficients_*.parquet"))) == 2
