"""The run report, the notebook heat map and the live views, made from real runs and from hostile records."""

import base64
import html
import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
import time
import zlib
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import build, config
from trl import GRPOConfig, GRPOTrainer

from delta_trl import DeltaGRPOTrainer
from delta_trl.report import HeatMapCallback, heat_map, write_report
from delta_trl.report.browser import MAX_COMPLETIONS, PER_SIDE, WINDOWS, choose
from delta_trl.report.live import KEY, extremes_table
from delta_trl.report.plots import histogram, means_of, smoothed
from delta_trl.report.runs import read_completions, read_runs
from delta_trl.report.statistics import BIN_EDGES, Group, statistics
from delta_trl.report.text import visible


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCRIPT = Path(__file__).parent.parent / "scripts" / "report.py"

HOSTILE = [
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\"'><b>bold</b>",
    "' onmouseover='document.title=1",
    "{{ 7 * 7 }}{% raw %}",
    "${document.title='owned'}",
    "<!-- comment",
    "]]>",
    "&lt;already escaped&gt;",
    "null\x00byte",
    "\u202eright to left",
    "zero\u200bwidth",
    "\ud83d half a surrogate pair",
    "line\nbreak\r\n\ttab",
    "<|im_end|>",
    "",
    " ",
]
BROKEN_UTF8 = b"broken \xff\xfe\xc3 bytes"


class Page(HTMLParser):
    """What a parser makes of a page: tags, attributes, text by element, and whether every element is closed."""

    VOID = {"meta", "input", "br", "img", "link", "hr"}

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.open = [], [], []
        self.text = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in ("p", "tr", "td"):
            while self.open[-1] in ("p", "tr", "td"):
                self.open.pop()
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data

    def groups(self) -> list:
        return json.loads(re.search(r"\[.*\]", self.text["script"].split('"use strict"')[0], re.S)[0])


def inflate(packed: str) -> bytes:
    return zlib.decompress(base64.b64decode(packed))


def unpack(run: dict, group: dict) -> list[dict]:
    """The completions of a group, as report.js reads them."""
    texts, content = json.loads(inflate(run["texts"])), inflate(group["packed"])
    start = 4 + int.from_bytes(content[:4], "little")
    header = json.loads(content[4:start])
    planes = np.frombuffer(content[start:], np.uint8).astype(float).reshape(5, -1)
    numbers = (planes[0] + 256 * planes[1] + 65536 * planes[2]).astype(int)
    with np.errstate(divide="ignore"):
        shares = np.where(planes[3:] > 0, (planes[3:] - 1) / 254, np.nan)
    first = 0
    for completion in header["completions"]:
        own = slice(first, first + completion["length"])
        completion["prompt"] = header["prompt"]
        completion["texts"] = [texts[i] for i in numbers[own]]
        completion["coefficients"] = header["low"] + (header["high"] - header["low"]) * shares[0, own]
        completion["probabilities"] = shares[1, own]
        first = own.stop
    assert first == planes.shape[1]
    return header["completions"]


