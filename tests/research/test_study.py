"""Studies: what a config may say, records, statistics against enumeration and hand-computed cases, and real runs."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub.errors import OfflineModeIsEnabled
from support.commands import load_script, parse, run_script
from support.forked import python
from support.models import tiny_model
from support.places import ROOT

from delta_trl.research.study.analysis import analyse, effect_size, estimate, write_tables
from delta_trl.research.study.figures import (
    area_by_seconds,
    curve,
    final_rates,
    metrics,
    seconds_of_all,
    seconds_of_batches,
    updates_a_batch,
)
from delta_trl.research.study.plots import plot_differences, plot_rewards
from delta_trl.research.study.runner import Failure, _outcome, check_runs, open_runs
from delta_trl.research.study.settings import WARM, StudyRun, TaskSettings, load_study
from delta_trl.research.study.start import prepare
from delta_trl.research.study.store import append_record, pack_records, read_records, rounded
from delta_trl.research.tasks import character_tokenizer
from delta_trl.train.__main__ import train


pytestmark = pytest.mark.trained

SETTINGS = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_generations": 4,
    "max_completion_length": 8,
    "prompt_format": "{question}\n",
    "reward_funcs": ["math_reward", "support.models.digit_reward"],  # a model this fresh never answers right
    "learning_rate": 1e-4,
    "max_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "num_generations_eval": 1,
    "per_device_eval_batch_size": 20,
    "dtype": "float32",
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
STUDY = {
    "task": {"name": "ledger", "warm_up_steps": 4, "held_out": 40, "problems": 200},
    "settings": SETTINGS,
    "baseline": "plain",
    "seeds": [1, 2],
    "methods": {"plain": {"options": {"trainer": "grpo"}}, "delta": {"options": {"trainer": "delta"}}},
}
BROKEN = {"options": {"trainer": "grpo", "reward_funcs": ["no_such_reward"]}, "seeds": 1}


def write(path: Path, **changes) -> Path:
    path.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
    return path


def record(method: str, seed: int, rewards: list[float], rates: dict[int, float], **options) -> dict:
    """A finished run as the runner writes it; several updates a batch log a reward at the first of them."""
    updates = updates_a_batch(options)
    history = []
    for batch, reward in enumerate(rewards, start=1):
        first = {"reward": reward, "entropy": 0.5 / batch, "completions/mean_length": 10.0 * batch}
        steps = range((batch - 1) * updates + 1, batch * updates + 1)
        history += [{"step": step, "loss": 0.0, **(first if step == steps[0] else {})} for step in steps]
        if batch in rates:
            history.append({"step": batch * updates, "eval_rewards/math_reward/mean": rates[batch]})
    git = {"commit": "abc", "dirty": False}
    return {"method": method, "seed": seed, "key": "k", "options": options, "git": git, "wall_seconds": 1.0} | {
        "log_history": history
    }


def clocked(record: dict, seconds: list[float]) -> dict:
    """With the processor time of each logged step."""
    steps = [entry for entry in record["log_history"] if "loss" in entry]
    for entry, taken in zip(steps, seconds, strict=True):
        entry["cpu_seconds"] = taken
    return record


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": [1]}, "unknown keys: sedes"),
        ({"task": {"name": "ledger", "steps": 3}}, "task has unknown keys: steps"),
        ({"task": {"name": "sudoku"}}, "one of quickstart, ledger, precedence, number_words, .*; got 'sudoku'"),
        ({"task": {"name": "larger"}}, "'larger' needs task.model, a pretrained model"),
        ({"task": {"name": "larger", "model": "x", "warm_up_steps": 4}}, "has warm_up_steps, and task.model='x' is"),
        (
            {"task": {"name": "ledger", "model": "x", "error_rate": 0.5, "seed": 3}},
            "has error_rate, seed, and task.model",
        ),
        ({"task": {"name": "ledger", "held_out": 6561}}, "held_out must be between 1 and"),
        ({"methods": {}}, "methods must map names to options"),
        ({"methods": {"plain": {"option": {}}}}, r"methods\.plain has unknown keys: option"),
        ({"methods": {"plain": {"seeds": 3}}}, "must be 1 to 2"),
        ({"methods": {"plain": {"options": {"output_dir": "x"}}}}, "output_dir, which the study sets itself"),
        ({"methods": {"plain": {"baseline": "dapo"}}}, "not among the methods: plain"),
        ({"methods": {"a/b": {}, "plain": {}}}, "cannot name a method"),
        ({"methods": {"warm": {}, "plain": {}}}, "evaluates the common start"),
        ({"baseline": "dapo"}, "'dapo', which is not among the methods: plain, delta"),
        ({"seeds": [1, 1]}, "different numbers"),
        ({"seeds": 5}, "seeds a list"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_study(write(tmp_path / "study.yaml", **changes))


@pytest.mark.parametrize(
    "content",
    ["task: [1,", "- 1\n", "a: &a [" + "x, " * 99 + "]\nb: &b [" + "*a, " * 99 + "]\nc: [" + "*b, " * 9 + "]"],
)
def test_a_file_that_is_no_mapping_of_a_bearable_size_is_refused(tmp_path, content):
    (tmp_path / "study.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"study\.yaml.* (not valid YAML|must hold options|more than 10,000 values)"):
        load_study(tmp_path / "study.yaml")


def test_a_missing_key_is_named(tmp_path):
    (tmp_path / "study.yaml").write_text("task: {name: ledger}\nsettings: {}\nseeds: [1]\nmethods: {a: {}}\n")
    with pytest.raises(ValueError, match="lacks baseline"):
        load_study(tmp_path / "study.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainer": "ppo"}, "method 'other' do not fit .*Unknown trainer 'ppo'.* must be one of 'delta'"),
        ({"learning_rat": 1.0}, "method 'other' do not fit .*learning_rat"),
        ({"num_generations": 3}, "method 'other' do not fit"),
    ],
)
def test_options_are_checked_by_the_training_script_before_anything_runs(tmp_path, options, message):
    study = load_study(write(tmp_path / "study.yaml", methods={"plain": {}, "other": {"options": options}}))
    with pytest.raises(ValueError, match=message):
        check_runs(study)


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ({"OF_ONE_METHOD": "1"}, {}),
        ({"ALREADY_THERE": "changed", "OF_ONE_METHOD": 2}, {}),
        ({"OF_ONE_METHOD": "1"}, {"learning_rat": 1.0}),  # refused
    ],
)
def test_the_environment_of_one_method_is_not_that_of_the_others(tmp_path, monkeypatch, environment, options):
    monkeypatch.setenv("ALREADY_THERE", "as it was")
    before = dict(os.environ)
    methods = {"own": {"options": {"env": environment, **options}}, "plain": {}}
    study = load_study(write(tmp_path / "study.yaml", methods=methods))
    with pytest.raises(ValueError, match="learning_rat") if options else nullcontext():
        check_runs(study)
    assert dict(os.environ) == before  # which every run is started with


@pytest.mark.parametrize(
    ("left", "reason"),
    [
        ({}, "there is no trainer_state.json"),
        ({"trainer_state.json": '{"global_step": 2, "max_'}, "is damaged"),
        ({"trainer_state.json": "[]"}, "is damaged"),
        ({"trainer_state.json": "[" * 100_000}, "is damaged: it is nested too deeply"),
        ({"trainer_state.json": '{"global_step": 1, "max_steps": 2}'}, "it stopped at step 1 of 2"),
        ({"trainer_state.json": '{"global_step": 2, "max_steps": 2, "log_history": []}'}, "there is no final.json"),
        (
            {"trainer_state.json": '{"global_step": 2, "max_steps": 2, "log_history": []}', "final.json": "{"},
            "is damaged",
        ),
    ],
)
def test_a_run_that_left_damaged_files_failed(tmp_path, left, reason):
    run = StudyRun("plain", 1, {}, final_samples=2)
    output = tmp_path / "runs" / run.name / "output"
    output.mkdir(parents=True)
    (output.parent / "log.txt").write_text("the end\n")
    for name, content in left.items():
        (output / name).write_text(content)
    outcome = _outcome(run, 0, tmp_path)
    assert isinstance(outcome, Failure)
    assert reason in outcome.reason
    assert outcome.log == "the end"


def test_runs_go_seed_by_seed_and_start_with_the_evaluation_of_the_warm_model(tmp_path):
    methods = {"plain": {}, "few": {"seeds": 1}, "delta": {"options": {"learning_rate": 1.0}}}
    study = load_study(write(tmp_path / "study.yaml", methods=methods))
    names = ["warm-seed1", "plain-seed1", "few-seed1", "delta-seed1", "plain-seed2", "delta-seed2"]
    assert [run.name for run in study.runs()] == names
    assert [run.name for run in study.runs(["delta"], 1)] == ["warm-seed1", "delta-seed1"]
    assert study.runs()[-1].options == {**SETTINGS, "learning_rate": 1.0, "seed": 2}
    with pytest.raises(ValueError, match="No method is called grpo"):
        study.runs(["grpo"])
    with pytest.raises(ValueError, match="seeds must be 1 to 2"):
        study.runs(seeds=3)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "study").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_checked_in_study_can_be_run(path):
    study = load_study(path)
    assert path.read_text().startswith("# Question: ")
    assert len(study.runs()) > len(study.methods)
    check_runs(study)


def test_rates_of_the_trained_model_are_compared_like_the_others(tmp_path):
    study = load_study(write(tmp_path / "study.yaml", final_samples=4))
    records = []
    for method, seed, final in (("plain", 1, 0.5), ("plain", 2, 0.25), ("delta", 1, 0.75), ("delta", 2, 0.75)):
        made = record(method, seed, [0.5], {})
        made["log_history"].append({"step": 1, "final/greedy": final, "final/pass@1": 0.5, "final/pass@4": 0.75})
        records.append(made)
    rows = {row.method: row for row in analyse(study, records)}
    assert rows["plain"].estimates["final/greedy"].mean == 0.375
    assert rows["delta"].differences["final/greedy"][0].mean == 0.375
    assert list(rows["delta"].estimates)[2:5] == ["final/greedy", "final/pass@1", "final/pass@4"]
    # Results with and without the evaluation are not the same
    with_final, without = study.runs()[-1], load_study(write(tmp_path / "plain.yaml")).runs()[-1]
    assert with_final.options == without.options
    assert with_final.key("model") != without.key("model")


@pytest.mark.parametrize("wrong", [0, 1])
def test_pass_at_k_needs_several_samples(tmp_path, wrong):
    with pytest.raises(ValueError, match=f"final_samples must be at least 2.*got {wrong}"):
        load_study(write(tmp_path / "study.yaml", final_samples=wrong))


def test_a_result_belongs_to_its_options_data_and_model(tmp_path):
    study = load_study(write(tmp_path / "study.yaml"))
    first, second = (run for run in study.runs() if run.method == "plain")
    assert first.key("model") == study.runs()[1].key("model")
    changed = load_study(write(tmp_path / "changed.yaml", settings={**SETTINGS, "learning_rate": 2e-4})).runs()[1]
    assert len({first.key("model"), first.key("other"), second.key("model"), changed.key("model")}) == 4

    append_record(tmp_path, {**record("plain", 1, [0.5], {}), "key": first.key("model")})
    assert first not in open_runs(study.runs(), tmp_path, "model")
    assert len(open_runs(study.runs(), tmp_path, "model")) == len(study.runs()) - 1
    with pytest.raises(ValueError, match=r"1 results .* other options, another model or other data \(plain-seed1\)"):
        open_runs(study.runs(), tmp_path, "other")
    assert len(open_runs(study.runs(), tmp_path, "other", discard=True)) == len(study.runs())
    assert read_records(tmp_path) == []


# What runs start from


def made_start(folder: Path, task: str) -> bytes:
    """A study's folder as an earlier start leaves it, with files in place of data and model. The model's weights."""
    for name in ("data", "warm"):
        (folder / name).mkdir(parents=True)
    for name in ("data/train.jsonl", "data/test.jsonl", "warm/model.safetensors", "warm/tokenizer.json"):
        (folder / name).write_text(name)
    (folder / "task.json").write_text(task)
    return (folder / "warm" / "model.safetensors").read_bytes()


def test_folders_of_earlier_studies_stay_valid(tmp_path):
    """As written since there are studies: what the file says, and the fingerprint that their records' keys come from."""
    made_start(
        tmp_path, '{"name": "ledger", "warm_up_steps": 600, "error_rate": 0.25, "held_out": 1000, "problems": 6561}'
    )
    start = prepare(TaskSettings("ledger"), tmp_path)
    assert start.model == tmp_path / "warm"
    assert start.fingerprint == "78256e0852910bc905a32b75091f086c736e938f379d690bbb48fce0405ce707"
    with pytest.raises(ValueError, match="Results of two tasks are not mixed"):
        prepare(TaskSettings("ledger", held_out=10), tmp_path)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """Stands for a pretrained model: tiny, random, and of another architecture than the warmed-up ones."""
    folder, tokenizer = tmp_path_factory.mktemp("pretrained"), character_tokenizer()
    tiny_model("llama", tokenizer, max_position_embeddings=512).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_pretrained_model_is_the_start_as_it_is_wherever_it_lies(tmp_path, pretrained):
    task = TaskSettings("larger", held_out=20, problems=60, model=str(pretrained))
    first = prepare(task, tmp_path / "study")
    assert first.model == pretrained
    assert not (tmp_path / "study" / "warm").exists()
    assert json.loads((tmp_path / "study" / "task.json").read_text()) == {
        "name": "larger", "held_out": 20, "problems": 60, "seed": 0,
    }  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "study" / "data" / "train.jsonl").read_text().splitlines()]
    assert len(rows) == 40
    assert all(row["question"].startswith("Which is larger, ") for row in rows)

    moved = shutil.copytree(pretrained, tmp_path / "moved")
    assert prepare(replace(task, model=str(moved)), tmp_path / "study") == replace(first, model=moved)
    other = bytearray((moved / "model.safetensors").read_bytes())
    other[-1] ^= 1
    (moved / "model.safetensors").write_bytes(other)
    assert prepare(replace(task, model=str(moved)), tmp_path / "study").fingerprint != first.fingerprint


