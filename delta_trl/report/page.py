"""The run report: one HTML file that needs nothing else."""

import functools
import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from .text import visible


# Tokens in each table, and on each end of the cloud
TABLE_ROWS = 15
CLOUD_TOKENS = 40
# Font sizes of the cloud, in em, from the rarest token to the most frequent
CLOUD_SIZES = (0.85, 2.4)
# Size of a report, and what a run's histograms and tables take of it
MAX_BYTES = 4_950_000
SECTION_BYTES = 120_000
# The colour scale and the histograms end a little beyond nearly all coefficients
MARGIN = 1.1

SWITCH_ON = (
    "This run kept no token records, so there is no token heat map. To see one, set log_completions: true in the YAML file "
    "(or DeltaGRPOConfig(log_completions=True)) and train with DeltaGRPOTrainer."
)


@functools.cache
def _environment() -> Environment:
    # Completions are untrusted: everything is escaped unless a template says safe, which it does for drawn SVG only
    return Environment(
        loader=PackageLoader("delta_trl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **context: Any) -> str:
    return _environment().get_template(template).render(**context)


def write_report(folders: list[str | Path], output: str | Path | None = None, min_support: int | None = None) -> Path:
    """
    Write the report of one or more runs, and return where it is.

    Args:
        folders (`list[str | Path]`): The runs' `output_dir`s. Curves of several are overlaid.
        output (`str | Path`, *optional*): The HTML file. Default: `report.html` in the first folder.
        min_support (`int`, *optional*): How often a token must occur to be listed among the highest and lowest.

    Raises:
        `ValueError`: if a folder holds no run, or its records are damaged.
    """
    # matplotlib and pyarrow take a second, which a notebook that shows one heat map does not need
    from .browser import MAX_COMPLETIONS
    from .plots import curves
    from .runs import read_runs
    from .statistics import statistics

    runs = read_runs(folders)
    summaries = [statistics(run, min_support) if run.files else None for run in runs]
    from_records = [not run.history and summary is not None for run, summary in zip(runs, summaries, strict=True)]
    for run, summary, needed in zip(runs, summaries, from_records, strict=True):
        if needed:
            run.history = summary.history
    drawn = curves(runs)
    # Whatever the pictures leave of the file is for completions, in equal parts
    n_recorded = max(1, sum(summary is not None for summary in summaries))
    n_bytes = MAX_BYTES - sum(len(svg) for _, svg in drawn) - len(runs) * SECTION_BYTES
    sections = [
        {
            "name": visible(run.name),
            "from_records": needed,
            "tiles": _tiles(run),
            **_records(run, summary, MAX_COMPLETIONS // n_recorded, n_bytes // n_recorded),
        }
        for run, summary, needed in zip(runs, summaries, from_records, strict=True)
    ]
    page = render(
        "report.html.jinja",
        runs=sections,
        curves=drawn,
        groups=[section["groups"] for section in sections],
        switch_on=SWITCH_ON,
    )
    path = Path(output) if output is not None else Path(folders[0]) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _records(run, summary, max_completions: int, max_bytes: int) -> dict[str, Any]:
    """What the template (`records`) and the script (`groups`) need of one run's token records."""
    from .browser import pack
    from .plots import histogram

    if summary is None:
        return {"records": None, "groups": None}
    name, spread = visible(run.name), MARGIN * summary.spread_from_one()
    packed = pack(summary.groups, max_completions, max_bytes)
    sides = ("right", "wrong") if summary.binary else ("above the group's mean", "below the group's mean")
    return {
        "groups": {"name": name, "spread": spread, "names": sides, "texts": packed.texts, "groups": packed.groups},
        "records": {
            "shown": packed.n_completions,
            "complete": packed.n_completions == summary.n_completions,
            "n_completions": summary.n_completions,
            "n_tokens": summary.n_tokens,
            "support": summary.support,
            "n_supported": len(summary.tokens),
            "histograms": [
                (title, histogram(f"{title}, {name}", summary.steps, summary.histograms[side], spread))
                for side, title in ((1, "advantage > 0"), (-1, "advantage < 0"))
                if summary.histograms[side].any()
            ],
            **_tokens(summary.tokens, spread),
        },
    }


def _tiles(run) -> list[tuple[str, str, str]]:
    """Label, value and remark of the numbers that say how a run went."""
    tiles = [("Steps", f"{max((entry['step'] for entry in run.history), default=0):,}", "")]
    for label, key, form in (
        ("Reward", "reward", "{:.2f}"),
        ("Length", "completions/mean_length", "{:,.0f}"),
        ("Entropy", "entropy", "{:.2f}"),
    ):
        _, values = run.curve(key)
        if values:
            part = max(1, len(values) // 10)
            start, end = (form.format(sum(v) / len(v)) for v in (values[:part], values[-part:]))
            tiles.append((label, f"{start} → {end}", "first and last tenth"))
    means = [run.curve(f"delta/coef/mean_{side}")[1] for side in ("positive", "negative")]
    if all(means):
        positive, negative = (sum(v) / len(v) for v in means)
        tiles.append(("Mean λ", f"{positive:.2f} | {negative:.2f}", "advantage > 0 | < 0"))
    no_contrast, non_finite = (run.curve(f"delta/fallback/{k}")[1] for k in ("no_contrast", "non_finite"))
    if no_contrast:
        share = sum(no_contrast) / len(no_contrast) + sum(non_finite) / max(1, len(non_finite))
        tiles.append(("Batches without λ", f"{share:.0%}", "one-sided or not finite"))
    _, seconds = run.curve("delta/seconds")
    if seconds:
        tiles.append(("DelTA's cost", f"{sum(seconds) / len(seconds):.2f} s", "a rollout batch"))
    return tiles


def _tokens(tokens: list, spread: float) -> dict[str, Any]:
    """The ends of the ranking as tables, and as clouds from the highest to the lowest."""
    counts = [math.log(token.count) for token in tokens]

    def shown(token, coefficient) -> dict[str, Any]:
        smallest, largest = CLOUD_SIZES
        place = (math.log(token.count) - min(counts)) / ((max(counts) - min(counts)) or 1)
        return {
            "text": visible(token.text, alone=True),
            # Fragments of a character all read �; their ids tell them apart
            "id": token.id if "\ufffd" in token.text or not token.text else None,
            "count": token.count,
            "coefficient": coefficient,
            "probability": token.probability,
            "positive": token.positive,
            "negative": token.negative,
            "side": "high" if coefficient > 1 else "low",
            "weight": min(1.0, abs(coefficient - 1) / spread),
            "size": smallest + (largest - smallest) * place,
        }

    def ranking(key: str) -> list[dict[str, Any]]:
        present = [token for token in tokens if getattr(token, key) is not None]
        present.sort(key=lambda token: (-getattr(token, key), token.id))
        return [shown(token, getattr(token, key)) for token in present]

    def ends(ranked: list) -> list:
        return ranked if len(ranked) <= 2 * CLOUD_TOKENS else ranked[:CLOUD_TOKENS] + ranked[-CLOUD_TOKENS:]

    ranked = ranking("coefficient")
    rows = min(TABLE_ROWS, len(ranked) // 2)
    return {
        "highest": ranked[:rows],
        "lowest": ranked[::-1][:rows],
        "clouds": [
            ("All tokens", ends(ranked)),
            ("Advantage > 0", ends(ranking("positive"))),
            ("Advantage < 0", ends(ranking("negative"))),
        ],
    }
