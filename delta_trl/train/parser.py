"""One parser for the YAML file and the command line, which wins: TRL's, with errors that say what to do."""

import os
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from trl import TrlParser

from ..config import CHECKPOINTING
from .option_names import COMMAND_LINE, NEW_NAME, SectionedParser, split_config
from .yaml_file import check_value, in_a_line, option_types, read_yaml


# Options that are paths, or names on the Hub, which never begin with `~`. `output_dir` and those of the data see to it
# themselves. A shell writes `~` out only where it begins a word: not in a YAML file, nor in `--picture=~/data.png`.
HOME_PATHS = ("model_name_or_path", "resume_from_checkpoint", "picture")


class Parser(SectionedParser, TrlParser):
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
        dataclass_types: Iterable[Any],
        *,
        sections: Mapping[str, Iterable[str]] | None = None,
        usage: str | None = None,
        description: str | None = None,
    ):
        super().__init__(dataclass_types, allow_abbrev=False, usage=usage, description=description)
        self.given: dict[str, Any] = {}
        self.named: set[str] = set()
        self.config_file: Path | None = None
        self.sections = sections or {}
        self._untouched: dict[str, Any] = {}  # defaults before those of the YAML file
        self._in_file: set[str] = set()
        self._change: Callable[[Namespace], None] | None = None

    def parse_command(
        self,
        arguments: list[str] | None = None,
        *,
        preset: Mapping[str, Any] | None = None,
        ignore_unknown_keys: bool = False,
        change: Callable[[Namespace], None] | None = None,
    ) -> tuple[Any, ...]:
        """
        Parse `--config FILE.yaml` and the other options.

        Args:
            arguments: Default: those of the process.
            preset: Other defaults than the dataclasses'.
            ignore_unknown_keys: Leave out keys of the YAML file that this command does not have.
            change: Changes the values found before the dataclasses are made of them.

        Raises:
            ValueError: An option that does not exist, with the nearest name, or a value of the wrong kind.
            FileNotFoundError: There is no such YAML file.
        """
        self._change = change
        config_file, rest = split_config(arguments)
        unknown = self.set_defaults_with_config(**preset or {})
        assert not unknown, f"a preset has options that do not exist: {unknown}"
        self.listed = self.list_options()
        for action in self._actions:
            self._untouched.setdefault(
                action.dest, action.default
            )  # `--no_x` has the destination of `--x`, and follows it
        if config_file is not None:
            self.config_file = Path(config_file)
            self._take_yaml(self.config_file, ignore_unknown_keys)
        return tuple(self.parse_args_into_dataclasses(rest))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        namespace, remaining = super().parse_known_args(args, namespace)
        if remaining:  # before a dataclass is made, which may not like the machine
            raise self.refusal(remaining[0], COMMAND_LINE)
        for name in HOME_PATHS:
            if isinstance(value := getattr(namespace, name, None), str):
                setattr(namespace, name, os.path.expanduser(value))
        typed = {word.partition("=")[0] for word in args or [] if word.startswith("-")}
        in_words = {action.dest for action in self._actions if typed.intersection(action.option_strings)}
        self.named = self._in_file | in_words
        if self._change is not None:
            before = dict(vars(namespace))
            self._change(namespace)
            self.named |= {name for name, value in vars(namespace).items() if value != before[name]}
        self.given = {n: v for n, v in vars(namespace).items() if n in self.named and v != self._untouched[n]}
        return namespace, remaining

    def _take_yaml(self, path: Path, ignore_unknown_keys: bool) -> None:
        settings = read_yaml(path)
        environment = settings.pop("env", {})
        if not isinstance(environment, dict):
            raise ValueError(f"{path}: env must be a mapping from names to values; got {in_a_line(environment)}.")
        os.environ.update({name: str(value) for name, value in environment.items()})
        known = {action.dest for action in self._actions} - {"help"}
        accepted = option_types(self.dataclass_types)
        for name in [name for name in settings if name.startswith(NEW_NAME) and name not in known]:
            settings[name.replace(NEW_NAME, CHECKPOINTING)] = settings.pop(name)
        for name, value in list(settings.items()):
            if name in known:
                check_value(path, name, value, accepted[name])
            elif ignore_unknown_keys:
                del settings[name]
            else:
                raise self.refusal(name, str(path))
        self.set_defaults_with_config(**settings)
        self._in_file = set(settings)
