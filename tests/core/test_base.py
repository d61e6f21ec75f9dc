import ast
import copy
import re
import subprocess
import sys
import warnings

import pytest
import torch
from support.models import build, config
from support.places import ROOT
from trl import GRPOConfig, GRPOTrainer

import delta_trl
from delta_trl import DeltaGRPOTrainer, seams
from delta_trl.base import GRPOBaseTrainer
from delta_trl.config import GRPOBaseConfig
from delta_trl.methods.fipo import FIPOTrainer
from delta_trl.seams import TESTED_TRL, check_seams, probe_loss
from delta_trl.token_credit import TokenCreditTrainer, _WithTeacher


@pytest.mark.parametrize("trainer", [GRPOBaseTrainer, TokenCreditTrainer, DeltaGRPOTrainer, FIPOTrainer])
def test_every_overridden_method_of_trl_is_a_seam(trainer):
    overridden = {name for name, value in vars(trainer).items() if callable(value) and hasattr(GRPOTrainer, name)}
    assert overridden - {"__init__", "add_callback", "log"} <= trainer._seams.keys()
    check_seams(trainer)


def test_a_trl_without_a_seam_is_refused_with_its_name():
    class Renamed(GRPOTrainer):
        __module__ = "trl.trainer.grpo_trainer"

        def compute_loss(self, model, inputs):
            pass

    with pytest.raises(
        RuntimeError, match=r"Renamed\.compute_loss\(return_outputs, num_items_in_batch\), which trl 1"
    ):
        check_seams(DeltaGRPOTrainer, Renamed)

    class Gone:
        __module__ = "trl.trainer.grpo_trainer"
        compute_loss = _generate_and_score_completions = _get_per_token_logps_and_entropies = staticmethod(
            lambda *a: a
        )

    with pytest.raises(
        RuntimeError, match=r"Gone\._calculate_rewards, which .* does not have: the tests have passed with trl"
    ):
        check_seams(DeltaGRPOTrainer, Gone)


