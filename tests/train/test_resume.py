"""What is on disk when a run stops: where it can be continued exactly, and what a reward function that raises leaves."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.forked import python
from support.models import build, config, digit_reward
from support.places import ROOT, SUPPORT

from delta_trl import DeltaGRPOTrainer
from delta_trl.methods.fipo import FIPOTrainer
from delta_trl.run_folder import RUN_FILE


pytestmark = pytest.mark.trained

WORKER = SUPPORT / "launch" / "resumed_run.py"

# Schedule: options, and after how many updates a rollout batch ends together with an update
SCHEDULES = {
    "one update": ({"gradient_accumulation_steps": 2, "steps_per_generation": 2}, 1),
    "two rollout batches an update": ({"gradient_accumulation_steps": 4, "steps_per_generation": 2}, 1),
    "two updates": ({"gradient_accumulation_steps": 1, "steps_per_generation": 2}, 2),
    "two iterations": ({"gradient_accumulation_steps": 2, "steps_per_generation": 2, "num_iterations": 2}, 2),
    "three updates on two rollout batches": ({"gradient_accumulation_steps": 2, "steps_per_generation": 3}, 3),
}


def losses(folder) -> list[float]:
    state = json.loads((Path(folder) / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def same_weights(one, other) -> bool:
    one, other = (load_file(Path(folder) / "model.safetensors") for folder in (one, other))
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_continues_exactly_at_generation_boundaries_and_only_there(tmp_path, schedule):
    options, boundary = SCHEDULES[schedule]

    def args():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return config(tmp_path, **options, max_steps=4, save_strategy="steps", save_steps=1)

    assert args().generation_boundary == boundary
    build(DeltaGRPOTrainer, args()).train()
    last = tmp_path / "checkpoint-4"
    uninterrupted = last.rename(tmp_path / "uninterrupted")
    expected = losses(uninterrupted)
    assert len(expected) == 4
    for step in (3, 2):  # a run overwrites later checkpoints
        build(DeltaGRPOTrainer, args()).train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        exact = step % boundary == 0
        assert same_weights(last, uninterrupted) == exact, step
        assert (losses(last) == expected) == exact, step


@pytest.mark.parametrize(
    ("schedule", "save_steps", "advice"),
    [
        ("one update", 1, None),
        ("one update", 7, None),
        ("two rollout batches an update", 3, None),
        ("two updates", 4, None),
        ("two updates", 5, "save_steps=5 is not a multiple of 2, .* Set save_steps=6"),
        ("two updates", 1, "Set save_steps=2"),
        ("two iterations", 501, "Set save_steps=502"),
        ("three updates on two rollout batches", 6, None),
        ("three updates on two rollout batches", 500, "Set save_steps=501"),
        ("two updates", 0.5, "save_steps=0.5 is not a multiple of 2, .* Set save_steps=4"),  # 3 of 6 steps
        ("two updates", 0.3, None),  # 2 of 6 steps
    ],
)
def test_save_steps_off_a_generation_boundary_are_warned_about(tmp_path, schedule, save_steps, advice):
    options = {**SCHEDULES[schedule][0], "max_steps": 6, "save_steps": save_steps}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config(tmp_path, **options, save_strategy="steps")
        config(tmp_path, **options, save_strategy="no")
    messages = [warning for warning in caught if "save_steps" in str(warning.message)]
    assert len(messages) == (advice is not None)
    if advice:
        assert Path(messages[0].filename).name == "models.py", "the warning points at the caller"
        with pytest.warns(UserWarning, match=advice):
            config(tmp_path, **options, save_strategy="steps")


def test_a_share_of_an_unknown_number_of_steps_is_warned_about(tmp_path):
    with pytest.warns(UserWarning, match="save_steps=0.5 is not known to be a multiple of 2, .* Set save_steps=2"):
        config(tmp_path, **SCHEDULES["two updates"][0], max_steps=-1, save_strategy="steps", save_steps=0.5)


def test_the_published_recipe_saves_every_fourth_update(tmp_path):
    args = config(
        tmp_path,
        per_device_train_batch_size=1,
        steps_per_generation=256,
        gradient_accumulation_steps=64,
        num_generations=16,
    )
    assert args.generation_boundary == 4


class FailingReward:
    __name__ = "failing_reward"

    def __init__(self, call):
        self.call, self.calls = call, 0

    def __call__(self, completions, **kwargs):
        self.calls += 1
        if self.calls == self.call:
            raise KeyError("answer")
        return digit_reward(completions)


@pytest.mark.parametrize(
    ("trainer_class", "save_strategy"),
    [(DeltaGRPOTrainer, "no"), (DeltaGRPOTrainer, "steps"), (FIPOTrainer, "no")],
)
def test_a_reward_function_that_raises_leaves_a_checkpoint(tmp_path, trainer_class, save_strategy):
    def run(reward, **arguments):
        options = {"max_steps": 4, "save_strategy": save_strategy, "save_steps": 1}
        args = config(tmp_path / "run", trainer_class.config_class, **options)
        trainer = build(trainer_class, args, reward_funcs=reward)
        trainer.train(**arguments)
        return trainer

    checkpoint = tmp_path / "run" / "checkpoint-2"
    with pytest.raises(RuntimeError, match=f"after step 2 .*KeyError: 'answer'.* is saved in {checkpoint}") as raised:
        run(FailingReward(call=3))
    assert isinstance(raised.value.__cause__, KeyError)
    continued = run(digit_reward, resume_from_checkpoint=str(checkpoint))
    assert continued.state.global_step == 4
    assert len([entry for entry in continued.state.log_history if "loss" in entry]) == 4


def test_a_reward_function_that_raises_at_once_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match=r"after step 0 .* nothing to save"):
        build(DeltaGRPOTrainer, config(tmp_path), reward_funcs=FailingReward(call=1)).train()
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_continues_as_if_nothing_had_happened(tmp_path, processes):
    """SIGKILL in the second micro-batch of the sixth update; the last checkpoint is that of the fourth."""

    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def run(*arguments):
        start = [python(), str(WORKER)]
        if processes > 1:
            start = [python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(WORKER)]
        with open(tmp_path / "log.txt", "w") as log:
            status = subprocess.run(
                [*start, *map(str, arguments)],
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=300,
            )
        return status.returncode, (tmp_path / "log.txt").read_text()

    code, log = run(whole, killed)
    assert code == -signal.SIGKILL if processes == 1 else "SIGKILL" in log, log[-3000:]
    assert sorted(path.name for path in killed.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    code, log = run("--resume", killed)
    assert code == 0, log[-3000:]

    one, other = whole / "checkpoint-8", killed / "checkpoint-8"
    assert len(losses(one)) == 8
    assert losses(one) == losses(other)
    assert same_weights(one, other)
    assert not same_weights(one, killed / "checkpoint-4")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "processes"), [(signal.SIGINT, 2), (signal.SIGTERM, 1), (signal.SIGTERM, 2)])
def test_a_stopped_run_says_how_to_go_on_and_leaves_no_process(project, number, processes):
    """Ctrl-C reaches the launcher and all its processes, a scheduler's SIGTERM the launcher alone."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(ROOT / "configs/accelerate/cpu.yaml")] if processes == 1 else ["--multi_gpu"]
    command += ["--num_processes", str(processes), "-m", "delta_trl.train", "--config", str(project / "config.yaml")]
    with (project / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [*command, "--max_steps", "500"],
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + 300
    try:
        while not (project / "run" / "checkpoint-2" / RUN_FILE).exists():
            assert process.poll() is None, (project / "log.txt").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        assert process.wait(timeout=300) != 0
        deadline = time.monotonic() + 60
        while left := session(process.pid):
            assert time.monotonic() < deadline, left
            time.sleep(0.2)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    text = (project / "log.txt").read_text().replace("\r", "\n")
    (line,) = [line for line in text.splitlines() if "Stopped by" in line]
    assert f"Stopped by {number.name} after step " in line
    assert f"Last checkpoint: {project / 'run'}/checkpoint-" in line
    assert "launch" in line
    assert (
        f"-m delta_trl.train --config {project / 'config.yaml'} --max_steps 500 --resume_from_checkpoint true" in line
    )
    assert text.count("Traceback") <= 1  # the launcher's own


def session(number: int) -> list[str]:
    """Commands of the processes that live in a session."""
    listed = subprocess.run(["ps", "-s", str(number), "-o", "stat=,args="], capture_output=True, text=True).stdout
    return [line for line in listed.splitlines() if not line.startswith("Z")]
