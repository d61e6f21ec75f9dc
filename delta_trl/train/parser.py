"""One parser for the YAML file and the command line, which wins: TRL's, with errors that say what to do."""

import argparse
import difflib
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trl import TrlParser

from ..commands import DEBUG
from ..config import CHECKPOINTING
from .yaml_file import check_value, in_a_line, option_types, read_yaml


class UnknownOptionError(ValueError):
    """An option that no part of the command has; `name` without dashes."""

    def __init__(self, name: str, message: str):
        super().__init__(message)
        self.name = name


class Parser(TrlParser):
    """
    Args:
        dataclass_types: What is parsed, each with its own section of `--help` unless `sections` says otherwise.
        sections: Title and the names of its options, in the order of `--help`; options of no section come last.
        usage, description: Printed at the top of `--help`.

    Attributes:
        given: After parsing, the options that the YAML file or the command line set to another value than the default.
        named: All options that they have, set to whatever value.
        config_file: The YAML file.
    """

    def __init__(
        self,
        dataclass_types: Iterable[type],
        *,
        sections: Mapping[str, Iterable[str]] | None = None,
        usage: str | None = None,
        description: str | None = None,
    ):
        super().__init__(dataclass_types, allow_abbrev=False, usage=usage, description=description)
        self.given: dict[str, Any] = {}
        self.named: set[str] = set()
        self.config_file: Path | None = None
        self._sections = sections or {}
        self._untouched: dict[str, Any] = {}  # defaults before those of the YAML file
        self._in_file: set[str] = set()

    def parse_command(
        self,
        arguments: list[str] | None = None,
        *,
        preset: Mapping[str, Any] | None = None,
        ignore_unknown_keys: bool = False,
    ) -> tuple[Any, ...]:
        """
        Parse `--config FILE.yaml` and the other options.

        Args:
            arguments: Default: those of the process.
            preset: Other defaults than the dataclasses'.
            ignore_unknown_keys: Leave out keys of the YAML file that this command does not have.

        Raises:
            ValueError: An option that does not exist, with the nearest name, or a value of the wrong kind.
            FileNotFoundError: There is no such YAML file.
        """
        config_file, rest = split_config(arguments)
        unknown = self.set_defaults_with_config(**preset or {})
        assert not unknown, f"a preset has options that do not exist: {unknown}"
        for action in self._actions:
            self._untouched.setdefault(
                action.dest, action.default
            )  # `--no_x` has the destination of `--x`, and follows it
        if config_file is not None:
            self.config_file = Path(config_file)
            self._take_yaml(self.config_file, ignore_unknown_keys)
        return tuple(self.parse_args_into_dataclasses(rest))

    def parse_known_args(self, args=None, namespace=None):
        namespace, remaining = super().parse_known_args(args, namespace)
        if remaining:  # before a dataclass is made, which may not like the machine
            self._refuse(remaining[0], "the command line")
        typed = {word.partition("=")[0] for word in args or [] if word.startswith("-")}
        in_words = {action.dest for action in self._actions if typed.intersection(action.option_strings)}
        self.named = self._in_file | in_words
        self.given = {n: v for n, v in vars(namespace).items() if n in self.named and v != self._untouched[n]}
        return namespace, remaining

    def error(self, message: str) -> None:  # argparse would print the usage of 250 options first
        raise ValueError(message)

    def format_help(self) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        by_name: dict[str, list[argparse.Action]] = {}
        for action in self._actions:
            by_name.setdefault(action.dest, []).append(action)
        for title, names in self._sections.items():
            formatter.start_section(title)
            for name in names:
                formatter.add_arguments(by_name.pop(name, []))
            formatter.end_section()
        formatter.start_section("further options" if self._sections else "options")
        for actions in by_name.values():
            formatter.add_arguments(actions)
        formatter.end_section()
        return formatter.format_help()

    def _take_yaml(self, path: Path, ignore_unknown_keys: bool) -> None:
        settings = read_yaml(path)
        environment = settings.pop("env", {})
        if not isinstance(environment, dict):
            raise ValueError(f"{path}: env must be a mapping from names to values; got {in_a_line(environment)}.")
        os.environ.update({name: str(value) for name, value in environment.items()})
        known = {action.dest for action in self._actions} - {"help"}
        accepted = option_types(self.dataclass_types)
        new_name = "activation_checkpointing"
        for name in [name for name in settings if name.startswith(new_name) and name not in known]:
            settings[name.replace(new_name, CHECKPOINTING)] = settings.pop(name)
        for name, value in list(settings.items()):
            if name in known:
                check_value(path, name, value, accepted[name])
            elif ignore_unknown_keys:
                del settings[name]
            else:
                self._refuse(name, str(path))
        self.set_defaults_with_config(**settings)
        self._in_file = set(settings)

    def _refuse(self, option: str, place: str) -> None:
        name = option.lstrip("-").partition("=")[0].replace("-", "_")
        if place == "the command line" and not option.startswith("-"):
            raise ValueError(f"{option!r} on the command line belongs to no option. Options are written --name value.")
        names = {action.dest for action in self._actions}
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
        if place == "the command line":
            message, dashes = f"Unknown option --{name}.", "--"
        else:
            message, dashes = f"Unknown option {name!r} in {place}.", ""
        raise UnknownOptionError(name, message + (f" Did you mean {dashes}{near[0]}?" if near else ""))


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
    return found.config, [argument for argument, is_ours in zip(rest, bare, strict=True) if not is_ours]
