"""The run report: what it shows of real runs, of hostile records, and of folders in which two runs wrote.

What its scripts do in a browser is in test_report_scripts.py.
"""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, build, config, run_script
from report_pages import HOSTILE, Page, hostile_run, inflate, write_history, write_records
from trl import GRPOConfig, GRPOTrainer

from delta_trl import DeltaGRPOTrainer
from delta_trl.report import write_report
from delta_trl.report.curves import HISTOGRAM_SIZE, MOST_POINTS, coefficient_histogram, curves
from delta_trl.report.runs import TrainingRun, read_training_runs
from delta_trl.report.selection import MAX_COMPLETIONS, PER_SIDE, WINDOWS, choose
from delta_trl.report.text import number, visible
from delta_trl.report.token_records import read_completions
from delta_trl.report.token_statistics import BIN_EDGES, Group, token_statistics


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """Folders of two real runs: DelTA with token records, and TRL's GRPO."""
    folders = {}
    for name, trainer_class, options in (
        ("delta", DeltaGRPOTrainer, {"log_completions": True, "num_completions_to_print": 0}),
        ("grpo", GRPOTrainer, {"config_class": GRPOConfig}),
    ):
        folders[name] = tmp_path_factory.mktemp("runs") / name
        trainer = build(trainer_class, config(folders[name], **options))
        trainer.train()
        trainer.save_state()
    return folders


