"""What an evaluation takes over from the training run that made its model."""

import json
import re
import shutil

import pytest
import yaml
from support.evaluation_model import adding_folder, question
from support.places import ROOT

from delta_trl.evaluation.__main__ import main as evaluate
from delta_trl.evaluation.__main__ import parse
from delta_trl.evaluation.inherit import RUN_FILE, inherited_settings, with_inherited
from delta_trl.evaluation.models import find_model
from delta_trl.evaluation.options import Decoding
from delta_trl.evaluation.samples import read_evaluation


pytestmark = pytest.mark.trained

RUN = {"trainer": "delta", "prompt_format": "{question}", "system_prompt": None, "max_completion_length": 20}


def make_run(folder, content=None, place="checkpoint-3"):
    shutil.copytree(adding_folder(), folder / place)
    (folder / place / "trainer_state.json").write_text("{}")
    if content is not None:
        (folder / RUN_FILE).write_text(content if isinstance(content, str) else json.dumps(content))
    return find_model(str(folder / place))


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [(None, {}), ({}, {}), ({"bf16": True}, {"dtype": "bfloat16"}), ({"fp16": True}, {"dtype": "float16"}),
     ({"dtype": "float32", "bf16": True}, {"dtype": "float32"})],
)  # fmt: skip
def test_a_run_tells_how_it_asked(tmp_path, settings, dtype):
    source = make_run(tmp_path, {**RUN, "settings": settings})
    assert inherited_settings(source) == (
        {"prompt_format": "{question}", "max_tokens": 20, **dtype},
        tmp_path / RUN_FILE,
    )


def test_models_without_a_run_inherit_nothing(tmp_path):
    assert inherited_settings(find_model("Qwen/Qwen3-8B-Base")) == ({}, None)
    assert inherited_settings(make_run(tmp_path / "without")) == ({}, None)
    beside = make_run(tmp_path / "beside", RUN, place="another-model")  # no checkpoint of the run in that folder
    assert inherited_settings(beside) == ({}, None)
    for content in ("{", "[]", '"' + "[" * 9, "[" * 100_000):
        with pytest.raises(ValueError, match=f"{RUN_FILE} is no.*Delete it to evaluate with the published defaults"):
            inherited_settings(make_run(tmp_path / f"broken{len(content)}", content))


def test_what_the_user_gives_wins():
    run = {"prompt_format": "chat", "system_prompt": "Be brief.", "max_tokens": 20}
    assert with_inherited({"max_tokens": 30}, run) == {"prompt_format": "chat", "system_prompt": "Be brief."}
    assert with_inherited({"prompt_format": "paper"}, run) == {"max_tokens": 20}


@pytest.mark.parametrize("page", ["README.md", "docs/evaluation.md"])
def test_the_documented_comparison_asks_all_models_in_the_same_way(tmp_path, page):
    """The base model from the Hub inherits nothing, the trained one the settings of its recipe."""
    text = (ROOT / page).read_text().replace("\\\n", "")
    # With several models: those on servers are of one, and inherit nothing
    (command,) = re.findall(
        r"(?:delta_trl.evaluation|delta-trl evaluate) (--model Qwen/Qwen3-8B-Base outputs.*)", text
    )
    recipe = yaml.safe_load((ROOT / "configs/qwen3_8b/delta.yaml").read_text())
    run = {name: recipe[name] for name in ("prompt_format", "max_completion_length")} | {"settings": recipe}
    inherited, _ = inherited_settings(make_run(tmp_path, run))
    assert inherited["max_tokens"] != Decoding().max_tokens  # or there would be nothing to tell
    given = parse(command.split())
    assert with_inherited(given, inherited) == {"prompt_format": Decoding().prompt_format}


def test_evaluating_a_run_asks_as_in_training_and_says_so(tmp_path, capsys):
    make_run(tmp_path / "run", RUN)
    (tmp_path / "sums.jsonl").write_text(json.dumps({"question": question(1, 2), "answer": "3"}) + "\n")
    command = ["--model", str(tmp_path / "run"), "--benchmark", str(tmp_path / "sums.jsonl"), "--samples", "2"]
    command += ["--backend", "transformers"]
    evaluate([*command, "--output", str(tmp_path / "a")])
    printed = capsys.readouterr().out
    assert "run--checkpoint-3: as in its training run" in printed
    assert "prompt_format '{question}', max_tokens 20" in printed
    assert "As in the model's training run: max_tokens, prompt_format." in printed
    evaluation = read_evaluation(tmp_path / "a" / "run--checkpoint-3.jsonl")
    assert (evaluation.settings["prompt_format"], evaluation.settings["max_tokens"]) == ("{question}", 20)
    assert evaluation.settings["temperature"] == 1.0
    assert evaluation.inherited == ["max_tokens", "prompt_format"]
    evaluate([*command, "--output", str(tmp_path / "b"), "--max_tokens", "4", "--prompt_format", "paper"])
    assert "training run" not in (printed := capsys.readouterr().out)
    assert "Warning, run--checkpoint-3: 2 of 2 completions have no boxed answer" in printed
    evaluation = read_evaluation(tmp_path / "b" / "run--checkpoint-3.jsonl")
    assert (evaluation.settings["prompt_format"], evaluation.settings["max_tokens"]) == ("paper", 4)
