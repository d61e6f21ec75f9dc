"""From the records of a study's runs to its tables. The seed is the unit: a run is one observation of its method."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...evaluation.statistics import bootstrap_interval, holm, sign_flip_test
from ...tables import format_table
from .figures import (
    AREA,
    AREA_BY_SECONDS,
    ENTROPY,
    FINAL,
    FINAL_RATES,
    LAST_STEPS,
    LENGTH,
    PASS_RATE,
    SECONDS,
    curve,
    final_rates,
    metrics,
    seconds_of_all,
)
from .settings import WARM, Study


TITLES = {
    AREA: "area under the reward curve",
    AREA_BY_SECONDS: "area under the reward curve, by seconds",
    SECONDS: "seconds a step",
    FINAL: f"reward, last {LAST_STEPS} steps",
    ENTROPY: f"entropy, last {LAST_STEPS} steps",
    LENGTH: f"length, last {LAST_STEPS} steps",
}


@dataclass(frozen=True)
class SeedEstimate:
    """A mean over seeds and its 95% bootstrap interval; no interval from a single seed."""

    mean: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True)
class Difference:
    """A method minus its baseline, on the seeds that both have.

    Attributes:
        mean, low, high, seeds: As in `SeedEstimate`.
        wins: Seeds on which the method is above its baseline.
        p: Exact two-sided sign-flip test.
        p_holm: The same, corrected for the comparisons in this metric of all methods planned with as many seeds.
        effect: Cohen's d_z, the mean difference over the standard deviation of the differences; None if that is 0.
    """

    baseline: str
    mean: float
    low: float | None
    high: float | None
    seeds: int
    wins: int
    p: float
    p_holm: float
    effect: float | None


@dataclass(frozen=True)
class MethodRow:
    """One method: what was planned, what there is, and by metric its figures and its differences to its baselines."""

    method: str
    planned: int
    done: int
    estimates: dict[str, SeedEstimate]
    differences: dict[str, list[Difference]]


def estimate(values: Sequence[float]) -> SeedEstimate:
    """Mean over seeds. The interval is `evaluation.statistics.bootstrap_interval`'s: percentiles, expanded because five
    or ten values resampled spread less than new ones would."""
    numbers = np.array(values, dtype=float)
    low, high = bootstrap_interval([numbers]) if len(numbers) > 1 else (None, None)
    return SeedEstimate(float(numbers.mean()), low, high, len(numbers))


def effect_size(differences: Sequence[float]) -> float | None:
    """Cohen's d_z; None where it is not defined."""
    if len(differences) < 2 or (spread := float(np.std(differences, ddof=1))) == 0:
        return None
    return float(np.mean(differences)) / spread


def analyse(study: Study, records: list[dict[str, Any]]) -> list[MethodRow]:
    """Every method of the study, those without a finished run too."""
    planned = {method: study.seeds_of(method) for method in study.methods}
    figures: dict[str, dict[int, dict[str, float]]] = {method: {} for method in study.methods}
    counted = [record for record in records if record["seed"] in planned.get(record["method"], ())]
    budget = seconds_of_all(counted)
    for record in counted:
        figures[record["method"]][record["seed"]] = metrics(record, budget)

    differences: dict[str, dict[str, list[Difference]]] = {method: {} for method in study.methods}
    for name in metric_names(figures):
        compared = []
        for method, of_seed in figures.items():
            for baseline in study.baselines_of(method):
                common = [s for s in of_seed if name in of_seed[s] and name in figures[baseline].get(s, ())]
                if common:
                    values = [of_seed[s][name] - figures[baseline][s][name] for s in common]
                    compared.append((method, baseline, values))
        p_values = [sign_flip_test(np.array(values))[0] for _, _, values in compared]
        corrected = _holm_by_seeds([len(planned[method]) for method, _, _ in compared], p_values)
        for (method, baseline, values), p, p_holm in zip(compared, p_values, corrected, strict=True):
            wins = sum(value > 0 for value in values)
            interval = asdict(estimate(values))
            found = Difference(baseline, **interval, wins=wins, p=p, p_holm=p_holm, effect=effect_size(values))
            differences[method].setdefault(name, []).append(found)
    return [
        MethodRow(
            method,
            len(planned[method]),
            len(of_seed),
            {
                name: estimate([found[name] for found in of_seed.values() if name in found])
                for name in metric_names({method: of_seed})
            },
            differences[method],
        )
        for method, of_seed in figures.items()
    ]


def _holm_by_seeds(seeds: list[int], p_values: list[float]) -> list[float]:
    """Holm's correction among comparisons with equally many planned seeds: with five, p cannot fall below 0.0625, so that
    such rows would only weigh down the main comparison."""
    corrected = [math.nan] * len(p_values)
    for n in set(seeds):
        family = [i for i, m in enumerate(seeds) if m == n]
        for i, p in zip(family, holm([p_values[i] for i in family]), strict=True):
            corrected[i] = p
    return corrected


def metric_names(figures: dict[str, dict[int, dict[str, float]]]) -> list[str]:
    """Metrics in the order of the tables: rewards, pass rates by step, those of the trained model, entropy, length."""
    names = {name for of_seed in figures.values() for found in of_seed.values() for name in found}
    rates = sorted((n for n in names if n.startswith("pass_rate@")), key=lambda n: int(n.partition("@")[2]))
    final = sorted((n for n in names if n.startswith(FINAL_RATES)), key=lambda n: int(n.partition("@")[2] or 0))
    return [name for name in (AREA, AREA_BY_SECONDS, FINAL, *rates, *final, ENTROPY, LENGTH, SECONDS) if name in names]


