r"""Golds: from a dataset's text to a canonical spelling, and whether answers can be compared with it."""

import re
from functools import lru_cache

from .choices import structure
from .congruences import congruence
from .equations import equal_parts, exact_and_rounded, family, is_name, subject
from .extraction import boxed
from .limits import MAX_CHARACTERS, too_costly
from .lists import LIST, bracketed, listed
from .numerals import based, literal
from .qualifiers import ORDER, split_qualifiers
from .reasons import SCORABLE
from .spelling import canonical
from .units import MAX_WORDS, TIME, split_unit, unit_name, without_units, words
from .verdicts import Tree


_NEAR = 10  # characters; boxes of a gold this close together are one answer
_PERCENT_AFTER = re.compile(r"\}\s*\$?\s*(?:\\?%|percent)[^{}]*$")
_STATED = re.compile(r"[Aa]nswer(?: is|:)\s*\$([^$]+)\$")
_SIGN_OF_ORDER = frozenset([r"\le", r"\ge", r"\ne", "<", ">", "="])


@lru_cache(maxsize=16384, typed=True)
def canonical_gold(gold: object) -> str:
    """The canonical spelling of a gold, "" if there is none: bare, in dollars, after GSM8K's `####`, or in boxes, which
    are read as those of a completion. None and NaN (an empty cell of a table) are no golds."""
    if gold is None or gold != gold:
        return ""
    text = str(gold).rpartition("####")[2]
    if contents := boxed(text, near=_NEAR):
        is_percentage = _PERCENT_AFTER.search(text)
        text = ", ".join(contents) + (r"\%" if is_percentage and len(contents) == 1 else "")
    elif stated := _STATED.findall(text):
        text = stated[-1]
    return "" if len(text) > 4 * MAX_CHARACTERS else canonical(text)


@lru_cache(maxsize=16384)
def gold_questions(gold: str) -> tuple[Tree, ...] | None:
    """What the workers must be able to read for `gold` to be scorable, often nothing; None where it is not."""
    if not gold or too_costly(gold):
        return None
    if obviously_scorable(gold):
        return ()
    if _is_prose(gold):
        return None
    parts = _parts(gold)
    if len(parts) > 1:
        questions = [gold_questions(part) for part in parts]
        if any(question is None for question in questions):
            return None
        return tuple(dict.fromkeys(each for question in questions for each in question or ()))
    body = without_units(subject(parts[0] if parts else gold))[0]
    return () if obviously_scorable(body) else ((SCORABLE, body),)


def _parts(gold: str) -> list[str]:
    """What the rules compare one by one: the elements of a list, the parts of a tuple, the exact value before ≈."""
    statement = gold if family(gold) else split_qualifiers(gold).statement
    exact, rounded = exact_and_rounded(statement)
    if rounded and is_name(exact):
        exact = f"{exact}={rounded}"
    sides = equal_parts(exact)
    if len(sides) == 2 and is_name(sides[0]) and bracketed(sides[1]):
        exact = sides[1]
    if found := bracketed(exact):
        return found[1]
    if r"\pm" in exact or (LIST.search(exact) and r"\begin" not in exact and not ORDER.search(exact)):
        return listed(exact)
    return [exact]


def obviously_scorable(gold: str) -> bool:
    """True if every answer to `gold` can be graded without parsing it: a written-out number or a word."""
    return (
        literal(split_unit(gold)[0]) is not None
        or words(gold) is not None
        or structure(gold) is not None
        or based(gold) is not None
        or congruence(gold) is not None
        or TIME.fullmatch(split_unit(gold)[0]) is not None
        or gold in _SIGN_OF_ORDER
    )


_WORD = re.compile(r"(?<![a-zA-Z\\{_^])[a-zA-Z]{2,}(?![a-zA-Z(])")


def _is_prose(gold: str) -> bool:
    """A sentence, or words around a value ("Alice has 7 apples left"): no answer will say it in the same words, and to the
    algebra the letters of the words would be factors."""
    if len(_WORD.findall(re.sub(r"\\[a-zA-Z]+", " ", gold))) > MAX_WORDS:
        return True
    if " " not in gold or not any(map(str.isdigit, gold)):
        return False
    outside = re.sub(r"\\text\{[^{}]*\}|\\[a-zA-Z]+", "#", gold)
    words_outside = [match for match in _WORD.finditer(outside) if match[0] not in ("and", "or", "mod", "base")]
    beside_space = (
        m for m in words_outside if " " in (outside[m.start() - 1 : m.start()], outside[m.end() : m.end() + 1])
    )
    return any(not unit_name(match[0]) for match in beside_space)
