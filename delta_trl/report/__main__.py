"""Draw one or more runs into one HTML file that opens anywhere:

delta-trl report outputs/quickstart/delta
delta-trl report outputs/quickstart/delta outputs/quickstart/dapo --output comparison.html

Curves come from trainer_state.json, settings from delta_trl_run.json, and the token heat map from the records that
log_completions: true leaves behind. docs/report.md says how to read it. A button in it saves all metrics as CSV.
"""

import argparse
import time

from ..commands import one_line_errors


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "delta-trl report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN_FOLDER", help="output_dir of a run, finished or going")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="the HTML file; default: in the first run's folder, report.html for one run, comparison.html for several",
    )
    parser.add_argument(
        "--min_support",
        type=int,
        metavar="N",
        help="occurrences a token needs to be listed; default: one in 2,000 of the recorded tokens, at least 10",
    )
    args = parser.parse_args(arguments)
    start = time.perf_counter()
    with one_line_errors(arguments):
        from . import write_report

        path = write_report(args.runs, args.output, args.min_support)
    size, seconds = path.stat().st_size / 1e6, time.perf_counter() - start
    print(f"Report written to {path} ({size:.1f} MB, {seconds:.0f} s). Open it in a browser.")


if __name__ == "__main__":
    main()
