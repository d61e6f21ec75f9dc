"""What an evaluation takes over from the training run that made a model: how it was asked, and how long it may answer.

Training leaves a file with its settings in its output folder. A model without one, such as any on the Hub, is evaluated
with the published defaults. Sampling (temperature, top-p, samples) is not taken over: it is what makes figures
comparable with published ones.
"""

from pathlib import Path
from typing import Any, get_args

from ..jsonl import parse_json
from ..run_folder import RUN_FILE
from .models import ModelSource
from .options import Dtype


def inherited_settings(source: ModelSource) -> tuple[dict[str, Any], Path | None]:
    """Options of `Decoding` and `Engine` as in the training run that made a model.

    Args:
        source: From `find_model`: the run's output folder, or one of its `checkpoint-N` folders.

    Returns:
        Those of `prompt_format`, `system_prompt`, `max_tokens` and `dtype` that the run tells, and the file that tells
        them, or None.

    Raises:
        ValueError: The file is no JSON object.
    """
    if source.on_hub:
        return {}, None
    folder = source.folder.resolve()
    file = next((place / RUN_FILE for place in (folder, folder.parent) if (place / RUN_FILE).is_file()), None)
    if file is None or (file.parent != folder and not folder.name.startswith("checkpoint-")):
        return {}, None
    try:
        run = parse_json(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}. Delete it to evaluate with the published defaults.") from error
    if not isinstance(run, dict):
        raise ValueError(f"{file} is no JSON object. Delete it to evaluate with the published defaults.")
    found = {
        "prompt_format": run.get("prompt_format"),
        "system_prompt": run.get("system_prompt"),
        "max_tokens": run.get("max_completion_length"),
        "dtype": _dtype(run.get("settings")),
    }
    return {name: value for name, value in found.items() if value is not None}, file


def with_inherited(given: dict[str, Any], inherited: dict[str, Any]) -> dict[str, Any]:
    """The inherited options that stay where the user gave some: a system prompt belongs to its prompt format."""
    dropped = {*given, *(["system_prompt"] if "prompt_format" in given else [])}
    return {name: value for name, value in inherited.items() if name not in dropped}


def _dtype(settings: Any) -> str | None:
    """What the training computed in. The weights it saved may be float32 nonetheless."""
    if not isinstance(settings, dict):
        return None
    if settings.get("dtype") in get_args(Dtype):
        return settings["dtype"]
    return "bfloat16" if settings.get("bf16") else "float16" if settings.get("fp16") else None
