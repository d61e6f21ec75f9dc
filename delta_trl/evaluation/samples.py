"""The file that an evaluation leaves behind: one JSON line a sample, appended as soon as the sample is graded.

A file holds one model under one set of settings, and any number of benchmarks. Each benchmark begins with a *plan*, a
line with the settings and the ids of its problems; then come its samples, in the order they finish. The plan is what
makes denominators honest: a problem that never produced a sample is still known, and counts as wrong.

Several processes append to the same file, which survives their being killed: see `delta_trl.jsonl`. A sample that is
in the file twice counts once, as it was first written.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ..jsonl import append_lines, read_lines, refuse_differences, short, update_lines


# (benchmark, problem id, sample index): what a sample is identified by.
Key = tuple[str, str, int]

# Packages whose version can change a completion or a verdict.
VERSIONS_OF = ("delta_trl", "torch", "transformers", "peft", "math-verify", "latex2sympy2_extended", "sympy")

# What a line must hold, and of what type.
PLAN_LINE = {"plan": dict, "settings": dict}
SETTINGS = {
    "model": str,
    "backend": str,
    "dtype": str,
    "samples": int,
    "temperature": float | int,
    "top_p": float | int,
    "top_k": int,
    "max_tokens": int,
    "seed": int,
    "prompt_format": str,
    "versions": dict,
}
PLAN = {"benchmark": str, "title": str, "fingerprint": str, "problems": list, "samples": int}
SAMPLE = {
    "benchmark": str,
    "problem": str,
    "sample": int,
    "tokens": int,
    "truncated": bool,
    "answer": str | None,
    "score": float | int | None,
    "reason": str,
}


@dataclass
class BenchmarkSamples:
    """What a file holds about one benchmark: P problems with n samples each were asked for.

    Args:
        name, title: From the benchmark.
        fingerprint: Tells whether two runs had the same problems, see `benchmarks.fingerprint`.
        problems: (P,) ids, in the benchmark's order.
        n: Samples a problem that were asked for.
        grader: The kind of its answers, one of `graders.GRADERS`.
        samples: The samples there are, by (problem id, sample index). Fewer than P·n if the run is not finished.
    """

    name: str
    title: str
    fingerprint: str
    problems: list[str]
    n: int
    grader: str = "math"
    samples: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)

    @property
    def correct(self) -> np.ndarray:
        """(P, n) bool. A sample that is missing, or whose reference answer cannot be scored, is False."""
        return np.array(
            [[bool(s) and s["score"] == 1.0 for s in self.samples_of(problem)] for problem in self.problems]
        )

    @property
    def without_sample(self) -> list[str]:
        """Problems that produced no sample at all. They count as wrong, and every table lists them."""
        drawn = {problem for problem, _ in self.samples}
        return [problem for problem in self.problems if problem not in drawn]

    @property
    def missing(self) -> int:
        """Samples asked for that are not there, counted as wrong."""
        return len(self.problems) * self.n - len(self.samples)

    def samples_of(self, problem: str) -> list[dict[str, Any] | None]:
        """(n,) the samples of a problem; None where there is none."""
        return [self.samples.get((problem, index)) for index in range(self.n)]

    def column(self, name: str) -> list[Any]:
        """One field of every sample that is there, in the benchmark's order."""
        return [sample[name] for problem in self.problems for sample in self.samples_of(problem) if sample]


@dataclass
class Evaluation:
    """A sample file that was read.

    Args:
        path: The file.
        settings: See `plan`.
        inherited: Names of the settings that were taken over from the model's training run.
        benchmarks: By name, in the order they were begun.
    """

    path: Path
    settings: dict[str, Any]
    inherited: list[str]
    benchmarks: dict[str, BenchmarkSamples]

    @property
    def keys(self) -> set[Key]:
        """What is already there."""
        return {(name, *key) for name, benchmark in self.benchmarks.items() for key in benchmark.samples}


