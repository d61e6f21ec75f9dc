"""The run report: what it shows of real runs, of hostile records, and of folders in which two runs wrote.

What its scripts do in a browser is in test_report_scripts.py.
"""

import html
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.commands import run_command
from support.models import build, config
from support.report_pages import HOSTILE, Page, hostile_run, inflate, write_history, write_records
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
    *sections, others = data["curves"]["sections"]
    titles = [panel["title"] for section in sections for panel in (*section["panels"], *section["flat"])]
    assert sorted(titles) == sorted(
        [
            *("Reward", "Completion length, tokens", "Truncated completions", "Groups without reward variance"),
            *(
                "Loss",
                "Gradient norm",
                "Learning rate",
                "Entropy, nats a token",
                "Clipped tokens",
                "Step time, seconds",
            ),
            *("Mean λ", "Mean λ over tokens with A ≠ 0", "Mean λ, divided by its mean over A ≠ 0"),
            *("Standard deviation of λ", "Centroid cosine", "λ explained by uncertainty", "Batches without λ"),
            "DelTA's cost, seconds",
        ]
    )
    assert "completions/min_length" in [panel["title"] for panel in (*others["panels"], *others["flat"])]

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
    assert "the folder has no delta_trl_run.json that can be read" in write_report([tmp_path / "a"]).read_text(
        encoding="utf-8"
    )


def settings_rows(text: str) -> dict[str, list[str]]:
    """The settings table's rows by their names."""
    cells = (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall("<tr.*", text))
    return {row[0]: row[1:] for row in cells if row}


def test_no_cell_of_the_settings_is_empty(tmp_path):
    """An option that a run does not name has its default there; what its folder does not say is a dash, and not bold."""
    for name, options in (("a", {"beta": 0.1, "note": ""}), ("b", {"seed": 1}), ("c", None)):
        write_history(tmp_path / name, [{"step": 1, "reward": 1.0}])
        if options is not None:
            content = {"trainer": "delta", "model_name_or_path": "m", "dataset": name, "settings": options}
            (tmp_path / name / "delta_trl_run.json").write_text(json.dumps(content))
    text = write_report([tmp_path / name for name in "abc"]).read_text(encoding="utf-8")
    rows = settings_rows(text)
    assert rows["beta"] == ["0.1", "default", "–"]
    assert rows["note"] == ["&#34;&#34;", "default", "–"]
    assert rows["seed"] == ["default", "1", "–"]
    assert rows["Method"] == ["delta", "delta", "–"]
    assert "<td></td>" not in text
    assert re.findall(r'class="differs"><th scope="row">(.*?)<', text) == ["Data", "beta", "note", "seed"]
    assert "default: the run does not set this option. –: its folder does not say." in text


@pytest.mark.parametrize(
    ("datas", "common", "own"),
    [
        (["d"], "Method delta, Model m, Data d", []),
        (["d", "d"], "Method delta, Model m, Data d", []),
        (["d", "<e>"], "Method delta, Model m", [": Data d", ": Data &lt;e&gt;"]),
    ],
)
def test_the_heading_names_method_model_and_data(tmp_path, datas, common, own):
    for i, data in enumerate(datas):
        write_history(tmp_path / str(i), [{"step": 1, "reward": 1.0}])
        content = {"trainer": "delta", "model_name_or_path": "m", "dataset": data}
        (tmp_path / str(i) / "delta_trl_run.json").write_text(json.dumps(content))
    text = write_report([tmp_path / str(i) for i in range(len(datas))]).read_text(encoding="utf-8")
    plain = re.sub("</?b>", "", text)
    assert f'</h1>\n<p class="about">{common}</p>' in plain
    assert re.findall(r'<span class="about">(.*?)</span>', plain) == own


def flat_lines(text: str) -> list[str]:
    """The lines of metrics that are not drawn, as a reader sees them."""
    found = re.findall(r"<dt>(.*?)</dt> <dd>(.*?)</dd>", text)
    return [f"{title}: {re.sub('<.*?>', '', line)}" for title, line in found]


