"""What an editor and a type checker see of the package: `py.typed`, and TRL's signature where TRL's is taken."""

import subprocess
import sys

import pytest
from support.places import ROOT


SCRIPT = """
from datasets import Dataset
from delta_trl import Coefficients, DeltaGRPOConfig, DeltaGRPOTrainer, delta_coefficients
from delta_trl.methods.fipo import FIPOConfig, FIPOTrainer
from delta_trl.rewards import code_reward, math_reward

args = DeltaGRPOConfig("out", coef_min=0.5, learning_rate=1e-6)
trainer = DeltaGRPOTrainer(
    model="model", reward_funcs=[math_reward, code_reward], args=args, train_dataset=Dataset.from_list([])
)
lowest: float = trainer.args.coef_min
FIPOTrainer("model", math_reward, args=FIPOConfig("out"))
"""


def findings(tmp_path, script: str) -> str:
    """What the type checker says of a user's script."""
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "-m", "ty", "check", "--python", sys.prefix, "--output-format", "concise"]
    command += ["--extra-search-path", str(ROOT), "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    return done.stdout


def test_a_script_with_both_trainers_passes(tmp_path):
    assert "All checks passed" in findings(tmp_path, SCRIPT)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("train_dataset=", "train_data=", "unknown-argument"),
        ("coef_min=0.5", "coef_minimum=0.5", "unknown-argument"),
        ("trainer.args.coef_min", "trainer.args.coef_least", "missing-attribute"),
    ],
)
def test_a_mistake_in_a_script_is_found(tmp_path, right, wrong, message):
    said = findings(tmp_path, SCRIPT.replace(right, wrong))
    assert message in said
    assert "Found 1 diagnostic" in said


def test_the_marker_is_shipped():
    assert (ROOT / "delta_trl" / "py.typed").read_text() == ""
    assert '"delta_trl" = ["py.typed"]' in (ROOT / "pyproject.toml").read_text()
