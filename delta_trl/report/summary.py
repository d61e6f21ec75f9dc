"""What a report says in tables: settings, numbers of the run as a whole, and the tokens with the highest and lowest λ."""

import json
import math
from typing import Any

from .curves import NEGATIVE, POSITIVE
from .runs import TrainingRun
from .text import MINUS, number, visible
from .token_statistics import TokenMean


# Tokens in each table, and on each end of the cloud
TABLE_ROWS = 15
CLOUD_TOKENS = 40
# Font sizes of the cloud, in em, from the rarest token to the most frequent
CLOUD_SIZES = (0.85, 2.4)

# Keys of delta_trl_run.json, and what a reader calls them. `settings` follow by their own names.
FACTS = {
    "trainer": "Method",
    "model_name_or_path": "Model",
    "dataset": "Data",
    "reward_funcs": "Rewards",
    "prompt_format": "Prompt format",
    "max_completion_length": "Longest completion, tokens",
    "date": "Started",
    "version": "Version of delta_trl",
}


def settings_table(runs: list[TrainingRun]) -> list[dict[str, Any]]:
    """Rows of `name`, `values` (a text for each run) and `differs`: facts, then options that are not defaults."""
    columns = [_facts(run) for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [(name, [column.get(name, "") for column in columns]) for name in names]
    return [{"name": name, "values": values, "differs": len(set(values)) > 1} for name, values in rows]


def _facts(run: TrainingRun) -> dict[str, str]:
    facts = {label: setting_text(run.settings[key]) for key, label in FACTS.items() if key in run.settings}
    if run.history:
        of = f" of {number(run.state['max_steps'])}" if "max_steps" in run.state else ""
        facts["Steps"] = number(run.last_step) + of
    seconds = sum(run.curve("train_runtime")[1])
    if seconds:
        facts["Run time"] = f"{number(seconds / 60, 1)} minutes"
    tokens = run.curve("num_tokens")[1]
    if tokens:
        facts["Tokens read and written"] = number(tokens[-1])
    return facts | {visible(name): setting_text(value) for name, value in (run.settings.get("settings") or {}).items()}


def setting_text(value: Any) -> str:
    """One line: an option of a command as text, a number with this project's minus sign, None as null."""
    if isinstance(value, str):
        return visible(value).replace("\n", "").replace("\t", "")
    if isinstance(value, list):
        return ", ".join(map(setting_text, value))
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("-", MINUS) if isinstance(value, int | float) else visible(text)


def tiles(run: TrainingRun) -> list[tuple[str, str, str]]:
    """Label, value and remark of the numbers that say how a run went."""
    shown = [("Steps", number(run.last_step), "")]
    for label, key, digits in (
        ("Reward", "reward", 2),
        ("Evaluation reward", "eval_reward", 2),
        ("Length", "completions/mean_length", 0),
        ("Entropy", "entropy", 2),
    ):
        _, values = run.curve(key)
        if values:
            part = max(1, len(values) // 10)
            start, end = (number(sum(v) / len(v), digits) for v in (values[:part], values[-part:]))
            shown.append((label, f"{start} → {end}", "first and last tenth"))
    means = [run.curve(key)[1] for key in (POSITIVE, NEGATIVE)]
    if all(means):
        positive, negative = (number(sum(v) / len(v), 2) for v in means)
        shown.append(("Mean λ", f"{positive} | {negative}", "A > 0 | A < 0"))
    no_contrast, non_finite = (run.curve(f"delta/fallback/{k}")[1] for k in ("no_contrast", "non_finite"))
    if no_contrast:
        share = sum(no_contrast) / len(no_contrast) + sum(non_finite) / max(1, len(non_finite))
        shown.append(("Batches without λ", f"{number(100 * share)}%", "one-sided or not finite"))
    _, seconds = run.curve("delta/seconds")
    if seconds:
        shown.append(("DelTA's cost", f"{number(sum(seconds) / len(seconds), 2)} s", "a rollout batch"))
    return shown


def token_tables(tokens: list[TokenMean], spread: float) -> dict[str, Any]:
    """The ends of the ranking as tables, and as clouds from the highest to the lowest."""
    counts = [math.log(token.count) for token in tokens]

    def shown(token: TokenMean, coefficient: float) -> dict[str, Any]:
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
