"""Every method that the training script knows by name: what it builds, what it refuses, and a real run."""

import json

import pytest
import yaml
from support import models
from support.commands import parse
from trl import GRPOTrainer

from delta_trl import DeltaGRPOConfig, DeltaGRPOTrainer
from delta_trl.base import GRPOBaseTrainer
from delta_trl.baselines import DAPOTrainer, ForkingTokensTrainer, SAPOTrainer
from delta_trl.config import GRPOBaseConfig
from delta_trl.methods import names
from delta_trl.methods.fipo import FIPOConfig, FIPOTrainer
from delta_trl.methods.hashed_agreement import HashedAgreementGRPOTrainer
from delta_trl.methods.names import METHODS, TrainingMethod, methods
from delta_trl.token_credit import TokenCreditTrainer
from delta_trl.train.__main__ import train
from delta_trl.train.arguments import trainer_argument


# A formula and a config
CREDITS = ("rlsd", "stare", "ar", "gtpo", "shear", "gmts", "rsi_s")
# DelTA with other coefficients
DELTA_LIKE = ("place_agreement", "group_agreement", "token_advantage", "stake_and_choice", "variant")
HASHED = ("hashed_agreement", "joined_agreement")
# Trainer, loss, upper clipping bound, dual clip, share of tokens, as TRL's loss reads them
EXPECTED = {
    "delta": (DeltaGRPOTrainer, "dapo", 0.28, None, 1.0),
    "dapo": (DAPOTrainer, "dapo", 0.28, None, 1.0),
    "grpo": (GRPOBaseTrainer, "grpo", 0.2, None, 1.0),
    "forking_tokens": (ForkingTokensTrainer, "dapo", 0.28, None, 0.2),
    "sapo": (SAPOTrainer, "sapo", 0.28, None, 1.0),
    "fipo": (FIPOTrainer, "dapo", 0.28, 10.0, 1.0),
    **dict.fromkeys(HASHED, (HashedAgreementGRPOTrainer, "dapo", 0.28, None, 1.0)),
    **dict.fromkeys(CREDITS, (TokenCreditTrainer, "dapo", 0.28, None, 1.0)),
    **dict.fromkeys(DELTA_LIKE, (DeltaGRPOTrainer, "dapo", 0.28, None, 1.0)),
}
# What a method cannot be built without
NEEDED = {"variant": {"variant": "mirror"}}


def write_config(project, **settings):
    path = project / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **settings}))
    return ["--config", path]


def effective(trainer):
    return (type(trainer), trainer.loss_type, trainer.epsilon_high, trainer.args.delta, trainer.top_entropy_quantile)


def test_every_method_has_expectations():
    assert methods().keys() == EXPECTED.keys()


@pytest.mark.parametrize("place", ["yaml", "command line"])
@pytest.mark.parametrize("name", EXPECTED)
def test_a_name_means_these_loss_settings(project, monkeypatch, name, place):
    built = []
    monkeypatch.setattr(EXPECTED[name][0], "train", lambda self, **kwargs: built.append(self))
    # The command line wins over the YAML file, whose trainer has a preset of its own
    arguments = write_config(project, trainer=name if place == "yaml" else "sapo", **NEEDED.get(name, {}))
    train(*parse(*arguments, *([] if place == "yaml" else ["--trainer", name])))
    (trainer,) = built
    assert effective(trainer) == EXPECTED[name]
    assert trainer.epsilon_low == 0.2
    assert trainer.args.disable_dropout
    assert (trainer.args.sapo_temperature_pos, trainer.args.sapo_temperature_neg) == (1.0, 1.05)


@pytest.mark.parametrize("name", EXPECTED)
def test_two_steps_of_every_method(project, name):
    # Two updates on a rollout batch, so that ratios differ from 1
    schedule = {"gradient_accumulation_steps": 1, "steps_per_generation": 2, "max_steps": 2, "save_steps": 2}
    train(*parse(*write_config(project, trainer=name, **schedule, **NEEDED.get(name, {}))))
    history = json.loads((project / "run" / "trainer_state.json").read_text())["log_history"]
    entries = [entry for entry in history if "loss" in entry]
    assert [entry["step"] for entry in entries] == [1, 2]
    assert any(entry["grad_norm"] > 0 for entry in entries)
    for entry in entries:
        assert (
            ("delta/coef/mean" in entry or entry["step"] == 2)
            if name in ("delta", *HASHED, *DELTA_LIKE)
            else "delta/seconds" not in entry
        )
        assert ("fipo/mean" in entry) == (name == "fipo")
        assert ("clip_ratio/region_mean" in entry) == (name != "sapo")


