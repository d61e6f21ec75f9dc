"""Which model is meant: a Hub id, a folder, the newest checkpoint of a training that is still running, an adapter."""

import hashlib
import os.path
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..jsonl import parse_json
from ..run_folder import checkpoints, last_checkpoint


ADAPTER_CONFIG = "adapter_config.json"
WEIGHT_SUFFIXES = (".safetensors", ".bin")


@dataclass(frozen=True)
class ModelSource:
    """Where a model's weights and tokenizer come from.

    Args:
        path: Hub id or folder to load. With an adapter, the adapter's folder.
        base: Hub id or folder of the base model that an adapter belongs to, or None.
        revision: What tells two states of the same path apart: the Hub revision asked for, or for a folder 16
            hexadecimal digits over names, sizes and modification times of its weight files.
    """

    path: str
    base: str | None
    revision: str | None

    @property
    def folder(self) -> Path:
        """`path` as a folder."""
        return Path(self.path)

    @property
    def on_hub(self) -> bool:
        return not self.folder.is_dir()

    @property
    def label(self) -> str:
        """A short name that can be a file name: `run--checkpoint-200`, `Qwen--Qwen3-8B-Base`."""
        path = self.folder if self.on_hub else self.folder.resolve()
        return re.sub(r"[^\w.-]+", "--", "/".join(path.parts[-2:]).strip("/"))


def find_model(model: str, revision: str | None = None) -> ModelSource:
    """Finds out what `--model` means.

    Args:
        model: Hub id of a model; or a folder with a model, with a LoRA adapter, or with `checkpoint-N` folders, of
            which the newest complete one is taken.
        revision: Branch, tag or commit on the Hub.

    Raises:
        ValueError: The folder holds no model, only checkpoints that are still being written or damaged, or an adapter
            whose file is damaged or does not name its base model.
    """
    model = os.path.expanduser(model)  # a name on the Hub never begins with `~`
    folder = Path(model)
    if not folder.is_dir():
        if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
            raise ValueError(f"{model!r} looks like a folder, and there is none of that name.")
        return ModelSource(model, None, revision)
    if revision is not None:
        raise ValueError(f"revision {revision!r} was given for the folder {model!r}. Revisions exist on the Hub only.")
    if not (folder / "config.json").exists() and not (folder / ADAPTER_CONFIG).exists():
        folder = _newest_checkpoint(folder)
    base = None
    if (folder / ADAPTER_CONFIG).exists():
        base = adapter_config(folder).get("base_model_name_or_path")
        if not base:
            raise ValueError(
                f"{folder / ADAPTER_CONFIG} does not name its base model. Set base_model_name_or_path in it to the "
                "Hub id or the folder of the model that the adapter was trained on."
            )
    return ModelSource(str(folder), base, _digest(folder))


def adapter_config(folder: Path) -> dict[str, Any]:
    """What an adapter's folder says about it.

    Raises:
        ValueError: The file is no JSON object.
    """
    file = folder / ADAPTER_CONFIG
    try:
        config = parse_json(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}. Save the adapter again.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} holds a {type(config).__name__}, and not an object. Save the adapter again.")
    return config


def _newest_checkpoint(folder: Path) -> Path:
    if (newest := last_checkpoint(folder)) is None:
        state = "only incomplete checkpoints" if checkpoints(folder) else "no model, adapter or checkpoint"
        raise ValueError(f"{str(folder)!r} holds {state}. Give a folder that holds a saved model or adapter.")
    return newest


def _digest(folder: Path) -> str:
    # Not the contents: hashing 16 GB takes longer than loading them.
    files = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.iterdir())
        if path.suffix in WEIGHT_SUFFIXES
    ]
    return hashlib.sha256(repr(files).encode()).hexdigest()[:16]
