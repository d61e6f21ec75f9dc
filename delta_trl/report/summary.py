"""What a report says in tables: settings, numbers of the run as a whole, and the tokens with the highest and lowest λ."""

import json
import math
from typing import Any

from .curves import NEGATIVE, POSITIVE
from .runs import TrainingRun
from .text import MINUS, MISSING, number, visible
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


# In the heading too: what was trained, how, and on what
HEADING = ("trainer", "model_name_or_path", "dataset")
# In place of an option that a run does not set
NOT_SET = "default"


def headings(runs: list[TrainingRun]) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Method, model and data: what all runs share, and what each has of its own."""
    known = [{FACTS[key]: setting_text(run.settings[key]) for key in HEADING if run.settings.get(key)} for run in runs]
    common = {label: text for label, text in known[0].items() if all(of.get(label) == text for of in known)}
    return common, [{label: text for label, text in of.items() if label not in common} for of in known]


def settings_table(runs: list[TrainingRun]) -> list[dict[str, Any]]:
    """
    Rows of `name`, `values` (a text for each run, and whether it stands for one that is missing) and `differs`: facts, then
    options that are not defaults.
    """
    facts, options = [_facts(run) for run in runs], [_options(run) for run in runs]
    rows = []
    for columns, is_option in ((facts, False), (options, True)):
        for name in dict.fromkeys(name for column in columns for name in column):
            values = [
                (column[name], False)
                if name in column
                # An option that a run does not name has its default there; without a run file nobody knows
                else (NOT_SET if is_option and run.settings else MISSING, True)
                for run, column in zip(runs, columns, strict=True)
            ]
            rows.append({"name": name, "values": values, "differs": len({text for text, _ in values} - {MISSING}) > 1})
    return rows


def _options(run: TrainingRun) -> dict[str, str]:
    options = run.settings.get("settings")
    return {visible(name): setting_text(value) for name, value in options.items()} if isinstance(options, dict) else {}


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
    return facts


def setting_text(value: Any) -> str:
    """One line: an option of a command as text, a number with this project's minus sign, None as null."""
    if isinstance(value, str):
        return visible(value).replace("\n", "").replace("\t", "") or '""'
    if isinstance(value, list) and value and not any(isinstance(item, list) for item in value):
        return ", ".join(map(setting_text, value))
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "nested too deeply to show"
    return text.replace("-", MINUS) if isinstance(value, int | float) else visible(text)


def tiles(run: TrainingRun) -> list[tuple[str, str, str]]:
    """Label, value and remark of the numbers that say how a run went."""
    shown = [("Steps", number(run.last_step), "")] if run.history else []
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
