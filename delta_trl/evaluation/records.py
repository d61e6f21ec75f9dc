"""The file that an evaluation leaves behind: one JSON line a sample, appended as soon as the sample is graded.

A file holds one model under one set of settings, and any number of benchmarks. Each benchmark begins with a *plan*, a
line with the settings and the ids of its problems; then come its samples, in the order they finish. The plan is what
makes denominators honest: a problem that never produced a sample is still known, and counts as wrong.

Several processes append to the same file, under a lock. A process that is killed while it writes leaves a line without
an end; the next append starts on a fresh line, and the broken one is dropped on reading, so its sample is drawn again.
A sample that is in the file twice counts once, as it was first written.
"""

import fcntl
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


logger = logging.getLogger(__name__)

# (benchmark, problem id, sample index): what a sample is identified by.
Key = tuple[str, str, int]


@dataclass
class BenchmarkRecords:
    """What a file holds about one benchmark: P problems with n samples each were asked for.

    Args:
        name, title: From the benchmark.
        fingerprint: Tells whether two runs had the same problems, see `benchmarks.fingerprint`.
        problems: (P,) ids, in the benchmark's order.
        n: Samples a problem that were asked for.
        samples: The samples there are, by (problem id, sample index). Fewer than P·n if the run is not finished.
    """

    name: str
    title: str
    fingerprint: str
    problems: list[str]
    n: int
    samples: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)

    @property
    def correct(self) -> np.ndarray:
        """(P, n) bool. A sample that is missing, or whose reference answer cannot be scored, is False."""
        return np.array([[self._get(p, i).get("score") == 1.0 for i in range(self.n)] for p in self.problems])

    @property
    def without_sample(self) -> list[str]:
        """Problems that produced no sample at all. They count as wrong, and every table lists them."""
        drawn = {problem for problem, _ in self.samples}
        return [problem for problem in self.problems if problem not in drawn]

    @property
    def missing(self) -> int:
        """Samples asked for that are not there, counted as wrong."""
        return len(self.problems) * self.n - len(self.samples)

    def column(self, name: str) -> list[Any]:
        """One field of every sample that is there, in the benchmark's order."""
        return [self._get(p, i)[name] for p in self.problems for i in range(self.n) if (p, i) in self.samples]

    def answers(self) -> list[list[str | None]]:
        """(P, n) extracted answers; None where there is no sample or no answer."""
        return [[self._get(p, i).get("answer") for i in range(self.n)] for p in self.problems]

    def _get(self, problem: str, index: int) -> dict[str, Any]:
        return self.samples.get((problem, index), {})


@dataclass
class Run:
    """A record file that was read: the settings, and the benchmarks in the order they were begun."""

    path: Path
    settings: dict[str, Any]
    benchmarks: dict[str, BenchmarkRecords]

    @property
    def keys(self) -> set[Key]:
        """What is already there."""
        return {(name, *key) for name, benchmark in self.benchmarks.items() for key in benchmark.samples}


class RecordFile:
    """Appends to a record file.

    Args:
        path: The file. It and its folder are made if they do not exist.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    def begin(self, plans: Iterable[Mapping[str, Any]]) -> set[Key]:
        """Checks that the file belongs to these settings, adds the plans it lacks, and returns what it already holds.

        Args:
            plans: One a benchmark, as made by `plan`.

        Raises:
            ValueError: The file was begun with other settings or other problems; the message names what differs.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            known = {line["plan"]["benchmark"]: line for line in _parse(file, self.path) if "plan" in line}
            lines = []
            for new in plans:
                name = new["plan"]["benchmark"]
                # A benchmark that is new to the file must still share the settings of those in it.
                for old in [known[name]] if name in known else list(known.values())[:1]:
                    self._refuse_differences(old["settings"], new["settings"], "settings")
                if name in known:
                    self._refuse_differences(known[name]["plan"], new["plan"], f"problems of {name}")
                else:
                    lines.append(new)
            _write(file, lines)
        return read_run(self.path).keys

    def append(self, samples: Iterable[Mapping[str, Any]]) -> None:
        """Appends samples, each a line of its own. They survive the death of the process once this returns."""
        with self.path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _write(file, samples)

    def _refuse_differences(self, old: Mapping[str, Any], new: Mapping[str, Any], what: str) -> None:
        # Through JSON, since that is how the old ones were read: tuples are lists there.
        old, new = _flat(old), _flat(json.loads(json.dumps(new)))
        differing = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        if differing:
            changes = "; ".join(
                f"{key}: {_short(old.get(key))} in the file, now {_short(new.get(key))}" for key in differing
            )
            raise ValueError(
                f"{self.path} was begun with other {what}, and samples of both cannot share it. {changes}. Repeat the "
                "file's settings to resume it, or name another --output folder."
            )


def plan(
    benchmark: str, title: str, fingerprint: str, problems: Sequence[str], n: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The line that begins a benchmark in a file: what was asked for."""
    return {
        "plan": {
            "benchmark": benchmark,
            "title": title,
            "fingerprint": fingerprint,
            "problems": list(problems),
            "samples": n,
        },
        "settings": dict(settings),
    }


def read_run(path: str | os.PathLike) -> Run:
    """Reads a record file.

    Raises:
        ValueError: The file does not exist, or holds no plan: it was not written by an evaluation.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Give the .jsonl file that an evaluation wrote.")
    settings: dict[str, Any] | None = None
    benchmarks: dict[str, BenchmarkRecords] = {}
    with path.open("rb") as file:
        for line in _parse(file, path):
            if "plan" in line:
                settings, asked = line["settings"], line["plan"]
                benchmarks.setdefault(
                    asked["benchmark"],
                    BenchmarkRecords(
                        asked["benchmark"], asked["title"], asked["fingerprint"], asked["problems"], asked["samples"]
                    ),
                )
            else:
                benchmarks[line["benchmark"]].samples.setdefault((line["problem"], line["sample"]), line)
    if settings is None:
        raise ValueError(f"{path} holds no evaluation. Give the .jsonl file that an evaluation wrote.")
    return Run(path, settings, benchmarks)


def _parse(file: Iterable[bytes], path: Path) -> list[dict[str, Any]]:
    lines = []
    for number, line in enumerate(file, start=1):
        try:
            lines.append(json.loads(line))
        except ValueError:  # JSONDecodeError, or UnicodeDecodeError where the cut went through a character
            if line.strip():
                logger.warning(f"{path}, line {number} was cut off while it was written: its sample is drawn again.")
    return lines


def _write(file: Any, lines: Iterable[Mapping[str, Any]]) -> None:
    """Appends lines to a locked binary file in one write."""
    text = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)
    if file.seek(0, os.SEEK_END):
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            text = b"\n" + text  # the last writer was killed in the middle of a line
    file.write(text)
    file.flush()


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`{"versions": {"torch": "2.13"}}` to `{"versions.torch": "2.13"}`."""
    flat = {}
    for key, value in settings.items():
        nested = _flat(value) if isinstance(value, dict) else None
        flat.update({key: value} if nested is None else {f"{key}.{name}": inner for name, inner in nested.items()})
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
