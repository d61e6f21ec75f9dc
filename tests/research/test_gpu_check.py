"""`make gpu-check` on a CPU with tiny shapes: that its checks are right, not what they cost."""

import json
from dataclasses import replace

import pytest
import yaml
from support.commands import run_script

from delta_trl.research.gpu_bench import TINY
from delta_trl.research.gpu_check import CHECKS, Check, Finding, run_checks


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check")
    found = run_checks("cpu", TINY, folder)
    report = json.loads((folder / "gpu_check.json").read_text())
    assert [row["check"] for row in report["rows"]] == [row.check for row in found]
    table = (folder / "gpu_check.md").read_text()
    assert all(f"| {row.check} |" in table for row in found)
    return found


def test_every_check_runs_and_meets_what_a_cpu_can_meet(rows):
    assert [row for row in rows if row.ok is False] == []
    judged = [row.check for row in rows if row.ok]
    assert any("equal bounds" in check for check in judged)
    assert sum("coefficients here against" in check for check in judged) == 2
    for mode in ("bf16", "LoRA", "gradient checkpointing", "hidden_gradient", "FIPO"):
        assert any(check.startswith(mode) for check in judged), mode
    ratios = [row for row in rows if "DelTA / GRPO" in row.check or "always / never" in row.check]
    assert len(ratios) == 10
    assert all(0 < row.value < 100 and row.ok is None for row in ratios)  # costs are not judged on a CPU


def test_unlike_weights_are_found(monkeypatch, tmp_path):
    """The check of equal bounds must fail when DelTA is on."""
    build = Check.trainer

    def with_other_bounds(self, kind, *args, **options):
        return build(self, kind, *args, **({**options, "coef_min": 0.5} if kind == "delta" else options))

    monkeypatch.setattr(Check, "trainer", with_other_bounds)
    (row,) = run_checks("cpu", TINY, tmp_path, ["equal_bounds"])
    assert row.ok is False
    assert row.value > 0


def test_a_check_that_fails_costs_no_other(monkeypatch, tmp_path):
    def raises(self):
        raise RuntimeError("no memory")

    monkeypatch.setattr(Check, "coefficients", raises)
    rows = run_checks("cpu", TINY, tmp_path, ["coefficients", "equal_bounds"])
    assert [row.ok for row in rows] == [False, True]
    assert rows[0].note == "RuntimeError: no memory"


def test_what_is_not_run_for_want_of_time_is_said(tmp_path):
    rows = run_checks("cpu", TINY, tmp_path, CHECKS, seconds=-1)
    assert [row.check for row in rows] == list(CHECKS)
    assert all(row.ok is False and "not run" in row.note for row in rows)


def test_what_is_done_is_not_repeated_where_a_call_goes_on(monkeypatch, tmp_path):
    done = []

    def check(name, value):
        def rows(self):
            done.append(name)
            yield Finding(name, value, "s")
            if value < 0:
                raise KeyboardInterrupt

        return rows

    for name, value in (("equal_bounds", 1.0), ("coefficients", -1.0), ("modes", 3.0)):
        monkeypatch.setattr(Check, name, check(name, value))
    three = ["equal_bounds", "coefficients", "modes"]
    with pytest.raises(KeyboardInterrupt):
        run_checks("cpu", TINY, tmp_path, three, resume=True)
    assert len(json.loads((tmp_path / "gpu_check.json").read_text())["rows"]) == 2
    monkeypatch.setattr(Check, "coefficients", check("coefficients", 2.0))
    found = run_checks("cpu", TINY, tmp_path, three, seconds=-1, resume=True)
    assert [(row.check, row.note.partition(":")[0]) for row in found] == [
        ("equal_bounds", ""), ("coefficients", "not run"), ("modes", "not run"),
    ]  # fmt: skip
    for _ in range(2):
        assert [row.value for row in run_checks("cpu", TINY, tmp_path, three, resume=True)] == [1.0, 2.0, 3.0]
    assert done == ["equal_bounds", "coefficients", "coefficients", "modes"]

    monkeypatch.setattr(Check, "modes", check("modes", 4.0))
    other = replace(TINY, repeats=2)  # another report
    assert run_checks("cpu", other, tmp_path, ["modes"], resume=True)[0].value == 4.0
    (tmp_path / "gpu_check.json").write_text("{")
    assert len(run_checks("cpu", other, tmp_path, ["modes"], resume=True)) == 1
    assert done[-2:] == ["modes", "modes"]


STUDY = {
    "task": {"name": "quickstart", "warm_up_steps": 4, "held_out": 8, "problems": 40},
    "settings": {
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "num_generations": 4,
        "max_completion_length": 4,
        "prompt_format": "{question}\n",
        "reward_funcs": ["math_reward"],
        "max_steps": 1,
        "dtype": "float32",
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
    },
    "baseline": "plain",
    "seeds": [1],
    "methods": {"plain": {"options": {"trainer": "dapo"}}},
}


def test_a_study_follows_the_checks_and_neither_is_done_twice(tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(STUDY))
    output = tmp_path / "out"
    arguments = ["--device", "cpu", "--tiny", "--only", "equal_bounds", "--output", output]
    arguments += ["--then-study", tmp_path / "tiny.yaml"]

    def files() -> list[str]:
        report = json.loads((output / "gpu_check.json").read_text())
        return [report["rows"], (output / "tiny" / "results.jsonl").read_text()]

    first = run_script("scripts/gpu_check.py", *arguments)
    assert first.returncode == 0, first.stderr
    made = files()
    assert "1 of 1" in (output / "tiny" / "study.md").read_text()
    again = run_script("scripts/gpu_check.py", *arguments)
    assert again.returncode == 0, again.stderr
    assert files() == made
    late = run_script("scripts/gpu_check.py", *arguments, "--seconds", 0)
    assert "tiny: the seconds are over. The same command goes on." in late.stdout
    (tmp_path / "tiny.yaml").write_text(
        yaml.safe_dump({**STUDY, "methods": {"plain": {"options": {"trainer": "no"}}}})
    )
    assert run_script("scripts/gpu_check.py", *arguments).returncode == 1
