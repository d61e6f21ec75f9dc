"""What is known about options without importing torch: how they are refused, shown and, once listed, remembered.

To list the options of a training, torch, transformers and TRL have to be imported, for seconds. So the first `--help`, or
mistaken name, leaves the list in a file, and later ones are answered from it, as long as no file that the list came from has
changed.
"""

import argparse
import difflib
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NoReturn

from ..commands import DEBUG
from ..methods.names import DEFAULT, ENTRY_POINTS
from .yaml_file import read_yaml


COMMAND_LINE = "the command line"
# transformers is renaming gradient_checkpointing and its like: either name is taken
NEW_NAME = "activation_checkpointing"


class UnknownOptionError(ValueError):
    """An option that no part of the command has; `name` without dashes."""

    def __init__(self, name: str, message: str):
        super().__init__(message)
        self.name = name


class SectionedParser(argparse.ArgumentParser):
    """A parser whose help has sections, and whose errors are of one line."""

    sections: Mapping[str, Iterable[str]] = {}  # titles, and the names of their options
    listed: list[dict[str, Any]] | None = None  # the options, from before a YAML file changed their defaults

    def error(self, message: str) -> NoReturn:  # argparse would print the usage of 250 options first
        raise ValueError(message)

    def format_help(self) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        by_name: dict[str, list[argparse.Action]] = {}
        for action in self._actions:
            by_name.setdefault(action.dest, []).append(action)
        for title, names in self.sections.items():
            formatter.start_section(title)
            for name in names:
                formatter.add_arguments(by_name.pop(name, []))
            formatter.end_section()
        formatter.start_section("further options" if self.sections else "options")
        for actions in by_name.values():
            formatter.add_arguments(actions)
        formatter.end_section()
        return formatter.format_help()

    def list_options(self) -> list[dict[str, Any]]:
        """What the help shows of every option, as values of JSON."""
        return [
            {
                "flags": action.option_strings,
                "dest": action.dest,
                "nargs": action.nargs,
                "default": action.default if action.default is None else str(action.default),
                "choices": None if action.choices is None else [str(choice) for choice in action.choices],
                "metavar": action.metavar,
                "help": action.help,
            }
            for action in self._actions
        ]

    def refusal(self, option: str, place: str) -> UnknownOptionError | ValueError:
        """What to raise for an option that does not exist, with the nearest name."""
        name = option.lstrip("-").partition("=")[0].replace("-", "_")
        if place == COMMAND_LINE and not option.startswith("-"):
            return ValueError(
                f"{option!r} on the command line belongs to no option. Options are written --name value."
            )
        near = difflib.get_close_matches(name, {action.dest for action in self._actions}, n=1, cutoff=0.7)
        if place == COMMAND_LINE:
            message, dashes = f"Unknown option --{name}.", "--"
        else:
            message, dashes = f"Unknown option {name!r} in {place}.", ""
        return UnknownOptionError(name, message + (f" Did you mean {dashes}{near[0]}?" if near else ""))


def split_config(arguments: list[str] | None) -> tuple[str | None, list[str]]:
    """The YAML file, and the other arguments without a bare `--debug` (with a value it is transformers' option)."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--config")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        found, rest = early.parse_known_args(arguments)
    except argparse.ArgumentError:
        raise ValueError("--config needs the name of a YAML file.") from None
    bare = [a == DEBUG and (i + 1 == len(rest) or rest[i + 1].startswith("--")) for i, a in enumerate(rest)]
    config = None if found.config is None else os.path.expanduser(found.config)
    return config, [argument for argument, is_ours in zip(rest, bare, strict=True) if not is_ours]


def trainer_argument(arguments: list[str] | None) -> str:
    """The trainer's name alone, from the command line, else from its YAML file: the config class depends on it."""
    config_file, rest = split_config(arguments)
    settings = {} if config_file is None else read_yaml(Path(config_file))
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--trainer", default=settings.get("trainer", DEFAULT))
    return parser.parse_known_args(rest)[0].trainer


