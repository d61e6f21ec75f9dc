#!/usr/bin/env python
"""Write docs/options.md from the dataclasses that hold the options:

    python scripts/options_page.py

A test compares the page with what this prints, so run it after every change of an option.
"""

import argparse
import json
from dataclasses import MISSING, Field, fields
from pathlib import Path


PAGE = Path(__file__).resolve().parent.parent / "docs" / "options.md"
TRL = "https://huggingface.co/docs/trl"
HEAD = f"""# Options

This page is written by `python scripts/options_page.py` from the dataclasses that hold the options. Do not edit it.

In a Python script, the options of a config class are its arguments. The training command takes all of them, in the YAML file
(`name: value`) and on the command line (`--name value`), which wins. A name that does not exist is an error.

Besides the options below, the training command takes every option of TRL's
[`GRPOConfig`]({TRL}/grpo_trainer#trl.GRPOConfig) and [`ModelConfig`]({TRL}/script_utils#trl.ModelConfig)
(model, PEFT, quantization). `python -m delta_trl.train --help` prints them all, with `--trainer NAME` for those of another
method.
"""


def shown(value: object) -> str:
    """A value as it is written in YAML, in a cell of a table."""
    is_plain = isinstance(value, str) and "\n" not in value
    return in_cell(f"`{value if is_plain else json.dumps(value, ensure_ascii=False, default=str)}`")


def in_cell(text: str) -> str:
    return text.replace("|", "\\|")


def default(option: Field) -> object:
    return option.default if option.default_factory is MISSING else option.default_factory()


def table(options: list[Field]) -> str:
    rows = ["| option | default | meaning |", "|:--|:--|:--|"]
    for option in (option for option in options if option.init):
        # argparse takes % for a placeholder, so help texts double it
        meaning = in_cell(option.metadata["help"].replace("%%", "%"))
        rows.append(f"| `{option.name}` | {shown(default(option))} | {meaning} |")
    return "\n".join(rows)


def page() -> str:
    from trl import GRPOConfig

    from delta_trl.data import DataArguments
    from delta_trl.methods.names import DEFAULT, methods
    from delta_trl.train.arguments import ScriptArguments

    parts = [HEAD]
    names_of: dict[type, list[str]] = {}
    for name, method in sorted(methods().items(), key=lambda item: item[0] != DEFAULT):
        names_of.setdefault(method.config_class, []).append(name)
    trl = {option.name: default(option) for option in fields(GRPOConfig)}
    known = set(trl)
    for config, names in names_of.items():
        trainers = ", ".join(f"`{name}`" for name in names)
        own = [option for option in fields(config) if option.name not in known]
        known |= {option.name for option in own}
        changed = {o.name: default(o) for o in fields(config) if o.name in trl and default(o) != trl[o.name]}
        parent = config.__base__
        inherited = {option.name: default(option) for option in fields(parent)} if parent is not GRPOConfig else {}
        ours = [o for o in fields(config) if o.name in inherited and o.name not in trl]
        other = {o.name: default(o) for o in ours if default(o) != inherited[o.name]}
        if own or changed or other:
            also = (
                f" It has the options of [`{parent.__name__}`](#{parent.__name__.lower()}) too."
                if parent in names_of
                else ""
            )
            parts.append(f"## {config.__name__}\n\nFor `--trainer` {trainers}.{also}\n")
        if own:
            parts.append(table(own) + "\n")
        for base, values, differing in (("GRPOConfig", trl, changed), (parent.__name__, inherited, other)):
            if differing:
                texts = [f"`{name}` is {shown(value)} ({shown(values[name])})" for name, value in differing.items()]
                parts.append(f"Defaults that differ from `{base}` (its own in brackets): {', '.join(texts)}.\n")

    presets = ["| `--trainer` | what it is | settings that it fixes |", "|:--|:--|:--|"]
    for name, method in methods().items():
        fixed = ", ".join(f"`{option}: {json.dumps(value)}`" for option, value in method.preset.items())
        presets.append(f"| `{name}` | {in_cell(method.help)} | {fixed or '–'} |")
    parts.append("## Trainers\n\n" + "\n".join(presets) + "\n")
    parts.append("## Data\n\n" + table(list(fields(DataArguments))) + "\n")
    parts.append("## The training command\n\n" + table(list(fields(ScriptArguments))) + "\n")
    return "\n".join(parts)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Written: {PAGE}")


if __name__ == "__main__":
    main()
