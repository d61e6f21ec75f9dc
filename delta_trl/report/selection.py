"""Choose the completions that a report shows, and compress them so that thousands fit into one small file."""

import base64
import itertools
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .text import decode, visible
from .token_records import Completions, read_completions
from .token_statistics import Group


MAX_COMPLETIONS = 2000
PER_SIDE = 4  # completions of one prompt on one side; the rest of a large group says the same again
WINDOWS = 20  # parts of the run, each of which gets its share


def choose(groups: list[Group]) -> list[Group]:
    """
    Order groups by how telling they are: right and wrong side by side first, then the most spread coefficients.

    The run is cut into `WINDOWS` equal parts of its steps that take turns, so that its beginning and its end are seen
    however few groups fit.
    """
    if not groups:
        return []
    first, last = min(g.step for g in groups), max(g.step for g in groups)
    windows = [[] for _ in range(WINDOWS)]
    for group in groups:
        windows[(group.step - first) * WINDOWS // (last - first + 1)].append(group)
    for window in windows:
        window.sort(key=lambda g: (bool(g.sides[0] and g.sides[1]), g.spread), reverse=True)
    turns = itertools.zip_longest(*windows)
    return [group for turn in turns for group in turn if group is not None]


def compressed(content: Any) -> str:
    """JSON, deflated, as base64: what `inflate` in `numbers.js` reads."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode(), level=9)).decode()


@dataclass
class ShownCompletions:
    """What a page shows of a run's completions."""

    groups: list[dict]  # in the order of steps
    texts: str  # compressed list: how each token reads, in the order in which the groups number them
    n_completions: int


def select_completions(groups: list[Group], max_completions: int, max_bytes: int) -> ShownCompletions:
    """
    Take the most telling of `groups` until a limit is reached.

    Each group is compressed by itself, so that a page unpacks only what it shows.
    """
    candidates = _affordable(choose(groups), max_completions, max_bytes)
    by_path: dict[Path, list[Group]] = {}
    for group in candidates:
        by_path.setdefault(group.path, []).append(group)
    entries, texts = {}, {}
    for path, members in by_path.items():
        completions = read_completions(path)
        entries |= {(path, group.start): _entry(completions, group, texts) for group in members}

    compressed_texts = compressed(list(texts))
    kept, n_bytes = [], len(compressed_texts)
    for group in candidates:
        entry = entries[group.path, group.start]
        n_bytes += len(entry["content"])
        if n_bytes > max_bytes:
            break
        kept.append(entry)
    kept.sort(key=lambda entry: entry["step"])
    return ShownCompletions(kept, compressed_texts, sum(entry["shown"] for entry in kept))


def _affordable(ranked: list[Group], max_completions: int, max_bytes: int) -> list[Group]:
    """The first groups that may fit. A token rarely takes less than a byte, so no time goes into the hopeless."""
    affordable, n_completions, n_tokens = [], 0, 0
    for group in ranked:
        shown = sum(min(PER_SIDE, n) for n in group.sides)
        n_completions += shown
        n_tokens += group.n_tokens * shown // (group.stop - group.start)
        if n_completions > max_completions or (affordable and n_tokens > max_bytes):
            break
        affordable.append(group)
    return affordable


def _entry(completions: Completions, group: Group, texts: dict[str, int]) -> dict[str, Any]:
    """
    One prompt's completions for `completions.js`: of each token the number of its text, and λ and probability in percent.

    `texts` numbers what tokens read as, and grows.
    """
    rows = most_telling_rows(completions, group)
    shown = [_completion(completions, row, texts) for row in rows]
    positive, negative, _ = group.sides
    return {
        "step": group.step,
        "positive": positive,
        "negative": negative,
        "of": group.stop - group.start,
        "shown": len(rows),
        "content": compressed({"prompt": visible(completions.prompt(group.start)), "completions": shown}),
    }


def _completion(completions: Completions, row: int, texts: dict[str, int]) -> dict[str, Any]:
    tokens = completions.rows(row, row + 1)
    is_token = completions.is_token[tokens]
    # Each distinct text once: reading every token's out of Arrow is slow
    encoded = completions.tokens[tokens].dictionary_encode()
    numbers = []
    for raw in encoded.dictionary.to_pylist():
        text = decode(raw)
        numbers.append(texts.setdefault(visible(text) or visible(text, alone=True), len(texts)))
    return {
        "advantage": _rounded(completions.advantages[row]),
        "reward": _rounded(completions.rewards[row]),
        "tokens": [numbers[i] for i in encoded.indices.to_pylist()],
        "coefficients": _percent(completions.coefficients[tokens], is_token),
        "probabilities": _percent(np.exp(np.minimum(completions.log_probs[tokens], 0)), is_token),
    }


def most_telling_rows(completions: Completions, group: Group, per_side: int = PER_SIDE) -> list[int]:
    """Up to `per_side` rows of each side (A > 0, A < 0, A = 0), those with the most spread coefficients, in order."""
    rows, sides = [], completions.sides()
    for side in (1, -1, 0):
        own = [row for row in range(group.start, group.stop) if sides[row] == side]
        own.sort(key=lambda row: _spread(completions, row), reverse=True)
        rows += sorted(own[:per_side])
    return rows


def _spread(completions: Completions, row: int) -> float:
    values = completions.coefficients[completions.rows(row, row + 1)]
    return float(np.nan_to_num(values.std())) if values.size else 0.0


def _rounded(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


def _percent(values: np.ndarray, is_token: np.ndarray) -> list[int | None]:
    """In whole percent; None where the model did not write the token, or the value is not finite."""
    usable = is_token & np.isfinite(values)
    rounded = np.rint(100 * np.where(usable, values, 0)).astype(int).tolist()
    return [value if use else None for value, use in zip(rounded, usable.tolist(), strict=True)]
