"""Choose the completions that a report shows, and pack them so that thousands fit into one small file."""

import base64
import itertools
import json
import math
import zlib
from pathlib import Path

import numpy as np

from .records import Completions, read_completions
from .statistics import Group
from .text import visible


MAX_COMPLETIONS = 2000
MAX_PACKED_BYTES = 4_000_000  # of base64, over all runs: leaves a fifth of 5 MB to the pictures
PER_SIDE = 4  # completions of one prompt on one side; the rest of a large group says the same again
WINDOWS = 20  # parts of the run, each of which gets its share
# Coefficients and log-probabilities are stored as whole thousandths
SCALE = 1000


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


def pack(groups: list[Group], max_completions: int, max_bytes: int) -> tuple[list[dict], int]:
    """
    Pack the most telling of `groups` until a limit is reached; the result is in the order of steps.

    Each group is compressed by itself, so that a page unpacks only what it shows.

    Returns:
        The packed groups, and the number of completions in them.
    """
    candidates = _affordable(choose(groups), max_completions, max_bytes)
    by_path: dict[Path, list[Group]] = {}
    for group in candidates:
        by_path.setdefault(group.path, []).append(group)
    entries = {}
    for path, members in by_path.items():
        completions = read_completions(path)
        entries |= {(path, group.start): _pack_group(completions, group) for group in members}

    packed, n_bytes = [], 0
    for group in candidates:
        entry = entries[group.path, group.start]
        n_bytes += len(entry["packed"])
        if n_bytes > max_bytes:
            break
        packed.append(entry)
    return sorted(packed, key=lambda entry: entry["step"]), sum(entry["shown"] for entry in packed)


def _affordable(ranked: list[Group], max_completions: int, max_bytes: int) -> list[Group]:
    """The first groups that may fit. A token rarely packs into less than a byte, so no time goes into the hopeless."""
    affordable, n_completions, n_tokens = [], 0, 0
    for group in ranked:
        shown = sum(min(PER_SIDE, n) for n in group.sides)
        n_completions += shown
        n_tokens += group.n_tokens * shown // (group.stop - group.start)
        if n_completions > max_completions or (affordable and n_tokens > max_bytes):
            break
        affordable.append(group)
    return affordable


def _pack_group(completions: Completions, group: Group) -> dict:
    rows = _most_telling_rows(completions, group)
    texts: list[str] = []
    index: dict[int, int] = {}
    completions_json = []
    for row in rows:
        tokens = completions.rows(row, row + 1)
        for position in range(tokens.start, tokens.stop):
            token_id = int(completions.ids[position])
            if token_id not in index:
                index[token_id] = len(texts)
                text = completions.token(position)
                texts.append(visible(text) or visible(text, alone=True))
        completions_json.append(
            {
                "advantage": _number(completions.advantages[row]),
                "reward": _number(completions.rewards[row]),
                "tokens": [index[i] for i in completions.ids[tokens].tolist()],
                "coefficients": _thousandths(completions.coefficients[tokens], completions.is_token[tokens]),
                "log_probs": _thousandths(completions.log_probs[tokens], completions.is_token[tokens]),
            }
        )
    content = {"prompt": visible(completions.prompt(group.start)), "texts": texts, "completions": completions_json}
    compressed = zlib.compress(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(), level=9)
    positive, negative, _ = group.sides
    return {
        "step": group.step,
        "positive": positive,
        "negative": negative,
        "of": group.stop - group.start,
        "shown": len(rows),
        "packed": base64.b64encode(compressed).decode(),
    }


def _most_telling_rows(completions: Completions, group: Group) -> list[int]:
    """Up to `PER_SIDE` rows of each side (A > 0, A < 0, A = 0), those with the most spread coefficients, in order."""
    rows = []
    for side in (1, -1, 0):
        own = [row for row in range(group.start, group.stop) if np.sign(completions.advantages[row]) == side]
        own.sort(key=lambda row: _spread(completions, row), reverse=True)
        rows += sorted(own[:PER_SIDE])
    return rows


def _spread(completions: Completions, row: int) -> float:
    values = completions.coefficients[completions.rows(row, row + 1)]
    return float(np.nan_to_num(values.std())) if values.size else 0.0


def _number(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


def _thousandths(values: np.ndarray, is_token: np.ndarray) -> list[int | None]:
    """None where the model did not write the token, or the value is not finite."""
    usable = is_token & np.isfinite(values)
    scaled = np.rint(np.where(usable, values, 0) * SCALE).astype(int)
    return [value if keep else None for value, keep in zip(scaled.tolist(), usable.tolist(), strict=True)]