def write_records(folder: Path, step: int, rows: list[dict]) -> Path:
    """Token records as the trainer writes them. A row needs tokens and advantage; the rest has defaults."""
    rows = [
        {
            "step": step,
            "prompt": "Why?\n",
            "completion_ids": list(range(len(row["tokens"]))),
            "is_token": [True] * len(row["tokens"]),
            "coefficients": [1.1] * len(row["tokens"]),
            "log_probs": [-0.1] * len(row["tokens"]),
            "reward": float(row["advantage"] > 0),
            **row,
        }
        for row in rows
    ]
    path = folder / "completions" / f"coefficients_{step:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(path)
    return path


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
    for title in ("Reward", "Completion length, tokens", "Entropy, nats a token", "Standard deviation of λ"):
        assert title in page.text["figcaption"]
    assert "Advantage &gt; 0" in text
    assert "24 of 24 recorded completions" in page.text["p"]
    assert "#01" not in text  # every stand-in colour became a variable
    # Self-contained: nothing is fetched, and the browser is told to refuse
    assert "default-src 'none'" in text
    links = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)

    (run,) = page.groups()
    records = pd.concat(pd.read_parquet(f) for f in sorted(trained["delta"].glob("completions/coefficients_*")))
    shown = [completion for group in run["groups"] for completion in unpack(run, group)]
    assert len(shown) == len(records) == 24
    for completion in shown:
        texts = [visible(token) for token in completion["texts"]]
        (row,) = (
            row
            for row in records.itertuples()
            if [visible(visible(token)) for token in row.tokens] == texts
            and visible(row.prompt) == completion["prompt"]
            and math.isclose(row.advantage, completion["advantage"], abs_tol=1e-4)
        )
        np.testing.assert_allclose(completion["coefficients"], row.coefficients, atol=0.001)
        np.testing.assert_allclose(completion["probabilities"], np.exp(row.log_probs), atol=0.002)
        assert completion["reward"] == row.reward


