"""How far the coefficients of LM-head features are those of the full gradient, which they stand for.

Every rollout batch gets the full gradient's coefficients, those of each of `FEATURES`, those of parts of the parameters, and
the full gradient's cross-fitted by prompt. Each is compared with the first, side by side. The policy stays as it is.
"""

import os
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..coefficients import delta_coefficients
from ..features import FEATURES
from ..jsonl import append_lines
from ..rollout import Rollout
from .credit.measures import ADVANTAGE_SIDES, mean, rank_correlation
from .full_gradient import full_gradient_coefficients
from .sampling import begin_measurement


PROXY_PARTS = ("body", "last_layer", "head")
CROSS_FITTED = "cross-fitted"


def agreement(values: torch.Tensor, reference: torch.Tensor, advantages: torch.Tensor) -> dict[str, dict[str, float]]:
    """
    Compare coefficients with a reference on each advantage side. All shapes (N,).

    Returns:
        For "positive" and "negative": `rank_correlation` (Spearman); `same_sign`, the share of tokens for which both
        are above or both are not above their own mean over the side; and `chance`, what that share would be if the two were
        independent. Without the correlation where a side's values are constant.
    """
    found = {}
    for name, side in zip(ADVANTAGE_SIDES, (advantages > 0, advantages < 0), strict=True):
        one, other = values[side].double(), reference[side].double()
        above = torch.stack([one > one.mean(), other > other.mean()])
        share = above.double().mean(1)
        found[name] = {
            "same_sign": (above[0] == above[1]).double().mean().item(),
            "chance": (share.prod() + (1 - share).prod()).item(),
        }
        if (correlation := rank_correlation(one, other)) is not None:
            found[name]["rank_correlation"] = correlation
    return found


def compare_proxies(rollout: Rollout, folds: int, bf16: bool = False) -> dict[str, Any]:
    """The agreement of every proxy with the full gradient on a rollout batch, by name; empty without contrast."""

    def exact(**options) -> torch.Tensor:
        return full_gradient_coefficients(rollout, bf16=bf16, **options).values

    advantages = rollout.advantages
    if not rollout.sides.any(1).all():
        return {}
    reference = exact()
    proxies = {}
    for name in FEATURES:
        rows, scale = rollout.raw_features(name)
        proxies[name] = delta_coefficients(rows, advantages, feature_scale=scale).values
    proxies |= {part: exact(part=part) for part in PROXY_PARTS}
    # Without contrast in two folds, one of them would find none outside itself
    if len((rollout.groups[advantages != 0] % folds).unique()) > 1:
        proxies[CROSS_FITTED] = exact(folds=folds)
    return {name: agreement(values, reference, advantages) for name, values in proxies.items()}


def measure_fidelity(
    model: str | os.PathLike,
    rows: list[dict[str, str]],
    folder: str | os.PathLike,
    *,
    batches: int = 4,
    prompts: int = 32,
    group: int = 8,
    max_completion_length: int = 200,
    folds: int = 8,
    seed: int = 0,
    bf16: bool = False,
) -> list[dict[str, Any]]:
    """
    Compare proxies with the full gradient on rollout batches of a model. Records are kept in `folder`/batches.jsonl as they
    come: an interrupted measurement continues with the batch that is missing, and more may be asked for later.

    Args:
        model: Folder or Hub id.
        rows: `prompt` and `solution` of each problem; `batches` × `prompts` are used.
        folds, bf16: See `full_gradient_coefficients`. Responses are sampled in float32 in any case.

    Returns:
        One record a batch.

    Raises:
        `ValueError`: if `folder` has batches with other settings, or if there are not enough problems.
    """
    if batches < 1 or batches * prompts > len(rows) or not 2 <= folds <= prompts:
        raise ValueError(
            f"{batches} batches of {prompts} prompts in {folds} folds were asked for. There are {len(rows)} problems, "
            "and it takes at least one batch, two folds, and a prompt in each fold."
        )
    settings = {
        "prompts": prompts,
        "group": group,
        "max_completion_length": max_completion_length,
        "folds": folds,
        "seed": seed,
    } | ({"bf16": True} if bf16 else {})
    file = Path(folder) / "batches.jsonl"
    sampler, records = begin_measurement(model, rows, file, prompts=prompts, settings=settings)
    for number in tqdm(range(len(records), batches), desc="Rollout batches"):
        rollout, rewards = sampler.sample(rows[number * prompts : (number + 1) * prompts], (seed, number))
        records.append(
            {
                "batch": number,
                "reward": rewards.mean().item(),
                "tokens": len(rollout.ids),
                "proxies": compare_proxies(rollout, folds, bf16),
            }
        )
        append_lines(file, records[-1:])
    return records[:batches]


def fidelity_table(records: list[dict[str, Any]]) -> str:
    """Markdown: means over rollout batches with 95% intervals, a row for each proxy."""
    telling = [record["proxies"] for record in records if record["proxies"]]
    names = dict.fromkeys(name for proxies in telling for name in proxies)
    lines = [
        "| λ of | rank correlation, A > 0 | A < 0 | same sign, A > 0 | by chance | A < 0 | by chance |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for name in names:
        cells = [
            _with_interval([p[name][side][measure] for p in telling if measure in p.get(name, {}).get(side, ())])
            for measures in (("rank_correlation",), ("same_sign", "chance"))
            for side in ADVANTAGE_SIDES
            for measure in measures
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    rewards = mean([record["reward"] for record in records]).value
    tokens = mean([record["tokens"] for record in records]).value
    without = len(records) - len(telling)
    lines += [
        "",
        f"{len(records)} rollout batches, {tokens:,.0f} tokens each on average, {rewards:.0%} right"
        + (f"; {without} without both advantage sides, left out" if without else "")
        + ". ± is half of the 95% interval over rollout batches.",
    ]
    return "\n".join(lines)


def _with_interval(values: list[float]) -> str:
    if not values:
        return "constant"
    found = mean(values)
    return f"{found.value:.2f}" + ("" if found.half_width is None else f" ± {found.half_width:.2f}")
