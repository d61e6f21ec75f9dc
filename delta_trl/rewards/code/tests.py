"""The tests of a problem: reading the forms that data sets store them in, and choosing those to run.

A row's tests are a dict, or its JSON text, with `inputs` and `outputs` of the same length (APPS, TACO, Eurus-2).

Without `fn_name` a program reads standard input. An item is a text or a list of lines.

With `fn_name` a function of the program, or of its class `Solution`, is called.
- An input is a list of arguments, or a text with one JSON value a line, or, with `"format": "python"`, the text of a
  Python tuple of arguments, such as `((1, 2), {3})`, which only the sandbox evaluates.
- An output is a value, or its JSON text, or a bare string, each of them perhaps wrapped in a list of one. Where a row
  can be read in several of these ways, a program is right if it is right on all tests under one of them.
"""

import functools
import json
from dataclasses import dataclass
from typing import Any

from .compare import ORACLES, read_value


@dataclass(frozen=True)
class CodeTests:
    """Tests that can be run.

    Attributes:
        inputs: Texts of standard input, or arguments of calls.
        outputs: Expected texts, one list of them; or for calls one list of values a reading of the row.
        function: The function to call, None for programs that read standard input.
        is_python: Whether arguments are texts of Python expressions.
        oracle: How a returned value is compared, one of `compare.ORACLES`.
    """

    inputs: list
    outputs: list[list]
    function: str | None = None
    is_python: bool = False
    oracle: str | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    @functools.cached_property
    def output_size(self) -> int:
        """Characters of all outputs as JSON, in the longest reading."""
        return max(len(json.dumps(reading)) for reading in self.outputs)


def read_tests(tests: object, most: int | None = None) -> CodeTests:
    """The tests of a row.

    Args:
        tests: A dict, or its JSON text.
        most: Keep at most so many, >= 1: those with the longest inputs, which break more programs, in the order of the
            row. Which ones depends on the row alone.

    Raises:
        ValueError: The tests cannot be used: none, or not as many outputs as inputs, or items of another form.
    """
    if isinstance(tests, (str, bytes)):
        try:
            tests = read_value(tests)
        except ValueError as error:
            raise ValueError(f"tests are not valid JSON: {error}") from None
    if not isinstance(tests, dict):
        raise ValueError(f"tests must be a dict with inputs and outputs, or its JSON text, got {type(tests).__name__}")
    inputs, outputs, function = tests.get("inputs"), tests.get("outputs"), tests.get("fn_name")
    if not isinstance(inputs, (list, tuple)) or not isinstance(outputs, (list, tuple)):
        raise ValueError("tests must hold a list of inputs and a list of outputs")
    if not inputs:
        raise ValueError("tests hold no input")
    if len(inputs) != len(outputs):
        raise ValueError(f"tests hold {len(inputs)} inputs and {len(outputs)} outputs")
    style = tests.get("format")
    if style not in (None, "python") or (style and not function):
        raise ValueError(f'the format of tests must be "python", together with fn_name, or absent; got {style!r}')
    oracle = tests.get("oracle")
    if oracle not in ORACLES or (oracle and not function):
        known = ", ".join(repr(name) for name in ORACLES if name)
        raise ValueError(
            f"the oracle of tests must be one of {known}, together with fn_name, or absent; got {oracle!r}"
        )
    pairs = list(zip(inputs, outputs, strict=True))
    if most is not None and len(pairs) > most:
        lengths = [_length(item) for item, _ in pairs]
        longest = sorted(range(len(pairs)), key=lambda i: (-lengths[i], i))[:most]
        pairs = [pairs[i] for i in sorted(longest)]
    if not function:
        return CodeTests([_text(item) for item, _ in pairs], [[_text(item) for _, item in pairs]])
    if not isinstance(function, str):
        raise ValueError(f"fn_name must be a string, got {type(function).__name__}")
    if style == "python":
        arguments = [item if isinstance(item, str) else None for item, _ in pairs]
        if None in arguments:
            raise ValueError('with "format": "python" every input must be the text of a tuple of arguments')
    else:
        arguments = [_arguments(item) for item, _ in pairs]
    expected = [_plain(item) for _, item in pairs]
    readings = [expected] if style == "python" else _readings(expected)
    return CodeTests(arguments, readings, function, style == "python", oracle)


def _text(item: object) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, (list, tuple)) and all(isinstance(line, str) for line in item):
        return "\n".join(item)
    raise ValueError(
        f"an item of standard input or output must be a text or a list of lines, got {type(item).__name__}"
    )


def _length(item: object) -> int:
    try:
        return len(item if isinstance(item, str) else repr(item))
    except RecursionError:
        raise ValueError("an item of the tests is nested too deep") from None


def _plain(value: object) -> Any:
    """Lists for tuples, as JSON has it."""
    try:
        return read_value(json.dumps(value))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"an item of the tests is no plain data: {error}") from None


def _arguments(item: object) -> list:
    if isinstance(item, str):
        return [read_value(line) for line in item.split("\n") if line.strip()]
    return _plain(item) if isinstance(item, (list, tuple)) else [_plain(item)]


def _readings(expected: list) -> list[list]:
    readings = [expected]
    if all(isinstance(value, list) and len(value) == 1 for value in expected):
        readings.append([value[0] for value in expected])
    for reading in list(readings):
        if all(isinstance(value, str) for value in reading):
            parsed = [_from_json(value) for value in reading]
            if parsed != reading:
                readings.append(parsed)
    return readings


def _from_json(text: str) -> object:
    try:
        return read_value(text)
    except ValueError:
        return text