def test_runs_are_overlaid_and_one_without_records_says_what_to_switch_on(trained, tmp_path):
    alone = Page(write_report([trained["delta"]], tmp_path / "one.html").read_text(encoding="utf-8"))
    text = write_report(list(trained.values()), tmp_path / "two.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.text["h1"] == "delta · grpo"
    assert "grpo" in page.text["b"]
    assert "set log_completions: true" in page.text["p"]
    assert "set log_completions: true" not in alone.text["p"]
    reward = re.search(r"<figcaption>Reward</figcaption>(.*?)</figure>", text, re.S)[1]
    assert "var(--run-0)" in reward
    assert "var(--run-1)" in reward
    run, nothing = page.groups()
    assert run["name"] == "delta"
    assert nothing is None

    only_grpo = Page(write_report([trained["grpo"]]).read_text(encoding="utf-8"))
    assert (trained["grpo"] / "report.html").exists()
    assert "set log_completions: true" in only_grpo.text["p"]
    assert "script" not in only_grpo.tags


@pytest.fixture
def hostile_run(tmp_path) -> Path:
    """A run that says everything that could break a page; its folder, too, has such a name."""
    folder = tmp_path / "<img src=x onerror=alert(1)>&{{7*7}}$x^2$"
    # A Parquet file cannot hold half a surrogate pair, which is no UTF-8; the heat map's test has it
    tokens = [token for token in HOSTILE if "\ud83d" not in token]
    rows = [
        {"tokens": tokens * 10, "completion_ids": list(range(len(tokens))) * 10, "advantage": advantage}
        for advantage in (1.0, -1.0)
    ]
    path = write_records(folder, 1, [{**row, "prompt": "".join(tokens)} for row in rows])
    # Broken UTF-8 in a string column: Arrow does not check what another writer put there
    table = pq.read_table(path)
    cells = pa.array([BROKEN_UTF8, *(token.encode() for token in tokens * 10)][: len(tokens) * 10] * 2, pa.binary())
    text = pa.StringArray.from_buffers(len(cells), cells.buffers()[1], cells.buffers()[2])
    column = pa.ListArray.from_arrays(pa.array([0, len(cells) // 2, len(cells)], pa.int32()), text)
    pq.write_table(table.set_column(table.column_names.index("tokens"), "tokens", column), path)
    return folder


def test_hostile_completions_are_text(hostile_run, tmp_path):
    text = write_report([hostile_run], tmp_path / "report.html").read_text(encoding="utf-8")
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
    assert page.text["h1"] == hostile_run.name
    (run,) = page.groups()
    texts = json.loads(inflate(run["texts"]))
    assert "null␀byte" in texts
    assert "line↵\nbreak␍↵\n⇥tab" in texts
    assert "⟨U+202E⟩right to left" in texts
    assert "∅" in texts
    assert "broken \ufffd\ufffd\ufffd bytes" in texts


needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine; the parser's tests of the same pages ran"
)


def in_browser(path: Path, profile: Path, script: str = "") -> str:
    """The page's DOM after its script, and `script` a second later, have run at the width of a phone."""
    later = f"<script>setTimeout(() => {{ {script} }}, 1000)</script></body>"
    tested = path.with_name("tested.html")
    tested.write_text(path.read_text(encoding="utf-8").replace("</body>", later), encoding="utf-8")
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"),
            *("--virtual-time-budget=5000", "--window-size=390,800", f"--user-data-dir={profile}", tested.as_uri()),
        ],
        capture_output=True,
        timeout=120,
        check=True,
    )
    return done.stdout.decode()


@needs_chromium
def test_hostile_completions_are_text_in_a_browser(hostile_run, tmp_path):
    dumped = in_browser(write_report([hostile_run], tmp_path / "report.html"), tmp_path / "profile")
    title = html.unescape(re.search(r"<title>(.*?)</title>", dumped)[1])
    assert title == f"DelTA run report: {hostile_run.name}"  # no completion wrote another one
    body = Page(re.search(r"<body.*</body>", dumped, re.S)[0])
    assert body.tags.count("script") == 3  # the page's two, and the test's
    assert "img" not in body.tags
    shown = re.search(r'<div class="sides".*', dumped, re.S)[0]
    assert "<b>bold" not in shown
    assert html.escape(HOSTILE[1], quote=False) in shown
    assert "broken \ufffd\ufffd\ufffd bytes" in shown


@needs_chromium
def test_a_tap_shows_a_token_and_nothing_sticks_out_of_a_phone(tmp_path):
    rows = [
        {
            "tokens": ["so", " 3", "\n"],
            "coefficients": [1.1, 0.8, 1.0],
            "log_probs": [-1e-4, -0.7, -9.0],
            "advantage": 0.5,
        },
        {
            "completion_ids": [10, 11],
            "tokens": ["tool" * 50, " 4"],
            "coefficients": [1.0, 1.2],
            "is_token": [False, True],
            "log_probs": [-0.1, -0.105],
            "advantage": -0.5,
        },
    ]
    write_records(tmp_path, 7, [{**row, "prompt": "1 + 2?" + "x" * 500} for row in rows])
    script = """
        const seen = [...document.querySelectorAll(".side .t")].map((token) => {
            token.click();
            return document.getElementById("tip").innerText;
        });
        seen.push(document.getElementById("where").textContent, document.documentElement.scrollWidth <= innerWidth);
        document.title = JSON.stringify(seen);
    """
    dumped = in_browser(write_report([tmp_path]), tmp_path / "profile", script)
    seen = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dumped, re.S)[1]))
    lines = [" ".join(text.split()) if isinstance(text, str) else text for text in seen]
    assert lines == [
        "so λ 1.10 probability > 99% advantage +0.50 token 1 of 3",
        "3 λ 0.80 probability 50% advantage +0.50 token 2 of 3",
        "↵ λ 1.00 probability < 1% advantage +0.50 token 3 of 3",
        "tool" * 50 + " not written by the model advantage −0.50 token 1 of 2",
        "4 λ 1.20 probability 90% advantage −0.50 token 2 of 2",
        "Step 7, prompt 1 of 1: 1 right, 1 wrong",
        True,
    ]


def test_names_tell_runs_apart(tmp_path):
    for folder in ("a/run", "b/run"):
        write_records(tmp_path / folder, 1, [{"tokens": ["x"], "advantage": 1.0}])
    assert [run.name for run in read_runs([tmp_path / "a/run", tmp_path / "b/run"])] == ["a/run", "b/run"]
    with pytest.raises(ValueError, match="one or more different run folders"):
        read_runs([tmp_path / "a/run", tmp_path / "b/../a/run"])


