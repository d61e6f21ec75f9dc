r"""What can be decided about a gold and an answer from their text alone, without a computer algebra system.

Both come in canonical spelling (`spelling.canonical`). Numbers, words and equal spellings end here, in microseconds.
What counts as the same answer is stated in docs/rewards.md.
"""

import re
from functools import lru_cache

from .brackets import depths
from .equations import LIST, ORDER, elements, has_variable
from .limits import is_plain_arithmetic, too_costly, undone_operators
from .numerals import based, literal, literals_agree, with_decimal_point
from .reasons import CORRECT, TOO_COSTLY, UNEVALUATED, UNPARSEABLE_ANSWER, WRONG
from .units import other_text, split_unit, words


# What says more than a value: alternatives, consequences, denials.
_CONNECTIVES = re.compile(
    r"\\(to|rightarrow|Rightarrow|Longrightarrow|implies|iff|neg|lnot|not[a-z]*|leftrightarrow|mapsto|parallel)(?![a-zA-Z])"
    r"|(\\cancel|\\sout|\\st|\\overset|\\stackrel|\\rlap|\\llap|\\def|\\newcommand)(?![a-zA-Z])"
)


@lru_cache(maxsize=16384)
def without_units(text: str) -> tuple[str, str]:
    """(`text` without the unit of each element of a list, the unit). Different units stay: they are part of it."""
    body, unit = split_unit(text)
    parts = elements(text) if LIST.search(text) else []
    if len(parts) < 2 or literal(body):
        return body, unit
    split = [split_unit(part) for part in parts]
    units = {unit for _, unit in split}
    if not any(units) or len(units - {""}) > 1:
        return text, ""
    return ", ".join(body for body, _ in split), max(units)


# Structures are compared as text: a computer algebra system takes Z_4 for a number and a product for a product.
_STRUCTURE = re.compile(r"\\mathbb\{[A-Z]\}|\\(?:rtimes|ltimes|oplus|otimes|cong)(?![a-zA-Z])")


def structure(text: str) -> list[str] | None:
    """The factors of a group or ring in words, in a fixed order, or None: Z/4Z is Z_4, and A x B is B x A."""
    if (
        not _STRUCTURE.search(text)
        or re.fullmatch(r"\\mathbb\{[A-Z]\}", text)
        or re.search(r"\\(?:setminus|cup|cap|in)(?![a-zA-Z])|[=<>,|:]|-\\\{", text)
    ):
        return None
    text = re.sub(r"(\\mathbb\{Z\})/\(?([^()/]+?)\1\)?", r"\1_\2", text.replace("{}", ""))
    text = re.sub(r"_\{([^{}]*)\}", r"_\1", text)
    if re.search(r"\\[lr]times", text):
        return [text]
    return sorted(part.strip("() ") for part in re.split(r"\\(?:times|oplus)(?![a-zA-Z])", text))


_CONGRUENCE = re.compile(
    r"(?:(?P<left>[^=<>]*?)\\equiv)?(?P<rest>-?\d+(?:(?:, ?| ?\\text\{ ?or ?\})-?\d+)*)"
    r"(?: ?\\pmod\{|(?<=\d)\\b?mod\{? ?)(?P<modulus>\d+)\}?"
)


def congruence(text: str) -> tuple[str, frozenset[int], int] | None:
    """(left side, residues, modulus), or None."""
    match = _CONGRUENCE.fullmatch(text)
    if match is None or len(text) > 200 or not (modulus := int(match["modulus"])):
        return None
    if not (match["left"] or r"\pmod" in text):
        return None  # 23 mod 5 is a task
    return match["left"] or "", frozenset(int(n) % modulus for n in re.findall(r"-?\d+", match["rest"])), modulus


_TIME = re.compile(r"(\d{1,2}:\d{2}(?::\d{2})?)")


_POINT_INTERVAL = re.compile(r"\[([^,\[\]()]{1,50}),\1\]")  # [5,5], which the parser takes for {5}


def _outer_brackets(text: str) -> tuple[str, str] | None:
    """The pair of brackets around a list that fills all of `text`, such as ("[", ")") of an interval."""
    opening = "\\{" if text.startswith("\\{") else text[:1]
    closing = "\\}" if text.endswith("\\}") else text[-1:]
    if opening not in ("(", "[", "\\{") or closing not in (")", "]", "\\}"):
        return None
    inner = text[len(opening) : len(text) - len(closing)]
    depth = depths(inner)
    is_list = any(character == "," and d == 0 for character, d in zip(inner, depth, strict=True))
    return (opening, closing) if is_list and min(depth) >= 0 else None