def test_report_of_a_real_run(trained, tmp_path):
    path = write_report([trained["delta"]], tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "24 of 24 recorded completions" in page.text["p"]
    # Self-contained: nothing is fetched, and the browser is told to refuse
    assert "default-src 'none'" in text
    assert not [value for name, value in page.attributes if name in ("src", "href")]

    data = page.data()
    history = json.loads((trained["delta"] / "trainer_state.json").read_text())["log_history"]
    logged = {key: [entry[key] for entry in history if key in entry] for entry in history for key in entry}
    drawn = data["curves"]["metrics"]
    for key in set(logged) - {"epoch", "step", "total_flos"}:
        if not key.startswith("train_"):
            np.testing.assert_allclose(drawn[key][0][1], [v for v in logged[key] if math.isfinite(v)], rtol=1e-5)
    ratio = np.divide(logged["delta/coef/mean_positive"], logged["delta/coef/mean"])
    np.testing.assert_allclose(drawn["delta/coef/mean_positive / delta/coef/mean"][0][1], ratio, rtol=1e-5)
    titles = [panel["title"] for section in data["curves"]["sections"] for panel in section["panels"]]
    assert titles == [
        *("Reward", "Completion length, tokens", "Truncated completions", "Groups without reward variance"),
        *("Loss", "Gradient norm", "Learning rate", "Entropy, nats a token", "Clipped tokens", "Step time, seconds"),
        *("Mean λ", "Mean λ over tokens with A ≠ 0", "Mean λ, divided by its mean over A ≠ 0"),
        *("Standard deviation of λ", "Centroid cosine", "λ explained by uncertainty", "Batches without λ"),
        "DelTA's cost, seconds",
    ]

    (run,) = data["completions"]
    texts = inflate(run["texts"])
    records = pd.concat(pd.read_parquet(f) for f in sorted(trained["delta"].glob("completions/coefficients_*")))
    shown = [
        (content["prompt"], c)
        for g in run["groups"]
        for content in [inflate(g["content"])]
        for c in content["completions"]
    ]
    assert len(shown) == len(records) == 24
    for prompt, completion in shown:
        (row,) = (
            row
            for row in records.itertuples()
            if [visible(token) or "∅" for token in row.tokens] == [texts[i] for i in completion["tokens"]]
            and visible(row.prompt) == prompt
            and math.isclose(row.advantage, completion["advantage"], abs_tol=1e-4)
        )
        np.testing.assert_allclose(completion["coefficients"], 100 * row.coefficients, atol=0.51)
        np.testing.assert_allclose(completion["probabilities"], 100 * np.exp(row.log_probs), atol=0.51)
        assert completion["reward"] == row.reward


def test_runs_are_overlaid_and_one_without_coefficients_says_so(trained, tmp_path):
    alone = Page(write_report([trained["delta"]], tmp_path / "one.html").read_text(encoding="utf-8"))
    page = Page(write_report(list(trained.values()), tmp_path / "two.html").read_text(encoding="utf-8"))
    assert page.text["h1"] == "delta · grpo"
    assert "grpo" in page.text["b"]
    assert "This run computed no coefficients" in page.text["p"]
    assert "no token heat map" not in alone.text["p"]
    data = page.data()
    assert data["curves"]["runs"] == ["delta", "grpo"]
    assert all(data["curves"]["metrics"]["reward"])
    assert data["curves"]["metrics"]["delta/coef/mean"][1] is None
    assert data["completions"][0]["name"] == "delta"
    assert data["completions"][1] is None


def test_settings_are_shown_side_by_side(tmp_path):
    for name, rate in (("a", 1e-6), ("b", 2e-6)):
        write_history(
            tmp_path / name, [{"step": 1, "num_tokens": 1234.0}, {"step": 3, "train_runtime": 90.0}], max_steps=4
        )
        settings = {"trainer": "delta", "reward_funcs": ["f", "g"], "date": "2026-11-24", "command": "train --x\n<b>"}
        content = {**settings, "settings": {"learning_rate": rate, "beta": None, "kwargs": {"a": -1}}}
        (tmp_path / name / "delta_trl_run.json").write_text(json.dumps(content))
    text = write_report([tmp_path / "a", tmp_path / "b"]).read_text(encoding="utf-8")
    rows = {
        row[0]: row[1:]
        for row in (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", r) for r in re.findall("<tr.*", text))
        if row
    }
    assert rows["Method"] == ["delta", "delta"]
    assert rows["Rewards"] == ["f, g", "f, g"]
    assert rows["Steps"] == ["3 of 4", "3 of 4"]
    assert rows["Run time"] == ["1.5 minutes"] * 2
    assert rows["Tokens read and written"] == ["1,234"] * 2
    assert rows["learning_rate"] == ["1e−06", "2e−06"]
    assert rows["kwargs"] == ["{&#34;a&#34;: -1}"] * 2
    assert re.findall(r'class="differs"><th scope="row">(.*?)<', text) == ["learning_rate"]
    assert "<pre>train --x↵&lt;b&gt;</pre>" in text
    (tmp_path / "a" / "delta_trl_run.json").unlink()
    assert "the folder has no delta_trl_run.json" in write_report([tmp_path / "a"]).read_text(encoding="utf-8")
    (tmp_path / "a" / "delta_trl_run.json").write_text("[")
    with pytest.raises(ValueError, match=r"delta_trl_run\.json cannot be read as JSON"):
        write_report([tmp_path / "a"])


def test_hostile_completions_are_text(tmp_path):
    folder = hostile_run(tmp_path)
    text = write_report([folder], tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    assert "owned" not in page.text["script"]  # it is compressed there, and becomes textContent when shown
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not re.search("[\x00-\x08\x0b-\x1f\u200b\u202e\ud800-\udfff]", text)
    cloud = page.text["span"]
    for token in HOSTILE[1:]:  # the first one's place has the broken bytes
        if "\ud83d" not in token:
            assert visible(token, alone=True) in cloud
    assert visible("broken \ufffd\ufffd\ufffd bytes", alone=True) in cloud
    assert page.text["h1"] == folder.name
    (run,) = page.data()["completions"]
    texts = inflate(run["texts"])
    expected = {"null␀byte", "line↵\nbreak␍↵\n⇥\ttab", "⟨U+202E⟩right to left", "∅", "broken \ufffd\ufffd\ufffd bytes"}
    assert expected <= set(texts)


def test_names_tell_runs_apart(tmp_path):
    for folder in ("a/run", "b/run"):
        write_records(tmp_path / folder, 1, [{"tokens": ["x"], "advantage": 1.0}])
    assert [run.name for run in read_training_runs([tmp_path / "a/run", tmp_path / "b/run"])] == ["a/run", "b/run"]
    with pytest.raises(ValueError, match="one or more different run folders"):
        read_training_runs([tmp_path / "a/run", tmp_path / "b/../a/run"])


def test_metrics_come_from_the_newest_state_or_else_from_the_records(tmp_path):
    rows = [
        {"tokens": ["a", "b", "c"], "coefficients": [1.1, 1.3, 1.2], "advantage": 2.0},
        {"tokens": ["a"], "coefficients": [0.7], "advantage": -1.0},
    ]
    write_records(tmp_path, 5, rows)
    page = Page(write_report([tmp_path]).read_text(encoding="utf-8"))
    assert "holds no trainer_state.json yet" in page.text["p"]
    metrics = page.data()["curves"]["metrics"]
    assert metrics["reward"] == [[[5], [0.5]]]
    assert metrics["completions/mean_length"] == [[[5], [2.0]]]
    assert metrics["delta/coef/mean_positive"][0][1] == pytest.approx([1.2])
    assert metrics["delta/coef/mean_negative"][0][1] == pytest.approx([0.7])

    history = [{"step": s, "reward": s / 10, "delta/seconds": 1.0} for s in (5, 9)] + [
        {"step": 9, "entropy": math.nan}
    ]
    for step, own in ((9, history), (10, [*history, {"step": 10, "reward": 1.0}, {"step": 10}])):
        write_history(tmp_path / f"checkpoint-{step}", own)
    write_history(tmp_path, history[:1])  # of the part before the run was resumed
    (run,) = read_training_runs([tmp_path])
    assert run.curve("reward") == ([5, 9, 10], [0.5, 0.9, 1.0])
    assert run.curve("entropy") == ([], [])
    text = write_report([tmp_path]).read_text(encoding="utf-8")
    assert "holds no trainer_state.json yet" not in text
    assert "Left out" not in text

    write_history(tmp_path / "just_begun", [])
    assert "set log_completions: true" in write_report([tmp_path / "just_begun"]).read_text(encoding="utf-8")


def records_and_log(folder: Path, steps: int, coefficient: float, **state) -> None:
    for step in range(1, steps + 1):
        write_records(
            folder, step, [{"tokens": ["a"], "coefficients": [coefficient], "advantage": a} for a in (1.0, -1.0)]
        )
    history = [
        {"step": step, "reward": coefficient, "delta/coef/min": coefficient, "delta/coef/max": coefficient}
        for step in range(1, steps + 1)
    ]
    write_history(folder, history, logging_steps=1, **state)


def left_out(folder: Path) -> tuple[list[int], list[str]]:
    """Steps whose records are in the report, and its notes."""
    text = write_report([folder]).read_text(encoding="utf-8")
    (run,) = Page(text).data()["completions"]
    return [group["step"] for group in run["groups"]] if run else [], re.findall("Left out: (.*?) Give", text)


def test_records_of_another_run_are_left_out_and_it_is_said(tmp_path, caplog):
    records_and_log(tmp_path, 5, 1.1)
    assert left_out(tmp_path) == ([1, 2, 3, 4, 5], [])
    records_and_log(tmp_path, 3, 0.9)  # a shorter training into the same folder
    note = "Token records of steps 4 to 5 (2 files) are another run's. This run's log ends at step 3."
    assert left_out(tmp_path) == ([1, 2, 3], [note.replace("'", "&#39;")])
    assert note in caplog.text

    # One that logs every second step, and keeps records then
    history = [{"step": step, "delta/coef/mean": 1.0} for step in (2, 4)]
    write_history(tmp_path, history, logging_steps=2)
    steps, notes = left_out(tmp_path)
    assert steps == [2, 4]
    assert "steps 1 to 3 (2 files)" in notes[0]
    # One without token records: the coefficients are not what it logged
    entry = {"reward": 0.0, "delta/coef/min": 0.95, "delta/coef/max": 1.05}
    write_history(tmp_path, [{"step": step, **entry} for step in range(1, 6)], logging_steps=1)
    steps, notes = left_out(tmp_path)
    assert steps == []
    assert "not those that this run logged" in notes[0]
    # One without coefficients
    write_history(tmp_path, [{"step": step, "reward": 0.5} for step in range(1, 6)])
    steps, notes = left_out(tmp_path)
    assert steps == []
    assert "computed no coefficients" in notes[0]
    # A checkpoint of another run, further than this one
    records_and_log(tmp_path, 5, 1.0)
    write_history(tmp_path / "checkpoint-9", [{"step": step, "reward": 0.1} for step in range(1, 10)])
    steps, notes = left_out(tmp_path)
    assert steps == [1, 2, 3, 4, 5]
    assert "checkpoint-9 has another run" in notes[0]


def test_records_of_a_run_that_is_going_are_its_own(tmp_path):
    records_and_log(tmp_path, 3, 1.1, max_steps=10)
    state = (tmp_path / "trainer_state.json").stat().st_mtime_ns
    for step, later in ((4, 10**9), (5, -(10**9))):  # step 5 was written before this run's newest log
        path = write_records(tmp_path, step, [{"tokens": ["a"], "advantage": 1.0}])
        os.utime(path, ns=(state + later, state + later))
    steps, (note,) = left_out(tmp_path)
    assert steps == [1, 2, 3, 4]
    assert "step 5 are another run" in note


def test_damaged_or_missing_records_are_named(tmp_path):
    with pytest.raises(ValueError, match="holds neither trainer_state"):
        write_report([tmp_path / "nothing"])
    path = write_records(tmp_path, 1, [{"tokens": ["a", "b"], "coefficients": [1.0], "advantage": 1.0}])
    with pytest.raises(ValueError, match="row 0: 1 coefficients for 2 completion_ids"):
        read_completions(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="may be half written: try again"):
        write_report([tmp_path])
    pd.DataFrame({"step": [1]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"lacks the columns \['prompt', 'advantage'"):
        read_completions(path)
    (tmp_path / "trainer_state.json").write_text('{"log_his')
    with pytest.raises(ValueError, match=r"trainer_state\.json cannot be read as JSON: .* try again"):
        write_report([tmp_path])


def test_records_without_tokens_or_coefficients_make_a_report(tmp_path):
    nan = float("nan")
    write_records(tmp_path, 1, [{"tokens": [], "advantage": 1.0}, {"tokens": [], "advantage": -1.0}])
    write_records(
        tmp_path,
        2,
        [
            {
                "tokens": ["a", "b"],
                "coefficients": [nan, nan],
                "log_probs": [nan, nan],
                "advantage": nan,
                "reward": nan,
            },
            {"tokens": ["a", "b"], "coefficients": [1.0, 1.0], "advantage": 0.0},
        ],
    )
    page = Page(write_report([tmp_path]).read_text(encoding="utf-8"))
    assert "4 of 4 recorded completions" in page.text["p"]
    assert "No token occurs 10 times among the 0 recorded tokens" in page.text["p"]
    empty, other = page.data()["completions"][0]["groups"]
    assert (empty["step"], empty["positive"], empty["negative"]) == (1, 1, 1)
    assert other["of"] == 2


def test_token_means_count_what_carries_a_gradient(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for advantage in (1.0, 0.5, -1.5, 0.0, -0.2, 0.0):
        ids = rng.integers(0, 5, 40).tolist()
        rows.append(
            {
                "completion_ids": ids,
                "tokens": [f"t{i}" for i in ids],
                "is_token": (rng.random(40) < 0.8).tolist(),
                "coefficients": rng.uniform(0.8, 1.2, 40).tolist(),
                "log_probs": (-rng.exponential(1, 40)).tolist(),
                "advantage": advantage,
            }
        )
    write_records(tmp_path, 1, rows[:3])
    write_records(tmp_path, 2, rows[3:])
    result = token_statistics(read_training_runs([tmp_path])[0], min_support=5)

    frame = pd.DataFrame(rows).explode(["completion_ids", "tokens", "is_token", "coefficients", "log_probs"])
    frame = frame[frame["is_token"].astype(bool) & (frame["advantage"] != 0)]
    assert result.n_tokens == len(frame)
    expected = frame.groupby("tokens")["coefficients"].agg(["mean", "count"]).sort_values("mean", ascending=False)
    assert [token.text for token in result.tokens] == expected.index.tolist()
    for token in result.tokens:
        own = frame[frame["tokens"] == token.text]
        positive = own[own["advantage"] > 0]["coefficients"]
        assert token.count == len(own)
        assert token.coefficient == pytest.approx(own["coefficients"].mean(), abs=1e-6)
        assert token.probability == pytest.approx(np.exp(own["log_probs"].astype(float)).mean(), abs=1e-6)
        assert token.positive == (pytest.approx(positive.mean(), abs=1e-6) if len(positive) >= 5 else None)
    assert sum(h.sum() for h in result.histograms.values()) == len(frame)
    expected_bins = np.histogram(frame[frame["advantage"] < 0]["coefficients"].astype(np.float32), BIN_EDGES)[0]
    assert result.histograms[-1].sum(axis=0).tolist() == expected_bins.tolist()
    assert len(token_statistics(read_training_runs([tmp_path])[0], min_support=10**6).tokens) == 0


def group(step: int, spread: float, sides=(1, 1, 0)) -> Group:
    return Group(path=Path("x"), start=0, stop=sum(sides), step=step, n_tokens=10, sides=sides, spread=spread)


def test_the_most_telling_groups_come_first_from_every_part_of_the_run():
    steps = range(100)
    groups = [group(step, spread) for step in steps for spread in (0.1, 0.3)]
    groups += [group(step, 0.9, sides=(2, 0, 0)) for step in steps]
    ranked = choose(groups)
    assert sorted(ranked, key=id) == sorted(groups, key=id)
    assert {g.step * WINDOWS // 100 for g in ranked[:WINDOWS]} == set(range(WINDOWS))
    assert {g.spread for g in ranked[:100]} == {0.3}
    assert all(g.sides == (2, 0, 0) for g in ranked[200:])


def test_large_groups_are_thinned_and_it_is_said(tmp_path):
    rows = [
        {"tokens": ["a", "b"], "coefficients": [1 - i / 100, 1 + i / 100], "advantage": 1.0 if i % 2 else -1.0}
        for i in range(20)
    ]
    write_records(tmp_path, 1, rows)
    page = Page(write_report([tmp_path]).read_text(encoding="utf-8"))
    assert f"{2 * PER_SIDE} of 20 recorded completions are in this file, the most telling ones" in page.text["p"]
    (only,) = page.data()["completions"][0]["groups"]
    assert (only["positive"], only["negative"], only["of"], only["shown"]) == (10, 10, 20, 8)
    shown = inflate(only["content"])["completions"]
    # The four widest, in their order
    assert [c["coefficients"][1] for c in shown if c["advantage"] < 0] == [112, 114, 116, 118]


@pytest.mark.slow
def test_a_long_run_fits_into_5_megabytes(tmp_path):
    rng = np.random.default_rng(0)
    steps, length, vocabulary = 1000, 500, 30_000
    words = np.array([f" w{i}" if i % 3 else f"tok{i}\n" for i in range(vocabulary)])
    frequency = 1 / np.arange(1, vocabulary + 1)  # Zipf's law
    (tmp_path / "completions").mkdir()
    for step in range(1, steps + 1):
        ids = rng.choice(vocabulary, (2, length), p=frequency / frequency.sum())
        uncertain = rng.random((2, length)) < 0.2
        middle = np.where(uncertain, [[0.85], [1.15]], [[1.08], [0.93]])
        table = {
            "step": [step, step],
            "prompt": [f"Question {step}?\n"] * 2,
            "completion_ids": list(ids),
            "tokens": list(words[ids]),
            "is_token": list(np.ones((2, length), bool)),
            "coefficients": list(rng.normal(middle, np.where(uncertain, 0.08, 0.02))),
            "log_probs": list(-rng.exponential(np.where(uncertain, 1, 0.002))),
            "advantage": [1.0, -1.0],
            "reward": [1.0, 0.0],
        }
        pq.write_table(pa.table(table), tmp_path / "completions" / f"coefficients_{step:05d}.parquet")
    names = ("reward", "entropy", "completions/mean_length", "delta/coef/mean_positive", "delta/coef/mean_negative")
    history = [{"step": step, **dict(zip(names, rng.normal(size=5), strict=True))} for step in range(1, steps + 1)]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history}))

    path = write_report([tmp_path])
    assert path.stat().st_size <= 5_000_000
    (shown,) = re.findall(r"([\d,]+) of 2,000 recorded completions", path.read_text(encoding="utf-8"))
    assert MAX_COMPLETIONS * 0.9 <= int(shown.replace(",", "")) <= MAX_COMPLETIONS


def test_long_curves_are_thinned_to_means():
    steps, values = list(range(1, 2 * MOST_POINTS + 2)), [1.0, 3.0] * MOST_POINTS + [9.0]
    history = [{"step": step, "loss": value} for step, value in zip(steps, values, strict=True)]
    run = TrainingRun(Path("x"), "x", state={}, history=history, settings={}, files=[])
    drawn = curves([run])
    assert drawn["every"] == 3
    own_steps, means = drawn["metrics"]["loss"][0]
    assert own_steps[:2] == [3, 6]
    assert means[:2] == pytest.approx([5 / 3, 7 / 3], rel=1e-5)
    assert len(own_steps) == len(means) <= MOST_POINTS


def test_every_reward_function_has_its_curve():
    history = [{"step": 1, "reward": 1.0, "rewards/a/mean": 0.5, "rewards/a/std": 0.1, "rewards/b/mean": 0.5}]
    run = TrainingRun(Path("x"), "x", state={}, history=history, settings={}, files=[])
    titles = [panel["title"] for panel in curves([run])["sections"][0]["panels"]]
    assert titles == ["Reward", "Reward of a", "Reward of b"]


def test_a_histogram_has_a_column_for_every_part_of_the_run():
    counts = np.zeros((3, len(BIN_EDGES) - 1), int)
    counts[:, 200:240] = 5
    for steps, columns in (([7], 1), ([1, 2, 3], 3), ([10, 2000, 40000], HISTOGRAM_SIZE[0])):
        drawn = coefficient_histogram(steps, counts[: len(steps)], spread=0.25)
        shares = np.array(drawn["shares"])
        assert shares.shape == (columns, shares.shape[1])
        assert (drawn["first"], drawn["last"]) == (steps[0], steps[-1])
        np.testing.assert_allclose(shares.sum(axis=1), 1000, atol=shares.shape[1] / 2)
        # All tokens lie from 1.0 to 1.2
        edges = np.linspace(1 - drawn["spread"], 1 + drawn["spread"], shares.shape[1] + 1)
        assert not shares[:, edges[1:] <= 1 - 1e-9].any()
        assert not shares[:, edges[:-1] >= 1.2 + 1e-9].any()


def test_visible_text_holds_nothing_invisible():
    assert visible("a\n\tb") == "a↵\n⇥\tb"  # a program keeps its shape
    assert visible("a\n b", alone=True) == "a↵␣b"
    assert visible("\x00\x1b\x7f\ud800\u200d\ue000") == "␀␛␡⟨U+D800⟩⟨U+200D⟩⟨U+E000⟩"
    assert visible("é 你 🙂 λ") == "é 你 🙂 λ"
    for code in [*range(0x3000), *range(0xD800, 0xE100), 0xE0001, 0x10FFFF]:
        visible(chr(code)).encode()


def test_numbers_have_one_minus_sign_and_separators():
    assert [number(v) for v in (1234567, -1, 0.0, -0.2)] == ["1,234,567", "−1", "0", "0"]
    assert [number(v, 2, signed=True) for v in (1234.567, -0.5, 0.0, -0.001)] == ["+1,234.57", "−0.50", "0.00", "0.00"]
    assert [number(v, 1) for v in (None, math.nan, math.inf)] == ["–"] * 3


def test_script(trained, tmp_path):
    output = tmp_path / "new" / "comparison.html"
    done = run_script("scripts/report.py", *trained.values(), "--output", output)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Report written to .*comparison\.html \(0\.\d MB, \d+ s\)", done.stdout)
    Page(output.read_text(encoding="utf-8"))
    failed = run_script("scripts/report.py", tmp_path / "nowhere")
    assert failed.returncode == 2
    assert re.fullmatch(r"error: \S*nowhere holds neither trainer_state\.json .*\n", failed.stderr)


def test_help_loads_nothing_heavy():
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "scripts" / "report.py"), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "RUN_FOLDER" in loaded.stdout
    assert not re.search(r"\b(torch|transformers|matplotlib|pyarrow|jinja2)\b", loaded.stderr)


def test_a_missing_extra_is_named():
    code = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'jinja2' else f(n, *a)\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "import delta_trl.report"], capture_output=True, text=True, timeout=60
    )
    assert "delta_trl.report needs jinja2: pip install 'delta_trl[report]'." in done.stderr