def test_a_trainer_that_another_package_put_in_the_place_of_trls_is_refused(tmp_path):
    """As Unsloth does when it is imported first: a class of its own, made from TRL's, under TRL's name."""
    script = """
import trl
class UnslothGRPOTrainer(trl.GRPOTrainer):
    pass
UnslothGRPOTrainer.__module__ = "unsloth_compiled_cache.UnslothGRPOTrainer"
trl.GRPOTrainer = UnslothGRPOTrainer
from delta_trl import DeltaGRPOTrainer
DeltaGRPOTrainer("no/such/model", print)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert (
        "RuntimeError: trl.GRPOTrainer is unsloth_compiled_cache.UnslothGRPOTrainer.UnslothGRPOTrainer" in done.stderr
    )
    assert "Unsloth" in done.stderr.splitlines()[-1]


@pytest.fixture
def version_of(monkeypatch):
    """Sets the version that TRL says it has."""
    monkeypatch.setattr(seams, "_said", set())
    return lambda installed: monkeypatch.setattr(seams, "version", lambda name: installed)


def test_what_only_a_teacher_needs_is_asked_of_such_a_method_alone():
    seams = {name: getattr(GRPOTrainer, name) for name in TokenCreditTrainer._seams}
    without = type("GRPOTrainer", (), {**seams, "__module__": "trl.trainer"})
    check_seams(TokenCreditTrainer, without)
    with pytest.raises(RuntimeError, match=r"GRPOTrainer\._tokenize_prompts, which trl"):
        check_seams(_WithTeacher, without)


@pytest.mark.parametrize(
    ("installed", "warned"),
    [("1.16.7", False), ("1.13.0", False), ("1.12.2", True), ("1.17.0.dev0", True), ("1.19.2", True), ("2.0", True)],
)
def test_an_untested_version_is_said_once_and_its_loss_tried(tmp_path, monkeypatch, version_of, installed, warned):
    version_of(installed)
    probes = []
    monkeypatch.setattr(seams, "probe_loss", lambda trainer: probes.append(trainer) or probe_loss(trainer))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainers = [build(DeltaGRPOTrainer, config(tmp_path)) for _ in range(2)]
        build(GRPOBaseTrainer, config(tmp_path, GRPOBaseConfig))  # weighs no token
    said = [str(warning.message) for warning in caught if "untested" in str(warning.message)]
    assert probes == (trainers if warned else [])
    assert len(said) == warned
    if warned:
        assert re.fullmatch(
            rf"trl {installed} is untested with delta_trl\. On a tiny batch its loss weighs each token as it should\. If "
            r"training looks wrong: the tests have passed with trl 1\.\d+ to 1\.\d+: pip install 'trl>=1\.\d+,<1\.\d+'\.",
            said[0],
        )


OPTIONS = {
    **{f"loss_type={name}": {"loss_type": name} for name in ("grpo", "bnpo", "dr_grpo", "sapo", "vespo", "luspo")},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    "KL": {"use_bias_correction_kl": True},
    "forking tokens": {"top_entropy_quantile": 0.5},
    "dual clip and off-policy mask": {"delta": 10.0, "off_policy_mask_threshold": 0.1},
    "bonus": {"entropy_coef": 0.1},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_the_loss_of_tested_versions_passes_under_every_option_and_leaves_no_trace(tmp_path, options):
    trainer = build(DeltaGRPOTrainer, config(tmp_path, **OPTIONS[options]))
    trainer.beta = 0.1 if options == "KL" else 0.0  # as an option it would load a reference model
    trainer.model.train()
    metrics = copy.deepcopy(trainer._metrics)
    assert probe_loss(trainer) is None
    assert trainer._metrics == metrics
    assert trainer.model.training
    assert "_get_per_token_logps_and_entropies" not in vars(trainer)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda a: a.mean(1) if a.ndim == 2 else a, "does not weigh each token by its own advantage"),
        (lambda a: a * (1 + 1e-6) if a.ndim == 2 else a, "weights of 1 change training"),
        (lambda a: a[:, :1] if a.ndim == 2 else a, "does not weigh each token by its own advantage"),
    ],
)
def test_a_loss_that_treats_advantages_otherwise_ends_the_trainer(tmp_path, monkeypatch, version_of, read, message):
    loss = GRPOTrainer._compute_loss

    def other_loss(self, model, inputs):
        return loss(self, model, {**inputs, "advantages": read(inputs["advantages"])})

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", other_loss)
    build(DeltaGRPOTrainer, config(tmp_path))  # of a tested version nothing is tried
    version_of("1.19.0")
    with pytest.raises(RuntimeError, match=rf"{message}.* This is trl 1\.19\.0; the tests have passed with"):
        build(DeltaGRPOTrainer, config(tmp_path))


def test_a_loss_that_cannot_be_tried_is_said(tmp_path, monkeypatch, version_of):
    def another(self, model, inputs):
        return inputs["a_new_entry"]

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", another)
    version_of("1.19.0")
    with pytest.warns(
        UserWarning, match=r"could not be tried on a tiny batch either \(KeyError: 'a_new_entry'\)\. If tr"
    ):
        build(DeltaGRPOTrainer, config(tmp_path))


def test_coefficients_that_do_not_reach_the_loss_end_the_run(tmp_path, monkeypatch):
    generate = DeltaGRPOTrainer._generate_and_score_completions

    def without(self, inputs):
        return {k: v for k, v in generate(self, inputs).items() if k != "token_coefficients"}

    monkeypatch.setattr(DeltaGRPOTrainer, "_generate_and_score_completions", without)
    with pytest.raises(RuntimeError, match="came to the loss without the coefficients of DelTA"):
        build(DeltaGRPOTrainer, config(tmp_path, max_steps=1)).train()
    build(DeltaGRPOTrainer, config(tmp_path, max_steps=1, coef_min=1.0, coef_max=1.0)).train()


def test_the_pinned_version_is_a_tested_one():
    pinned = re.search(r"\ntrl==(\d+)\.(\d+)\.", (ROOT / "constraints.txt").read_text())
    oldest, newest = (tuple(map(int, minor.split("."))) for minor in TESTED_TRL)
    assert oldest <= tuple(map(int, pinned.groups())) <= newest


def test_trls_loss_takes_an_advantage_for_each_token(tmp_path):
    """What token credit stands on: with advantages of shape (B, T), TRL's loss weighs each token by its own."""
    trainer = build(GRPOTrainer, config(tmp_path, GRPOConfig, loss_type="dapo"))
    logps = torch.zeros(2, 3, requires_grad=True)
    trainer._get_per_token_logps_and_entropies = lambda *args, **kwargs: (logps, torch.zeros(2, 3), None)
    trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation
    trainer.model.train()
    ones = torch.ones(2, 3, dtype=torch.long)
    advantages = torch.tensor([[1.0, 2.0, -3.0], [0.5, 0.0, 4.0]])
    inputs = {"prompt_ids": ones, "prompt_mask": ones, "completion_ids": ones, "completion_mask": ones}
    loss = trainer.compute_loss(
        trainer.model, {**inputs, "advantages": advantages, "num_items_in_batch": torch.tensor(6)}
    )
    (gradient,) = torch.autograd.grad(loss, logps)
    torch.testing.assert_close(gradient, -advantages / 6)


def test_public_names():
    assert set(delta_trl.__all__) <= set(dir(delta_trl))
    for name in delta_trl.__all__:
        assert getattr(delta_trl, name).__module__.startswith("delta_trl.")
    with pytest.raises(AttributeError, match="no_such_name"):
        delta_trl.no_such_name  # noqa: B018


def test_no_two_public_things_have_one_name():
    """A constant may stand twice only with the same value; `main` and `parse` are every command's, `logger` a module's."""
    places = {}
    for path in (ROOT / "delta_trl").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                places.setdefault(node.name, set()).add(path)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                places.setdefault(node.targets[0].id, set()).add(ast.unparse(node.value))
    twice = {name: found for name, found in places.items() if len(found) > 1 and not name.startswith("_")}
    assert twice.keys() <= {"main", "parse", "logger"}, twice


def test_the_product_does_not_import_research():
    package = ROOT / "delta_trl"
    product = [path for path in package.rglob("*.py") if "research" not in path.relative_to(package).parts]
    for path in product:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                assert not any("research" in name.split(".") for name in names), f"{path}, line {node.lineno}"
