"""Rows with a question and an answer as text."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .files import UnusableValue
from .sources import Source, open_source


if TYPE_CHECKING:
    from datasets import Dataset

    from .arguments import DataArguments
    from .sources import Rows


def read_rows(arguments: "DataArguments", rows: "Rows | None" = None) -> "Dataset":
    """
    Rows with `question` and `solution` as text, `extra_columns`, and `difficulty` and `topic` where the source has them.

    Besides the errors of `open_source`, ValueError for missing columns and values that are no text.
    """
    texts = {"question": arguments.question_column, "solution": arguments.answer_column}
    source = open_source(arguments, rows).with_columns((*texts.values(), *arguments.extra_columns))
    arguments.format.check_placeholders(source.names)
    kept = kept_columns(source, arguments, texts.values())
    options = {"texts": tuple(texts.items()), "kept": kept}
    return source.rows((*texts.values(), *kept), _as_texts, options, tuple(texts), kept)


def kept_columns(source: Source, arguments: "DataArguments", others: Collection[str]) -> tuple[str, ...]:
    """The columns that are handed on as they are, which are none of `others`."""
    further = dict.fromkeys(("difficulty", "topic", *arguments.extra_columns))
    return tuple(name for name in further if name in source.names and name not in others)


def _as_texts(row: Mapping[str, Any], number: int, texts: tuple, kept: tuple[str, ...]) -> dict[str, Any]:
    return {name: as_text(row.get(column), column, number) for name, column in texts} | kept_values(row, kept)


def kept_values(row: Mapping[str, Any], kept: Sequence[str]) -> dict[str, Any]:
    """The values of the columns that are handed on; a difficulty that is no number, or a topic that is no text, is None."""
    values = {name: row.get(name) for name in kept}
    if "difficulty" in values:
        try:
            values["difficulty"] = float(values["difficulty"])
        except (TypeError, ValueError):
            values["difficulty"] = None  # APPS has words
    if not isinstance(values.get("topic", ""), str):
        values["topic"] = None
    return values


def as_text(value: Any, column: str, row: int) -> str:
    """A value of a text column; a missing one (None, not a number) is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | dict):
        raise UnusableValue(
            f"column {column!r} holds a {type(value).__name__} in row {row}; a text or a number is needed. For chat "
            "prompts, name the column with the question's text and set prompt_format to 'chat'."
        )
    text = str(value).strip()
    return "" if text.lower() == "nan" else text  # how a missing value leaves a table as text
