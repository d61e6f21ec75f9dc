"""From sample files to figures: one summary a benchmark, and comparisons of runs on the same problems."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..rewards.code.grading import NO_CODE
from ..rewards.math.reasons import NO_BOX, TIMED_OUT
from .graders import GRADERS
from .multiple_choice import NO_LETTER
from .samples import BenchmarkSamples, Evaluation
from .statistics import CONFIDENCE, Comparison, Estimate, average, compare, holm, majority_at_n, pass_at_k


# Settings that compared runs may differ in.
FREE_SETTINGS = ("model", "base_model", "revision", "served_model")
# From this share of samples without an answer on, something is wrong with how the model is asked.
NEARLY_ALL = 0.9
# What a whole suite is called beside its benchmarks.
OVERALL = "Avg."

# (answer, answer) pairs to whether each pair is equal.
SameAnswer = Callable[[Sequence[tuple[str, str]]], Sequence[bool]]


@dataclass(frozen=True)
class BenchmarkSummary:
    """The figures of one benchmark, or of several together, each problem weighing the same.

    Shares are in [0, 1]. `average`, `pass_at` and `majority` count samples and problems that are missing as wrong;
    the lengths and shares after them are over the samples there are, and None if there is none.

    Args:
        name, title: Of the benchmark; `OVERALL` for several together.
        problems: P.
        n: Samples a problem that were asked for.
        average: avg@n.
        pass_at: pass@k by k, the powers of two up to n.
        majority: majority@n. None where answers do not vote, as programs do not.
        mean_tokens: Mean completion length.
        truncated, no_answer, no_box, timed_out: Shares of samples that reached max_tokens, in which the checker found
            no answer, that have no box, program or letter, and on which the checker ran out of time.
        unscorable: Samples whose reference answer the checker could not read: they count as wrong.
        missing: Samples asked for that are not in the file.
        without_sample: Ids of the problems that produced no sample.
    """

    name: str
    title: str
    problems: int
    n: int
    average: Estimate
    pass_at: dict[int, Estimate]
    majority: Estimate | None
    mean_tokens: float | None
    truncated: float | None
    no_answer: float | None
    no_box: float | None
    timed_out: float | None
    unscorable: int
    missing: int
    without_sample: list[str]


@dataclass(frozen=True)
class ComparedRun:
    """One run against the baseline on one benchmark, or on all together.

    Args:
        run, baseline: Names of the sample files.
        title: Of the benchmark, or `OVERALL`.
        comparison: The statistics.
        p_holm: `comparison.p_sign_flip` after Holm's correction: for `OVERALL` over all runs compared with the
            baseline, for single benchmarks over all runs and benchmarks.
    """

    run: str
    baseline: str
    title: str
    comparison: Comparison
    p_holm: float


def summarise(run: Evaluation, same: SameAnswer | None = None) -> list[BenchmarkSummary]:
    """One summary a benchmark, and `OVERALL` after them where there are several.

    Args:
        run: From `read_evaluation`.
        same: Decides which answers are equal for majority@n. None: the reward's checker.
    """
    benchmarks = list(run.benchmarks.values())
    groups = [
        answer_groups(benchmark, same or GRADERS[benchmark.grader].same)
        if GRADERS[benchmark.grader].same([]) is not None
        else None
        for benchmark in benchmarks
    ]
    parts = [([benchmark], [group]) for benchmark, group in zip(benchmarks, groups, strict=True)]
    if len(benchmarks) > 1:
        parts.append((benchmarks, groups))
    return [_summary(of, of_groups) for of, of_groups in parts]


def compare_runs(
    baseline: Evaluation, runs: Sequence[Evaluation], allow_different_settings: bool = False, seed: int = 0
) -> list[ComparedRun]:
    """Compares runs with a baseline, benchmark by benchmark and, where there are several, all together.

    Raises:
        ValueError: The runs do not have the same benchmarks with the same problems, or were not sampled with the same
            settings.
    """
    whole, single = [], []
    for run in runs:
        _refuse_different(baseline, run, allow_different_settings)
        pairs = [(a, run.benchmarks[name]) for name, a in baseline.benchmarks.items()]
        for a, b in pairs:
            single.append((run, a.title, compare([a.correct], [b.correct], seed)))
        if len(pairs) > 1:
            comparison = compare([a.correct for a, _ in pairs], [b.correct for _, b in pairs], seed)
            whole.append((run, OVERALL, comparison))
    compared = []
    for family in (single, whole):
        adjusted = holm([comparison.p_sign_flip for _, _, comparison in family])
        for (run, title, comparison), p_holm in zip(family, adjusted, strict=True):
            compared.append(ComparedRun(run.path.stem, baseline.path.stem, title, comparison, p_holm))
    return compared


def leaders(runs: Sequence[Evaluation]) -> dict[str, str]:
    """By the titles of benchmarks, and `OVERALL`, the run that is better than every other one, where there is such a run.

    Better is a paired difference whose interval lies above 0, with a sign-flip test that agrees. Runs that were sampled
    with different settings, or on other problems, have no leader.
    """
    first, *others = runs
    if not others or any(different_settings(first, other) for other in others):
        return {}
    common = [
        (a.title, [run.benchmarks[name].correct for run in runs])
        for name, a in first.benchmarks.items()
        if all(name in run.benchmarks and same_problems(a, run.benchmarks[name]) for run in others)
        if len(a.problems) > 1  # one problem tells nothing about others
    ]
    families = {title: [[correct] for correct in of_runs] for title, of_runs in common}
    if len(common) == len(first.benchmarks) > 1:
        families[OVERALL] = [list(strata) for strata in zip(*(of_runs for _, of_runs in common), strict=True)]
    found = {}
    for title, strata in families.items():
        best = max(range(len(runs)), key=lambda i: average(strata[i]).value)
        against = [compare(strata[i], strata[best]) for i in range(len(runs)) if i != best]
        if all(c.low > 0 and c.p_sign_flip < 1 - CONFIDENCE for c in against):
            found[title] = runs[best].path.stem
    return found


def same_problems(a: BenchmarkSamples, b: BenchmarkSamples) -> bool:
    """Whether two runs were asked the same problems of a benchmark."""
    return a.fingerprint == b.fingerprint and a.problems == b.problems


def different_settings(a: Evaluation, b: Evaluation) -> dict[str, tuple[Any, Any]]:
    """The settings in which two runs differ, apart from the model."""
    keys = sorted({*a.settings, *b.settings} - {*FREE_SETTINGS})
    return {
        key: (a.settings.get(key), b.settings.get(key)) for key in keys if a.settings.get(key) != b.settings.get(key)
    }


def answer_groups(benchmark: BenchmarkSamples, same: SameAnswer) -> list[list[int | None]]:
    """For each problem and sample the number of its group of equal answers, None for no answer.

    Correct answers are group 0, since all equal the reference. Of two wrong answers the longer one is graded with the
    shorter one as the reference. That relation need not be transitive, so it is closed: wrong answers that a chain of
    equal pairs connects are one group. So groups do not depend on the order of the samples.
    """
    problems = [benchmark.samples_of(problem) for problem in benchmark.problems]
    groups, pairs = [], []
    for samples in problems:
        given = {sample["answer"] for sample in samples if sample} - {None}
        right = {sample["answer"] for sample in samples if sample and sample["score"] == 1.0}
        wrong = sorted(given - right, key=lambda answer: (len(answer), answer))
        groups.append(dict.fromkeys(right, 0) | {answer: i for i, answer in enumerate(wrong, start=1)})
        pairs.append([(long, short) for short, long in itertools.combinations(wrong, 2)])
    verdicts = iter(same([pair for of_problem in pairs for pair in of_problem]))
    for group, of_problem in zip(groups, pairs, strict=True):
        for long, short in of_problem:
            if next(verdicts):
                kept, merged = group[short], group[long]
                group.update({answer: kept for answer, number in group.items() if number == merged})
    return [
        [group.get(sample["answer"]) if sample else None for sample in samples]
        for samples, group in zip(problems, groups, strict=True)
    ]


def no_answer_warning(
    samples: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], graders: Mapping[str, str]
) -> str | None:
    """What is probably wrong where nearly no sample has an answer; None where many have one.

    Args:
        samples: Of any of the benchmarks.
        settings: See `samples.plan`.
        graders: The kind of answers of each benchmark, by its name.
    """
    without = [sample for sample in samples if sample["answer"] is None]
    if len(without) <= NEARLY_ALL * len(samples):
        return None
    forms = {GRADERS[graders[sample["benchmark"]]].answer_form for sample in without}
    looked_for = " or ".join(sorted(forms))
    cut = [sample["tokens"] for sample in without if sample["truncated"]]
    if len(cut) <= len(without) / 2:
        cause = (
            f"The prompt format {settings['prompt_format']!r} is probably not the one the model was trained with: set "
            "--prompt_format (chat for models with a chat template)."
        )
    elif sum(tokens < settings["max_tokens"] for tokens in cut) > len(cut) / 2:
        longer = "raise --max_model_len, or take" if settings["backend"] == "vllm" else "take"
        cause = (
            f"Most of them were cut off where the model's context ends, before --max_tokens {settings['max_tokens']}: "
            f"{longer} a model with a longer context."
        )
    else:
        cause = f"Most of them were cut off at the token limit of {settings['max_tokens']}: raise --max_tokens."
    return f"{len(without)} of {len(samples)} completions have no {looked_for} and count as wrong. {cause}"


def _summary(
    benchmarks: Sequence[BenchmarkSamples], groups: Sequence[list[list[int | None]] | None]
) -> BenchmarkSummary:
    strata = [benchmark.correct for benchmark in benchmarks]
    n = min(benchmark.n for benchmark in benchmarks)

    def share(column: str, holds: Callable[[Any], Any] = lambda value: value) -> float | None:
        values = [holds(value) for benchmark in benchmarks for value in benchmark.column(column)]
        return float(np.mean(values)) if values else None

    alone = len(benchmarks) == 1
    return BenchmarkSummary(
        name=benchmarks[0].name if alone else OVERALL,
        title=benchmarks[0].title if alone else OVERALL,
        problems=sum(len(benchmark.problems) for benchmark in benchmarks),
        n=n,
        average=average(strata),
        pass_at={k: pass_at_k(strata, k) for k in (2**power for power in range(n.bit_length()))},
        majority=None if None in groups else majority_at_n(groups, strata),
        mean_tokens=share("tokens"),
        truncated=share("truncated"),
        no_answer=share("answer", lambda answer: answer is None),
        no_box=share("reason", lambda reason: reason in (NO_BOX, NO_CODE, NO_LETTER)),
        timed_out=share("reason", lambda reason: reason == TIMED_OUT),
        unscorable=sum(score is None for benchmark in benchmarks for score in benchmark.column("score")),
        missing=sum(benchmark.missing for benchmark in benchmarks),
        without_sample=[
            problem if alone else f"{benchmark.title} {problem}"
            for benchmark in benchmarks
            for problem in benchmark.without_sample
        ],
    )


def _refuse_different(baseline: Evaluation, run: Evaluation, allow_different_settings: bool) -> None:
    names = (baseline.path, run.path)
    if set(baseline.benchmarks) != set(run.benchmarks):
        raise ValueError(
            f"{names[0]} has the benchmarks {sorted(baseline.benchmarks)} and {names[1]} {sorted(run.benchmarks)}. "
            "Evaluate both on the same ones."
        )
    for name, a in baseline.benchmarks.items():
        b = run.benchmarks[name]
        if not same_problems(a, b):
            raise ValueError(
                f"Benchmark {name!r} does not have the same problems in {names[0]} and {names[1]}. Evaluate both on "
                "the same file or dataset revision."
            )
    differing = different_settings(baseline, run)
    if differing and not allow_different_settings:
        raise ValueError(
            f"{names[0]} and {names[1]} were sampled with different settings: "
            + "; ".join(f"{key}: {ours!r} and {theirs!r}" for key, (ours, theirs) in differing.items())
            + ". A difference between them need not come from the models. Evaluate both with the same settings, or "
            "allow it with --allow_different_settings."
        )
