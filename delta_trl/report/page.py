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
    from .plots import curves
    from .records import read_runs

    runs = read_runs(folders)
    sections, budget = [], len(runs)
    for run in runs:
        sections.append(_section(run, min_support, share=1 / budget))
    page = render(
        "report.html.jinja",
        runs=sections,
        curves=curves(runs),
        groups=[section["groups"] for section in sections],
        switch_on=SWITCH_ON,
    )
    path = Path(output) if output is not None else Path(folders[0]) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _section(run, min_support: int | None, share: float) -> dict[str, Any]:
    """What the template needs of one run, which gets `share` of the space for completions."""
    from .browser import MAX_COMPLETIONS, MAX_PACKED_BYTES, pack
    from .plots import histogram
    from .statistics import statistics

    section: dict[str, Any] = {"name": visible(run.name), "records": None, "from_records": False, "groups": None}
    if run.files:
        stats = statistics(run, min_support)
        if not run.history:
            run.history, section["from_records"] = stats.history, True
        spread = MARGIN * stats.spread_from_one()
        packed, shown = pack(stats.groups, int(MAX_COMPLETIONS * share), int(MAX_PACKED_BYTES * share))
        names = ("right", "wrong") if stats.binary else ("above the group's mean", "below the group's mean")
        section["groups"] = {"name": section["name"], "spread": spread, "names": names, "groups": packed}
        section["records"] = {
            "shown": shown,
            "n_completions": stats.n_completions,
            "n_tokens": stats.n_tokens,
            "n_steps": len(stats.steps),
            "spread": spread,
            "support": stats.support,
            "n_supported": len(stats.tokens),
            "histograms": [
                (title, histogram(f"{title}, {section['name']}", stats.steps, stats.histograms[side], spread))
                for side, title in ((1, "advantage > 0"), (-1, "advantage < 0"))
                if stats.histograms[side].any()
            ],
            **_tokens(stats.tokens, spread),
        }
    section["tiles"] = _tiles(run)
    return section


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
    """The ends of the ranking as tables, and as a cloud from the highest to the lowest."""
    counts = [math.log(token.count) for token in tokens]

    def shown(token) -> dict[str, Any]:
        smallest, largest = CLOUD_SIZES
        place = (math.log(token.count) - min(counts)) / ((max(counts) - min(counts)) or 1)
        return {
            "text": visible(token.text, alone=True),
            # Fragments of a character all read �; their ids tell them apart
            "id": token.id if "\ufffd" in token.text or not token.text else None,
            "count": token.count,
            "coefficient": token.coefficient,
            "probability": token.probability,
            "positive": token.positive,
            "negative": token.negative,
            "side": "high" if token.coefficient > 1 else "low",
            "weight": min(1.0, abs(token.coefficient - 1) / spread),
            "size": smallest + (largest - smallest) * place,
        }

    ranked = [shown(token) for token in tokens]
    rows = min(TABLE_ROWS, len(ranked) // 2)
    ends = ranked if len(ranked) <= 2 * CLOUD_TOKENS else ranked[:CLOUD_TOKENS] + ranked[-CLOUD_TOKENS:]
    return {"highest": ranked[:rows], "lowest": ranked[::-1][:rows], "cloud": ends}
