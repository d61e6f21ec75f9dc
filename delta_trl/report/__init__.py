"""Pictures of a run: a report in one HTML file, token heat maps for notebooks, and heat maps in the logging backends.

Everything is drawn from what training recorded, so nothing here needs a GPU or the model. Needs the extra `report`
(jinja2).
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .callback import HeatMapCallback
    from .notebook import HeatMap, heat_map
    from .page import write_report

# Loaded on first use: a notebook that draws one heat map needs neither pyarrow nor transformers
_MODULE_OF = {"HeatMap": "notebook", "HeatMapCallback": "callback", "heat_map": "notebook", "write_report": "page"}
__all__ = ["HeatMap", "HeatMapCallback", "heat_map", "write_report"]


if importlib.util.find_spec("jinja2") is None:
    raise ImportError("delta_trl.report needs jinja2: pip install 'delta_trl[report]'.")


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
