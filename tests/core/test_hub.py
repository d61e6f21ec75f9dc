"""Pushes to the Hub, against a stand-in on the loopback address, with the script run as a user runs it."""

import importlib.metadata
import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.forked import python
from support.hub_standin import TOKEN, USER, HubStandIn
from support.models import build, config, tiny_model
from support.places import ROOT
from transformers import AutoModelForCausalLM

from delta_trl import DeltaGRPOConfig, DeltaGRPOTrainer
from delta_trl.hub import command_line
from delta_trl.methods.names import methods


MODEL_FILES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "report.html",
    "tokenizer.json",
    "tokenizer_config.json",
    "training_args.bin",
}
CHECKPOINT_FILES = {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
LOAD_BACK = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
for name in sys.argv[1:]:
    tokenizer = AutoTokenizer.from_pretrained(name)
    inputs = tokenizer("1+2=?\\n", return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(name)
    print(repr(tokenizer.decode(model.generate(**inputs, max_new_tokens=5, do_sample=False)[0])))
"""


@pytest.fixture(scope="module")
def hub_of_all(tmp_path_factory):
    with HubStandIn(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture
def hub(hub_of_all, project):
    """The one stand-in, so that huggingface_hub is imported with its address once; its repositories are in `project/hub`."""
    hub_of_all.begin(project / "hub")
    return hub_of_all


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(hub, cache, project):
    """Run Python in the project with the Hub at `url`. huggingface_hub reads its environment when it is imported."""

    def run(arguments, url=hub.url, token=TOKEN, start=None):
        of_hub = {
            "HF_ENDPOINT": url,
            "HF_HOME": str(cache),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        start = start or (python(**of_hub) if url == hub.url else sys.executable)
        environment = {**os.environ, **of_hub, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "HF_TOKEN": token}
        return subprocess.run([start, *arguments], capture_output=True, text=True, env=environment, cwd=project)

    return run


def command(project, name, *arguments):
    """Python's arguments for a run whose output folder, and so its repository, has this name."""
    options = ["--config", project / "config.yaml", "--output_dir", project / name, "--push_to_hub", *arguments]
    return [str(part) for part in ("-m", "delta_trl.train", *options)]


def same_weights(first, second):
    first, second = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (first, second))
    return first.keys() == second.keys() and all(first[key].equal(second[key]) for key in first)


@pytest.mark.slow
def test_every_strategy_pushes_a_model_that_loads_back(project, hub, run):
    strategies = ("end", "every_save", "checkpoint", "all_checkpoints")
    runs = [command(project, name, "--hub_strategy", name, "--hub_always_push", "true") for name in strategies]
    own = ("--hub_private_repo", "true", "--hub_model_id", "team/secret", "--hub_token", TOKEN)
    runs.append(command(project, "own", *own))
    for arguments in runs:
        result = run(arguments)
        assert result.returncode == 0, result.stderr[-3000:]
    assert not hub.refused
    assert hub.private == {**dict.fromkeys((f"{USER}/{name}" for name in strategies), False), "team/secret": True}

    for name in (*(f"{USER}/{name}" for name in strategies), "team/secret"):
        assert hub.files(name) >= MODEL_FILES
        assert [message for repository, message, _ in hub.commits if repository == name][-1] == "End of training"
        # A token would be in training_args.bin if anywhere, and in the command that the card quotes
        assert not any(TOKEN.encode() in (hub.root / name / file).read_bytes() for file in hub.files(name))
    messages = [message for repository, message, _ in hub.commits if repository == f"{USER}/end"]
    assert messages == ["End of training"]
    messages = [message for repository, message, _ in hub.commits if repository == f"{USER}/every_save"]
    assert messages[:3] == [f"Training in progress, step {step}" for step in (1, 2, 3)]
    assert not any("checkpoint" in file for file in hub.files(f"{USER}/every_save"))
    last = {file.removeprefix("last-checkpoint/") for file in hub.files(f"{USER}/checkpoint")}
    assert last >= CHECKPOINT_FILES
    for step in (1, 2, 3):
        assert hub.files(f"{USER}/all_checkpoints") >= {f"checkpoint-{step}/{file}" for file in CHECKPOINT_FILES}
    assert same_weights(hub.root / USER / "all_checkpoints/checkpoint-3", project / "all_checkpoints")

    names = (f"{USER}/end", "team/secret", project / "end", project / "own")
    (project / "load_back.py").write_text(LOAD_BACK)
    loaded = run(["load_back.py", *names])
    assert loaded.returncode == 0, loaded.stderr[-3000:]
    lines = loaded.stdout.splitlines()
    assert lines[:2] == lines[2:]
    assert loaded.stdout.count("1+2=?") == len(names)

    card = (hub.root / USER / "end/README.md").read_text()
    assert "--hub_strategy end" in card
    assert 'model="tester/end"' in card
    assert "[`report.html`](report.html) has the curves of this run" in card
    assert "reward" in (hub.root / USER / "end/report.html").read_text()
    assert "--hub_token '***'" in (hub.root / "team/secret/README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("failure", ["wrong token", "unreachable", "refused during training"])
def test_a_hub_that_fails_costs_no_run(project, hub, run, failure):
    during_training = failure == "refused during training"
    hub.failing = lambda method, path: during_training and "/commit/" in path
    url = "http://127.0.0.1:9" if failure == "unreachable" else hub.url  # nobody listens on the discard port
    token = "hf_wrong" if failure == "wrong token" else TOKEN
    result = run(command(project, "run"), url, token)
    assert result.returncode == 1
    assert not hub.commits
    # Said while it trains, and as the last word
    assert ("A push to the Hub failed during training" in result.stderr) == during_training
    assert ("The Hub did not create or find the repository" in result.stderr) != during_training
    reason = {"wrong token": "Invalid username or password", "unreachable": "Connection refused"}
    assert reason.get(failure, "told to refuse this") in result.stderr
    assert "Traceback" not in result.stderr
    error = result.stderr[result.stderr.rindex("error: Pushing to the Hub failed") :]
    assert f"the model, the tokenizer and the card are in {project / 'run'}" in error

    # Everything is on disk: all checkpoints, the last weights, the card
    assert {path.name for path in (project / "run").iterdir()} >= MODEL_FILES | {
        "trainer_state.json",
        "checkpoint-3",
    }
    assert same_weights(project / "run", project / "run/checkpoint-3")
    assert "DelTA" in (project / "run/README.md").read_text()

    # The command that the message gives pushes it, once the Hub answers
    later = shlex.split(re.search(r"^ +(hf upload .*)$", error, re.MULTILINE)[1])
    hub.failing = lambda method, path: False
    pushed = run(later[1:], start=Path(sys.executable).with_name(later[0]))
    assert pushed.returncode == 0, pushed.stderr[-3000:]
    (repository,) = hub.private
    assert repository == f"{USER}/run"
    assert hub.files(repository) >= MODEL_FILES
    assert not any("checkpoint" in file for file in hub.files(repository))
    assert same_weights(hub.root / repository, project / "run")


def test_the_card_says_how_the_model_was_made(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scripts/train.py", "--config", "a b.yaml", "--hub_token=hf_x"])
    model = tiny_model()
    model.config._name_or_path = "Qwen/Qwen3-8B-Base"
    trainer = build(DeltaGRPOTrainer, config(tmp_path / "run", coef_max=1.5, delta=10.0), model=model)
    trainer.create_model_card(model_name="run", dataset_name="zwhe99/DeepMath-103K")
    card = (tmp_path / "run/README.md").read_text()
    for text in (
        "[Qwen/Qwen3-8B-Base](https://huggingface.co/Qwen/Qwen3-8B-Base)",
        "[zwhe99/DeepMath-103K](https://huggingface.co/datasets/zwhe99/DeepMath-103K)",
        "https://huggingface.co/papers/2605.21467",
        "zhang2026delta",
        "trained with DelTA",
        "\n- delta\n",
        "| `coef_max` | 1.5 |",
        "| `delta` | 10.0 |",
        "`digit_reward`",
        "python scripts/train.py --config 'a b.yaml' '--hub_token=***'",
        "with delta_trl ",
        f"- TRL: {importlib.metadata.version('trl')}",
        ", peft ",
    ):
        assert text in card
    assert "DeepSeekMath" not in card
    # A card that is written at a save, without naming the dataset, keeps it
    trainer.create_model_card(model_name="run")
    assert (tmp_path / "run/README.md").read_text() == card


@pytest.mark.parametrize("name", ["", "folder"])
def test_nothing_local_becomes_a_link(tmp_path, name):
    (tmp_path / "problems.jsonl").write_text("{}")
    model = tiny_model()
    model.config._name_or_path = str(tmp_path / name) if name else ""
    (tmp_path / "folder").mkdir()
    trainer = build(DeltaGRPOTrainer, config(tmp_path / "run"), model=model)
    trainer.create_model_card(model_name="run", dataset_name=str(tmp_path / "problems.jsonl"))
    card = (tmp_path / "run/README.md").read_text()
    assert "None]" not in card
    assert "huggingface.co/None" not in card
    assert str(tmp_path) not in card
    assert "`problems.jsonl` (a local file)" in card
    assert ("a model from a local folder (`folder`)" if name else "a model in memory") in card
    assert 'model="run"' in card


def test_a_command_is_shown_without_secrets_and_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = command_line(["/home/me/train.py", "--hub_token", "hf_x", "--wandb_key=k", "--max_steps", "3"])
    assert shown == "train.py --hub_token '***' '--wandb_key=***' --max_steps 3"
    shown = command_line(
        ["train.py", "--config", f"{tmp_path}/configs/a.yaml", "--output_dir=/home/me/run", "a/b", "-3"]
    )
    assert shown == "train.py --config configs/a.yaml --output_dir=run a/b -3"


PAPERS = {"dapo": "2503.14476", "grpo": "2402.03300", "forking_tokens": "2506.01939", "sapo": "2511.20347"}
PAPERS |= {"fipo": "2603.19835"}


@pytest.mark.parametrize("name", PAPERS)
def test_the_card_of_another_method_has_its_own_paper_and_options(tmp_path, name):
    method = methods()[name]
    args = config(tmp_path / "run", method.config_class, **method.preset)
    trainer = build(method.trainer_class, args)
    trainer.create_model_card(model_name="run", dataset_name="zwhe99/DeepMath-103K")
    card = (tmp_path / "run/README.md").read_text()
    assert f"huggingface.co/papers/{PAPERS[name]}" in card
    for option, value in method.preset.items():
        assert f"| `{option}` | {value} |" in card
    assert ("| `sapo_temperature_neg` | 1.05 |" in card) == (name == "sapo")
    assert ("| `fipo_half_life` | 32.0 |" in card) == (name == "fipo")
    assert ("DeepSeekMath" in card) == (name == "grpo")
    assert "coef_" not in card
    assert str(tmp_path) not in card


def test_an_error_while_saving_is_not_called_the_hubs(tmp_path, monkeypatch):
    trainer = build(DeltaGRPOTrainer, config(tmp_path / "run"))
    trainer.hub_model_id = "tester/run"

    def out_of_memory(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(trainer, "save_model", out_of_memory)
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        trainer.push_to_hub()


def test_the_token_is_not_in_the_saved_arguments(tmp_path):
    args = DeltaGRPOConfig(str(tmp_path), use_cpu=True, bf16=False, activation_checkpointing=False, hub_token="hf_x")
    assert args.hub_token == "hf_x"
    saved = pickle.dumps(args)
    assert b"hf_x" not in saved
    assert pickle.loads(saved).coef_max == args.coef_max
