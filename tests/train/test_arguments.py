"""`python -m delta_trl.train` as a user meets it: errors in one line, help, and what a run leaves in its folder."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from support.commands import parse
from support.places import ROOT
from trl import GRPOTrainer

from delta_trl.commands import one_line_errors
from delta_trl.data import DataArguments
from delta_trl.run_folder import RUN_FILE, checkpoints, clear, find_damage
from delta_trl.train.__main__ import main, train
from delta_trl.train.arguments import output_folder
from delta_trl.train.resume import MAY_CHANGE


@pytest.fixture
def no_model(monkeypatch):
    monkeypatch.setattr(GRPOTrainer, "__init__", lambda *args, **kwargs: pytest.fail("the trainer was built"))


def write(project, **settings):
    path = project / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **settings}))


def fails(capsys, project, *arguments) -> str:
    """What the command says to arguments that it does not accept."""
    with pytest.raises(SystemExit, match="2"):
        main(["--config", str(project / "config.yaml"), *map(str, arguments)])
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert printed.count("error: ") == 1
    return printed[printed.index("error: ") :]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning_rat", 1], "Unknown option --learning_rat. Did you mean --learning_rate?"),
        (["--learning_rat=1"], "Unknown option --learning_rat. Did you mean --learning_rate?"),
        (["--xyzzy", 1], "Unknown option --xyzzy."),
        (["oops"], "'oops' on the command line belongs to no option"),
        (["--max_steps", "many"], "argument --max_steps/--max-steps: invalid int value: 'many'"),
        (["--trainer", "dapoo"], "Unknown trainer 'dapoo'"),
        (["--trainer", "dapo", "--fipo_half_life", 3], "fipo_half_life is an option of --trainer fipo, not of 'dapo'"),
        (["--model_name_or_path", "no/model"], "There is no model 'no/model'"),
        (["--dataset_name", "none.jsonl"], "There is no file none.jsonl"),
        (["--reward_funcs", "math_rewrd"], "Did you mean 'math_reward'?"),
        (["--reward_funcs", "nowhere.reward"], "there is no module 'nowhere'"),
        (["--reward_funcs", "support.models.no_reward"], "support.models has no function 'no_reward'"),
        (["--max_completion_length", 125], "context is 128. Drop prompts longer than 3 tokens (max_prompt_length=3)"),
        (["--resume_from_checkpoint", "nowhere"], "There is no checkpoint nowhere"),
        (["--resume_from_checkpoint", "true", "--overwrite_output_dir"], "Give one of them"),
    ],
)
def test_mistakes_on_the_command_line_cost_one_line(project, capsys, no_model, arguments, message):
    printed = fails(capsys, project, *arguments)
    assert message in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rat": 1.0}, "config.yaml. Did you mean learning_rate?"),
        ({"reward_funcs": "math_reward"}, "reward_funcs is a list; write reward_funcs: [math_reward]"),
        ({"max_steps": [3]}, "max_steps is an int; got [3]"),
        ({"max_steps": 1.5}, "max_steps is an int; got 1.5"),
        ({"learning_rate": True}, "learning_rate is a float; got True"),
        ({"env": "A=1"}, "env must be a mapping"),
        (
            {"reward_funcs": ["math_reward", "support.models.needs_level"]},
            "needs_level needs a column 'level'; you have",
        ),
    ],
)
def test_mistakes_in_the_yaml_file_cost_one_line(project, capsys, no_model, settings, message):
    write(project, **settings)
    printed = fails(capsys, project)
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_yaml_that_cannot_be_read_is_named_with_the_line(project, capsys):
    (project / "config.yaml").write_text("max_steps: 1\nreward_funcs: [math_reward\nseed: 1\n")
    assert "config.yaml, line 3: not valid YAML" in fails(capsys, project)
    (project / "config.yaml").write_text("")
    assert "must hold options" in fails(capsys, project)
    with pytest.raises(SystemExit, match="2"):
        main(["--config", "none.yaml"])
    assert "There is no config file none.yaml" in capsys.readouterr().err


def test_debug_shows_the_traceback(project):
    with pytest.raises(ValueError, match="Did you mean"):
        main(["--config", str(project / "config.yaml"), "--learning_rat", "1", "--debug"])
    # With a value it is the option of transformers
    assert parse("--config", project / "config.yaml", "--debug", "underflow_overflow")[2].debug


def test_errors_that_a_user_cannot_mend_keep_their_traceback():
    with pytest.raises(KeyError), one_line_errors([]):
        raise KeyError("a fault of ours")


def test_help_shows_own_options_first(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = capsys.readouterr().out
    places = [
        re.search(rf"\n  --{name}[ ,]", printed).start()  # with a comma from Python 3.13 on
        for name in ("trainer", "coef_min", "dataset_name", "lora_r", "epsilon", "seed")
    ]
    assert places == sorted(places)
    assert len(printed.partition("the command:")[0].splitlines()) < 12  # not the usage of 250 options
    assert printed.count("\n  --seed ") == 1


def test_where_a_run_goes_without_output_dir(tmp_path):
    assert output_folder(None, "dapo", None, "zwhe99/DeepMath-103K") == "outputs/DeepMath-103K/dapo"
    assert output_folder(None, "dapo", tmp_path / "mine.yaml", "data.jsonl") == "outputs/mine/dapo"
    assert output_folder(None, "dapo", tmp_path / "qwen3_8b" / "delta.yaml", "") == "outputs/qwen3_8b/dapo"
    assert output_folder("runs/{trainer}/1", "sapo", None, "") == "runs/sapo/1"
    for trainer in ("delta", "dapo"):
        args = parse("--config", ROOT / "configs/quickstart.yaml", "--trainer", trainer)[2]
        assert args.output_dir == f"outputs/quickstart/{trainer}"


def test_the_home_folder_in_paths(project, monkeypatch):
    monkeypatch.setenv("HOME", str(project))
    write(project, model_name_or_path="~/model", dataset_name="~/problems.jsonl", output_dir="~/runs/{trainer}")
    _, data, args, model = parse("--config=~/config.yaml", "--resume_from_checkpoint=~/runs/delta/checkpoint-1")
    assert model.model_name_or_path == f"{project}/model"
    assert data.dataset_name == f"{project}/problems.jsonl"
    assert args.output_dir == f"{project}/runs/delta"
    assert args.resume_from_checkpoint == f"{project}/runs/delta/checkpoint-1"
    for name in ("org/model~1", "model", "./~/model"):  # a `~` within a name is a letter
        _, data, _, model = parse("--config=~/config.yaml", "--model_name_or_path", name, "--dataset_name", name)
        assert model.model_name_or_path == data.dataset_name == name
    held_out = DataArguments(dataset_name="org/data", held_out_name="~/held_out.csv")
    assert (held_out.dataset_name, held_out.held_out_name) == ("org/data", f"{project}/held_out.csv")


def run(project, *arguments):
    train(*parse("--config", project / "config.yaml", *arguments))
    return json.loads((project / "run" / RUN_FILE).read_text())


def test_a_run_says_how_it_was_made(project, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["/x/delta_trl/train/__main__.py", "--config", "c.yaml", "--hub_token", "hf_secret"]
    )
    record = run(project, "--learning_rate", "2e-3", "--hub_token", "hf_secret", "--max_steps", 1)
    assert record["trainer"] == "delta"
    assert record["model_name_or_path"] == str(project / "model")
    assert record["dataset"] == str(project / "problems.jsonl")
    assert record["reward_funcs"] == ["math_reward", "support.models.digit_reward"]
    assert (record["prompt_format"], record["system_prompt"]) == ("{question}\n", None)
    assert (record["max_prompt_length"], record["max_completion_length"]) == (2048, 8)
    assert record["settings"]["learning_rate"] == 2e-3
    assert "lr_scheduler_type" not in record["settings"]  # as it is by default
    assert record["batch"] == {"responses_per_rollout_batch": 8, "responses_per_update": 8}
    assert record["command"] == "python -m delta_trl.train --config c.yaml --hub_token '***'"
    assert {"run_id", "date", "version"} <= record.keys()
    assert "hf_secret" not in (project / "run" / RUN_FILE).read_text()
    assert json.loads((project / "run" / "checkpoint-1" / RUN_FILE).read_text()) == record


def test_a_folder_with_another_run_is_refused_with_the_ways_out(project, capsys, monkeypatch):
    first = run(project, "--max_steps", 1, "--log_completions", "true")
    before = sorted(p.relative_to(project) for p in (project / "run").rglob("*"))
    (project / "run" / "notes.txt").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(GRPOTrainer, "__init__", lambda *args, **kwargs: pytest.fail("the trainer was built"))
        printed = fails(capsys, project, "--trainer", "dapo")
    assert f"{project / 'run'} holds a run of trainer 'delta'" in printed
    for way_out in ("--resume_from_checkpoint true", "another --output_dir", "--overwrite_output_dir"):
        assert way_out in printed
    assert json.loads((project / "run" / RUN_FILE).read_text()) == first
    assert before == sorted(p.relative_to(project) for p in (project / "run").rglob("*") if p.name != "notes.txt")
    second = run(project, "--trainer", "dapo", "--overwrite_output_dir", "--save_strategy", "no")
    assert second["trainer"] == "dapo"
    assert second["run_id"] != first["run_id"]
    assert not checkpoints(project / "run")
    assert not (project / "run" / "completions").exists()
    assert (project / "run" / "notes.txt").read_text() == "mine"


def test_the_model_to_start_from_is_not_removed(project, capsys):
    run(project, "--max_steps", 1)
    printed = fails(capsys, project, "--overwrite_output_dir", "--model_name_or_path", project / "run")
    assert "would remove the model to start from" in printed
    assert (project / "run" / "model.safetensors").exists()


def test_a_start_that_failed_leaves_nothing_in_the_way(project, capsys):
    fails(capsys, project, "--dataset_name", "none.jsonl")
    run(project, "--max_steps", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trainer", "dapo"], "trainer: delta then, dapo now"),
        (["--learning_rate", "2e-3"], "learning_rate: 0.001 then, 0.002 now"),
        (["--seed", 7, "--beta", 0.1], "beta: default then, 0.1 now; seed: default then, 7 now"),
        (["--coef_max", 1.5], "coef_max: default then, 1.5 now"),
        (["--gradient_accumulation_steps", 2], "responses_per_rollout_batch: 8 then, 16 now"),
        (["--max_completion_length", 9], "max_completion_length: 8 then, 9 now"),
    ],
)
def test_another_method_or_setting_does_not_take_over_a_run(project, capsys, no_model_after_first, arguments, message):
    printed = fails(capsys, project, "--resume_from_checkpoint", "true", *arguments)
    assert f"checkpoint-1 was made with other settings: {message}" in printed
    # Nor where the checkpoint lies elsewhere
    moved = (project / "run" / "checkpoint-1").rename(project / "checkpoint-1")
    assert message in fails(
        capsys, project, "--resume_from_checkpoint", moved, "--output_dir", project / "2", *arguments
    )


@pytest.fixture
def no_model_after_first(project, monkeypatch):
    run(project, "--max_steps", 1)
    monkeypatch.setattr(GRPOTrainer, "__init__", lambda *args, **kwargs: pytest.fail("the trainer was built"))


def test_what_may_change_may_change(project, caplog):
    first = run(project, "--max_steps", 1)
    same_batch = ["--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2]
    with caplog.at_level("INFO"):
        second = run(project, "--resume_from_checkpoint", "true", "--max_steps", 2, "--logging_steps", 2, *same_batch)
    assert "Continued with logging_steps: 2.0 (before: 1), max_steps: 2 (before: 1)." in caplog.text
    assert second["run_id"] == first["run_id"]
    assert second["date"] == first["date"]
    assert len(second["resumed"]) == 1
    assert json.loads((project / "run" / "trainer_state.json").read_text())["global_step"] == 2


@pytest.mark.parametrize("change", ["a row", "a gold", "the order", "fewer rows"])
def test_a_run_is_not_continued_on_other_data(project, capsys, no_model_after_first, change):
    data = project / "problems.jsonl"
    rows = data.read_text().splitlines(keepends=True)
    changed = {
        "a row": [*rows[:-1], json.dumps({**json.loads(rows[-1]), "question": "7+7=?"}) + "\n"],
        "a gold": [json.dumps({**json.loads(rows[0]), "final_answer": "77"}) + "\n", *rows[1:]],
        "the order": rows[::-1],
        "fewer rows": rows[1:],
    }[change]
    data.write_text("".join(changed))
    printed = fails(capsys, project, "--resume_from_checkpoint", "true")
    now = "39 now" if change == "fewer rows" else "40 now, with other content or in another order"
    assert f"The data of {data} is not that of {project / 'run' / 'checkpoint-1'}: 40 problems then, {now}" in printed
    assert "dataset_revision" in printed


def test_the_same_data_may_lie_elsewhere(project, caplog):
    run(project, "--max_steps", 1)
    (project / "problems.jsonl").rename(project / "moved.jsonl")
    with caplog.at_level("INFO"):
        record = run(
            project, "--resume_from_checkpoint", "true", "--max_steps", 2, "--dataset_name", project / "moved.jsonl"
        )
    assert f"Continued with dataset_name: {project / 'moved.jsonl'}" in caplog.text
    assert record["data"]["problems"] == 40
    assert len(record["data"]["fingerprint"]) == 64


@pytest.mark.parametrize("before", ["no fingerprint", "another version"])
def test_data_that_cannot_be_compared_costs_no_run(project, caplog, before):
    run(project, "--max_steps", 1)
    for file in (project / "run").rglob(RUN_FILE):
        record = json.loads(file.read_text())
        if before == "no fingerprint":
            del record["data"]
        else:
            record |= {"version": "0.0.1", "data": {"problems": 41, "fingerprint": "0"}}
        file.write_text(json.dumps(record))
    with caplog.at_level("INFO"):
        run(project, "--resume_from_checkpoint", "true", "--max_steps", 2)
    assert ("loaded by delta_trl 0.0.1, now by" in caplog.text) == (before == "another version")
    assert json.loads((project / "run" / "trainer_state.json").read_text())["global_step"] == 2


def test_options_that_may_change_exist():
    from dataclasses import fields
    from fnmatch import fnmatchcase

    from trl import ModelConfig

    from delta_trl.config import DeltaGRPOConfig

    names = {f.name for f in (*fields(DeltaGRPOConfig), *fields(ModelConfig))}
    for pattern in MAY_CHANGE:
        assert any(fnmatchcase(name, pattern) for name in names), pattern
    for name in (
        "learning_rate",
        "lr_scheduler_type",
        "seed",
        "beta",
        "coef_min",
        "vllm_importance_sampling_mode",
        "lora_r",
    ):
        assert not any(fnmatchcase(name, pattern) for pattern in MAY_CHANGE), name


def test_a_requeued_job_starts_fresh_before_its_first_checkpoint_and_says_so(project, caplog):
    with caplog.at_level("INFO"):
        run(project, "--resume_from_checkpoint", "true", "--max_steps", 1)
    assert f"There is no complete checkpoint in {project / 'run'}: training starts at the beginning." in caplog.text
    with caplog.at_level("INFO"):
        run(project, "--resume_from_checkpoint", "true", "--max_steps", 2)
    assert f"Continuing from {project / 'run' / 'checkpoint-1'}." in caplog.text


def test_a_finished_run_without_checkpoints_is_not_started_again(project, capsys):
    run(project, "--max_steps", 1, "--save_strategy", "no")
    assert "a finished run without a checkpoint" in fails(capsys, project, "--resume_from_checkpoint", "true")


@pytest.mark.parametrize(
    "torn",
    [
        *("trainer_state.json", "optimizer.pt", "model.safetensors", "rng_state.pth", "config.json", "tokenizer.json"),
        *("state is missing", "weights are missing"),
    ],
)
def test_a_torn_checkpoint_is_skipped_for_the_newest_complete_one(project, caplog, capsys, torn):
    run(project, "--max_steps", 2)
    last = project / "run" / "checkpoint-2"
    assert find_damage(last) is None
    if torn == "state is missing":
        (last / "trainer_state.json").unlink()
    elif torn == "weights are missing":
        (last / "model.safetensors").unlink()
    else:
        content = (last / torn).read_bytes()
        (last / torn).write_bytes(content[: len(content) // 2])
    printed = fails(capsys, project, "--resume_from_checkpoint", last)
    assert "is not complete" in printed
    with caplog.at_level("INFO"):
        run(project, "--resume_from_checkpoint", "true")
    assert f"{last} is not complete" in caplog.text
    assert f"Continuing from {project / 'run' / 'checkpoint-1'}." in caplog.text
    state = json.loads((project / "run" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [1, 2, 3]


def test_clearing_leaves_what_is_no_run(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "model.safetensors").write_text("")
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.slow
def test_dependencies_are_quiet(project):
    """Everything that a short run prints to a file, line by line."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    result = subprocess.run(
        [sys.executable, "-m", "delta_trl.train", "--config", str(project / "config.yaml"), "--max_steps", "2"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    text = (result.stdout + result.stderr).replace("\r", "\n")
    for noise in ("Warning", "Loading weights", "kernels", "examples/s", "Setting accelerator"):
        assert noise not in text, text
