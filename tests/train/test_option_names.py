"""`--help` and names that do not exist: answered without torch once the options are known, and never with old options."""

import importlib
import subprocess
import sys
from dataclasses import dataclass

import pytest
from support.commands import run_command
from support.places import ROOT

from delta_trl.train import option_names
from delta_trl.train.option_names import SectionedParser, answer, remember


HEAVY = {"torch", "transformers", "trl", "datasets", "numpy", "pandas", "peft"}


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    """A folder of its own for what is remembered, and one width for the help."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path / "cache" / "delta_trl"


def in_a_process(*arguments) -> tuple[subprocess.CompletedProcess, set[str]]:
    """The command, and the packages that it imported."""
    command = [sys.executable, "-X", "importtime", "-m", "delta_trl", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    imports = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    done.stderr = "".join(f"{line}\n" for line in done.stderr.splitlines() if line not in imports)
    return done, {line.rpartition("|")[2].strip().partition(".")[0] for line in imports}


@pytest.mark.parametrize("command", ["train", "inspect"])
def test_the_help_is_the_same_from_memory_and_loads_nothing(command):
    first = run_command(command, "--help")
    again, loaded = in_a_process(command, "--help")
    assert (first.returncode, again.returncode) == (0, 0)
    assert again.stdout == first.stdout
    assert "--dataset_name" in again.stdout
    assert not loaded & HEAVY


@pytest.mark.parametrize("command", ["evaluate", "compare", "report", "grade"])
def test_the_other_commands_never_load_torch_for_their_help(command):
    shown, loaded = in_a_process(command, "--help")
    assert shown.returncode == 0, shown.stderr
    assert not loaded & {"torch", "trl", "datasets", "pandas", "peft"}


@pytest.fixture
def quickly(monkeypatch):
    """After this, only memory can answer."""

    def forbid():
        def fail(*arguments, **options):
            pytest.fail("the full parser was asked")

        monkeypatch.setattr("delta_trl.train.arguments.parse", fail)

    return forbid


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning_rat", "1"], "Unknown option --learning_rat. Did you mean --learning_rate?"),
        (["--learning_rat=1", "--trainer", "sapo"], "Unknown option --learning_rat. Did you mean --learning_rate?"),
        (["--trainer", "dapo", "--coef_min", "1"], "coef_min is an option of --trainer delta"),
        (["--learning_rate", "1", "2e-5"], "'2e-5' on the command line belongs to no option"),
    ],
)
def test_a_mistaken_name_is_refused_in_the_same_words(words, message, quickly):
    trainer = words[words.index("--trainer") + 1] if "--trainer" in words else "delta"
    first = run_command("train", *words)
    run_command("train", "--trainer", trainer, "--help")  # an argument without a name leaves no list
    quickly()
    again = run_command("train", *words)
    assert (first.returncode, again.returncode) == (2, 2)
    assert again.stderr == first.stderr
    assert message in again.stderr
    assert len(again.stderr.splitlines()) == 1


def test_a_yaml_file_counts(tmp_path, quickly):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("trainer: fipo\nlearning_rate: 0.125\nenv: {A: '1'}\nactivation_checkpointing: false\n")
    first = run_command("train", "--config", recipe, "--help")
    quickly()
    assert run_command("train", "--config", recipe, "--help").stdout == first.stdout
    assert "trainer fipo:" in first.stdout
    assert "(default: 0.125)" in first.stdout
    recipe.write_text("trainer: fipo\nlearning_rat: 0.125\n")
    refused = run_command("train", "--config", recipe)
    assert f"Unknown option 'learning_rat' in {recipe}. Did you mean learning_rate?" in refused.stderr


def test_what_is_no_mistake_in_a_name_is_left_to_the_full_parser():
    run_command("train", "--help")
    assert "invalid float value" in run_command("train", "--learning_rate", "much").stderr
    assert "expected one argument" in run_command("train", "--learning_rate").stderr
    assert "Unknown trainer 'delt'" in run_command("train", "--trainer", "delt").stderr


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A module with options, a parser of them, and its remembered list."""
    (tmp_path / "made_options.py").write_text("class Options:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("made_options")
    parser = SectionedParser(usage="made")
    parser.add_argument("--old", help="an option")
    remember("made", parser, [module.Options])
    yield tmp_path / "made_options.py"
    del sys.modules["made_options"]


def answers(capsys) -> bool:
    """Whether the made command's help comes from memory."""
    try:
        answer("made", ["--help"])
    except SystemExit:
        return "--old" in capsys.readouterr().out
    return False


def test_a_file_that_changed_is_not_answered_for(made, capsys):
    assert answers(capsys)
    made.write_text("class Options:\n    new = 1\n")
    assert not answers(capsys)


def test_a_file_that_went_is_not_answered_for(made, capsys):
    assert answers(capsys)
    made.unlink()
    assert not answers(capsys)


@dataclass(frozen=True)
class Entry:
    name: str
    value: str
    module: str


def test_another_plugin_is_noticed_and_one_that_does_not_load_is_not_remembered(made, capsys, monkeypatch):
    assert answers(capsys)
    monkeypatch.setattr(option_names, "entry_points", lambda group: [Entry("mine", "made_options:x", "made_options")])
    assert not answers(capsys)
    parser = SectionedParser(usage="made")
    parser.add_argument("--old", help="an option")
    remember("made", parser, [])
    assert answers(capsys)
    made.write_text("class Options:\n    new = 1\n")  # the plugin's own file
    assert not answers(capsys)
    monkeypatch.setattr(option_names, "entry_points", lambda group: [Entry("its", "not_loaded:x", "not_loaded")])
    remember("made", parser, [])
    assert not answers(capsys)


@pytest.mark.parametrize("text", ["", "{", "{}", '{"files": {}}'])
def test_a_list_that_cannot_be_read_is_no_list(made, memory, capsys, text):
    (file,) = memory.iterdir()
    file.write_text(text)
    assert not answers(capsys)


def test_nothing_is_remembered_where_nothing_can_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    remember("made", SectionedParser(usage="made"), [])
    assert not answers(capsys)
