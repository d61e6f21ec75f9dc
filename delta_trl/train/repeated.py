"""Whether steps made again from a checkpoint are those that a run made without a stop."""

import filecmp
import json
import math
from pathlib import Path
from typing import Any

from ..run_folder import STATE_FILE, WEIGHTS


# What a resumed run repeats, and on a GPU only nearly: some of its sums have no fixed order
COMPARED = ("loss", "grad_norm", "reward", "entropy", "learning_rate")
GPU_TOLERANCE = 1e-3


def check_saved(folder: Path) -> None:
    """Raise `ValueError` if a finished run left no weights."""
    if not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
        raise ValueError(
            "the run ends without a model: no weights were saved but those in its checkpoints, as with DeepSpeed's ZeRO-3 "
            "without zero3_save_16bit_model (stage3_gather_16bit_weights_on_model_save). Set it to true."
        )


def compare_resumed(straight: Path, resumed: Path, checkpoint: int, *, exact: bool) -> str:
    """
    Compare the steps after a checkpoint, made straight through and from it.

    Args:
        straight, resumed: Folders of the two finished runs.
        checkpoint: Its step.
        exact: Whether logs and weights have to be equal bit for bit; otherwise logs have to be within `GPU_TOLERANCE`.

    Raises:
        ValueError: They differ.
    """
    one, other = (_steps(folder, checkpoint) for folder in (straight, resumed))
    tolerance = 0 if exact else GPU_TOLERANCE
    differing = [
        f"step {then['step']}: {name} {then[name]} straight through, {now.get(name)} from the checkpoint"
        for then, now in zip(one, other, strict=True)
        for name in COMPARED
        if name in then and not math.isclose(then[name], now[name], rel_tol=tolerance, abs_tol=tolerance)
    ]
    if exact and not differing:
        differing = [
            f"the weights in {file.name}"
            for pattern in WEIGHTS
            for file in straight.glob(pattern)
            if not filecmp.cmp(file, resumed / file.name, shallow=False)
        ]
    if differing:
        raise ValueError(
            f"the run continued from its checkpoint of step {checkpoint} is not the run without a stop ({differing[0]}). "
            "Something that it depends on is in no checkpoint."
        )
    how = "bit for bit, and so are the weights" if exact else f"within {GPU_TOLERANCE:g}"
    steps = ", ".join(str(entry["step"]) for entry in one)
    return f"from the checkpoint of step {checkpoint}, as without a stop in step {steps}, {how}"


def _steps(folder: Path, after: int) -> list[dict[str, Any]]:
    history = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))["log_history"]
    return [entry for entry in history if "loss" in entry and entry["step"] > after]
