#!/usr/bin/env python
"""Check on this machine's GPU everything about DelTA that needs one: under nine minutes, without network.

    python scripts/gpu_check.py                                # make gpu-check
    python scripts/gpu_check.py --device cpu --tiny            # the checks themselves, on a CPU

Writes gpu_check.json and gpu_check.md (a table) to the output folder. Ends with status 1 if a target was missed.
"""

import argparse
import os
import sys
from pathlib import Path


CHECKS = ("equal_bounds", "coefficients", "modes", "steps", "offload", "wide")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models, for a CPU")
    parser.add_argument("--only", choices=CHECKS, nargs="+", default=CHECKS, help="checks to run")
    parser.add_argument("--seconds", type=float, default=480, help="start no further check after this")
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu_check"), help="folder (default: %(default)s)")
    arguments = parser.parse_args()

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

    rows = run_checks(
        arguments.device, TINY if arguments.tiny else Sizes(), arguments.output, arguments.only, arguments.seconds
    )
    print((arguments.output / "gpu_check.md").read_text())
    sys.exit(any(row.ok is False for row in rows))


if __name__ == "__main__":
    main()