def test_what_never_changes_is_a_line_of_text(tmp_path):
    for name, rate in (("a", 1e-4), ("b", 2e-6)):
        common = {
            "learning_rate": rate,
            "clip_ratio/high_mean": 0.0,
            "clip_ratio/low_mean": 0.0,
            "my/metric": 12345678.0,
        }
        history = [
            {"step": step, "reward": step / 3, "entropy": 0.5 if name == "a" else step, **common} for step in (1, 2)
        ]
        write_history(tmp_path / name, [*history, {"step": 2, "eval_reward": 0.25}])
    page = write_report([tmp_path / "a", tmp_path / "b"])
    assert flat_lines(page.read_text(encoding="utf-8")) == [
        "Evaluation reward: 0.25 (logged once). On the held-out problems.",
        "Learning rate: a: 1e−4, b: 2e−6 throughout.",
        "Clipped tokens: from above 0; from below 0 throughout. Share of tokens whose probability ratio was clipped. 0 "
        "while every rollout batch is used for one update.",
        "my/metric: 1.235e7 throughout.",
    ]
    sections = Page(page.read_text(encoding="utf-8")).data()["curves"]["sections"]
    # One of two runs moved: both are drawn
    assert [panel["title"] for section in sections for panel in section["panels"]] == [
        "Reward",
        "Entropy, nats a token",
    ]


