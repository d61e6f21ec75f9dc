"""`make gpu-check` on a CPU with tiny shapes: that its checks are right, not what they cost."""

import json

import pytest

from delta_trl.research.gpu_bench import TINY
from delta_trl.research.gpu_check import CHECKS, Check, run_checks


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
