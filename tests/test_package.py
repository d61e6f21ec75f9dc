import ast
import re
import warnings
from pathlib import Path

import pytest
import torch
from conftest import build, config
from trl import GRPOConfig, GRPOTrainer

import delta_trl
from delta_trl import DeltaGRPOTrainer, base
from delta_trl.base import TESTED_TRL, GRPOBaseTrainer, check_seams
from delta_trl.research.fipo import FIPOTrainer
from delta_trl.research.rlsd import RLSDTrainer
from delta_trl.token_coefficients import TokenCoefficientsTrainer


ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "trainer", [GRPOBaseTrainer, TokenCoefficientsTrainer, DeltaGRPOTrainer, FIPOTrainer, RLSDTrainer]
)
def test_every_overridden_method_of_trl_is_a_seam(trainer):
    overridden = {name for name, value in vars(trainer).items() if callable(value) and hasattr(GRPOTrainer, name)}
    assert overridden - {"__init__", "add_callback", "log"} <= trainer._seams.keys()
    check_seams(trainer)


def test_a_trl_without_a_seam_is_refused_with_its_name():
    class Renamed(GRPOTrainer):
        def compute_loss(self, model, inputs):
            pass

    with pytest.raises(
        RuntimeError, match=r"Renamed\.compute_loss\(return_outputs, num_items_in_batch\), which trl 1"
    ):
        check_seams(DeltaGRPOTrainer, Renamed)

    class Gone:
        compute_loss = _generate_and_score_completions = _get_per_token_logps_and_entropies = staticmethod(
            lambda *a: a
        )

    with pytest.raises(
        RuntimeError, match=r"Gone\._calculate_rewards, which .* does not have\. It was tested with trl"
    ):
        check_seams(DeltaGRPOTrainer, Gone)


@pytest.mark.parametrize(
    ("installed", "warned"),
    [("1.16.7", False), ("1.13.0", False), ("1.12.2", True), ("1.17.0.dev0", True), ("2.0", True)],
)
def test_an_untested_version_only_warns_and_only_once(monkeypatch, installed, warned):
    monkeypatch.setattr(base, "version", lambda name: installed)
    check_seams.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_seams(GRPOBaseTrainer)
        check_seams(GRPOBaseTrainer)
    check_seams.cache_clear()
    assert [f"trl {installed} is untested" in str(warning.message) for warning in caught] == [True] * warned


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
