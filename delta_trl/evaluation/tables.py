"""Figures as tables in Markdown, for the terminal too, and in LaTeX, and as a plot of differences. All figures in points."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..tables import format_table, new_figure
from .samples import Evaluation
from .statistics import CONFIDENCE, Estimate
from .summary import OVERALL, BenchmarkSummary, ComparedRun, no_answer_warning


WHY_PAIRED = (
    "Trust the interval and the sign-flip test first: they compare the runs problem by problem, and ask whether the "
    "difference would hold on other problems of this kind. Mann-Whitney (the paper's test) drops the pairing and "
    "takes these very problems as given, so drawing more samples from the same two checkpoints makes any difference "
    "significant. None of the three knows how much another training seed would change."
)


def paper_table(
    summaries: dict[str, Sequence[BenchmarkSummary]], style: str = "markdown", leaders: Mapping[str, str] | None = None
) -> str:
    """The paper's layout: one row a run, one column a benchmark, and the average weighted by problems.

    Args:
        summaries: By the run's name, from `summarise`. All with the same benchmarks.
        style: One of `tables.STYLES`.
        leaders: The run to be set in bold by the title of a column, from `summary.leaders`.

    Raises:
        ValueError: The runs do not have the same benchmarks.
    """
    columns = {name: [summary.title for summary in of_run] for name, of_run in summaries.items()}
    titles = next(iter(columns.values()))
    if any(sorted(other) != sorted(titles) for other in columns.values()):
        raise ValueError(f"One table needs the same benchmarks in every run, got {columns}.")
    averages = {name: {summary.title: summary.average for summary in of_run} for name, of_run in summaries.items()}
    rows = []
    for name, found in averages.items():
        cells = []
        for title in titles:
            cell = points(found[title])
            if (leaders or {}).get(title) == name:
                cell = f"**{cell}**"
            cells.append(cell)
        rows.append([name, *cells])
    return format_table(["", *titles], rows, style)


def detail_table(summaries: dict[str, Sequence[BenchmarkSummary]], style: str = "markdown") -> str:
    """One row a run and benchmark, with everything that avg@n hides."""
    header = ["run", "benchmark", "problems", "n", "avg@n"]
    ks = sorted({k for of_run in summaries.values() for summary in of_run for k in summary.pass_at if k > 1})
    header += [f"pass@{k}" for k in ks]
    header += ["maj@n", "tokens", "truncated %", "no answer %", "no box %", "timed out %"]
    rows = []
    for name, of_run in summaries.items():
        rows.extend(
            [
                name,
                summary.title,
                str(summary.problems),
                str(summary.n),
                points(summary.average),
                *(points(summary.pass_at[k]) if k in summary.pass_at else "" for k in ks),
                "" if summary.majority is None else points(summary.majority),
                "" if summary.mean_tokens is None else f"{summary.mean_tokens:.0f}",
                *map(_percent, (summary.truncated, summary.no_answer, summary.no_box, summary.timed_out)),
            ]
            for summary in of_run
        )
    return format_table(header, rows, style)


def comparison_table(compared: Sequence[ComparedRun], style: str = "markdown") -> str:
    """One row a run and benchmark: its difference from the baseline, with interval and p-values."""
    header = ["run", "benchmark", "problems", "difference", f"{CONFIDENCE:.0%} interval"]
    header += ["p sign-flip", "p Holm", "p Mann-Whitney"]
    rows = [
        [
            row.run,
            row.title,
            str(row.comparison.problems),
            f"{100 * row.comparison.difference:+.2f}",
            f"[{100 * row.comparison.low:+.2f}, {100 * row.comparison.high:+.2f}]",
            _p_value(row.comparison.p_sign_flip) + ("" if row.comparison.exact else "*"),
            _p_value(row.p_holm),
            _p_value(row.comparison.p_mann_whitney),
        ]
        for row in compared
    ]
    return format_table(header, rows, style)


def comparison_notes(compared: Sequence[ComparedRun]) -> list[str]:
    """How the comparison table is to be read."""
    return [
        f"Differences from {compared[0].baseline} in points of avg@n. Interval: paired bootstrap over problems. "
        "p sign-flip: two-sided, over problems"
        + (
            ", exact."
            if all(row.comparison.exact for row in compared)
            else ", exact or, where marked *, Monte Carlo with 99,999 patterns."
        ),
        "p Holm: p sign-flip corrected for the number of comparisons, over all single benchmarks in one family and "
        f"over all {OVERALL} rows in another. p Mann-Whitney: one-sided, over whole-suite scores.",
        WHY_PAIRED,
    ]


def _engine(settings: Mapping[str, Any]) -> str:
    backend = settings["backend"]
    if backend == "server":
        return f"on servers as {settings.get('served_model')!r}, endpoint {settings.get('endpoint')}"
    return f"{backend} {settings['versions'].get(backend, '')}, dtype {settings['dtype']}"


def settings_notes(runs: Sequence[Evaluation], summaries: dict[str, Sequence[BenchmarkSummary]]) -> list[str]:
    """What belongs under a table of figures: how they were sampled, and what is missing in them."""
    notes = []
    for run in runs:
        s = run.settings
        notes.append(
            f"{run.path.stem}: {s['model']}, {s['samples']} samples a problem, temperature {s['temperature']}, "
            f"top-p {s['top_p']}, top-k {s['top_k']}, at most {s['max_tokens']} tokens, prompt format "
            f"{s['prompt_format']!r}, seed {s['seed']}, {_engine(s)}."
            + (f" As in the model's training run: {', '.join(run.inherited)}." if run.inherited else "")
        )
        all_samples = [sample for benchmark in run.benchmarks.values() for sample in benchmark.samples.values()]
        if "limit" in s:
            notes.append(
                f"{run.path.stem}: only the first {s['limit']} problems of each benchmark (--limit). Figures of a part are "
                "not comparable with those of the whole."
            )
        graders = {name: benchmark.grader for name, benchmark in run.benchmarks.items()}
        if warning := no_answer_warning(all_samples, s, graders):
            notes.append(f"Warning, {run.path.stem}: {warning}")
        for summary in summaries[run.path.stem]:
            if summary.title == OVERALL:
                continue
            where = f"{run.path.stem}, {summary.title}"
            if summary.missing:
                notes.append(
                    f"{where}: {summary.missing} of {summary.problems * summary.n} samples are missing and count as "
                    "wrong. Run the evaluation again to draw them."
                )
            if summary.without_sample:
                listed = ", ".join(summary.without_sample)
                notes.append(f"{where}: no sample at all, counted as wrong, of the problems {listed}.")
            if summary.unscorable:
                notes.append(
                    f"{where}: {summary.unscorable} samples count as wrong because the checker cannot read the "
                    "benchmark's own answer."
                )
    totals = {summary.problems for of_run in summaries.values() for summary in of_run if summary.title == OVERALL}
    notes.append(
        "avg@n in points, ± standard error clustered by problem."
        + "".join(f" {OVERALL} weighs each of the {total} problems the same." for total in sorted(totals))
    )
    return notes


def plot_comparison(compared: Sequence[ComparedRun], path: str | os.PathLike) -> None:
    """Draws each run's differences from the baseline with their intervals, one line a benchmark."""
    titles = list(dict.fromkeys(row.title for row in compared))
    runs = list(dict.fromkeys(row.run for row in compared))
    figure = new_figure((7, 1.2 + 0.32 * len(titles) * max(1, 0.6 * len(runs))))
    axes = figure.subplots()
    axes.axvline(0, color="0.6", linewidth=1)
    for number, run in enumerate(runs):
        rows = [row for row in compared if row.run == run]
        # Runs beside each other within a benchmark's line.
        offsets = [titles.index(row.title) + 0.5 * ((number + 0.5) / len(runs) - 0.5) for row in rows]
        middle = [100 * row.comparison.difference for row in rows]
        reach = [
            [100 * max(0.0, row.comparison.difference - row.comparison.low) for row in rows],
            [100 * max(0.0, row.comparison.high - row.comparison.difference) for row in rows],
        ]
        axes.errorbar(middle, offsets, xerr=reach, fmt="o", markersize=5, capsize=3, color=f"C{number}", label=run)
    axes.set_yticks(range(len(titles)), titles)
    axes.invert_yaxis()
    axes.set_xlabel(f"difference from {compared[0].baseline} in points of avg@n, {CONFIDENCE:.0%} bootstrap interval")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if len(runs) > 1:
        figure.legend(loc="outside upper center", ncols=len(runs), frameon=False)
    figure.savefig(path, dpi=160)


def points(estimate: Estimate) -> str:
    """`28.40 ± 1.93`; no error where there is a single problem."""
    error = "" if estimate.standard_error is None else f" ± {100 * estimate.standard_error:.2f}"
    return f"{100 * estimate.value:.2f}{error}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _p_value(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else f"{p:.0e}"
