"""Speed and verdicts of `delta_trl.rewards.math_reward` beside TRL's `accuracy_reward`, on a made corpus.

Completions of 500 to 8,000 characters that end in a box, with the kinds of gold answers that DeepMath-103K has, in
groups that share a gold, as in training. Each reward runs alone in processes of its own, in turn: cold (its first
call, imports apart), warm (new problems), and repeated (the same problems again). CPU time includes the workers.

    python scripts/benchmark_reward.py
    python scripts/benchmark_reward.py --groups 200 --workers 1 2 4
"""

import argparse
import contextlib
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path


# Kind: weight, gold, the same answer in other notations, wrong answers. ‹p› stands for a number.
KINDS = {
    "integer": (38, "‹a›", ["‹a›", "‹a›.0", "n = ‹a›"], ["‹b›", "-‹a›", "‹a›0"]),
    "fraction": (
        12,
        r"\frac{‹p›}{‹q›}",
        [r"\frac{‹p›}{‹q›}", "‹p›/‹q›", r"\dfrac{‹p›}{‹q›}"],
        ["‹p›", r"\frac{‹q›}{‹p›}"],
    ),
    "word": (12, r"\text{Yes}", [r"\text{Yes}", "Yes"], [r"\text{No}", "No"]),
    "infinity": (4, r"\infty", [r"\infty", r"+\infty"], ["0", r"-\infty"]),
    "root": (
        8,
        r"‹p›\sqrt{‹q›}",
        [r"‹p›\sqrt{‹q›}", r"\sqrt{‹q›} \cdot ‹p›", "‹p› ‹q›^{1/2}"],
        [r"\sqrt{‹p›}", "‹p›"],
    ),
    "pi": (8, r"\frac{‹p›\pi}{‹q›}", [r"\frac{‹p›\pi}{‹q›}", r"\frac{‹p›}{‹q›}\pi"], [r"\frac{\pi}{‹q›}", "‹p›"]),
    "polynomial": (6, "x^2 + ‹p›x - ‹q›", ["x^2+‹p›x-‹q›", "x(x + ‹p›) - ‹q›"], ["x^2 - ‹p›x + ‹q›", "x^2+‹p›"]),
    "exponential": (5, "e^{-‹q›} + ‹p›", ["e^{-‹q›}+‹p›", r"‹p› + \frac{1}{e^{‹q›}}"], ["e^{-‹p›}", "e^{‹q›} + ‹p›"]),
    "interval": (3, r"(-\infty, ‹p›)", [r"\left(-\infty,‹p›\right)"], [r"(-\infty, ‹p›]", r"(‹p›, \infty)"]),
    "set": (2, r"\{‹p›, ‹q›\}", [r"\{‹q›, ‹p›\}", "‹p›, ‹q›"], [r"\{‹p›\}", "(‹q›, ‹p›)"]),
    "logarithm": (2, r"\ln ‹q›", [r"\ln(‹q›)", r"-\ln\frac{1}{‹q›}"], [r"\ln ‹p›", r"\log_{10} ‹q›"]),
}
FILLER = [
    "Let us first restate the problem in terms of the variable $x$ and look at small cases. ",
    r"Substituting gives $\frac{2x + 1}{3} = 7$, hence $x = 10$, which we check at the end. ",
    r"By the triangle inequality, $|a + b| \le |a| + |b|$, so the sum converges absolutely. ",
    "Wait, that is not quite right: the boundary case must be treated on its own. ",
    r"We obtain \[ f(n) = \sum_{k=1}^{n} k^2 = \frac{n(n+1)(2n+1)}{6}, \] as required. ",
]


def fill(template: str, numbers: dict[str, int]) -> str:
    for name, number in numbers.items():
        template = template.replace(f"‹{name}›", str(number))
    return template


def make_corpus(groups: int, group_size: int, seed: int) -> tuple[list, list[str]]:
    """Conversational completions (TRL's reward takes no others) and golds in `$...$` (it misreads bare ones)."""
    draw = random.Random(seed)
    weights = [kind[0] for kind in KINDS.values()]
    completions, golds = [], []
    for kind in draw.choices(list(KINDS), weights, k=groups):
        _, gold, right, wrong = KINDS[kind]
        q = draw.choice([2, 3, 5, 7, 11, 13])
        numbers = {
            "a": draw.randint(2, 9999),
            "b": draw.randint(10000, 99999),
            "p": q + draw.choice([1, 2, 4]),
            "q": q,
        }
        for _ in range(group_size):
            answer = fill(draw.choice(right if draw.random() < 0.5 else wrong), numbers)
            length = draw.randint(500, 8000)
            text = ""
            while len(text) < length:
                text += draw.choice(FILLER)
            completions.append([{"role": "assistant", "content": f"{text}\n\nThe answer is $\\boxed{{{answer}}}$."}])
            golds.append(f"${fill(gold, numbers)}$")
    return completions, golds


