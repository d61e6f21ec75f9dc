"""DelTA, Discriminative Token Credit Assignment for RLVR (arXiv 2605.21467), for Hugging Face TRL.

The public names are loaded on first use, so that the algorithm alone (`delta_coefficients`) imports with nothing but
torch.
"""

import importlib
from typing import TYPE_CHECKING

from .version import __version__ as __version__


if TYPE_CHECKING:
    from .coefficients import Coefficients, delta_coefficients
    from .config import DeltaGRPOConfig
    from .progress import ReadableProgressCallback
    from .trainer import DeltaGRPOTrainer

_MODULE_OF = {
    "Coefficients": "coefficients",
    "delta_coefficients": "coefficients",
    "DeltaGRPOConfig": "config",
    "DeltaGRPOTrainer": "trainer",
    "ReadableProgressCallback": "progress",
}
__all__ = ["Coefficients", "DeltaGRPOConfig", "DeltaGRPOTrainer", "ReadableProgressCallback", "delta_coefficients"]


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
