"""The YAML file of a command: read, and each value held against the type of its option before anything uses it."""

import types
import typing
from collections.abc import Iterable
from dataclasses import fields
from enum import Enum
from pathlib import Path
from reprlib import Repr
from typing import Any


# More than any config has: aliases of aliases make gigabytes of a few lines, when they are printed or copied
MAX_VALUES = 10_000
SCALARS = (str, bool, int, float, types.NoneType)
# Annotated as texts by TRL and transformers, which take true and false as well
BOOLEANS_TOO = ("scale_rewards", "fsdp", "resume_from_checkpoint")

_REPR = Repr()
_REPR.maxlevel = 1  # each further one takes six times as much


def in_a_line(value: Any) -> str:
    """`repr` of whatever came out of a file, in at most a line."""
    return _REPR.repr(value)


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings of a YAML file: option names, and values of JSON's types.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It cannot be read, with the line, or holds something else than options.
    """
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"There is no config file {path}.")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise ValueError(f"{path}{line}: not valid YAML ({problem}).") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not valid YAML ({type(error).__name__}: {in_a_line(str(error))}).") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must hold options, as in 'learning_rate: 1.0e-6'; got {in_a_line(settings)}.")
    for name in settings:
        if not isinstance(name, str):
            raise ValueError(f"{path}: {in_a_line(name)} is no name of an option. Options are written 'name: value'.")
    _check_kinds(path, settings)
    return settings


def _check_kinds(path: Path, settings: dict[str, Any]) -> None:
    """Lists, mappings with text as keys, and scalars, not more than `MAX_VALUES` with all aliases written out."""
    waiting = list(settings.items())
    seen = 0
    while waiting:
        name, value = waiting.pop()
        seen += 1
        if seen > MAX_VALUES:
            raise ValueError(f"{path} holds more than {MAX_VALUES:,} values, written out with their aliases.")
        if isinstance(value, list):
            waiting += [(name, item) for item in value]
        elif isinstance(value, dict):
            waiting += [(name, item) for pair in value.items() for item in pair]
        elif not isinstance(value, SCALARS):
            kind = type(value).__name__
            raise ValueError(f"{path}: {name} holds a {kind}, {in_a_line(value)}. If it is a text, put it in quotes.")


def option_types(dataclasses: Iterable[type]) -> dict[str, frozenset[Any]]:
    """For every field, the types of which a value may be; `list[str]` stands for a list of texts, `list` for any other."""
    from trl import GRPOConfig, ModelConfig  # not above: for seconds they import torch

    loose = {*GRPOConfig.__dataclass_fields__, *ModelConfig.__dataclass_fields__}  # null more often than annotated
    kinds = {}
    for dataclass in dataclasses:
        hints = typing.get_type_hints(dataclass)
        for field in fields(dataclass):
            accepted = _types_in(hints[field.name])
            if field.name in loose or field.default is None:
                accepted |= {types.NoneType}
            kinds[field.name] = accepted | {bool} if field.name in BOOLEANS_TOO else accepted
    return kinds


def _types_in(annotation: Any) -> frozenset[Any]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return frozenset().union(*map(_types_in, typing.get_args(annotation)))
    if origin is typing.Literal:
        return frozenset(map(type, typing.get_args(annotation)))
    if annotation == list[str]:
        return frozenset({list, list[str]})
    kind = origin or annotation
    if isinstance(kind, type):
        return frozenset({str if issubclass(kind, Enum) else kind})
    return frozenset({object})  # Any


def check_value(path: Path, name: str, value: Any, accepted: frozenset[Any]) -> None:
    """Raise `ValueError` if a YAML value is not of a type that its option takes; `1` is taken for a float, and for true."""
    if object in accepted or type(value) in accepted:
        items = value if isinstance(value, list) else ()
        wrong = [item for item in items if not isinstance(item, str if list[str] in accepted else str | int | float)]
        if wrong:
            kind = "texts" if list[str] in accepted else "single values"
            raise ValueError(f"{path}: {name} is a list of {kind}; got {in_a_line(wrong[0])} in it.")
        return
    if isinstance(value, str) and accepted & {int, float, bool}:
        return  # read as on the command line
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_whole = is_number and float(value).is_integer()
    if (is_number and float in accepted) or (is_whole and int in accepted) or (value in (0, 1) and bool in accepted):
        return
    got = f"got {in_a_line(value)}."
    if value is None:
        raise ValueError(f"{path}: {name} has no value. Leave the line out for the default.")
    if isinstance(value, bool) and str in accepted:
        words = "yes, on and true as true" if value else "no, off and false as false"
        raise ValueError(f"{path}: {name} is a text, and YAML reads {words}. Put the word in quotes.")
    if list in accepted and not isinstance(value, dict):
        raise ValueError(f"{path}: {name} is a list; write {name}: [{value}]")
    if accepted & {int, float}:
        raise ValueError(f"{path}: {name} is {'a float' if float in accepted else 'an int'}; {got}")
    if bool in accepted:
        raise ValueError(f"{path}: {name} is true or false; {got}")
    if str in accepted:
        raise ValueError(f"{path}: {name} is a text; {got} Put it in quotes.")
    raise ValueError(f"{path}: {name} cannot be {in_a_line(value)}.")
