"""Removing rows, with a count of every removal, and telling whether two questions are the same."""

import hashlib
import logging
import os
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .fingerprint import code_fingerprint


if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger("delta_trl.data")

MAX_UNUSABLE_SHARE = 0.05
# The packages that decide whether a gold can be scored, besides our own code
CHECKERS = ("math-verify", "latex2sympy2_extended", "sympy")


class Steps:
    """Removes rows and says so: every line is kept, and logged by the main process."""

    def __init__(self, name: str):
        self.name = name
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)
        if os.environ.get("RANK", "0") == "0":
            logger.info(line)

    def keep(self, rows: "Dataset", reason: str, kept: Sequence[bool]) -> "Dataset":
        before = len(rows)
        if not all(kept):
            rows = rows.select([i for i, keep in enumerate(kept) if keep])
        self.say(f"{reason}: {before - len(rows)} rows removed")
        if not len(rows):
            raise ValueError(f"No row of {self.name} is left:\n  " + "\n  ".join(self.lines))
        return rows

    def check_share(self, what: str, bad: Sequence[str], total: int, sep: str, probably: str, allowed: bool) -> float:
        """The share of unusable rows, of which `bad` describes each; ValueError if it is too large and not allowed."""
        share = len(bad) / total
        examples = f", for example {sep.join(bad[:3])}" if bad else ""
        self.say(f"{what}: {len(bad)} of {total} ({share:.1%}){examples}")
        if share > MAX_UNUSABLE_SHARE and not allowed:
            raise ValueError(
                f"{what[0].upper()}{what[1:]}: {share:.1%}{examples}. That is more than {MAX_UNUSABLE_SHARE:.0%}, so "
                f"this is probably {probably}. If it is right, set allow_unscorable; those rows are removed in any case."
            )
        return share


def column(rows: "Dataset", name: str) -> list:
    """The values of one column. Of a dataset on disk no other is read."""
    return rows.select_columns(name)[:][name]


def question_key(question: str) -> str:
    """
    The same for questions that differ in white space, invisible characters or the encoding of a character only.

    Unicode's compatibility form (NFKC), except for superscripts, subscripts and fractions: it would turn 3² into 32.
    """
    if not question.isascii():
        visible = (c for c in unicodedata.normalize("NFC", question) if unicodedata.category(c) != "Cf")
        question = unicodedata.normalize("NFC", "".join(map(_compatible, visible)))
    return " ".join(question.split())


def _compatible(character: str) -> str:
    if unicodedata.decomposition(character).startswith(("<super>", "<sub>", "<fraction>")):
        return character
    return unicodedata.normalize("NFKC", character)


def hash_share(question: str) -> float:
    """A number in [0, 1) that depends on nothing but the question's key."""
    return int.from_bytes(hashlib.sha256(question_key(question).encode("utf-8", "replace")).digest()[:8]) / 2**64


def is_first(keys: Sequence[str], solutions: Sequence[str]) -> list[bool]:
    """True for the first row of every question, unless its rows disagree about the answer: one must be wrong."""
    golds: dict[str, set[str]] = {}
    for key, solution in zip(keys, solutions, strict=True):
        golds.setdefault(key, set()).add(solution)
    seen: set[str] = set()
    kept = []
    for key in keys:
        kept.append(key not in seen and len(golds[key]) == 1)
        seen.add(key)
    return kept


def optional_column(rows: "Dataset", name: str, who_needs_it: str) -> list:
    """A column's values, or a ValueError that says which option needs it."""
    if name not in rows.column_names:
        raise ValueError(f"{who_needs_it} a column {name!r}, which this dataset has not. Leave the filter out.")
    return column(rows, name)


def _mark_scorable(batch: dict[str, list], checker: str) -> dict[str, list]:
    from ..rewards import scorable

    return {"scorable": scorable(batch["solution"])}


def keep_scorable(rows: "Dataset", steps: Steps, allow_unscorable: bool) -> "tuple[Dataset, float]":
    """Rows whose golds the reward can score, and the share of the others: asked once, until the checker changes."""
    checker = code_fingerprint("rewards", packages=CHECKERS)
    marked = rows.select_columns("solution").map(
        _mark_scorable, batched=True, batch_size=4096, fn_kwargs={"checker": checker}, desc="Checking gold answers"
    )
    kept = column(marked, "scorable")
    bad = [repr(gold) for gold, keep in zip(column(rows, "solution"), kept, strict=True) if not keep]
    probably = "the wrong column, or not a dataset with short answers"
    share = steps.check_share("gold answers that cannot be scored", bad, len(kept), ", ", probably, allow_unscorable)
    return steps.keep(rows, "answer that cannot be scored", kept), share
