"""Record files to tables on disk: what the scripts print is what they write, in three more formats."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from .records import Run, read_run
from .summary import Summary, compare_runs, different_settings, summarise
from .tables import (
    STYLES,
    comparison_notes,
    comparison_table,
    detail_table,
    paper_table,
    plot_differences,
    settings_notes,
)


def write_report(files: Sequence[str | os.PathLike], output: str | os.PathLike) -> str:
    """Tabulates runs into `results.md`, `results.tex` and `results.json`, and returns the tables as plain text.

    Raises:
        ValueError: A file is no record file, or the runs do not have the same benchmarks.
    """
    runs = _read(files)
    summaries = {run.path.stem: summarise(run) for run in runs}
    tables = _result_tables(summaries)
    return _write(Path(output), "results", tables, settings_notes(runs, summaries), _as_json(runs, summaries))


def write_comparison(
    files: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    allow_different_settings: bool = False,
    seed: int = 0,
    plot: bool = True,
) -> str:
    """Compares runs with the first of them: `comparison.md`, `.tex`, `.json` and `differences.png`.

    Returns:
        The tables as plain text.

    Raises:
        ValueError: As `write_report`, or the runs cannot be compared, see `compare_runs`.
    """
    runs = _read(files)
    compared = compare_runs(runs[0], runs[1:], allow_different_settings, seed)
    summaries = {run.path.stem: summarise(run) for run in runs}
    tables = {style: [*made, comparison_table(compared, style)] for style, made in _result_tables(summaries).items()}
    notes = [*settings_notes(runs, summaries), *comparison_notes(compared), *_differing_notes(runs)]
    content = {**_as_json(runs, summaries), "comparison": [asdict(row) for row in compared], "notes": notes}
    text = _write(Path(output), "comparison", tables, notes, content)
    if plot:
        plot_differences(compared, Path(output) / "differences.png")
    return text


def _read(files: Sequence[str | os.PathLike]) -> list[Run]:
    runs = [read_run(file) for file in files]
    names = [run.path.stem for run in runs]
    if len(set(names)) != len(names):
        raise ValueError(f"Tables name runs by their files, and two are named alike: {names}. Rename one.")
    return runs


def _result_tables(summaries: dict[str, list[Summary]]) -> dict[str, list[str]]:
    return {style: [paper_table(summaries, style), detail_table(summaries, style)] for style in STYLES}


def _as_json(runs: Sequence[Run], summaries: dict[str, list[Summary]]) -> dict:
    return {
        "runs": {
            run.path.stem: {
                "settings": run.settings,
                "benchmarks": [asdict(summary) for summary in summaries[run.path.stem]],
            }
            for run in runs
        }
    }


def _differing_notes(runs: Sequence[Run]) -> list[str]:
    return [
        f"Not sampled alike: {key} is {ours!r} for {runs[0].path.stem} and {theirs!r} for {run.path.stem}."
        for run in runs[1:]
        for key, (ours, theirs) in different_settings(runs[0], run).items()
    ]


def _write(output: Path, name: str, tables: dict[str, list[str]], notes: Sequence[str], content: dict) -> str:
    output.mkdir(parents=True, exist_ok=True)
    listed = "\n".join(f"- {note}" for note in notes)
    (output / f"{name}.md").write_text("\n\n".join([*tables["markdown"], listed]) + "\n")
    comments = "\n".join(f"% {note}" for note in notes)
    (output / f"{name}.tex").write_text("\n\n".join([comments, *tables["latex"]]) + "\n")
    (output / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    return "\n\n".join([*tables["text"], listed])