def test_a_pretrained_model_that_is_not_there_is_named(tmp_path, monkeypatch):
    def offline(*arguments, **options):
        raise OfflineModeIsEnabled("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(
        ValueError, match=r"'nobody/nothing', which is neither a folder nor .* \(no network\).*--model"
    ):
        prepare(TaskSettings("larger", model="nobody/nothing"), tmp_path / "study")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty lacks \*\.safetensors or tokenizer\.json.*save_pretrained"):
        prepare(TaskSettings("larger", model=str(tmp_path / "empty")), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_another_pretrained_model_is_named_where_there_is_one(tmp_path, pretrained):
    script = load_script("scripts/study.py")
    study = load_study(write(tmp_path / "study.yaml", task={"name": "larger", "model": "somebody/something"}))
    assert script.with_model(study, "a/b").task == replace(study.task, model="a/b")
    assert script.with_model(study, os.path.relpath(pretrained)).task.model == str(pretrained)
    with pytest.raises(ValueError, match="study warms a model of its own up"):
        script.with_model(load_study(write(tmp_path / "study.yaml")), "a/b")


# Records


def test_records_survive_a_torn_line_and_packing(tmp_path):
    assert read_records(tmp_path) == []
    append_record(tmp_path, {"seed": 1, "log_history": [{"step": 1, "reward": 1 / 3}]})
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"seed": 2, "log_hist')
    assert [r["seed"] for r in read_records(tmp_path)] == [1]
    append_record(tmp_path, {"seed": 3})
    before = read_records(tmp_path)
    assert before == [{"seed": 1, "log_history": [{"step": 1, "reward": 0.333333}]}, {"seed": 3}]
    packed = pack_records(tmp_path).read_bytes()
    assert pack_records(tmp_path).read_bytes() == packed
    (tmp_path / "results.jsonl").unlink()
    assert read_records(tmp_path) == before


def test_packed_records_go_on_being_counted(tmp_path):
    append_record(tmp_path, {"seed": 1})
    pack_records(tmp_path)
    (tmp_path / "results.jsonl").unlink()
    append_record(tmp_path, {"seed": 2})
    assert [r["seed"] for r in read_records(tmp_path)] == [1, 2]


def test_floats_keep_six_digits():
    assert rounded({"a": [0.12345678, 1234567.8, 3, "x", None, True]}) == {
        "a": [0.123457, 1234570.0, 3, "x", None, True]
    }
    assert math.isnan(rounded(float("nan")))


# Figures


def test_figures_of_a_run():
    rewards = [i / 20 for i in range(1, 13)]
    found = metrics(record("a", 1, rewards, {6: 0.3, 12: 0.6}))
    assert found["reward_area"] == pytest.approx(sum(rewards) / 12)
    assert found["final_reward"] == pytest.approx(sum(rewards[2:]) / 10)
    assert (found["pass_rate@6"], found["pass_rate@12"]) == (0.3, 0.6)
    assert found["length"] == pytest.approx(75.0)
    assert found["entropy"] == pytest.approx(sum(0.5 / batch for batch in range(3, 13)) / 10)


def test_several_updates_a_batch_count_as_one_step():
    four = {"gradient_accumulation_steps": 1, "steps_per_generation": 4}
    plain, updated = record("a", 1, [0.25, 0.5, 1.0], {2: 0.4}), record("b", 1, [0.25, 0.5, 1.0], {2: 0.4}, **four)
    assert [entry["step"] for entry in updated["log_history"] if "reward" in entry] == [1, 5, 9]
    assert curve(updated, "reward") == {1: 0.25, 2: 0.5, 3: 1.0} == curve(plain, "reward")
    assert metrics(updated) == metrics(plain)
    assert updates_a_batch({}) == 1
    assert updates_a_batch({"gradient_accumulation_steps": 4}) == 1
    assert updates_a_batch({"gradient_accumulation_steps": 2, "steps_per_generation": 8, "num_iterations": 3}) == 12
    with pytest.raises(ValueError, match=r"1\.5 updates a rollout batch"):
        updates_a_batch({"gradient_accumulation_steps": 2, "steps_per_generation": 3})


def study_of(tmp_path, seeds, **methods):
    return load_study(write(tmp_path / "study.yaml", seeds=seeds, methods=methods))


def test_paired_numbers_by_hand(tmp_path):
    study = study_of(tmp_path, [1, 2, 3], plain={}, other={}, third={"baseline": "other"}, absent={"seeds": 1})
    records = [record("plain", s, [0.5], {1: r}) for s, r in ((1, 0.5), (2, 0.25), (3, 0.75))]
    records += [record("other", s, [0.5], {1: r}) for s, r in ((1, 0.75), (2, 0.75))]  # seed 3 has failed
    records += [record("third", s, [0.5], {1: r}) for s, r in ((1, 0.5), (2, 0.25), (3, 1.0))]
    records.append({**record(WARM, 1, [0.5], {}), "log_history": [{"step": 0, "eval_rewards/math_reward/mean": 0.42}]})
    rows = {row.method: row for row in analyse(study, records)}
    (other,), (third,) = (rows[name].differences["pass_rate@1"] for name in ("other", "third"))
    assert (other.baseline, other.seeds, other.mean, other.wins) == ("plain", 2, 0.375, 2)
    assert other.p == 0.5  # 2 of the 4 sign patterns
    assert other.effect == pytest.approx(0.375 / (0.125 * math.sqrt(2)))
    assert (third.baseline, third.seeds, third.mean, third.wins) == ("other", 2, -0.375, 0)
    assert (other.p_holm, third.p_holm) == (1.0, 1.0)
    assert other.low <= 0.25
    assert other.high >= 0.5
    assert (rows["other"].planned, rows["other"].done) == (3, 2)
    assert (rows["absent"].planned, rows["absent"].done, rows["absent"].estimates) == (1, 0, {})
    assert rows["plain"].estimates["pass_rate@1"].mean == 0.5
    assert rows["plain"].differences == {}
    text = write_tables(study, records, tmp_path)
    assert "Pass rate before training, the same model for all runs: 42.0." in text
    assert "Before training" not in text  # no greedy decoding, no pass@8 in this study


def test_area_by_seconds_by_hand(tmp_path):
    assert area_by_seconds([0.0, 1.0, 0.5], [2.0, 1.0, 4.0], 7.0) == pytest.approx((0 + 1 + 2) / 7)
    assert area_by_seconds([0.0, 1.0, 0.5], [2.0, 1.0, 4.0], 2.5) == pytest.approx(0.5 / 2.5)  # in the second step
    # The faster run needs 3 s; the slower one has by then finished one step and half of another
    fast = clocked(record("plain", 1, [0.2, 0.4, 0.6], {}), [1.0, 1.0, 1.0])
    slow = clocked(record("delta", 1, [0.2, 0.6, 0.8], {}), [2.0, 2.0, 2.0])
    assert seconds_of_all([fast, slow]) == 3
    study = load_study(write(tmp_path / "study.yaml"))
    plain, delta = analyse(study, [fast, slow])
    assert plain.estimates["reward_area_by_seconds"].mean == pytest.approx(0.4)
    assert delta.estimates["reward_area_by_seconds"].mean == pytest.approx((2 * 0.2 + 0.6) / 3)
    (found,) = delta.differences["seconds"]
    assert found.mean == pytest.approx(1)
    assert (plain.estimates["reward_area"].mean, delta.differences["reward_area"][0].wins) == (pytest.approx(0.4), 1)
    text = write_tables(study, [fast, slow], tmp_path)
    assert re.search(r"delta − plain +\| +-6\.7 ", text)
    assert "mean reward over the first 3 seconds of training" in text


def test_seconds_of_several_updates_are_summed_and_missing_ones_leave_the_figure_out():
    twice = record("plain", 1, [0.2, 0.4], {}, steps_per_generation=2)
    assert seconds_of_batches(clocked(twice, [1.0, 0.5, 2.0, 0.25])) == [1.5, 2.25]
    old = record("delta", 1, [0.2, 0.4], {})
    assert seconds_of_batches(old) == []
    assert seconds_of_all([twice, old]) is None
    assert "seconds" not in metrics(old, seconds_of_all([twice, old]))


def test_comparisons_with_fewer_seeds_do_not_weigh_on_the_others(tmp_path):
    seeds = list(range(1, 11))
    study = study_of(tmp_path, seeds, plain={}, one={}, two={}, three={"seeds": 5}, four={"seeds": 5})
    gains = {"plain": 0.0, "one": 0.25, "two": 0.125, "three": 0.25, "four": 0.125}
    records = [
        record(name, seed, [0.5 + gain], {})
        for name, gain in gains.items()
        for seed in (seeds[:5] if name in ("three", "four") else seeds)
    ]
    found = {row.method: row.differences["reward_area"][0] for row in analyse(study, records) if row.differences}
    assert {name: (d.p, d.p_holm) for name, d in found.items()} == {
        "one": (2 / 2**10, 4 / 2**10),
        "two": (2 / 2**10, 4 / 2**10),
        "three": (2 / 2**5, 4 / 2**5),
        "four": (2 / 2**5, 4 / 2**5),
    }


def test_a_method_may_have_several_baselines(tmp_path):
    study = study_of(tmp_path, [1, 2], plain={}, other={}, third={"baseline": ["plain", "other"]})
    rewards = {"plain": (0.25, 0.5), "other": (0.5, 0.5), "third": (0.75, 0.5)}
    records = [record(name, s, [r], {}) for name, both in rewards.items() for s, r in zip((1, 2), both, strict=True)]
    found = analyse(study, records)[2].differences["reward_area"]
    assert [(d.baseline, d.mean, d.wins) for d in found] == [("plain", 0.25, 1), ("other", 0.125, 1)]
    text = write_tables(study, records, tmp_path)
    assert "third − plain" in text
    assert "third − other" in text


def test_a_single_seed_or_equal_ones_have_no_spread():
    assert (estimate([0.5]).low, estimate([0.5]).high, estimate([0.5]).seeds) == (None, None, 1)
    same = estimate([0.25, 0.25, 0.25])
    assert (same.low, same.mean, same.high) == (0.25, 0.25, 0.25)
    assert effect_size([1.0]) is None
    assert effect_size([0.5, 0.5]) is None


def test_tables_and_pictures_have_every_method(tmp_path):
    names = ["plain", *(f"method_{i}" for i in range(9)), "absent"]
    study = study_of(tmp_path, [1, 2, 3], **{name: {} for name in names})
    rng = np.random.default_rng(0)
    records = [
        record(name, seed, list(rng.uniform(0.2, 0.9, 12)), {6: 0.3, 12: float(rng.uniform(0.4, 0.8))})
        for name in names[:-1]
        for seed in (1, 2, 3)
    ]
    text = write_tables(study, records, tmp_path)
    markdown, content = (tmp_path / "study.md").read_text(), json.loads((tmp_path / "study.json").read_text())
    for name in names:
        assert name in text
        assert name in markdown
    assert [row["method"] for row in content["methods"]] == names
    assert "absent (3)" in markdown
    assert "| absent" in markdown
    assert "0 of 3" in markdown
    for title in ("area under the reward curve", "pass rate after 12 steps", "entropy, last 10", "length, last 10"):
        assert title in markdown
    plot_rewards(study, records, tmp_path / "reward.png")
    plot_differences(analyse(study, records), tmp_path / "differences.png")
    for name in ("reward.png", "differences.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


# Real studies


ENVIRONMENT = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}


def run(config_path: Path, folder: Path, *arguments) -> subprocess.CompletedProcess:
    """The study in this process, its runs in forked ones."""
    with pytest.MonkeyPatch.context() as context:
        context.setattr(sys, "executable", python())
        return run_script("scripts/study.py", "--config", config_path, "--folder", folder, *arguments, **ENVIRONMENT)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A study in a process of its own, ended by SIGTERM while two runs train: what it left and said."""
    place = tmp_path_factory.mktemp("study")
    settings = {**SETTINGS, "max_steps": 100_000, "eval_strategy": "no"}
    path, folder = write(place / "tiny.yaml", settings=settings), place / "out"
    process = subprocess.Popen(
        [sys.executable, "scripts/study.py", "--config", path, "--folder", folder, "--jobs", "2"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
    )
    try:
        logs = [folder / "runs" / f"{name}-seed1" / "log.txt" for name in ("plain", "delta")]
        # pytest's own timeout ends it: how long it takes says nothing
        while not all(log.exists() and "left to train on" in log.read_text() for log in logs):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.5)
        blocked = run(path, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        _, printed = process.communicate(timeout=300)
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return folder, blocked, process.returncode, printed, str(place) in running


@pytest.mark.slow
def test_sigterm_ends_the_runs(interrupted):
    _, blocked, status, printed, something_runs = interrupted
    assert blocked.returncode == 2
    assert "Another study" in blocked.stderr
    assert status == 128 + signal.SIGTERM
    assert "the same command does the others" in printed
    assert not something_runs


@pytest.fixture(scope="module")
def finished(interrupted):
    """The same folder continued: 2 seeds of one method, one of another, and a run that breaks."""
    folder = interrupted[0]
    delta = {**STUDY["methods"]["delta"], "seeds": 1}
    methods = {**STUDY["methods"], "delta": delta, "broken": BROKEN}
    path = write(folder.parent / "tiny.yaml", methods=methods, final_samples=2)
    return path, folder, run(path, folder, "--jobs", 2)


@pytest.mark.slow
def test_a_study_runs_and_a_broken_run_does_not_stop_the_others(finished):
    _, folder, result = finished
    assert result.returncode == 1, result.stderr
    assert "broken-seed1 failed: exit status 2" in result.stderr
    assert "Unknown reward function 'no_such_reward'" in result.stderr  # the end of its log
    assert "1 runs failed" in result.stderr
    records = {(r["method"], r["seed"]): r for r in read_records(folder)}
    assert set(records) == {(WARM, 1), ("plain", 1), ("plain", 2), ("delta", 1)}
    for (method, seed), found in records.items():
        assert found["options"]["seed"] == seed
        assert set(found["git"]) == {"commit", "dirty"}
        assert found["versions"]["trl"].startswith("1.")
        assert found["wall_seconds"] > 0
        rates = final_rates(found)
        assert set(rates) == {"final/greedy", "final/pass@1", "final/pass@2"}
        assert 0 <= rates["final/pass@1"] <= rates["final/pass@2"] <= 1
        assert found["options"]["learning_rate"] == (0.0 if method == WARM else SETTINGS["learning_rate"])
        place = folder / "runs" / f"{method}-seed{seed}"
        assert sorted(path.name for path in place.iterdir()) == ["config.yaml", "log.txt"]  # no model is left
    plain, delta = records["plain", 1], records["delta", 1]
    assert set(curve(plain, "eval_rewards/math_reward/mean")) == {1, 2}
    assert next(iter(curve(records[WARM, 1], "eval_rewards/math_reward/mean"))) == 0
    assert "delta/coef/std" in delta["log_history"][0]
    # The same seed, the same first rollout batch
    assert [curve(plain, name)[1] for name in ("num_tokens", "reward")] == [
        curve(delta, name)[1] for name in ("num_tokens", "reward")
    ]
    assert curve(plain, "reward") != curve(records["plain", 2], "reward")
    assert "| pass@2 of the trained model |" in (folder / "study.md").read_text()
    assert "broken (1)" in (folder / "study.md").read_text()
    for name in ("study.md", "study.json", "reward.png", "differences.png", "results.jsonl.gz"):
        assert (folder / name).exists()


@pytest.mark.slow
def test_a_finished_run_is_not_repeated_and_a_broken_one_is_tried_again(finished):
    path, folder, _ = finished
    before = (folder / "results.jsonl").read_bytes()
    log = folder / "runs" / "broken-seed1" / "log.txt"
    tried = log.stat().st_mtime_ns
    again = run(path, folder)
    assert again.returncode == 1
    assert "4/5" in again.stderr
    assert (folder / "results.jsonl").read_bytes() == before
    assert log.stat().st_mtime_ns > tried
    without = run(path, folder, "--methods", "plain", "delta")
    assert without.returncode == 0, without.stderr
    assert (folder / "results.jsonl").read_bytes() == before


@pytest.mark.slow
def test_results_of_two_settings_are_not_mixed(finished, tmp_path):
    _, folder, _ = finished
    before = (folder / "results.jsonl").read_bytes()
    settings = {**SETTINGS, "temperature": 0.5}
    other = run(write(tmp_path / "other.yaml", settings=settings, final_samples=2), folder)
    assert other.returncode == 2
    assert "4 results" in other.stderr
    assert "--discard" in other.stderr
    task = run(write(tmp_path / "task.yaml", task={**STUDY["task"], "error_rate": 0.5}), folder)
    assert task.returncode == 2
    assert "Results of two tasks are not mixed" in task.stderr
    assert (folder / "results.jsonl").read_bytes() == before


@pytest.mark.slow
def test_tables_are_redone_from_the_packed_records_alone(finished, tmp_path):
    path, folder, _ = finished
    (tmp_path / "results.jsonl.gz").write_bytes((folder / "results.jsonl.gz").read_bytes())
    result = run(path, tmp_path, "--tables")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "study.json").read_text() == (folder / "study.json").read_text()
    assert (tmp_path / "results.jsonl.gz").read_bytes() == (folder / "results.jsonl.gz").read_bytes()


@pytest.mark.slow
def test_a_run_can_be_repeated_by_hand(finished):
    _, folder, _ = finished
    path = folder / "runs" / "delta-seed1" / "config.yaml"
    train(*parse("--config", path))
    output = Path(yaml.safe_load(path.read_text())["output_dir"])
    history = rounded(json.loads((output / "trainer_state.json").read_text())["log_history"])
    (found,) = (r for r in read_records(folder) if (r["method"], r["seed"]) == ("delta", 1))
    assert history[0]["grad_norm"] > 0
    for name in ("reward", "loss", "grad_norm", "delta/coef/std"):
        values = [entry[name] for entry in found["log_history"] if name in entry]
        assert [entry[name] for entry in history if name in entry] == values


@pytest.mark.slow
def test_a_study_from_a_pretrained_model_continues(tmp_path, pretrained):
    """In bfloat16, as on a CPU with instructions for it. A stopped study does what is open, and nothing twice."""
    prompt = "<user>{question}</user>"
    task = {"name": "larger", "held_out": 8, "problems": 40, "model": "nobody/nothing"}
    settings = {**SETTINGS, "bf16": True, "eval_strategy": "no", "prompt_format": prompt}
    methods = {"plain": {"options": {"trainer": "dapo"}}, "delta": {"options": {"trainer": "delta"}}}
    study = {"task": task, "settings": settings, "methods": methods, "seeds": [1], "final_samples": 2}
    path, folder = write(tmp_path / "tiny.yaml", **study), tmp_path / "out"
    result = run(path, folder, "--model", pretrained, "--methods", "plain")
    assert result.returncode == 0, result.stderr
    before = (folder / "results.jsonl").read_bytes()
    result = run(path, folder, "--model", pretrained)
    assert result.returncode == 0, result.stderr
    assert "3/3" in result.stderr
    assert (folder / "results.jsonl").read_bytes().startswith(before)
    records = {record["method"]: record for record in read_records(folder)}
    assert set(records) == {WARM, "plain", "delta"}
    for record in records.values():
        assert record["options"]["bf16"] is True
        assert set(final_rates(record)) == {"final/greedy", "final/pass@1", "final/pass@2"}
    made = yaml.safe_load((folder / "runs" / "delta-seed1" / "config.yaml").read_text())
    assert made["model_name_or_path"] == str(pretrained)
