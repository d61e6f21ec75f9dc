"""What a run's figures depend on besides its options: the code and the libraries."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any


def git_state(folder: Path) -> dict[str, Any]:
    """Commit of the code, and whether tracked files differ from it; None where there is no git."""

    def ask(*arguments: str) -> str | None:
        try:
            return subprocess.run(
                ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    status = ask("status", "--porcelain", "--untracked-files=no")
    return {"commit": ask("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def versions() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: version(name) for name in ("torch", "transformers", "trl", "accelerate", "datasets")},
    }
