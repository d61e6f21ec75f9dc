"""Answers that are no mathematics: letters of choices, words, groups and rings by name."""

import re

from .lists import elements
from .units import words


_CHOICE = re.compile(r"\(?([A-J])\)?(?:[).:]\)?(?: .*| ?\\text.*|\d.*)?)?")


def choice(text: str) -> str | None:
    """The letter of `B`, `(B)`, `B)`, `B. 5` and `B: five`, else None."""
    flat = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip()
    match = _CHOICE.fullmatch(flat)
    return match[1] if match else None


_WRITTEN_OUT = {"dne": ("does not exist", "it does not exist", "the limit does not exist")}  # of an abbreviated gold


def same_words(gold: str, answer: str) -> bool | None:
    """Whether two words or lists of words are the same; None where the gold is neither."""
    gold_words = words(gold)
    if gold_words is not None:
        plain = re.sub(r"\\text\{([^{}]*)\}", r"\1", answer).strip("() .!").casefold()
        return gold_words in (words(answer), plain) or words(answer) in _WRITTEN_OUT.get(gold_words, ())
    gold_list = [words(part) or (part if len(part) == 1 else None) for part in elements(gold)]
    if len(gold_list) > 1 and all(gold_list) and r"\text" in gold + answer:
        listed = [words(part) or (part if len(part) == 1 else None) for part in elements(answer)]
        return sorted(map(str, listed)) == sorted(map(str, gold_list))
    return None


# Structures are compared as text: a computer algebra system takes Z_4 for a number and a product for a product.
_STRUCTURE = re.compile(r"\\mathbb\{[A-Z]\}|\\(?:rtimes|ltimes|oplus|otimes|cong)(?![a-zA-Z])")


def structure(text: str) -> list[str] | None:
    """The factors of a group or ring in words, in a fixed order, or None: Z/4Z is Z_4, and A x B is B x A."""
    if (
        not _STRUCTURE.search(text)
        or re.fullmatch(r"\\mathbb\{[A-Z]\}(?:[_^]\{?(?:[+-]|[<>]0)\}?)?", text)
        or re.search(r"\\(?:setminus|cup|cap|in)(?![a-zA-Z])|[=<>,|:]|-\\\{", text)
    ):
        return None
    text = re.sub(r"(\\mathbb\{Z\})/\(?([^()/]+?)\1\)?", r"\1_\2", text.replace("{}", ""))
    text = re.sub(r"_\{([^{}]*)\}", r"_\1", text)
    if re.search(r"\\[lr]times", text):
        return [text]
    return sorted(part.strip("() ") for part in re.split(r"\\(?:times|oplus)(?![a-zA-Z])", text))
