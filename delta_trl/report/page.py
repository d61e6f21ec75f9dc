"""The run report: one HTML file that needs nothing else."""

import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..run_folder import COMPARISON, REPORT
from .text import number, visible


if TYPE_CHECKING:
    from .runs import TrainingRun


logger = logging.getLogger(__name__)

# Size of a report, and what a run's histograms and tables take of it
MAX_BYTES = 4_950_000
SECTION_BYTES = 150_000
# The colour scale and the histograms end a little beyond nearly all coefficients
MARGIN = 1.1

NO_RECORDS = (
    "This run kept no token records, so there is no token heat map. To see one, set log_completions: true in the YAML file "
    "(or DeltaGRPOConfig(log_completions=True))."
)
NO_COEFFICIENTS = "This run computed no coefficients (they come from DeltaGRPOTrainer), so there is no token heat map."


@functools.cache
def _environment() -> Environment:
    # Completions are untrusted: everything is escaped
    environment = Environment(
        loader=PackageLoader("delta_trl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment


def fill_template(template: str, **context: Any) -> str:
    return _environment().get_template(template).render(**context)


def write_report(folders: list[str | Path], output: str | Path | None = None, min_support: int | None = None) -> Path:
    """
    Write the report of one or more runs, and return where it is.

    Args:
        folders (`list[str | Path]`): The runs' `output_dir`s. Curves of several are overlaid.
        output (`str | Path`, *optional*): The HTML file. Default: in the first folder, `report.html` for one run and
            `comparison.html` for several, so that no run loses its own report.
        min_support (`int`, *optional*): How often a token must occur to be listed among the highest and lowest.

    Raises:
        `ValueError`: if a folder holds no run. What is damaged in one is left out of the report, which says so.
    """
    # pyarrow takes a second, which a notebook that shows one heat map does not need
    from .curves import curves
    from .runs import read_training_runs
    from .selection import MAX_COMPLETIONS, compressed
    from .summary import headings, setting_text, settings_table, tiles
    from .token_statistics import token_statistics

    runs = read_training_runs(folders)
    summaries = [token_statistics(run, min_support) for run in runs]
    from_records = [not run.history and summary is not None for run, summary in zip(runs, summaries, strict=True)]
    for run, summary, needed in zip(runs, summaries, from_records, strict=True):
        run.name = visible(run.name)
        for sentence in run.left_out:
            logger.warning(f"Left out of the report of {run.folder}: {sentence}")
        if needed:
            run.history = summary.history
    drawn = curves(runs)
    packed_curves = compressed(drawn)
    # Whatever the curves leave of the file is for completions, in equal parts
    n_recorded = max(1, sum(summary is not None for summary in summaries))
    n_bytes = MAX_BYTES - len(packed_curves) - len(runs) * SECTION_BYTES
    shown = [
        _token_data(run, summary, MAX_COMPLETIONS // n_recorded, n_bytes // n_recorded)
        for run, summary in zip(runs, summaries, strict=True)
    ]
    common, own = headings(runs)
    page = fill_template(
        "report.html.jinja",
        about=common,
        sections=drawn["sections"],
        runs=[
            {
                "name": run.name,
                "about": of_run,
                "from_records": needed,
                "left_out": [visible(sentence) for sentence in run.left_out],
                "command": setting_text(run.settings["command"]) if run.settings.get("command") else "",
                "has_settings": bool(run.settings),
                "tiles": tiles(run),
                "records": tables,
                "no_records": NO_COEFFICIENTS if run.has_coefficients is False else NO_RECORDS,
            }
            for run, of_run, needed, (tables, _) in zip(runs, own, from_records, shown, strict=True)
        ],
        settings=settings_table(runs),
        has_curves=bool(drawn["metrics"]),
        every=drawn["every"],
        data={"curves": packed_curves, "completions": [data for _, data in shown]},
    )
    if output is None:
        output = Path(folders[0]) / (REPORT if len(runs) == 1 else COMPARISON)
    path = Path(output).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _token_data(
    run: "TrainingRun", summary: Any, max_completions: int, max_bytes: int
) -> tuple[dict | None, dict | None]:
    """What the template and the scripts need of one run's token records."""
    from .curves import coefficient_histogram
    from .selection import select_completions
    from .summary import token_tables

    if summary is None:
        return None, None
    spread = MARGIN * summary.spread_from_one()
    selected = select_completions(summary.groups, max_completions, max_bytes)
    tables = {
        "shown": selected.n_completions,
        "complete": selected.n_completions == summary.n_completions,
        "n_completions": summary.n_completions,
        "n_tokens": summary.n_tokens,
        "support": summary.support,
        "n_supported": len(summary.tokens),
        **token_tables(summary.tokens, spread),
    }
    data = {
        "name": run.name,
        "spread": spread,
        "sides": ("right", "wrong") if summary.binary else ("above the group's mean", "below the group's mean"),
        "texts": selected.texts,
        "groups": selected.groups,
        "histograms": [
            {"title": title, **coefficient_histogram(summary.steps, summary.histograms[side], spread)}
            for side, title in ((1, "Advantage > 0"), (-1, "Advantage < 0"))
            if summary.histograms[side].any()
        ],
    }
    return tables, data