def test_metrics_come_from_the_newest_state_or_else_from_the_records(tmp_path):
    rows = [
        {"tokens": ["a", "b", "c"], "coefficients": [1.1, 1.3, 1.2], "advantage": 2.0},
        {"tokens": ["a"], "coefficients": [0.7], "advantage": -1.0},
    ]
    write_records(tmp_path, 5, rows)
    text = write_report([tmp_path]).read_text(encoding="utf-8")
    assert "holds no trainer_state.json yet" in text
    (run,) = read_runs([tmp_path])
    run.history = statistics(run).history
    assert run.curve("reward") == ([5], [0.5])
    assert run.curve("completions/mean_length") == ([5], [2.0])
    assert run.curve("delta/coef/mean_positive")[1] == pytest.approx([1.2])
    assert run.curve("delta/coef/mean_negative")[1] == pytest.approx([0.7])

    for step in (9, 10):
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        history = [{"step": step, "reward": step / 10}, {"step": step, "entropy": float("nan")}, {"step": step}]
        (checkpoint / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    (run,) = read_runs([tmp_path])
    assert run.curve("reward") == ([10], [1.0])
    assert run.curve("entropy") == ([], [])
    assert "holds no trainer_state.json yet" not in write_report([tmp_path]).read_text(encoding="utf-8")

    just_begun = tmp_path / "just_begun"
    just_begun.mkdir()
    (just_begun / "trainer_state.json").write_text('{"log_history": []}')
    assert "set log_completions: true" in write_report([just_begun]).read_text(encoding="utf-8")


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
    empty, other = page.groups()[0]["groups"]
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
    result = statistics(read_runs([tmp_path])[0], min_support=5)

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
    assert len(statistics(read_runs([tmp_path])[0], min_support=10**6).tokens) == 0


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
    (run,) = page.groups()
    (only,) = run["groups"]
    assert (only["positive"], only["negative"], only["of"], only["shown"]) == (10, 10, 20, 8)
    spreads = [c["coefficients"][1] for c in unpack(run, only) if c["advantage"] < 0]
    assert spreads == pytest.approx([1.12, 1.14, 1.16, 1.18], abs=0.001)  # the four widest, in their order


@pytest.mark.slow
def test_a_long_run_fits_into_5_megabytes_and_20_seconds(tmp_path):
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

    start = time.process_time()
    path = write_report([tmp_path])
    assert time.process_time() - start < 20
    assert path.stat().st_size <= 5_000_000
    (shown,) = re.findall(r"([\d,]+) of 2,000 recorded completions", path.read_text(encoding="utf-8"))
    assert MAX_COMPLETIONS * 0.95 <= int(shown.replace(",", "")) <= MAX_COMPLETIONS


def test_smoothing_is_a_trailing_mean_and_long_curves_are_thinned():
    values = [1.0, 2.0, 6.0, 3.0]
    assert smoothed(values, 2).tolist() == [1.0, 1.5, 4.0, 4.5]
    assert smoothed(values, 1).tolist() == values
    assert means_of(values, 1).tolist() == values
    assert means_of([*values, 5.0], 2).tolist() == [1.5, 4.5, 5.0]


def test_a_histogram_is_drawn_for_one_step_and_for_many(tmp_path):
    counts = np.zeros((3, len(BIN_EDGES) - 1), int)
    counts[:, 200:240] = 5
    for steps in ([7], [1, 2, 3], [10, 2000, 40000]):
        drawn = histogram('"quoted" <title>', steps, counts[: len(steps)], spread=0.25)
        Page(drawn)
        assert 'aria-label="&quot;quoted&quot; &lt;title&gt;"' in drawn
        assert "data:image/png;base64," in drawn


def test_visible_text_holds_nothing_invisible():
    assert visible("a\nb") == "a↵\nb"
    assert visible("a\n b", alone=True) == "a↵␣b"
    assert visible("\x00\x1b\x7f\ud800\u200d\ue000") == "␀␛␡⟨U+D800⟩⟨U+200D⟩⟨U+E000⟩"
    assert visible("é 你 🙂 λ") == "é 你 🙂 λ"
    for code in [*range(0x3000), *range(0xD800, 0xE100), 0xE0001, 0x10FFFF]:
        visible(chr(code)).encode()


def test_heat_map_from_tensors():
    tokens = ["so", " 3", "\n", "<eos>"]
    shown = heat_map(
        tokens, torch.tensor([1.1, 0.8, 1.0, 1.3]), torch.tensor([0.0, -1.0, -0.5, -2.0]), torch.tensor(-0.7)
    )
    page = Page(shown._repr_html_())
    spans = [value for name, value in page.attributes if name == "data-facts"]
    assert spans[1] == "λ 0.800 · probability 36.8% · advantage -0.70"
    assert page.text["span"].endswith("so 3↵\n<eos>")
    weights = [value for name, value in page.attributes if name == "style"][2:]
    assert weights == ["--w:0.50", "--w:1.00", "--w:0.00", "--w:1.00"]
    sides = [value for name, value in page.attributes if name == "class" and value.startswith("t ")][2:]
    assert sides == ["t high", "t low", "t low", "t high"]
    assert "4 tokens" in repr(shown)


def test_heat_map_from_ids_arrays_and_records(trained):
    from delta_trl.research.tasks import character_tokenizer

    row = pd.read_parquet(next(trained["delta"].glob("completions/coefficients_*"))).iloc[0]
    from_record = heat_map(row.tokens, row.coefficients, row.log_probs, row.advantage)
    ids = torch.tensor(row.completion_ids)
    from_ids = heat_map(ids, row.coefficients, row.log_probs, row.advantage, tokenizer=character_tokenizer())
    assert from_record == from_ids
    without = heat_map(row.tokens, row.coefficients)
    assert "probability" not in without._repr_html_()
    assert "advantage" not in without._repr_html_()


def test_heat_map_shows_hostile_tokens_as_text():
    text = heat_map(HOSTILE, [1.0] * len(HOSTILE), title="".join(HOSTILE))._repr_html_()
    text.encode()
    page = Page(text)
    assert set(page.tags) == {"div", "style", "span"}
    for token in HOSTILE:
        assert (visible(token) or "∅") in page.text["span"]
    assert visible("".join(HOSTILE)) in page.text["div"]


def test_heat_map_says_what_does_not_fit():
    with pytest.raises(ValueError, match="1 coefficients for 2 tokens"):
        heat_map(["a", "b"], [1.0])
    with pytest.raises(ValueError, match="3 log_probs for 2 tokens"):
        heat_map(["a", "b"], [1.0, 1.0], [0.0] * 3)
    with pytest.raises(ValueError, match="got int and no tokenizer"):
        heat_map(torch.tensor([1, 2]), [1.0, 1.0])
    with pytest.raises(ValueError, match="shape \\(T,\\); got more dimensions"):
        heat_map(["a"], torch.ones(1, 1))
    with pytest.raises(ValueError, match="got the string 'abc'"):
        heat_map("abc", [1.0] * 3)
    with pytest.raises(ValueError, match="spread must be above 0"):
        heat_map(["a"], [1.0], spread=0)


class Module:
    """The two functions that this package calls of wandb and trackio, standing in for the modules."""

    run = "started"

    class Html(str):
        pass

    def __init__(self):
        self.logged = []

    def log(self, values):
        self.logged.append(values)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_heat_maps_reach_backends_that_show_html(name, tmp_path, monkeypatch):
    # wandb and trackio are not among the dependencies, and want a server: a stand-in module takes what would be sent
    module = Module()
    monkeypatch.setitem(sys.modules, name, module)
    trainer = build(DeltaGRPOTrainer, config(tmp_path, log_completions=True, num_completions_to_print=0))

    class WithBackend(HeatMapCallback):
        # Only here: TRL, too, would use the backends that are named
        def on_log(self, args, *others, **kwargs):
            super().on_log(SimpleNamespace(output_dir=args.output_dir, report_to=[name]), *others, **kwargs)

    trainer.add_callback(WithBackend(trainer, every=1))
    trainer.train()
    assert [entry["train/global_step"] for entry in module.logged] == [2, 3, 3]  # the records of steps 1, 2 and 3
    for step, entry in enumerate(module.logged, start=1):
        assert isinstance(entry[KEY], Module.Html)
        assert f"Step {step}, reward" in Page(entry[KEY]).text["div"]


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_receives_metrics_and_tables(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {"log_completions": True, "num_completions_to_print": 0, "report_to": "tensorboard"}
    trainer = build(DeltaGRPOTrainer, config(tmp_path, **options))
    trainer.add_callback(HeatMapCallback(trainer, every=2))
    trainer.train()
    (events,) = tmp_path.glob("runs/*/events*")
    accumulator = EventAccumulator(str(events)).Reload()
    tags = accumulator.Tags()
    assert "train/delta/coef/mean_positive" in tags["scalars"]
    assert [event.step for event in accumulator.Scalars("train/delta/coef/std")] == [1, 2, 3]
    tables = accumulator.Tensors(f"{KEY}/text_summary")
    assert [table.step for table in tables] == [2, 3]
    assert "| token | position | |" in tables[0].tensor_proto.string_val[0].decode()


def test_delta_metrics_are_in_what_every_backend_is_sent(trained):
    # Backends are fed by callbacks that receive the same logs as trainer_state.json
    history = json.loads((trained["delta"] / "trainer_state.json").read_text())["log_history"]
    metrics = {"delta/coef/mean", "delta/coef/std", "delta/coef/mean_positive", "delta/seconds"}
    assert all(metrics <= set(entry) for entry in history if "reward" in entry)


def test_a_table_shows_hostile_tokens_as_text():
    shown = heat_map(HOSTILE, np.linspace(0.8, 1.2, len(HOSTILE)).tolist(), title="<b>*title*</b> | x")
    title, _, _, _, *rows = extremes_table(shown).split("\n")
    assert not set("<>*|") & set(title)
    assert html.unescape(title) == "<b>*title*</b> | x"
    assert len(rows) == 16
    for row in rows:
        assert row.count("|") == 4
        cell = row.split("|")[1]
        assert not set("<>*_`[]\\$") & set(cell)
        assert html.unescape(cell).strip() in {visible(token, alone=True) for token in HOSTILE}


def test_the_callback_refuses_what_it_could_not_show(tmp_path):
    trainer = build(DeltaGRPOTrainer, config(tmp_path))
    with pytest.raises(ValueError, match="log_completions=True"):
        HeatMapCallback(trainer)
    trainer.args.log_completions = True
    with pytest.raises(ValueError, match="at least 1; got 0"):
        HeatMapCallback(trainer, every=0)


def test_a_missing_extra_is_named():
    code = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'jinja2' else f(n, *a)\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "import delta_trl.report"], capture_output=True, text=True, timeout=60
    )
    assert "delta_trl.report needs jinja2: pip install 'delta_trl[report]'." in done.stderr


def run_script(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *args], capture_output=True, text=True, timeout=120)


def test_script(trained, tmp_path):
    output = tmp_path / "new" / "comparison.html"
    done = run_script(*map(str, trained.values()), "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert re.search(r"Report written to .*comparison\.html \(0\.\d MB, \d+ s\)", done.stdout)
    Page(output.read_text(encoding="utf-8"))
    failed = run_script(str(tmp_path / "nowhere"))
    assert failed.returncode == 2
    assert "holds neither trainer_state.json" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_help_loads_nothing_heavy():
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", str(SCRIPT), "--help"], capture_output=True, text=True, timeout=60
    )
    assert "RUN_FOLDER" in loaded.stdout
    assert not re.search(r"\b(torch|transformers|matplotlib|pyarrow|jinja2)\b", loaded.stderr)