def decide(gold: str, answer: str, *, is_final: bool = True) -> str | None:
    """A reason (CORRECT, WRONG, UNEVALUATED, TOO_COSTLY, UNPARSEABLE_ANSWER), or None: ask a worker.

    Takes canonical spellings; `answer` is one candidate (see `candidates`), `is_final` False for all but the last
    part of a chain, where arithmetic may still be undone.
    """
    if not answer:
        return UNPARSEABLE_ANSWER
    if _key(gold) == _key(answer):
        return CORRECT
    if len(gold) == len(answer) == 1:  # A is not a
        return WRONG
    if gold.isalpha() and answer == f"({gold})":
        return CORRECT
    if (reason := _decide_words(gold, answer)) is not None:
        return reason
    gold_based, answer_based = based(gold), based(answer)
    if gold_based or (answer_based and literal(gold)):
        return CORRECT if gold_based == answer_based else WRONG
    if gold_congruence := congruence(gold):
        found = congruence(answer)
        return (
            CORRECT if found and found[1:] == gold_congruence[1:] and found[0] in ("", gold_congruence[0]) else WRONG
        )
    gold_body, gold_unit = without_units(gold)
    answer_body, answer_unit = without_units(answer)
    if gold_unit and answer_unit and gold_unit != answer_unit:
        return WRONG
    if _TIME.fullmatch(gold_body):
        return CORRECT if answer_body.lstrip("0") == gold_body.lstrip("0") else WRONG
    if (reason := _decide_numbers(gold_body, answer_body)) is not None:
        return reason
    if (gold_structure := structure(gold)) is not None:
        return CORRECT if gold_structure == structure(answer) else WRONG
    if _key(gold_body) == _key(answer_body):
        return CORRECT
    gold_text, answer_text = other_text(gold_body), other_text(answer_body)
    if gold_text != answer_text:
        return WRONG
    if _CONNECTIVES.search(answer) and set(_CONNECTIVES.findall(answer)) - set(_CONNECTIVES.findall(gold)):
        return WRONG
    if undone_operators(answer) - undone_operators(gold):
        return UNEVALUATED
    if is_final and is_plain_arithmetic(answer_body) and not literal(answer_body) and not has_variable(gold):
        return UNEVALUATED
    if ORDER.search(answer) and not (ORDER.search(gold) or re.search(r"\\(?:cup|infty|mathbb)|[\[(].*,", gold)):
        return WRONG
    gold_brackets, answer_brackets = _outer_brackets(gold), _outer_brackets(answer)
    if gold_brackets and answer_brackets and gold_brackets != answer_brackets:
        return WRONG
    if _POINT_INTERVAL.search(answer) and not _POINT_INTERVAL.search(gold):
        return WRONG
    return TOO_COSTLY if too_costly(answer) else None


def _decide_words(gold: str, answer: str) -> str | None:
    gold_words = words(gold)
    if gold_words is not None:
        answer_words = words(answer)
        plain = re.sub(r"\\text\{([^{}]*)\}", r"\1", answer).strip("() .!").casefold()
        if gold_words in (answer_words, plain):
            return CORRECT
        return WRONG
    gold_list = [words(part) or (part if len(part) == 1 else None) for part in elements(gold)]
    if len(gold_list) > 1 and all(gold_list) and r"\text" in gold + answer:
        listed = [words(part) or (part if len(part) == 1 else None) for part in elements(answer)]
        return CORRECT if set(map(str, listed)) == set(gold_list) and len(listed) == len(gold_list) else WRONG
    if literal(gold) is not None and words(answer) is not None:
        return WRONG
    return None


def _decide_numbers(gold: str, answer: str) -> str | None:
    """For two numbers that are written out, else None."""
    gold_number, answer_number = literal(gold), literal(answer)
    # `-2,1` is a list of two numbers, and so is a gold `12,5`. Against a gold 12.5 it is the other notation of it.
    if answer_number is None and gold_number is not None and gold_number.is_decimal:
        answer_number = literal(with_decimal_point(answer))
    elif (
        gold_number is None
        and answer_number is not None
        and answer_number.is_decimal
        and _DECIMAL_COMMA.fullmatch(gold)
    ):
        gold_number = literal(with_decimal_point(gold))
    if gold_number is None or answer_number is None:
        return None
    if literals_agree(gold_number, answer_number):
        return CORRECT
    if not gold.endswith("%") or answer.endswith("%"):
        return WRONG
    # Like a unit, the sign may be left out.
    bare = literal(gold.rstrip("\\%"))
    return CORRECT if bare and literals_agree(bare, answer_number) else WRONG


_DECIMAL_COMMA = re.compile(r"0,\d{2,}|\d{1,3},(?:\d{2}|\d{4,})")  # 0,25 and 3,14, but neither 3,5 nor 1,234


def _key(text: str) -> str:
    return text.replace(", ", ",").replace("; ", ";")


def obviously_scorable(gold: str) -> bool:
    """True if every answer to `gold` can be graded without parsing it: a written-out number or a word."""
    return (
        literal(split_unit(gold)[0]) is not None
        or words(gold) is not None
        or structure(gold) is not None
        or based(gold) is not None
        or congruence(gold) is not None
        or _TIME.fullmatch(split_unit(gold)[0]) is not None
    )
