"""Sample files to tables on disk: what the commands print is what they write, in three formats."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..tables import STYLES
from .samples import Evaluation, read_evaluation
from .statistics import CONFIDENCE
from .summary import BenchmarkSummary, compare_runs, different_settings, leaders, summarise
from .tables import (
    comparison_notes,
    comparison_table,
    detail_table,
    paper_table,
    plot_comparison,
    settings_notes,
)


def write_results(files: Sequence[str | os.PathLike], output: str | os.PathLike) -> str:
    """Tabulates runs into `results.md`, `results.tex` and `results.json`, and returns the tables as Markdown.

    Raises:
        ValueError: A file is no sample file, or the runs do not have the same benchmarks.
    """
    runs = _read(files)
    summaries = {run.path.stem: summarise(run) for run in runs}
    notes = [*settings_notes(runs, summaries), *_bold_notes(runs), *_differing_notes(runs)]
    return _write(Path(output), "results", _result_tables(runs, summaries), notes, _as_json(runs, summaries))


def write_comparison(
    files: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    allow_different_settings: bool = False,
    seed: int = 0,
    plot: bool = True,
) -> str:
    """Compares runs with the first of them: `comparison.md`, `.tex`, `.json` and `differences.png`.

    Returns:
        The tables as Markdown.

    Raises:
        ValueError: As `write_results`, or the runs cannot be compared, see `compare_runs`.
    """
    runs = _read(files)
    compared = compare_runs(runs[0], runs[1:], allow_different_settings, seed)
    summaries = {run.path.stem: summarise(run) for run in runs}
    made = _result_tables(runs, summaries)
    tables = {style: [*of_style, comparison_table(compared, style)] for style, of_style in made.items()}
    notes = [
        *settings_notes(runs, summaries),
        *comparison_notes(compared),
        *_bold_notes(runs),
        *_differing_notes(runs),
    ]
    content = {**_as_json(runs, summaries), "comparison": [asdict(row) for row in compared], "notes": notes}
    text = _write(Path(output), "comparison", tables, notes, content)
    if plot:
        plot_comparison(compared, Path(output) / "differences.png")
    return text


def _read(files: Sequence[str | os.PathLike]) -> list[Evaluation]:
    runs = [read_evaluation(file) for file in files]
    names = [run.path.stem for run in runs]
    if len(set(names)) != len(names):
        raise ValueError(f"Tables name runs by their files, and two have the same name: {names}. Rename one.")
    return runs


def _result_tables(runs: Sequence[Evaluation], summaries: dict[str, list[BenchmarkSummary]]) -> dict[str, list[str]]:
    bold = leaders(runs)
    return {style: [paper_table(summaries, style, bold), detail_table(summaries, style)] for style in STYLES}


def _bold_notes(runs: Sequence[Evaluation]) -> list[str]:
    if len(runs) < 2:
        return []
    if any(different_settings(runs[0], run) for run in runs[1:]):
        return ["No figure is bold: with different settings, a difference need not come from the models."]
    return [
        f"Bold: better than every other run here by a paired difference whose {CONFIDENCE:.0%} interval lies above 0, with "
        f"p sign-flip below {1 - CONFIDENCE:.2f}."
    ]


def _as_json(runs: Sequence[Evaluation], summaries: dict[str, list[BenchmarkSummary]]) -> dict:
    return {
        "runs": {
            run.path.stem: {
                "settings": run.settings,
                "benchmarks": [asdict(summary) for summary in summaries[run.path.stem]],
            }
            for run in runs
        }
    }


def _differing_notes(runs: Sequence[Evaluation]) -> list[str]:
    return [
        f"Different settings: {key} is {ours!r} for {runs[0].path.stem} and {theirs!r} for {run.path.stem}."
        for run in runs[1:]
        for key, (ours, theirs) in different_settings(runs[0], run).items()
    ]


def _write(output: Path, name: str, tables: dict[str, list[str]], notes: Sequence[str], content: dict) -> str:
    output.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join([*tables["markdown"], "\n".join(f"- {note}" for note in notes)])
    (output / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    comments = "\n".join(f"% {note}" for note in notes)
    (output / f"{name}.tex").write_text("\n\n".join([comments, *tables["latex"]]) + "\n", encoding="utf-8")
    (output / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return text