@pytest.mark.parametrize("name", ["dapo", "grpo", "forking_tokens", "sapo"])
def test_a_baseline_is_trls_training_with_our_care(project, monkeypatch, name):
    """The losses of TRL's own trainer on the same options, and a checkpoint where a reward function raises."""
    schedule = {"gradient_accumulation_steps": 1, "steps_per_generation": 2, "max_steps": 4, "save_strategy": "no"}
    arguments = write_config(project, trainer=name, **schedule)
    train(*parse(*arguments))
    ours = losses(project / "run")
    with monkeypatch.context() as patch:
        patch.setattr(METHODS[name].__class__, "trainer_class", GRPOTrainer)
        train(*parse(*arguments, "--overwrite_output_dir"))
    assert ours == losses(project / "run")
    assert len(ours) == 4

    monkeypatch.setattr(models, "digit_reward", FailingReward(call=2))
    with pytest.raises(RuntimeError, match=r"KeyError: 'answer'.* is saved in .*checkpoint-2"):
        train(*parse(*arguments, "--overwrite_output_dir"))
    assert (project / "run" / "checkpoint-2" / "model.safetensors").exists()


def losses(run):
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


class FailingReward:
    __name__ = "digit_reward"

    def __init__(self, call):
        self.left = call

    def __call__(self, completions, **kwargs):
        self.left -= 1
        if self.left == 0:
            raise KeyError("answer")
        return [float(len(set(completion))) for completion in completions]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sapo", {"loss_type": "dapo"}, "trainer 'sapo' needs loss_type='sapo'; got loss_type='dapo'"),
        ("grpo", {"loss_type": "dapo"}, "trainer 'grpo' needs loss_type='grpo'"),
        ("grpo", {"epsilon_high": 0.28}, "needs epsilon_high=None, the value of epsilon; got epsilon_high=0.28"),
        ("dapo", {"epsilon_high": 0.2}, r"trainer 'dapo' needs epsilon_high=0\.28; got epsilon_high=0\.2"),
        ("dapo", {"loss_type": "bnpo"}, "Leave loss_type out"),
        ("forking_tokens", {"top_entropy_quantile": 1.0}, r"needs top_entropy_quantile=0\.2; got .*=1\.0"),
        ("fipo", {"loss_type": "sapo"}, "got 'sapo'"),
        ("fipo", {"importance_sampling_level": "sequence"}, "cannot be combined with FIPO"),
        ("grpo", {"coef_max": 1.5}, "coef_max"),
        ("forking_tokens", {"coef_refinement_steps": 2}, "coef_refinement_steps"),
        ("fipo", {"coef_max": 1.5}, "coef_max"),
        ("dapo", {"fipo_half_life": 16}, "fipo_half_life"),
        (
            "ppo",
            {},
            "Unknown trainer 'ppo': .* 'delta', 'dapo', 'grpo', 'forking_tokens', 'sapo', .*'fipo'",
        ),
        ("async_grpo", {}, "There is no trainer 'async_grpo'. TRL's AsyncGRPOTrainer has no counterpart here"),
    ],
)
@pytest.mark.parametrize("place", ["yaml", "command line"])
def test_what_contradicts_a_method_is_refused(project, name, options, message, place):
    if place == "yaml":
        arguments = write_config(project, trainer=name, **options)
    else:
        arguments = [*write_config(project), "--trainer", name]
        arguments += [part for option, value in options.items() for part in (f"--{option}", value)]
    with pytest.raises(ValueError, match=message):
        parse(*arguments)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("grpo", {"epsilon": 0.3, "epsilon_high": 0.3}),
        ("grpo", {"epsilon_high": "none"}),
        ("sapo", {"loss_type": "sapo", "sapo_temperature_neg": 1.2}),
        ("forking_tokens", {"top_entropy_quantile": 0.2, "delta": 10.0}),
        ("fipo", {"loss_type": "bnpo", "epsilon_high": 0.25, "fipo_half_life": 16}),
    ],
)
def test_what_does_not_contradict_it_is_accepted(project, name, options):
    parts = [part for option, value in options.items() for part in (f"--{option}", value)]
    args = parse(*write_config(project), "--trainer", name, *parts)[2]
    for option, value in options.items():
        assert getattr(args, option) == (None if value == "none" else value)


