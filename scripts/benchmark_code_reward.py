"""Speed of `delta_trl.rewards.code_reward` beside verl's `prime_code` and a `python -c` a test, on right programs.

Two programs: one that reads standard input, with 10 tests, and one with 10 calls. One program at a time, ours with one
worker. The graders take turns, in a process with nothing imported and in one with torch and TRL imported, as in training,
where forking costs verl more. verl's is found if it is installed (`pip install --no-deps verl` is enough: only its folder
`prime_code` is loaded). Verdicts must be right, or the benchmark fails.

    python scripts/benchmark_code_reward.py
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path


TESTS = 10
PROGRAMS = {
    "10 stdin tests": (
        "n = int(input())\nvalues = list(map(int, input().split()))\nprint(sum(values) + n)\n",
        {"inputs": [f"2\n{i} {i + 1}\n" for i in range(TESTS)], "outputs": [f"{2 * i + 3}\n" for i in range(TESTS)]},
    ),
    "10 calls": (
        "def add(a, b):\n    return a + b\n",
        {  # the form that verl takes, too: one JSON value a line
            "inputs": [f"{i}\n{i + 1}" for i in range(TESTS)],
            "outputs": [f"{2 * i + 1}" for i in range(TESTS)],
            "fn_name": "add",
        },
    ),
}


def find_verl():
    """verl's `compute_score(completion, tests)` without verl's own imports; None if it is not installed."""
    verl = importlib.util.find_spec("verl")
    if verl is None:
        return None
    folder = Path(verl.submodule_search_locations[0]) / "utils" / "reward_score" / "prime_code"
    spec = importlib.util.spec_from_file_location(
        "prime_code", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = sys.modules["prime_code"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda program, tests: module.compute_score(f"```python\n{program}```", tests, continuous=True)[0]


def run_plainly(program: str, tests: dict) -> bool:
    """A new interpreter a test, without any isolation: these programs are our own."""
    for given, expected in zip(tests["inputs"], tests["outputs"], strict=True):
        text, stdin = program, given
        if "fn_name" in tests:
            text, stdin = f"{program}\nprint({tests['fn_name']}({', '.join(given.split())}))", ""
        done = subprocess.run([sys.executable, "-c", text], input=stdin, capture_output=True, text=True, check=True)
        if done.stdout.strip() != str(expected).strip():
            return False
    return True


def make_ours():
    from delta_trl.rewards import make_code_reward

    reward = make_code_reward(workers=1)
    return lambda program, tests: reward([f"```python\n{program}```"], [tests])[0] == 1.0


def measure(repeats: int, is_training: bool) -> dict[str, dict[str, float]]:
    """Milliseconds a program: medians by kind of program and grader."""
    if is_training:
        from trl import GRPOTrainer  # noqa: F401
    graders = {"ours": make_ours(), "verl": find_verl(), "python -c": run_plainly}
    graders = {name: grader for name, grader in graders.items() if grader is not None}
    result = {}
    for kind, (program, tests) in PROGRAMS.items():
        times: dict[str, list[float]] = {name: [] for name in graders}
        for i in range(repeats + 1):  # in turn; the first round, in which workers start, does not count
            for name, grader in graders.items():
                start = time.perf_counter()
                if not grader(program, tests):
                    raise RuntimeError(f"{name} finds a right program with {kind} wrong.")
                if i > 0:
                    times[name].append(1e3 * (time.perf_counter() - start))
        result[kind] = {name: statistics.median(taken) for name, taken in times.items()}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="Programs of each kind; the table shows medians.")
    parser.add_argument("--child", choices=["bare", "training"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.repeats, options.child == "training")))
        return
    print(f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}\n")
    print("| process | program | grader | ms a program | ours is faster |\n|---|---|---|---|---|")
    for process in ("bare", "training"):
        command = [sys.executable, __file__, "--child", process, "--repeats", str(options.repeats)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        for kind, times in json.loads(output.splitlines()[-1]).items():
            for name, taken in times.items():
                print(f"| {process} | {kind} | {name} | {taken:.1f} | {taken / times['ours']:.1f} times |")
    if importlib.util.find_spec("verl") is None:
        print("\nverl is not installed (`pip install --no-deps verl`): it was not measured.")


if __name__ == "__main__":
    main()
