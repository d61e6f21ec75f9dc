"""From the record of one run to its figures. A step is a rollout batch, so that methods with several updates a batch line up
with the others."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .settings import WARM
from .store import CPU_SECONDS


# The final reward, entropy and length are means over so many last steps: one step has 16 prompts and would be noise
LAST_STEPS = 10
PASS_RATE = "eval_rewards/math_reward/mean"
FINAL_RATES = "final/"
AREA, FINAL, ENTROPY, LENGTH = "reward_area", "final_reward", "entropy", "length"
AREA_BY_SECONDS, SECONDS = "reward_area_by_seconds", "seconds"


def updates_a_batch(options: dict[str, Any]) -> int:
    """Optimiser steps on each rollout batch."""
    accumulation = options.get("gradient_accumulation_steps", 1)
    updates = (options.get("steps_per_generation") or accumulation) * options.get("num_iterations", 1)
    if updates % accumulation:
        raise ValueError(
            f"{updates / accumulation:g} updates a rollout batch: evaluations of such runs fall between batches. Make "
            "steps_per_generation a multiple of gradient_accumulation_steps."
        )
    return updates // accumulation


def curve(record: dict[str, Any], metric: str) -> dict[int, float]:
    """A logged metric by step in rollout batches; the first update of a batch stands for the batch."""
    updates = updates_a_batch(record["options"])
    values: dict[int, float] = {}
    for entry in record["log_history"]:
        if metric in entry and entry[metric] is not None:
            values.setdefault(-(-entry["step"] // updates), entry[metric])
    return values


def seconds_of_batches(record: dict[str, Any]) -> list[float]:
    """Processor time of every rollout batch with its updates; empty for records that lack it."""
    updates, seconds = updates_a_batch(record["options"]), {}
    for entry in record["log_history"]:
        if CPU_SECONDS in entry:
            number = -(-entry["step"] // updates)
            seconds[number] = seconds.get(number, 0.0) + entry[CPU_SECONDS]
    return list(seconds.values())


def area_by_seconds(rewards: Sequence[float], seconds: Sequence[float], budget: float) -> float:
    """Mean reward over the first `budget` seconds of training, in which a step's reward holds for its seconds."""
    lasted = np.array(seconds, dtype=float)
    held = np.clip(budget - (np.cumsum(lasted) - lasted), 0, lasted)
    return float(held @ np.array(rewards, dtype=float) / budget)


def seconds_of_all(records: Sequence[dict[str, Any]]) -> float | None:
    """Seconds that every one of these runs trained: those of the shortest. None where a record lacks them."""
    totals = [sum(seconds_of_batches(record)) for record in records if record["method"] != WARM]
    return min(totals, default=0) or None


def metrics(record: dict[str, Any], budget: float | None = None) -> dict[str, float]:
    """The figures of one run. `budget`: from `seconds_of_all`."""
    rewards, entropies, lengths = (
        list(curve(record, name).values()) for name in ("reward", "entropy", "completions/mean_length")
    )
    found = {AREA: float(np.mean(rewards)), FINAL: float(np.mean(rewards[-LAST_STEPS:]))}
    if budget is not None:
        seconds = seconds_of_batches(record)
        found |= {AREA_BY_SECONDS: area_by_seconds(rewards, seconds, budget), SECONDS: float(np.mean(seconds))}
    found |= {f"pass_rate@{step}": value for step, value in sorted(curve(record, PASS_RATE).items())}
    found |= final_rates(record)
    for name, values in ((ENTROPY, entropies), (LENGTH, lengths)):
        if values:
            found[name] = float(np.mean(values[-LAST_STEPS:]))
    return found


def final_rates(record: dict[str, Any]) -> dict[str, float]:
    """Pass rates of the trained model, from `final.evaluate_final`."""
    return {n: value for entry in record["log_history"] for n, value in entry.items() if n.startswith(FINAL_RATES)}
