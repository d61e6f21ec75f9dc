"""The scripts as a user runs them, on local data and tiny models, and every checked-in config."""

import json
import os
import sys
from unittest.mock import patch

import pytest
import torch
from datasets import Dataset
from support.commands import load_script, parse, run_script
from support.places import ROOT
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer

from delta_trl import DeltaGRPOTrainer
from delta_trl.checks import check_reward_columns
from delta_trl.features import FEATURES
from delta_trl.methods.names import methods
from delta_trl.train.__main__ import train
from delta_trl.train.arguments import ScriptArguments
from delta_trl.train.rewards import load_rewards


pytestmark = pytest.mark.trained


@pytest.mark.parametrize(
    "path",
    sorted(path for path in (ROOT / "configs").glob("**/*.yaml") if path.parent.name != "study"),
    ids=lambda p: p.stem,
)
def test_every_checked_in_config_parses(path):
    if path.parent.name == "accelerate":
        from accelerate.commands.config.config_args import load_config_from_file

        assert load_config_from_file(str(path)).num_processes >= 1
        return
    script_args, _, args, model_args = parse("--config", path, "--use_cpu", "true", "--bf16", "false")
    assert script_args.trainer in methods()
    assert model_args.model_name_or_path
    assert args.max_steps > 0


@pytest.mark.parametrize("name", ["delta", "dapo"])
def test_a_run_from_a_config_trains_and_saves(project, capsys, name):
    train(*parse("--config", project / "config.yaml", "--trainer", name))
    state = json.loads((project / "run" / "trainer_state.json").read_text())
    entry = state["log_history"][0]
    assert entry["rewards/math_reward/mean"] == 0
    assert ("delta/seconds" in entry) == (name == "delta")
    assert state["global_step"] == 3
    initial = AutoModelForCausalLM.from_pretrained(project / "model")
    saved = AutoModelForCausalLM.from_pretrained(project / "run")
    assert not torch.equal(initial.lm_head.weight, saved.lm_head.weight)
    printed = capsys.readouterr()
    assert "step 3/3  reward " in printed.out + printed.err
    card = (project / "run" / "README.md").read_text()
    assert ("DelTA" in card) == (name == "delta")


