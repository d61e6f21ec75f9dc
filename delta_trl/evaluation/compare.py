"""Compare evaluated models with a baseline, problem by problem, and tabulate them side by side.

    delta-trl compare outputs/evaluation/dapo.jsonl outputs/evaluation/delta.jsonl

Prints the tables and writes comparison.md, comparison.tex, comparison.json and differences.png. With a single file it
only tabulates.
"""

import argparse
import logging
import os.path
import sys

from ..commands import one_line_errors


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="delta-trl compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("baseline", help="sample file of an evaluation that the others are compared with")
    add("runs", nargs="*", help="sample files to compare with it")
    add("--allow_different_settings", action="store_true", help="compare although decoding or versions differ")
    add("--seed", type=int, default=0, help="of the bootstrap, at least 0 (default: %(default)s)")
    add("--no_plot", action="store_true", help="do without matplotlib")
    add("--output", default="outputs/evaluation", type=os.path.expanduser, help="folder (default: %(default)s)")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    with one_line_errors(arguments):
        from .results import write_comparison, write_results

        if args.seed < 0:
            raise ValueError(f"--seed must be at least 0, got {args.seed}.")
        files = [args.baseline, *args.runs]
        if args.runs:
            text = write_comparison(files, args.output, args.allow_different_settings, args.seed, not args.no_plot)
        else:
            text = write_results(files, args.output)
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main()