def foreign_option(name: str, owners: list[str], trainer: str) -> ValueError:
    """What to raise for an option that only other trainers have."""
    return ValueError(f"{name} is an option of --trainer {' or '.join(owners)}, not of {trainer!r}.")


def remember(
    command: str, parser: SectionedParser, classes: Iterable[type], owners: Mapping[str, list[str]] | None = None
) -> None:
    """
    Keep a command's options for `answer`. Where nothing can be written, nothing is kept.

    Args:
        command: A name for the list.
        parser: All options, with their defaults.
        classes: Those that the options come from. Every loaded file of their packages is watched.
        owners: Options of other trainers, and whose they are.
    """
    plugins = entry_points(group=ENTRY_POINTS)
    if any(entry.module not in sys.modules for entry in plugins):  # one that does not load, whose files are not known
        return
    modules = {base.__module__ for kind in classes for base in kind.__mro__} | {entry.module for entry in plugins}
    packages = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names
    loaded = [(name, getattr(module, "__file__", None)) for name, module in list(sys.modules.items())]
    try:
        known = {
            "files": {file: _state(file) for name, file in loaded if file and name.partition(".")[0] in packages},
            "plugins": _plugins(),
            "usage": parser.usage,
            "description": parser.description,
            "sections": {title: list(names) for title, names in parser.sections.items()},
            "actions": parser.listed or parser.list_options(),
            "owners": dict(owners or {}),
        }
        path = _path(command)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(known), encoding="utf-8")
        part.replace(path)
    except (OSError, RuntimeError):  # RuntimeError: nobody's home
        return


def answer(command: str, arguments: list[str] | None, *, ignore_unknown_keys: bool = False) -> None:
    """
    Print the help and leave, or refuse an option that does not exist, if the command's options are remembered. Anything else
    is left to the full parser.

    Raises:
        SystemExit: The help was printed.
        ValueError: An option does not exist.
    """
    known = _recall(command)
    if known is None:
        return
    config_file, rest = split_config(arguments)
    parser = SectionedParser(
        usage=known["usage"],
        description=known["description"],
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.sections = known["sections"]
    for action in known["actions"]:
        _add(parser, **action)
    settings = {} if config_file is None else read_yaml(Path(config_file))
    names = {action.dest for action in parser._actions}
    try:
        for name in settings:
            if name not in names | {"env"} and not name.startswith(NEW_NAME) and not ignore_unknown_keys:
                raise parser.refusal(name, str(config_file))
        parser.set_defaults(**{name: value for name, value in settings.items() if name in names})
        try:
            _, unknown = parser.parse_known_args(rest)
        except ValueError:
            return  # a value is missing: for the full parser
        if unknown:
            raise parser.refusal(unknown[0], COMMAND_LINE)
    except UnknownOptionError as error:
        if owners := known["owners"].get(error.name):
            raise foreign_option(error.name, owners, trainer_argument(arguments)) from None
        raise


def _add(parser: argparse.ArgumentParser, flags: list[str], nargs: int | str | None, **shown: Any) -> None:
    if "--help" in flags:
        return
    if nargs == 0:
        parser.add_argument(*flags, action="store_true", **{k: shown[k] for k in ("dest", "default", "help")})
    else:
        parser.add_argument(*flags, nargs=nargs, **shown)


def _recall(command: str) -> dict[str, Any] | None:
    try:
        known = json.loads(_path(command).read_text(encoding="utf-8"))
        fresh = known["plugins"] == _plugins() and all(_state(file) == seen for file, seen in known["files"].items())
    except (OSError, RuntimeError, ValueError, KeyError):
        return None
    return known if fresh else None


def _state(file: str) -> list[int]:
    seen = os.stat(file)
    return [seen.st_mtime_ns, seen.st_size]


def _plugins() -> list[list[str]]:
    return sorted([entry.name, entry.value] for entry in entry_points(group=ENTRY_POINTS))


def _path(command: str) -> Path:
    asked = hashlib.sha256("\n".join((command, sys.prefix, sys.version, __file__)).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "delta_trl")
    return folder / f"options-{asked}.json"