def test_resume_continues_from_the_newest_checkpoint(project, capsys):
    train(*parse("--config", project / "config.yaml", "--max_steps", 2))
    train(*parse("--config", project / "config.yaml", "--resume_from_checkpoint", "true"))
    state = json.loads((project / "run" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [1, 2, 3]


def test_lora_from_the_command_line(project):
    train(*parse("--config", project / "config.yaml", "--use_peft", "true", "--lora_target_modules", "all-linear"))
    assert (project / "run" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trainer", "dapo", "--coef_max", "1.5"], "coef_max"),
        (["--reward_funcs", "no_such_reward"], "Unknown reward function 'no_such_reward'"),
        (["--reward_funcs", "math_reward", "soft_overlong"], "needs both soft_overlong_max_length"),
        (["--soft_overlong_cache", "4"], "they mean nothing without it"),
        (["--code_reward_timeout", "2"], "code_reward_timeout=2.0 means nothing without the reward 'code_reward'"),
        (["--reward_funcs", "code_reward"], "code_reward needs a column 'tests'"),
        (["--reward_funcs", "code_reward", "--code_reward_tests", "0"], "tests must be at least 1, got 0"),
        (["--problem_type", "code"], "no programming problems are found"),
        (["--dataset_name", "missing.jsonl"], r"missing\.jsonl"),
    ],
)
def test_bad_input_is_refused_before_the_model_is_loaded(project, monkeypatch, arguments, message):
    monkeypatch.setattr(GRPOTrainer, "__init__", lambda *args, **kwargs: pytest.fail("the trainer was built"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(*parse("--config", project / "config.yaml", *arguments))


def test_unknown_keys_are_errors(project):
    with (project / "config.yaml").open("a") as file:
        file.write("learning_rat: 1.0\n")
    with pytest.raises(ValueError, match="learning_rat"):
        parse("--config", project / "config.yaml")


def test_a_wrong_trainer_in_the_yaml_file_is_refused(project):
    with (project / "config.yaml").open("a") as file:
        file.write("trainer: ppo\n")
    with pytest.raises(ValueError, match="Unknown trainer 'ppo': trainer must be one of 'delta', 'dapo'"):
        train(*parse("--config", project / "config.yaml"))


def test_the_soft_overlong_penalty_is_trls():
    script_args = ScriptArguments(reward_funcs=["soft_overlong"], soft_overlong_max_length=10, soft_overlong_cache=4)
    (penalty,) = load_rewards(script_args)
    assert penalty([[0] * 6, [0] * 8, [0] * 11]) == [0.0, -0.5, -1.0]


def test_the_code_reward_takes_its_options_and_refuses_where_programs_cannot_be_isolated(monkeypatch):
    tests = [{"inputs": ["1", "22"], "outputs": ["1", "x"]}]
    options = {"code_reward_fraction": True, "code_reward_workers": 1}
    program = ["```python\nprint(input())\n```"]
    (reward,) = load_rewards(ScriptArguments(reward_funcs=["code_reward"], **options))
    assert reward(program, tests=tests) == [0.5]
    (reward,) = load_rewards(ScriptArguments(reward_funcs=["code_reward"], code_reward_tests=1, **options))
    assert reward(program, tests=tests) == [0.0]
    monkeypatch.setattr("delta_trl.sandbox.handle.sys.platform", "darwin")
    with pytest.raises(ValueError, match=r"'code_reward' cannot be used here. Programs can only be isolated on Linux"):
        load_rewards(ScriptArguments(reward_funcs=["code_reward"]))


def test_programs_are_trained_on(project):
    rows = [{"question": f"Print {i}.", "tests": {"inputs": [""], "outputs": [str(i)]}} for i in range(8)]
    (project / "code.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--dataset_name", project / "code.jsonl", "--problem_type", "code", "--reward_funcs", "code_reward"]
    train(*parse("--config", project / "config.yaml", *options, "--log_completions", "true"))
    entry = json.loads((project / "run" / "trainer_state.json").read_text())["log_history"][0]
    assert entry["rewards/code_reward/mean"] == 0
    assert entry["code_reward/no_code"] == 1


def test_baseline_and_treatment_differ_only_in_the_trainer(project, monkeypatch):
    built = []
    for trainer_class in (GRPOTrainer, DeltaGRPOTrainer):
        monkeypatch.setattr(trainer_class, "train", lambda self, **kwargs: built.append(self))
    for name in ("delta", "dapo"):
        train(*parse("--config", project / "config.yaml", "--trainer", name, "--overwrite_output_dir"))
    ours, theirs = built
    assert type(ours) is DeltaGRPOTrainer
    assert isinstance(theirs, GRPOTrainer)
    assert not isinstance(theirs, DeltaGRPOTrainer)
    assert {k: v for k, v in ours.args.to_dict().items() if k in GRPOConfig.__dataclass_fields__} == {
        k: v for k, v in theirs.args.to_dict().items() if k in GRPOConfig.__dataclass_fields__
    }


@pytest.mark.slow
def test_quickstart_runs_from_start_to_end(tmp_path, monkeypatch, capfd):
    """Both tasks, with fewer steps and problems than the pass rates need. The training is a process of its own."""
    quickstart = load_script("scripts/quickstart.py")
    monkeypatch.setattr(quickstart, "HELD_OUT", 16)
    monkeypatch.setattr(quickstart, "SAMPLES", 1)
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # with it, accelerate would say nothing about threads
    sizes = {"--warm_up_steps": 4, "--max_steps": 2, "--per_device_train_batch_size": 32}
    options = [str(word) for pair in sizes.items() for word in pair]
    for task in quickstart.CONFIGS:  # of an earlier run: they would mix into this one's report and records
        for stale in ("delta/completions/coefficients_00009.parquet", "evaluation/old.jsonl"):
            (tmp_path / task / stale).parent.mkdir(parents=True)
            (tmp_path / task / stale).touch()
        with patch.dict(os.environ):  # which takes back what the script sets
            monkeypatch.setattr(
                sys, "argv", ["quickstart.py", "--task", task, "--folder", str(tmp_path / task), *options]
            )
            quickstart.main()
            quickstart.prepare(task, tmp_path / task, None)
    output, errors = capfd.readouterr()
    for noise in ("{'loss'", "| 0/4 [", "num_cpu_threads_per_process", "Traceback"):  # 4 steps of the warm-up
        assert noise not in output + errors, noise
    lines = ("Warming up", "Reusing the warmed-up model", "pass rate before", "pass rate after", "minutes", "try next")
    for line in lines:
        assert output.count(f"\n{line}") + output.startswith(line) == 2, line
    for task in ("math", "code"):
        assert (tmp_path / task / "reward.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / task / "delta" / "model.safetensors").exists()
        assert "token by token" in (tmp_path / task / "delta" / "report.html").read_text()
    assert not [*tmp_path.rglob("coefficients_00009.parquet"), *tmp_path.rglob("old.jsonl")]


@pytest.mark.slow
def test_the_real_models_script_trains_and_evaluates_and_does_nothing_twice(project, tmp_path, monkeypatch, capsys):
    """With a tiny model in place of SmolLM2; `make test-real` has that one. The training is a process of its own."""
    script = load_script("scripts/smollm2.py")
    monkeypatch.setattr(script, "HELD_OUT", 8)
    sizes = {"--max_steps": 1, "--per_device_train_batch_size": 8, "--gradient_accumulation_steps": 1}
    options = {**sizes, "--num_generations": 4, "--prompt_format": "{question}\n", "--output_dir": tmp_path / "run"}
    further = [str(word) for pair in options.items() for word in pair]
    (tmp_path / "run/completions").mkdir(parents=True)  # of a run that was cut off before its first checkpoint
    (tmp_path / "run/completions/completions_00001.parquet").touch()
    written = []
    for _ in range(2):
        script.run(tmp_path / "smollm2", str(project / "model"), ROOT / "configs/smollm2_135m/delta.yaml", further)
        printed = capsys.readouterr().out
        for when in ("before", "after"):
            assert f"Pass rate {when} training: greedy 0.0 ± 0.0%, sampled 0.0 ± 0.0% (8 unseen problems)." in printed
        written.append((tmp_path / "run" / "model.safetensors").stat().st_mtime_ns)
    assert written[0] == written[1]
    train_rows, test_rows = (
        {json.loads(line)["question"] for line in (tmp_path / "smollm2/data" / name).read_text().splitlines()}
        for name in ("train.jsonl", "test.jsonl")
    )
    assert (len(train_rows), len(test_rows), train_rows & test_rows) == (891, 8, set())
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.slow
def test_the_benchmark_measures_every_part(tmp_path):
    """So small that the figures mean nothing: every part runs, and says what it measured."""
    sizes = ["--repeats", 1, "--completions", 8, "--length", 4, "--tokens", 100, 300]
    assert run_script("scripts/benchmark.py", *sizes, "--json", tmp_path / "costs.json").returncode == 0
    rows = {row.pop("name"): row for row in json.loads((tmp_path / "costs.json").read_text())}
    ratios = [row["ratio"] for row in rows.values() if "ratio" in row]
    # Two schedules, both coef_centroids of two methods, the published way, two dtypes of two sizes, the time a token, every
    # other feature; of hashed_agreement two schedules, the time a token, and its maths over an LM head
    assert len(ratios) == 8 + 4 + len(FEATURES) - 1 + 4
    assert min(ratios) > 0
    memory = {name: row for name, row in rows.items() if name.startswith("memory")}
    assert len(memory) == 3
    for name, row in memory.items():
        # One chunk and a few numbers a token; the tables besides
        assert 0 < row["peak_megabytes"] < (30 if "hashed_agreement" in name else 10)


def test_tables_of_a_study_are_made_from_the_shipped_records(tmp_path):
    config = "configs/study/quickstart_learning_rate.yaml"
    result = run_script("scripts/study.py", "--config", config, "--tables", "--folder", tmp_path / "study")
    assert result.returncode == 0, result.stderr
    assert "taken from docs/results/study/quickstart_learning_rate/results.jsonl.gz" in result.stdout
    assert "| area under the reward curve |" in (tmp_path / "study" / "study.md").read_text().replace("  ", "")


def test_the_yaml_of_the_guide_parses_and_its_reward_can_be_called(tmp_path):
    guide = (ROOT / "docs/your_own_model.md").read_text()
    text = guide.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "mine.yaml").write_text(text)
    script_args, data_args, args, _ = parse("--config", tmp_path / "mine.yaml", "--use_cpu", "true", "--bf16", "false")
    assert args.output_dir == "outputs/mine/delta"
    space = {}
    exec(guide.partition("```python\n")[2].partition("```")[0], space)
    (name,) = (path.partition(".")[2] for path in script_args.reward_funcs)
    columns = {column: ["4"] for column in ("prompt", "solution", *data_args.extra_columns)}
    check_reward_columns([space[name]], Dataset.from_dict(columns))
    assert space[name](["so 4", [{"role": "assistant", "content": "5"}]], ["4", "4"], ["", ""]) == [1.0, 0.0]
