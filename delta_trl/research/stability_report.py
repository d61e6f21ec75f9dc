"""The table and the picture of a stability measurement."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..tables import new_figure
from .stability import DISTURBANCES, MOVING_AVERAGE, NO_CENTROIDS


KIND_TITLES = {
    "flipped": "share of rewards flipped",
    "kept": "share of prompts with a reward",
    "responses": "responses of a rollout batch",
    "formatting": "share of wording in a response",
}
# Batches that a moving average takes to mean something; left out for both methods, where there are more
MOVING_AVERAGE_START = 3
MEASURES = {
    "rank_correlation_positive": "rank correlation, A > 0",
    "rank_correlation_negative": "A < 0",
    "credit_auc": "credit AUC",
    "blame_auc": "blame AUC",
    "mean_positive": "mean λ, A > 0",
    "mean_negative": "A < 0",
    "spread_positive": "spread of λ, A > 0",
    "spread_negative": "A < 0",
}


def stability_rows(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each kind, level, feature and method: `MEASURES` as (mean, standard deviation) over the batches."""
    rows = []
    for record in records:
        for feature, method in dict.fromkeys((b["feature"], b["method"]) for b in record["batches"]):
            batches = [b for b in record["batches"] if (b["feature"], b["method"]) == (feature, method)]
            batches = [b for b in batches if b["batch"] >= MOVING_AVERAGE_START] or batches
            row = {"kind": record["kind"], "level": record["level"], "feature": feature, "method": method}
            for name in MEASURES:
                values = [b[name] for b in batches if name in b]
                if values:
                    row[name] = (float(np.mean(values)), float(np.std(values)))
            rows.append(row)
    order = list(DISTURBANCES)
    return sorted(rows, key=lambda r: (r["feature"], r["method"] != "published", order.index(r["kind"]), r["level"]))


def stability_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row for each feature, method, kind and level; AUCs with their standard deviation over rollout batches."""
    lines = [
        f"| λ of | centroids | disturbed | level | {' | '.join(MEASURES.values())} |",
        f"|:--|:--|:--|--:|{'--:|' * len(MEASURES)}",
    ]
    for row in rows:
        cells = []
        for name in MEASURES:
            if name not in row:
                cells.append("–")
                continue
            mean, deviation = row[name]
            cells.append(f"{mean:.2f}" + (f" ± {deviation:.2f}" if name.endswith("auc") else ""))
        lines.append(
            f"| {row['feature']} | {row['method']} | {KIND_TITLES[row['kind']]} | {row['level']:g} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def draw_stability(rows: Sequence[dict[str, Any]], path: str | os.PathLike, title: str) -> Path:
    """A PNG: rank correlation with the undisturbed λ, and credit AUC, over the level of each disturbance."""
    kinds = [kind for kind in KIND_TITLES if any(row["kind"] == kind for row in rows)]
    features = list(dict.fromkeys(row["feature"] for row in rows))
    figure = new_figure((3.4 * len(kinds), 6.2))
    axes = figure.subplots(2, len(kinds), squeeze=False, sharey="row")
    for column, kind in enumerate(kinds):
        for axis, name in zip(axes[:, column], ("rank_correlation_positive", "credit_auc"), strict=True):
            for number, feature in enumerate(features):
                for method, style in (("published", "-"), (MOVING_AVERAGE, ":"), (NO_CENTROIDS, "--")):
                    key = (kind, feature, method)
                    chosen = [r for r in rows if (r["kind"], r["feature"], r["method"]) == key and name in r]
                    if not chosen:
                        continue
                    axis.plot(
                        [r["level"] for r in chosen],
                        [r[name][0] for r in chosen],
                        style,
                        color=f"C{number}",
                        marker=".",
                        label=feature + (", moving average" if style == ":" else ""),
                    )
            axis.grid(alpha=0.3)
            axis.set_xlabel(KIND_TITLES[kind])
            if kind == "responses":
                axis.set_xscale("log", base=2)
            if column == 0:
                axis.set_ylabel(MEASURES[name])
    figure.suptitle(title)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=110)
    return Path(path)
