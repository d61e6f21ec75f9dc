"""What DelTA costs. Both sides of every comparison are measured alternately in one process, and a ratio is printed.

    python scripts/benchmark.py                                # a 20 M parameter model on the CPU
    python scripts/benchmark.py --device cuda --shape qwen3-8b # random weights of Qwen3-8B's shape
    python scripts/benchmark.py --only coefficients --json costs.json

Parts: step (training step, DeltaGRPOTrainer over GRPOTrainer), previous (the step with either coef_centroids over DAPO's),
published (features recomputed in K + 2 passes, as published, over ours), coefficients (the maths alone, against plain reads
of the same bytes), scaling (its time a token, as N grows), memory (what the maths takes besides the features; on CUDA also
the peak with and without offload), features (the other features over output_row), agreement (hashed_agreement: its step over
DAPO's on the made tasks' model, its time a token as N grows, its memory, and its maths over a pass of an LM head).
"""

import argparse
import json
import platform
import time
from pathlib import Path


SHAPES = {  # as in delta_trl.research.gpu_bench.Sizes
    "small": (384, 8, 1152, 6, 2, 64, 8192),
    "qwen3-0.6b": (1024, 28, 3072, 16, 8, 128, 151936),
    "qwen3-8b": (4096, 36, 12288, 32, 8, 128, 151936),
}
PARTS = ("step", "previous", "published", "coefficients", "scaling", "memory", "features", "agreement")


def show(row: dict) -> str:
    numbers = "  ".join(f"{key} {value:.4g}" for key, value in row.items() if key != "name")
    return f"{row['name']:<86} {numbers}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--shape", choices=SHAPES, default="small", help="shape of the random Qwen3")
    add("--only", choices=PARTS, nargs="+", default=PARTS, help="parts to run")
    add("--repeats", type=int, default=5, help="counted turns of each side")
    add("--completions", type=int, default=32, help="completions of a rollout batch")
    add("--length", type=int, default=128, help="tokens of a completion")
    add("--tokens", type=int, nargs="+", default=[10_000, 100_000], help="N of 'coefficients' and 'agreement'")
    add(
        "--clock",
        choices=("wall", "processor"),
        default="wall",
        help="what seconds are; processor time needs one thread",
    )
    add("--json", type=Path, help="write the rows there as well")
    arguments = parser.parse_args()

    import torch

    if arguments.clock == "processor" and (arguments.device != "cpu" or torch.get_num_threads() > 1):
        parser.error(
            "--clock processor measures the CPU with one thread: set OMP_NUM_THREADS=1 and leave --device cpu."
        )

    from delta_trl.research.cost import CostBench

    a = arguments
    clock = time.process_time if a.clock == "processor" else time.perf_counter
    bench = CostBench(a.device, SHAPES[a.shape], a.completions, a.length, a.tokens, a.repeats, clock)
    machine = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{platform.machine()} CPU"
    print(
        f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.repeats} turns, {a.clock} time"
    )
    rows = []
    for part in arguments.only:
        for row in getattr(bench, part)():
            rows.append(row)
            print(show(row), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1))
    if bench.shared is not None:
        print(f"Model: {sum(p.numel() for p in bench.shared.parameters()) / 1e6:.1f} M parameters ({arguments.shape})")


if __name__ == "__main__":
    main()
