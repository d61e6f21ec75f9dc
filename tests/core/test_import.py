"""The package is imported where the system is another one, and from a folder that nobody installed."""

import json
import os
import site
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import ROOT

from delta_trl.version import __version__


pytestmark = pytest.mark.slow  # processes that import everything

# What runs in processes of its own, which are not started on Windows
INSIDE_WORKERS = ("delta_trl.sandbox.inside", "delta_trl.rewards.worker", "delta_trl.rewards.gym_job")
WITHOUT_POSIX = f"""
import builtins, importlib, logging, os, pkgutil, signal, sys
import datasets, math_verify, matplotlib, pandas, peft, scipy, torch, transformers
from trl import GRPOTrainer, ModelConfig  # they have their own ways around what is missing

HIDDEN = ("fcntl", "grp", "pwd", "resource", "syslog", "termios")
import_module = builtins.__import__

def without(name, globals=None, *arguments, **options):
    if name in HIDDEN and str((globals or {{}}).get("__name__")).startswith("delta_trl"):
        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    return import_module(name, globals, *arguments, **options)

builtins.__import__ = without
for name in ("register_at_fork", "fork", "getuid", "geteuid", "setsid", "killpg", "getpgid", "sched_getaffinity", "mkfifo"):
    vars(os).pop(name, None)
for name in ("SIGKILL", "SIGALRM", "SIGPROF", "SIGXCPU", "SIGUSR1", "SIGCHLD", "SIGHUP", "setitimer", "ITIMER_PROF"):
    vars(signal).pop(name, None)

import delta_trl
for name in delta_trl.__all__:
    getattr(delta_trl, name)
names = [module.name for module in pkgutil.walk_packages(delta_trl.__path__, "delta_trl.")]
names = [name for name in names if not name.startswith({INSIDE_WORKERS!r})]
for name in names:
    importlib.import_module(name)
assert not logging.root.manager.disable, "a module silences everybody's warnings"
print(len(names), "modules")
"""


def test_every_module_can_be_imported_without_posix():
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout.split()[-2]) > 80


@pytest.fixture
def not_installed(tmp_path) -> dict[str, str]:
    """An environment in which all packages are installed but this one, whose checkout is on the path."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for folder in site.getsitepackages():
        for path in Path(folder).iterdir():
            if "delta_trl" not in path.name and not (packages / path.name).exists():
                (packages / path.name).symlink_to(path)
    (packages / "delta_trl").symlink_to(ROOT / "delta_trl")  # without the checkout's egg-info
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (packages, ROOT / "tests")))}


def test_a_checkout_that_is_not_installed_trains_and_names_its_version(project, not_installed):
    def python(*arguments):
        return subprocess.run(
            [sys.executable, "-S", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=not_installed,
            cwd=project,
            timeout=300,
        )

    metadata = python("-c", "import importlib.metadata as m; m.version('delta_trl')")
    assert "PackageNotFoundError" in metadata.stderr
    result = python("-m", "delta_trl.train", "--config", "config.yaml", "--max_steps", 1)
    assert result.returncode == 0, result.stderr[-2000:]
    assert json.loads((project / "run" / "delta_trl_run.json").read_text())["version"] == __version__
    assert f"delta_trl {__version__}, accelerate" in (project / "run" / "README.md").read_text()
