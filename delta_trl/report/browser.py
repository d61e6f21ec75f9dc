"""Choose the completions that a report shows, and pack them so that thousands fit into one small file."""

import base64
import itertools
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .runs import Completions, read_completions
from .statistics import Group
from .text import visible


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


@dataclass
class Packed:
    """What a page shows of a run's completions."""

    groups: list[dict]  # in the order of steps
    texts: str  # packed JSON list: how each token reads, in the order in which the groups number them
    n_completions: int


def pack(groups: list[Group], max_completions: int, max_bytes: int) -> Packed:
    """
    Pack the most telling of `groups` until a limit is reached.

    Each group is compressed by itself, so that a page unpacks only what it shows.
    """
    candidates = _affordable(choose(groups), max_completions, max_bytes)
    by_path: dict[Path, list[Group]] = {}
    for group in candidates:
        by_path.setdefault(group.path, []).append(group)
    entries, texts = {}, {}
    for path, members in by_path.items():
        completions = read_completions(path)
        entries |= {(path, group.start): _pack_group(completions, group, texts) for group in members}

    packed_texts = _packed(_json([text for _, text in texts.values()]))
    kept, n_bytes = [], len(packed_texts)
    for group in candidates:
        entry = entries[group.path, group.start]
        n_bytes += len(entry["packed"])
        if n_bytes > max_bytes:
            break
        kept.append(entry)
    kept.sort(key=lambda entry: entry["step"])
    return Packed(groups=kept, texts=packed_texts, n_completions=sum(entry["shown"] for entry in kept))


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


def _pack_group(completions: Completions, group: Group, texts: dict[int, tuple[int, str]]) -> dict:
    """
    One prompt's completions as base64 of deflated bytes, which `report.js` reads back.

    The bytes are the length of a JSON text as little-endian uint32, the text, and five bytes a token, all tokens' first
    bytes before all second ones: the number of the token's text (lowest byte first, three of them), λ from `low` (1) to
    `high` (255), and the probability from 0 (1) to 1 (255). A λ or probability of 0 means that there is none. `texts`
    maps token ids to these numbers and texts, and grows.
    """
    rows = most_telling_rows(completions, group)
    chosen = np.concatenate([np.arange(completions.offsets[r], completions.offsets[r + 1]) for r in rows]).astype(int)
    unique, first, inverse = np.unique(completions.ids[chosen], return_index=True, return_inverse=True)
    for token_id, position in zip(unique.tolist(), chosen[first].tolist(), strict=True):
        if token_id not in texts:
            text = completions.token(position)
            texts[token_id] = (len(texts), visible(text) or visible(text, alone=True))
    numbers = np.array([texts[token_id][0] for token_id in unique.tolist()], dtype=np.uint32)[inverse]
    values, is_token = completions.coefficients[chosen], completions.is_token[chosen]
    usable = is_token & np.isfinite(values)
    low, high = (values[usable].min(), values[usable].max()) if usable.any() else (1, 1)
    probabilities = np.exp(np.minimum(completions.log_probs[chosen], 0))
    header = _json(
        {
            "prompt": visible(completions.prompt(group.start)),
            "low": float(low),
            "high": float(high),
            "completions": [
                {
                    "advantage": _number(completions.advantages[row]),
                    "reward": _number(completions.rewards[row]),
                    "length": int(completions.offsets[row + 1] - completions.offsets[row]),
                }
                for row in rows
            ],
        }
    )
    parts = (
        np.array(len(header), dtype="<u4").tobytes(),
        header,
        *((numbers >> shift & 255).astype(np.uint8).tobytes() for shift in (0, 8, 16)),
        _levels((values - low) / max(high - low, np.finfo(np.float32).tiny), usable),
        _levels(probabilities, is_token & np.isfinite(probabilities)),
    )
    positive, negative, _ = group.sides
    return {
        "step": group.step,
        "positive": positive,
        "negative": negative,
        "of": group.stop - group.start,
        "shown": len(rows),
        "packed": _packed(b"".join(parts)),
    }


def _json(content) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, level=9)).decode()


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


def _number(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


def _levels(values: np.ndarray, usable: np.ndarray) -> bytes:
    """Values from 0 to 1 as levels from 1 to 255, and 0 where there is none."""
    return np.where(usable, 1 + np.rint(254 * np.where(usable, values, 0)), 0).astype(np.uint8).tobytes()
