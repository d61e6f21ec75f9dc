#!/usr/bin/env python
"""Compare evaluated models with a baseline, problem by problem, and tabulate them side by side.

    python scripts/compare.py outputs/evaluation/dapo.jsonl outputs/evaluation/delta.jsonl

Prints the tables and writes comparison.md, comparison.tex, comparison.json and differences.png. With a single file it
only tabulates.
"""

import argparse
import logging
import sys
from pathlib import Path


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("baseline", type=Path, help="record file of scripts/evaluate.py that the others are compared with")
    add("runs", type=Path, nargs="*", help="record files to compare with it")
    add("--allow_different_settings", action="store_true", help="compare although decoding or versions differ")
    add("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    add("--no_plot", action="store_true", help="do without matplotlib")
    add("--output", type=Path, default=Path("outputs/evaluation"), help="folder (default: %(default)s)")
    return parser.parse_args(arguments)


def main() -> None:
    args = parse()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")

    from delta_trl.evaluation.report import write_comparison, write_report

    try:
        if args.runs:
            text = write_comparison(
                [args.baseline, *args.runs], args.output, args.allow_different_settings, args.seed, not args.no_plot
            )
        else:
            text = write_report([args.baseline], args.output)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(text)


if __name__ == "__main__":
    main()
