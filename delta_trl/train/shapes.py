"""A model's configuration without its weights: from a folder, the Hub, or the shape that lies beside a recipe."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from trl import ModelConfig

from ..run_folder import WEIGHTS


def read_model_config(model_args: ModelConfig, *, trust_remote_code: bool) -> PreTrainedConfig:
    """
    The model's config.json.

    Raises:
        ValueError: There is none, or the Hub cannot be reached.
    """
    name = model_args.model_name_or_path
    try:
        return AutoConfig.from_pretrained(
            name, revision=model_args.model_revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        if Path(name).is_dir():
            raise ValueError(f"The folder {name} holds no model that can be read: {_first_line(error)}") from error
        if Path(name).exists():
            raise ValueError(
                f"{name} is a file, and model_name_or_path has to be a folder with a model, or its name on the Hub."
            ) from error
        if name.startswith((".", "~", "/")) or name.count("/") > 1:  # no name on the Hub
            raise ValueError(f"There is no folder {name}, which model_name_or_path names.") from error
        raise ValueError(
            f"There is no model {name!r}: no such folder here, and on the Hub it was not found or could not be asked "
            f"({_first_line(error)}). If the Hub cannot be reached from here, name a folder with the model."
        ) from error


def read_config_or_shape(
    model_args: ModelConfig, recipe: Path | None, *, trust_remote_code: bool
) -> tuple[PreTrainedConfig, str | None]:
    """
    The model's configuration, or the shape beside the recipe where it cannot be read, which the note then says.

    Raises:
        ValueError: There is neither.
    """
    try:
        return read_model_config(model_args, trust_remote_code=trust_remote_code), None
    except ValueError:
        if (found := shape_beside(recipe, model_args.model_name_or_path)) is None:
            raise
    config, file = found
    return config, f"the model's own configuration could not be read; its shape is taken from {file}."


def read_tokenizer(name: str, **source: Any) -> PreTrainedTokenizerBase:
    """
    The model's tokenizer, as training reads it.

    Raises:
        ValueError: It knows no text. As transformers does, where there is none.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(name, truncation_side="left", padding_side="left", **source)
    check_tokenizer(tokenizer, name)
    return tokenizer


def check_weights(name: str) -> None:
    """Raise `ValueError` if a local folder has no weights: loading them comes last, after the data."""
    folder = Path(name)
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
        raise ValueError(
            f"The folder {name} holds no weights ({' or '.join(WEIGHTS)}). Name the folder that a model was saved in."
        )


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise `ValueError` for the empty tokenizer that transformers makes where a folder has none."""
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):
        raise ValueError(
            f"{name} holds no tokenizer (tokenizer.json). Save it there, as in tokenizer.save_pretrained({name!r})."
        )


def shape_beside(recipe: Path | None, model: str) -> tuple[PreTrainedConfig, Path] | None:
    """
    The shape of `model` kept beside a recipe, with its file: RECIPE.model.json, or model.json in its folder. None if there
    is none, or it is of another model.
    """
    if recipe is None:
        return None
    for path in (recipe.with_suffix(".model.json"), recipe.with_name("model.json")):
        if path.is_file():
            shape = json.loads(path.read_text(encoding="utf-8"))
            if shape.pop("_name_or_path") == model:
                return AutoConfig.for_model(**shape), path
    return None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