def test_nothing_that_needs_a_script_shows_without_one(trained, tmp_path):
    text = write_report(list(trained.values()), tmp_path / "report.html").read_text(encoding="utf-8")
    hidden = [match.group() for match in re.finditer(r"<(\w+)[^>]* hidden>.*?</\1>", text, re.S)]
    shown = text
    for part in sorted(hidden, key=len, reverse=True):
        shown = shown.replace(part, "")
    for dead in ("<button", "<select", "<input", "Point at"):
        assert dead in text
        assert dead not in shown, dead
    assert "switch JavaScript on" in shown
    assert 'class="settings"' in shown


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
        read_completions(path)
    pd.DataFrame({"step": [1]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"lacks the columns \['prompt', 'advantage'"):
        read_completions(path)


def notes(text: str) -> list[str]:
    return [html.unescape(note) for note in re.findall('<p class="note">Left out: (.*?)</p>', text)]


TORN = [
    ("trainer_state.json", b'{"log_his', "cannot be read as JSON (Unterminated string"),
    ("trainer_state.json", b"", "cannot be read as JSON"),
    ("trainer_state.json", b"\xff\xfe", "cannot be read as JSON"),
    ("trainer_state.json", b"[" * 100_000, "cannot be read as JSON (it is nested too deeply)"),
    ("trainer_state.json", b"[]", "it holds a list"),
    ("trainer_state.json", b'{"log_history": 7}', "has no list log_history"),
    (
        "trainer_state.json",
        b'{"log_history": [{"step": 3, "delta/coef/mean": 1.0}, 3, {"step": "x"}]}',
        "2 of 3 log entries",
    ),
    ("trainer_state.json", b'{"log_history": [{"step": 1' + b"0" * 400 + b"}]}", "1 of 1 log entries"),
    ("delta_trl_run.json", b'{"trainer"', "delta_trl_run.json cannot be read as JSON"),
    ("delta_trl_run.json", b'"text"', "it holds a str"),
    ("completions/coefficients_00001.parquet", b"PAR1", "cannot be read as token records"),
    ("completions/coefficients_00002.parquet", b"", "cannot be read as token records"),
]


@pytest.mark.parametrize(("name", "content", "note"), TORN)
@pytest.mark.parametrize("beside", [True, False])
def test_no_torn_file_ends_a_report(tmp_path, caplog, name, content, note, beside):
    """What it holds is left out and said; the other files of its run, and another run, are shown."""
    records_and_log(tmp_path / "torn", 3, 1.1)
    (tmp_path / "torn" / "delta_trl_run.json").write_text('{"trainer": "delta"}')
    (tmp_path / "torn" / name).write_bytes(content)
    records_and_log(tmp_path / "whole", 3, 1.1)
    folders = [tmp_path / "torn", tmp_path / "whole"][: 2 if beside else 1]
    text = write_report(folders).read_text(encoding="utf-8")
    assert note in notes(text)[0]
    assert note in caplog.text
    data = Page(text).data()
    assert len(data["completions"]) == len(folders)
    assert data["completions"][0]["groups"]  # of what can be read


def test_a_run_whose_only_files_are_torn_makes_a_report(tmp_path):
    (tmp_path / "trainer_state.json").write_text("{")
    (tmp_path / "delta_trl_run.json").write_text("{")
    text = write_report([tmp_path]).read_text(encoding="utf-8")
    assert len(notes(text)) == 2
    assert 'class="tile"' not in text


def test_damaged_columns_are_left_out(tmp_path):
    """Whole Parquet files, whose columns are of other types or whose rows lack something."""
    good = write_records(tmp_path, 1, [{"tokens": ["a"], "advantage": a} for a in (1.0, -1.0)])
    frame = pd.read_parquet(good)
    for step, (column, values) in enumerate(
        [("step", [None, 1]), ("step", ["x", "y"]), ("tokens", ["a", "b"]), ("tokens", [[1], [2]]), ("reward", [[], []]),
         ("coefficients", [["x"], ["y"]]), ("completion_ids", [["x"], ["y"]])],
        start=2,
    ):  # fmt: skip
        frame.assign(**{column: values}).to_parquet(good.with_name(f"coefficients_{step:05d}.parquet"))
    text = write_report([tmp_path]).read_text(encoding="utf-8")
    assert len(notes(text)) >= 6  # numbers in place of texts may be read as texts
    assert "2 of " in Page(text).text["p"]


def test_the_state_of_the_newest_checkpoint_that_can_be_read_counts(tmp_path):
    history = [{"step": step, "reward": 0.1 * step} for step in range(1, 10)]
    for step in (3, 6, 9):
        write_history(tmp_path / f"checkpoint-{step}", history[:step])
    (tmp_path / "checkpoint-9" / "trainer_state.json").write_text('{"log_hist')
    (tmp_path / "trainer_state.json").write_text("")
    (run,) = read_training_runs([tmp_path])
    assert run.last_step == 6
    assert len(run.left_out) == 2
    assert "checkpoint-9/trainer_state.json cannot be read" in run.left_out[1]


@pytest.mark.parametrize("logged", [[], [{"step": 1, "reward": 0.5}]])
def test_a_checkpoint_from_before_the_first_log_is_no_other_run(tmp_path, logged):
    """A run shorter than logging_steps has only its summary in the log, and its checkpoint nothing."""
    write_history(tmp_path / "checkpoint-1", logged, global_step=1)
    write_history(tmp_path, [*logged, {"step": 2, "train_runtime": 3.0}], global_step=2)
    (run,) = read_training_runs([tmp_path])
    assert run.left_out == []
    assert run.last_step == 2


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
    titles = [line["title"] for line in curves([run])["sections"][0]["flat"]]
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
    done = run_command("report", *trained.values(), "--output", output)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Report written to .*comparison\.html \(0\.\d MB, \d+ s\)", done.stdout)
    Page(output.read_text(encoding="utf-8"))
    failed = run_command("report", tmp_path / "nowhere")
    assert failed.returncode == 2
    assert re.fullmatch(r"error: \S*nowhere holds neither trainer_state\.json .*\n", failed.stderr)


def test_a_report_of_several_runs_leaves_the_report_of_the_first_alone(trained, tmp_path, monkeypatch):
    for name, folder in trained.items():
        shutil.copytree(folder, tmp_path / name)
    folders = [f"~/{name}" for name in trained]
    monkeypatch.setenv("HOME", str(tmp_path))
    own = write_report(folders[:1])
    assert own == tmp_path / next(iter(trained)) / "report.html"
    text = own.read_text()
    together = write_report(folders)
    assert together == own.with_name("comparison.html")
    assert own.read_text() == text != together.read_text()
    done = run_command("report", *folders, "--output=~/both.html")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "both.html").is_file()


def test_help_loads_nothing_heavy():
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "delta_trl.report", "--help"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "RUN_FOLDER" in loaded.stdout
    assert not re.search(r"\b(torch|transformers|matplotlib|pyarrow|jinja2)\b", loaded.stderr)


def test_a_missing_extra_is_named():
    code = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'jinja2' else f(n, *a)\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "import delta_trl.report"], capture_output=True, text=True, timeout=300
    )
    assert "delta_trl.report needs jinja2: pip install 'delta_trl[report]'." in done.stderr
