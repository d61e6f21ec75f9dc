r"""Why an answer was accepted or refused: `delta-trl grade GOLD ANSWER`, or `--completion FILE`.

delta-trl grade '\frac{1}{2}' '0.5'
delta-trl grade 42 --completion response.txt      (- reads standard input)
"""

import argparse
import sys
from pathlib import Path

from .math.explain import explain


def main(arguments: list[str] | None = None) -> int:
    """Print the explanation; 0 if the answer is correct, 1 if it is not, 2 if the gold cannot be scored."""
    parser = argparse.ArgumentParser(
        prog="delta-trl grade", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gold", help="The gold answer, as in the dataset.")
    parser.add_argument("answer", nargs="?", help=r"What stands in \boxed{...}.")
    parser.add_argument("--completion", metavar="FILE", help="A whole completion instead of the answer.")
    options = parser.parse_args(arguments)
    if (options.answer is None) == (options.completion is None):
        parser.error("give either ANSWER or --completion FILE")
    completion = None
    if options.completion is not None:
        try:
            completion = (
                sys.stdin.read()
                if options.completion == "-"
                else Path(options.completion).expanduser().read_text("utf-8")
            )
        except (OSError, UnicodeDecodeError) as error:
            parser.error(f"cannot read {options.completion}: {error}")
    explanation = explain(options.gold, options.answer, completion=completion)
    sys.stdout.write(f"{explanation}\n")
    return {1.0: 0, 0.0: 1}.get(explanation.score, 2)


if __name__ == "__main__":
    sys.exit(main())
