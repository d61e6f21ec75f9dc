"""The tests that ask or train a model, on this CPU as it is and computing as older ones: `make test-portable`.

PYTHONPATH=tests python -m support.portable [--minutes 60] [arguments for pytest]

Each instruction set runs with one thread and with two, and a table says what became of each. What the minutes do not suffice
for is left out, and named. The exit status is 1 if a test failed.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

from support.cpu import OLDER, cpu_name
from support.places import ROOT


NO_TIME = "left out: no time"
THREADS = (1, 2)


def instruction_sets(own: str) -> dict[str, str | None]:
    """Values of `ATEN_CPU_CAPABILITY` by name. `None` is the CPU as it is, whose capability torch calls `own`."""
    # Only an x86 CPU has an AVX2 to compute as
    older = [name for name in OLDER if name.upper() != own and (name == "default" or own.startswith("AVX"))]
    return {**{name: name for name in older}, f"own ({own})": None}


def environment(capability: str | None, threads: int) -> dict[str, str]:
    """This process's variables with those of a run; tests/support/cpu.py sets what else belongs to a capability."""
    unset = {"ATEN_CPU_CAPABILITY", *(name for variables in OLDER.values() for name in variables)}
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    chosen = {"ATEN_CPU_CAPABILITY": capability} if capability else {}
    return {**kept, **chosen, "DELTA_TRL_TEST_THREADS": str(threads)}


def outcome(report: Path, status: int) -> str:
    """What pytest's report and exit status come to, in a few words."""
    if not report.exists():
        return f"failed: pytest ended with status {status}"
    (suite,) = ElementTree.parse(report).getroot()
    count = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    broken = count["failures"] + count["errors"]
    words = f"{count['tests'] - broken - count['skipped']} passed, {count['skipped']} skipped"
    return f"failed: {broken}, {words}" if status else words


def run(capability: str | None, threads: int, arguments: list[str], seconds: float) -> str:
    """Runs the tests for at most `seconds`, and says what became of them."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-m", "trained", f"--junitxml={report}", *arguments],
            cwd=ROOT, env=environment(capability, threads), start_new_session=True,
        )  # fmt: skip
        try:
            return outcome(report, process.wait(seconds))
        except subprocess.TimeoutExpired:
            return f"{NO_TIME}, ended after {seconds / 60:.0f} minutes"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=600, help="for everything (default: %(default)s)")
    options, arguments = parser.parse_known_args()
    import torch

    end = time.monotonic() + 60 * options.minutes
    longest, rows = 0.0, []
    sets = instruction_sets(torch.backends.cpu.get_cpu_capability())
    # The CPU as it is with one thread comes last: `make test` runs that
    for threads, name in [(threads, name) for threads in reversed(THREADS) for name in sets]:
        start = time.monotonic()
        found = NO_TIME if end - start < max(longest, 1) else run(sets[name], threads, arguments, end - start)
        longest = max(longest, time.monotonic() - start)
        rows.append((name, threads, found, (time.monotonic() - start) / 60))
    print(f"\n{cpu_name()}, torch {torch.__version__}")
    print(f"{'instructions':<16}{'threads':>8}{'minutes':>9}  outcome")
    for name, threads, found, minutes in rows:
        print(f"{name:<16}{threads:>8}{minutes:>9.1f}  {found}")
    left_out = [row for row in rows if row[2].startswith(NO_TIME)]
    if left_out:
        print(f"{len(left_out)} of {len(rows)} runs were left out: {options.minutes:g} minutes did not suffice.")
    sys.exit(any(row[2].startswith("failed") for row in rows))


if __name__ == "__main__":
    main()
