"""`delta-trl COMMAND ...`: the package's commands. Each is loaded when it is asked for, so that this help is instant."""

import difflib
import importlib
import sys

from .commands import one_line_errors


# Name: the module whose `main` takes the other arguments, and what it does
COMMANDS = {
    "train": ("delta_trl.train.__main__", "train a model with DelTA or another method; also by accelerate launch -m"),
    "evaluate": ("delta_trl.evaluation.__main__", "sample answers to benchmarks, and grade them"),
    "compare": ("delta_trl.evaluation.compare", "compare evaluated models on the same problems"),
    "report": ("delta_trl.report.__main__", "draw runs into one HTML file"),
    "inspect": ("delta_trl.train.inspect_data", "look at data before training on it"),
    "grade": ("delta_trl.rewards.__main__", "say how an answer is graded against a gold answer, and why"),
}


def main(arguments: list[str] | None = None) -> int | None:
    """Run one command; the status it ends with, None for 0."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        sys.stdout.write(help_text())
    elif name == "--version":
        from .version import __version__

        sys.stdout.write(f"delta_trl {__version__}\n")
    elif name in COMMANDS:
        with one_line_errors(rest, (ImportError,)):  # an extra that is not installed
            command = importlib.import_module(COMMANDS[name][0])
        return command.main(rest)
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        sys.stderr.write(f"error: There is no command {name!r}; there are {', '.join(COMMANDS)}.{hint}\n")
        return 2
    return None


def help_text() -> str:
    rows = "".join(f"  {name:<10}{what}\n" for name, (_, what) in COMMANDS.items())
    return f"usage: delta-trl COMMAND ...\n\n{rows}\ndelta-trl COMMAND --help has the options of one.\n"


if __name__ == "__main__":
    sys.exit(main())
