#!/usr/bin/env python
"""Check on this machine's GPU everything about DelTA that needs one: under nine minutes, without network.

    python scripts/gpu_check.py                                # make gpu-check
    python scripts/gpu_check.py --device cpu --tiny            # the checks themselves, on a CPU
    python scripts/gpu_check.py --then-study --model FOLDER    # afterwards the studies on SmolLM2, in the seconds left

Writes gpu_check.json and gpu_check.md (a table) to the output folder, and each study into a folder of its own there. With
--then-study the same command goes on where an earlier one ended: checks and runs that are done are not repeated. Ends with
status 1 if a target was missed or a run failed.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
STUDIES = [ROOT / "configs/study" / f"smollm2_{task}.yaml" for task in ("number_words", "larger")]
CHECKS = ("equal_bounds", "coefficients", "modes", "steps", "offload", "wide")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models, for a CPU")
    parser.add_argument("--only", choices=CHECKS, nargs="+", default=CHECKS, help="checks to run")
    parser.add_argument(
        "--seconds", type=float, default=480, help="start no further check after this, and stop studies"
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu_check"), help="folder (default: %(default)s)")
    studies = "afterwards these studies, until the seconds are over (default: those on SmolLM2)"
    parser.add_argument("--then-study", type=Path, nargs="*", metavar="CONFIG", help=studies)
    parser.add_argument(
        "--model", help="with --then-study, the pretrained model, if not the one that the studies name"
    )
    arguments = parser.parse_args()
    start = time.monotonic()

    goes_on = arguments.then_study is not None
    if not goes_on:  # a study's model may be on the Hub
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: no CUDA device is visible to torch. To try the checks on a CPU: --device cpu --tiny")
    if arguments.device == "cpu" and not arguments.tiny:
        sys.exit("error: on a CPU the real shapes would take days. Add --tiny")
    from delta_trl.research.gpu_bench import TINY, Sizes
    from delta_trl.research.gpu_check import run_checks

    sizes = TINY if arguments.tiny else Sizes()
    rows = run_checks(arguments.device, sizes, arguments.output, arguments.only, arguments.seconds, goes_on)
    print((arguments.output / "gpu_check.md").read_text(), flush=True)
    failed = any(row.ok is False for row in rows)
    for study in (arguments.then_study or STUDIES) if goes_on else ():
        left = arguments.seconds - (time.monotonic() - start)
        if left <= 0:
            print(f"{study.stem}: the seconds are over. The same command goes on.")
        else:
            failed |= not run_study(study, arguments, left)
    sys.exit(failed)


def run_study(study: Path, arguments: argparse.Namespace, seconds: float) -> bool:
    """Go on with a study for so long, which keeps the runs that are finished then. False if one failed."""
    from delta_trl.train.stopping import Stopped, stopped_by_signals

    command = [sys.executable, ROOT / "scripts/study.py", "--config", study, "--folder", arguments.output / study.stem]
    command += ["--gpu"] * (arguments.device == "cuda") + (["--model", arguments.model] if arguments.model else [])
    print(f"{study.stem}: {arguments.output / study.stem}", flush=True)
    try:
        with stopped_by_signals(), subprocess.Popen(command) as process:
            try:
                return process.wait(seconds) == 0
            except subprocess.TimeoutExpired:
                return True
            finally:
                if process.poll() is None:
                    process.terminate()  # it ends its runs, and says that the same command does the others
    except Stopped as stop:
        sys.exit(128 + stop.number)


if __name__ == "__main__":
    main()
