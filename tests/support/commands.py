"""Scripts and the training command, run in this process, and a project folder for them."""

import importlib.util
import io
import json
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml

from delta_trl import __main__ as delta_trl_command
from delta_trl.config import CHECKPOINTING
from delta_trl.research.tasks import arithmetic_problems, character_tokenizer
from delta_trl.train.arguments import parse as parse_arguments
from support.models import tiny_model
from support.places import ROOT


def run_script(script: str, *arguments, **environment: str) -> subprocess.CompletedProcess:
    """
    A script in this process, for the seconds that importing takes in another. Processes that it starts are real.

    Args:
        script: Path from the root of the repository.
        environment: Variables to set meanwhile.
    """
    return _run(script, arguments, environment, lambda: runpy.run_path(str(ROOT / script), run_name="__main__"))


def run_command(name: str, *arguments, **environment: str) -> subprocess.CompletedProcess:
    """`delta-trl NAME ...` in this process, like `run_script`."""
    return _run("delta-trl", (name, *arguments), environment, lambda: sys.exit(delta_trl_command.main()))


def _run(program: str, arguments, environment: dict[str, str], start) -> subprocess.CompletedProcess:
    output, errors, status = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as context,
        patch.dict(os.environ, environment),  # which takes back what the script sets, too
        redirect_stdout(output),
        redirect_stderr(errors),
    ):
        context.chdir(ROOT)
        context.setattr(sys, "argv", [program, *map(str, arguments)])
        try:
            start()
        except SystemExit as leaving:
            status = leaving.code or 0
            if isinstance(status, str):  # goes to stderr, with status 1
                status = print(status, file=errors) or 1
    return subprocess.CompletedProcess([program, *arguments], status, output.getvalue(), errors.getvalue())


def load_script(script: str):
    """A script's module, by its path from the root of the repository; `main` is not called."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(*arguments):
    """What the training command makes of these arguments."""
    return parse_arguments([str(argument) for argument in arguments])


def make_project(folder: Path) -> Path:
    """A folder with a tiny model, problems in DeepMath's schema, and a config for a run of three short steps."""
    tokenizer = character_tokenizer()
    tiny_model(tokenizer=tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = "".join(json.dumps(row) + "\n" for row in arithmetic_problems(40))
    (folder / "problems.jsonl").write_text(rows)
    settings = {
        "model_name_or_path": str(folder / "model"),
        "dataset_name": str(folder / "problems.jsonl"),
        "prompt_format": "{question}\n",
        "output_dir": str(folder / "run"),
        "reward_funcs": ["math_reward", "support.models.digit_reward"],
        "use_cpu": True,
        "bf16": False,
        CHECKPOINTING: False,
        "dtype": "float32",
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 8,
        "max_steps": 3,
        "logging_steps": 1,
        "save_steps": 1,
        "learning_rate": 1e-3,
        "report_to": "none",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder
