"""One completion with its coefficients: for notebooks, and in the logging backends."""

import html
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from support.models import build, config
from support.places import ROOT
from support.report_pages import HOSTILE, Page

from delta_trl import DeltaGRPOTrainer
from delta_trl.report import HeatMapCallback, heat_map
from delta_trl.report.callback import KEY, extremes_table
from delta_trl.report.text import visible
from delta_trl.research.tasks import character_tokenizer


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    trainer = build(DeltaGRPOTrainer, config(folder, log_completions=True, num_completions_to_print=0))
    trainer.train()
    trainer.save_state()
    return folder


def test_heat_map_from_tensors():
    tokens = ["so", " 3", "\n", "<eos>"]
    shown = heat_map(
        tokens, torch.tensor([1.1, 0.8, 1.0, 1.3]), torch.tensor([0.0, -1.0, -0.5, -2.0]), torch.tensor(-0.7)
    )
    page = Page(shown._repr_html_())
    spans = [value for name, value in page.attributes if name == "data-facts"]
    assert spans[1] == "λ 0.800 · probability 36.8% · advantage −0.70"
    assert page.text["span"].endswith("so 3↵\n<eos>")
    weights = [value for name, value in page.attributes if name == "style"][2:]
    assert weights == ["--w:0.50", "--w:1.00", "--w:0.00", "--w:1.00"]
    sides = [value for name, value in page.attributes if name == "class" and value.startswith("t ")][2:]
    assert sides == ["t high", "t low", "t low", "t high"]
    assert "4 tokens" in repr(shown)


def test_heat_map_from_ids_arrays_and_records(trained):
    row = pd.read_parquet(next(trained.glob("completions/coefficients_*"))).iloc[0]
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
    history = json.loads((trained / "trainer_state.json").read_text())["log_history"]
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


READ_TRACKIO = """
import json, sqlite3, sys
from pathlib import Path
(database,) = (p for p in Path(sys.argv[1]).rglob("*.db") if "made" in p.name)
rows = [json.loads(metrics) for (metrics,) in sqlite3.connect(database).execute("select metrics from metrics order by id")]
print(json.dumps(rows))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
def test_one_option_sends_metrics_and_heat_maps_to_trackio(project):
    """The real package, on a local folder."""
    folder = project / "trackio"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "TRACKIO_DIR": str(folder),
        "HF_HUB_OFFLINE": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    command = [sys.executable, "-m", "delta_trl", "train", "--config", "config.yaml", "--report_to", "trackio"]
    command += ["--log_completions", "true", "--project", "made"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=project, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    read = subprocess.run([sys.executable, "-c", READ_TRACKIO, str(folder)], capture_output=True, text=True)
    rows = json.loads(read.stdout)
    assert [row["train/global_step"] for row in rows if "train/reward" in row] == [1, 2, 3]
    assert all("train/delta/coef/std" in row for row in rows if "train/reward" in row)
    assert any(KEY in row for row in rows)