class SampleFile:
    """Appends to a sample file.

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
        remedy = "Repeat the file's settings to resume it, or name another --output folder."

        def missing(lines: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
            known = {line["plan"]["benchmark"]: line for line in lines if _is_plan(line, self.path)}
            new = []
            for asked in plans:
                name = asked["plan"]["benchmark"]
                # A benchmark that is new to the file must still share the settings of those in it.
                for old in [known[name]] if name in known else list(known.values())[:1]:
                    refuse_differences(self.path, old["settings"], asked["settings"], "settings", remedy)
                if name in known:
                    refuse_differences(self.path, known[name]["plan"], asked["plan"], f"problems of {name}", remedy)
                else:
                    new.append(asked)
            return new

        update_lines(self.path, missing)
        return read_evaluation(self.path).keys

    def append(self, samples: Iterable[Mapping[str, Any]]) -> None:
        """Appends samples, each a line of its own. They survive the death of the process once this returns."""
        append_lines(self.path, samples)


def plan(
    benchmark: str,
    title: str,
    fingerprint: str,
    problems: Sequence[str],
    n: int,
    settings: Mapping[str, Any],
    inherited: Sequence[str] = (),
    grader: str = "math",
) -> dict[str, Any]:
    """The line that begins a benchmark in a file: what was asked for.

    Args:
        benchmark, title, fingerprint, problems, n, grader: See `BenchmarkSamples`.
        settings: All that decides how the samples come out.
        inherited: Those of the settings that were taken over from the model's training run.
    """
    asked = {
        "benchmark": benchmark,
        "title": title,
        "fingerprint": fingerprint,
        "problems": list(problems),
        "samples": n,
        **({} if grader == "math" else {"grader": grader}),
    }
    return {"plan": asked, "settings": dict(settings), "inherited": list(inherited)}


def package_versions(backend: str) -> dict[str, str]:
    """Versions for the settings, by package; "not installed" where one is not."""
    found = {}
    for package in (*VERSIONS_OF, *(["vllm"] if backend == "vllm" else [])):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def read_evaluation(path: str | os.PathLike) -> Evaluation:
    """Reads a sample file.

    Raises:
        ValueError: The file does not exist, or was not written by an evaluation: it holds no plan, a line lacks a
            field, or a sample is none that a plan asked for.
    """
    path = Path(path)
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"{path} {state}. Give the .jsonl file that an evaluation wrote.")
    evaluation: Evaluation | None = None
    for line in read_lines(path):
        if _is_plan(line, path):
            evaluation = evaluation or Evaluation(path, line["settings"], line.get("inherited", []), {})
            asked = line["plan"]
            fields = [asked[name] for name in ("benchmark", "title", "fingerprint", "problems", "samples")]
            found = BenchmarkSamples(*fields, asked.get("grader", "math"))
            evaluation.benchmarks.setdefault(asked["benchmark"], found)
        else:
            _require(line, SAMPLE, path)
            benchmark, problem, index = line["benchmark"], line["problem"], line["sample"]
            found = evaluation and evaluation.benchmarks.get(benchmark)
            if found is None or problem not in found.problems or not 0 <= index < found.n:
                raise ValueError(
                    f"{path} holds sample {index} of problem {problem!r} of {benchmark!r}, which its plans do not ask "
                    "for: it was edited, or joined from files that do not belong together. Evaluate again."
                )
            found.samples.setdefault((problem, index), line)
    if evaluation is None:
        raise ValueError(f"{path} holds no evaluation. Give the .jsonl file that an evaluation wrote.")
    return evaluation


def _is_plan(line: Mapping[str, Any], path: Path) -> bool:
    if "plan" not in line:
        return False
    _require(line, PLAN_LINE, path)
    _require(line["plan"], PLAN, path)
    _require(line["settings"], SETTINGS, path)
    return True


def _require(line: Mapping[str, Any], fields: Mapping[str, Any], path: Path) -> None:
    wrong = [name for name, kind in fields.items() if name not in line or not isinstance(line[name], kind)]
    if wrong:
        raise ValueError(
            f"{path}: {', '.join(wrong)} is missing or of the wrong type in {short(line)}. Give the .jsonl file that "
            "an evaluation wrote, unchanged."
        )