def cpu_seconds(worker_pids: list[int]) -> float:
    """CPU time of this process, of its ended children and, on Linux, of the workers that still run."""
    times = os.times()
    total = times.user + times.system + times.children_user + times.children_system
    for pid in worker_pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def measure(which: str, groups: int, group_size: int, seed: int) -> dict:
    """Seconds of one reward in this process: "trl", or the number of our workers. Imports are not counted."""
    if which == "trl":
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        from trl.rewards.accuracy_rewards import accuracy_reward as reward

        workers = list
    else:
        from delta_trl.rewards import math_reward as reward
        from delta_trl.rewards.pool import POOL, PoolConfig

        POOL.config = PoolConfig(workers=int(which))
        workers = POOL.pids
    first, second = (make_corpus(groups, group_size, s) for s in (seed, seed + 1))
    result = {}
    # Cold: parser caches are empty, and our workers have to start. Warm: new problems. Repeated: the same ones again.
    for phase, corpus in (("cold", first), ("warm", second), ("repeated", second)):
        wall, cpu = time.perf_counter(), cpu_seconds(workers())
        scores = reward(*corpus)
        result[phase] = {
            "wall": time.perf_counter() - wall,
            "cpu": cpu_seconds(workers()) - cpu,
            "scores": scores,
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--groups", type=int, default=128, help="Problems a corpus; the default is the published recipe's."
    )
    parser.add_argument("--group_size", type=int, default=16, help="Completions a problem.")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="Worker counts to try.")
    parser.add_argument("--repeats", type=int, default=3, help="Processes a reward; the table shows the medians.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options.groups, options.group_size, options.seed)))
        return

    names = ["trl", *map(str, options.workers)]
    runs: dict[str, list[dict]] = {name: [] for name in names}
    for _ in range(options.repeats):  # in turn, so that a busy moment of the machine hits all alike
        for name in names:
            command = [sys.executable, __file__, "--child", name, "--seed", str(options.seed)]
            command += ["--groups", str(options.groups), "--group_size", str(options.group_size)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            runs[name].append(json.loads(output.splitlines()[-1]))

    def median(name: str, phase: str, what: str) -> float:
        return statistics.median(run[phase][what] for run in runs[name])

    total = options.groups * options.group_size
    print(f"{total} completions a corpus, medians of {options.repeats} processes\n")
    print(
        f"{'reward':<12}{'corpus':<10}{'wall s':>8}{'CPU s':>8}{'per second':>12}{'wall ratio':>12}{'CPU ratio':>11}"
    )
    for name in names:
        label = "TRL" if name == "trl" else f"{name} workers"
        for phase in ("cold", "warm", "repeated"):
            wall, cpu = median(name, phase, "wall"), median(name, phase, "cpu")
            ratios = [median("trl", phase, what) / max(mine, 1e-3) for what, mine in (("wall", wall), ("cpu", cpu))]
            print(
                f"{label:<12}{phase:<10}{wall:8.2f}{cpu:8.2f}{total / wall:12.0f}{ratios[0]:11.1f}x{ratios[1]:10.1f}x"
            )

    differences: dict[tuple, int] = {}
    for phase, seed in (("cold", options.seed), ("warm", options.seed + 1)):
        completions, golds = make_corpus(options.groups, options.group_size, seed)
        theirs, ours = (runs[name][0][phase]["scores"] for name in (names[0], names[1]))
        for completion, gold, a, b in zip(completions, golds, theirs, ours, strict=True):
            if a != b:
                answer = completion[0]["content"].rpartition("\\boxed{")[2].removesuffix("}$.")
                differences[gold, answer, a, b] = differences.get((gold, answer, a, b), 0) + 1
    print(f"\nVerdicts that differ: {sum(differences.values())} of {2 * total} (TRL's, ours)")
    for (gold, answer, a, b), count in sorted(differences.items(), key=lambda item: -item[1])[:20]:
        print(f"  {count:3d}  gold {gold:<28} answer {answer:<28} {a} {b}")


if __name__ == "__main__":
    main()
