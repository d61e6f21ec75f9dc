"""The versions of TRL that the overridden private methods were tested with."""

from importlib.metadata import PackageNotFoundError, version


TESTED_TRL = "1.16"


def require_tested_trl() -> None:
    """Raise `ImportError` unless the installed TRL has the tested minor version."""
    try:
        installed = version("trl")
    except PackageNotFoundError:
        installed = None
    if installed is None or installed.split(".")[:2] != TESTED_TRL.split("."):
        raise ImportError(
            f"delta_trl overrides private methods of TRL's GRPOTrainer and was tested with trl {TESTED_TRL}.*; found "
            f"{'no trl' if installed is None else f'trl {installed}'}. Run: pip install 'trl=={TESTED_TRL}.*'"
        )