def test_the_command_line_corrects_the_yaml_file(project):
    arguments = write_config(project, trainer="delta", loss_type="dapo", epsilon_high=0.28)
    args = parse(*arguments, "--trainer", "grpo", "--loss_type", "grpo", "--epsilon_high", "none")[2]
    assert (args.loss_type, args.epsilon_high) == ("grpo", None)


def test_an_abbreviated_name_is_refused(project):
    with pytest.raises(ValueError, match=r"Unknown option --traine\. Did you mean --trainer"):
        parse(*write_config(project), "--traine", "sapo")
    assert trainer_argument(["--trainer=sapo"]) == "sapo"
    assert trainer_argument([]) == "delta"


@pytest.mark.parametrize("trainer", [None, ["delta"], 3])
def test_a_name_that_is_no_text_is_refused(project, trainer):
    with pytest.raises(ValueError, match=r"Unknown trainer .*: trainer must be one of 'delta'"):
        parse(*write_config(project, trainer=trainer))


def test_a_plan_has_the_methods_own_config(project, capsys):
    states = {}
    for name in ("delta", "fipo", "sapo"):
        parsed = parse(*write_config(project, trainer=name, max_prompt_length=40), "--plan", "--plan_processes", "2")
        assert parsed[2].world_size == 2
        assert isinstance(parsed[2], {"fipo": FIPOConfig, "delta": DeltaGRPOConfig, "sapo": GRPOBaseConfig}[name])
        train(*parsed)
        printed = capsys.readouterr().out
        assert f"{name}, 2 processes" in printed
        states[name] = next(line for line in printed.splitlines() if line.startswith("hidden states"))
    assert states["fipo"] == states["sapo"]


def test_another_method_is_one_entry(project, monkeypatch):
    monkeypatch.setitem(
        METHODS,
        "other",
        TrainingMethod("", config="delta_trl.methods.fipo:FIPOConfig", preset={"fipo_clip_max": 1.5}),
    )
    args = parse(*write_config(project, trainer="other"))[2]
    assert args.fipo_clip_max == 1.5


@pytest.mark.parametrize("name", DELTA_LIKE[:-1])
def test_the_old_spelling_of_a_method_of_our_own_means_the_same(project, name):
    new = parse(*write_config(project, trainer=name))[2]
    old = parse(*write_config(project, trainer="variant", variant=name))[2]
    assert new.to_dict() == old.to_dict()  # output_dir is given
    with pytest.raises(ValueError, match=f"trainer '{name}' needs variant='{name}'; got variant='mirror'"):
        parse(*write_config(project, trainer=name, variant="mirror"))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Make a package that registers these entry points, name = value."""

    def install(**entry_points):
        folder = tmp_path / "site" / "other-1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entry_points.items()]
        (folder / "entry_points.txt").write_text("\n".join(["[delta_trl.trainers]", *lines]))
        monkeypatch.syspath_prepend(folder.parent)
        names._registered.cache_clear()

    yield install
    names._registered.cache_clear()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_module:X", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("json:no_such_name", "AttributeError: "),
        ("json:dumps", "TypeError: it must be a TrainingMethod; got function"),
    ],
)
def test_a_broken_entry_point_of_another_package_is_one_warning(installed, value, reason):
    installed(broken=value, fine="delta_trl.methods.names:METHODS_OF_A_TEST", delta="json:dumps")
    names.METHODS_OF_A_TEST = TrainingMethod("fine")
    try:
        with pytest.warns(UserWarning, match="--trainer broken of other") as caught:
            found = methods()
        assert methods() == found
    finally:
        del names.METHODS_OF_A_TEST
    (message,) = (str(warning.message) for warning in caught)
    assert message.startswith(f"--trainer broken of other cannot be used: {value} does not load ({reason}")
    assert message.endswith("Repair or remove other.")
    assert found.keys() == {*METHODS, "fine"}
    assert found["delta"] is METHODS["delta"]  # our own names cannot be taken


def test_help_lists_every_method(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10000")
    with pytest.raises(SystemExit, match="0"):
        parse("--help")
    printed = capsys.readouterr().out
    for name in methods():
        assert f"'{name}'" in printed
    assert "--coef_max" in printed


def test_help_of_a_method_has_its_own_options(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse("--trainer", "fipo", "--help")
    printed = capsys.readouterr().out
    assert "--fipo_half_life" in printed
    assert "--coef_max" not in printed