def title_of(name: str) -> str:
    if name.startswith(FINAL_RATES):
        return f"{name.removeprefix(FINAL_RATES)} of the trained model"
    return TITLES.get(name) or f"pass rate after {name.partition('@')[2]} steps"


def _scale(name: str) -> tuple[float, int]:
    """Factor and decimals of a metric in the tables: shares are shown in points."""
    return {ENTROPY: (1, 4), LENGTH: (1, 1), SECONDS: (1, 2)}.get(name, (100, 1))


def _interval(found: SeedEstimate | Difference, name: str, sign: str = "") -> str:
    factor, decimals = _scale(name)
    form = f"{{:{sign}.{decimals}f}}"
    text = form.format(factor * found.mean)
    if found.low is None:
        return text
    return f"{text} [{form.format(factor * found.low)}, {form.format(factor * found.high)}]"


def overview_table(rows: list[MethodRow]) -> str:
    """Every method with its means and intervals over seeds."""
    names = metric_names({row.method: {0: row.estimates} for row in rows})
    body = []
    for row in rows:
        cells = [_interval(row.estimates[n], n) if n in row.estimates else "-" for n in names]
        body.append([row.method, f"{row.done} of {row.planned}", *cells])
    return format_table(["method", "seeds", *map(title_of, names)], body)


def difference_table(rows: list[MethodRow], name: str) -> str:
    """One metric: every method against its baselines, seed by seed."""
    body = []
    for row in rows:
        for found in row.differences.get(name, ()):
            effect = "-" if found.effect is None else f"{found.effect:+.2f}"
            wins = f"{found.wins}/{found.seeds}"
            values = [_interval(found, name, "+"), wins, f"{found.p:.4f}", f"{found.p_holm:.4f}"]
            body.append([f"{row.method} − {found.baseline}", *values, effect])
    return format_table(["difference", f"{title_of(name)}", "wins", "p", "p (Holm)", "d_z"], body)


def study_notes(study: Study, rows: list[MethodRow], records: list[dict[str, Any]]) -> list[str]:
    """What a reader of the tables has to know."""
    task, options = study.task, study.settings
    each = study.final_samples or options.get("num_generations_eval") or options.get("num_generations", 8)
    samples = "one sample each" if each == 1 else f"{each} samples each"
    texts = [
        f"Task {task.name}; {options.get('max_steps')} steps; learning rate {options.get('learning_rate')} for all "
        f"methods that do not say otherwise; pass rates on {task.held_out} unseen problems, {samples} at temperature "
        f"{options.get('temperature', 1.0)}. Rewards and pass rates in points.",
        "Means over seeds with 95% bootstrap intervals. Differences are taken seed by seed (same data order); p is the "
        "exact two-sided sign-flip test, whose smallest value is 2/2ⁿ for n seeds (0.002 for 10, 0.0625 for 5); Holm over "
        "the rows of a table whose methods were planned with as many seeds; d_z is the mean difference over the standard "
        "deviation of the differences.",
    ]
    start = [curve(r, PASS_RATE).get(0) for r in records if r["method"] == WARM]
    if start and start[0] is not None:
        texts.append(f"Pass rate before training, the same model for all runs: {100 * start[0]:.1f}.")
    for rates in filter(None, (final_rates(r) for r in records if r["method"] == WARM)):
        found = ", ".join(f"{name.removeprefix(FINAL_RATES)} {100 * rate:.1f}" for name, rate in rates.items())
        texts.append(f"Before training, the same model for all runs: {found}.")
    if missing := [f"{row.method} ({row.planned - row.done})" for row in rows if row.done < row.planned]:
        texts.append(f"Runs without a result, not yet run or failed: {', '.join(missing)}.")
    if commits := sorted({f"{r['git']['commit']}{' with changes' * bool(r['git']['dirty'])}" for r in records}):
        texts.append(f"Code: {', '.join(commits)}.")
    if records:
        seconds = [r["wall_seconds"] for r in records if r["method"] != WARM]
        if seconds:
            texts.append(f"Median wall time of a run: {np.median(seconds):.0f} s.")
    if budget := seconds_of_all(records):
        texts.append(
            f"By seconds: mean reward over the first {budget:.0f} seconds of training, as many as every run has. Seconds "
            "are processor time of a run with one thread: generation, coefficients, loss and update; no evaluation."
        )
    return texts


def write_tables(study: Study, records: list[dict[str, Any]], folder: Path) -> str:
    """Write study.md and study.json, and return the tables as text."""
    rows = analyse(study, records)
    compared = metric_names({r.method: {0: r.differences} for r in rows})
    lines = study_notes(study, rows, records)
    tables = [overview_table(rows), *(difference_table(rows, name) for name in compared)]

    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join([f"# Study {study.name}", *tables, *(f"- {line}" for line in lines)])
    (folder / "study.md").write_text(text + "\n", encoding="utf-8")
    content = {"study": study.name, "notes": lines, "methods": [asdict(row) for row in rows]}
    (folder / "study.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return "\n\n".join([*tables, *lines])
