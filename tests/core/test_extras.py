"""Every extra installs under the pinned versions. This asks the package index, and is skipped by name where none answers."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.places import ROOT


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NO_ANSWER = re.compile(r".*(?:connection error|connection broken|timed out).*", re.IGNORECASE)


class NoIndexError(Exception):
    """The package index does not answer."""


def requirements_of(extra: str) -> list[str]:
    """What an extra needs besides the package itself, with the extras that it names in turn."""
    found = []
    for requirement in EXTRAS[extra]:
        own = re.fullmatch(rf"{PROJECT['name']}\[(.*)\]", requirement)
        found += [r for name in own[1].split(",") for r in requirements_of(name)] if own else [requirement]
    return found


def resolve(requirements: list[str], constraints: Path, *options: str) -> None:
    """Let pip find versions, without installing any. Raises `NoIndexError`, or `ValueError` with what pip says."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--retries", "1", "--timeout", "20"]
    command += ["--disable-pip-version-check", "--constraint", str(constraints), *options, *requirements]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return
    if (silent := NO_ANSWER.search(done.stdout + done.stderr)) is not None:
        raise NoIndexError(silent[0].strip())
    raise ValueError(done.stderr)


@pytest.mark.slow
def test_every_extra_installs_under_the_constraints():
    every = sorted({requirement for extra in EXTRAS for requirement in requirements_of(extra)})
    assert any(requirement.startswith("trackio") for requirement in every)
    assert not any(PROJECT["name"] in requirement for requirement in every)
    try:
        resolve(PROJECT["dependencies"] + every, ROOT / "constraints.txt")
    except NoIndexError as error:
        pytest.skip(f"whether every extra installs was not tried, as the package index does not answer: {error}")


def test_an_index_that_does_not_answer_is_told_from_versions_that_do_not_fit(tmp_path):
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("")
    with pytest.raises(NoIndexError, match="connection"):
        resolve(["no-such-package-of-anybody"], constraints, "--isolated", "--index-url", "http://127.0.0.1:9/simple")
    installed = subprocess.run([sys.executable, "-c", "import numpy; print(numpy.__version__)"], capture_output=True)
    constraints.write_text("numpy==0.0.1\n")
    with pytest.raises(ValueError, match="conflict"):
        resolve([f"numpy=={installed.stdout.decode().strip()}"], constraints, "--isolated", "--no-index")
