r"""Whole answers in words that have a symbol: "no solution", "all real numbers", "zero", "12th"."""

import re


_NO_SOLUTION = re.compile(
    r"(?:there (?:is|are) )?no (?:(?:real|integer|such|valid|possible|positive) )?(?:solutions?|values?|roots?)(?: exists?)?"
    r"|(?:the )?empty set|the equation has no (?:real )?solutions?"
)
_ALL_REALS = re.compile(
    r"(?:the set of )?(?:all|any) (?:the )?real(?:s| numbers?| values?)(?: of [a-z])?|(?:the )?real numbers"
    r"|all reals|the set of real numbers"
)
_INTEGERS = ("all integers", "the integers", "any integer", "the set of integers", "the set of all integers")
_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
_ORDINAL = re.compile(
    r"(\d+) ?(?:\^ ?\{? ?(?:\\text\{ ?(st|nd|rd|th) ?\}|(st|nd|rd|th)) ?\}?|\\text\{ ?(st|nd|rd|th) ?\}|(st|nd|rd|th))"
)
_PARITY = re.compile(
    r"([a-z]) ?(?:\\text\{ ?is (?:an? )?(even|odd|prime)(?: number| integer)? ?\}|is (even|odd|prime))"
)
_PARITY_FIRST = re.compile(r"(?:\\text\{ ?)?(even|odd|prime) ?\}? ?([a-z])")
LONGEST = 80  # characters


def as_symbols(text: str) -> str:
    """`text` as the symbol that it names in words, or as it is. Takes and gives canonical spelling."""
    if len(text) > LONGEST or not any(map(str.isalpha, text)):
        return text
    if ordinal := _ORDINAL.fullmatch(text):
        suffix = next(filter(None, ordinal.groups()[1:]))
        return ordinal[1] if suffix == _suffix(ordinal[1]) else text
    if parity := _PARITY.fullmatch(text):
        return rf"\text{{{parity[2] or parity[3]}}}{parity[1]}"
    if parity := _PARITY_FIRST.fullmatch(text):
        return rf"\text{{{parity[1]}}}{parity[2]}"
    flat = " ".join(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).split()).strip(" .!").casefold()
    if _NO_SOLUTION.fullmatch(flat):
        return r"\emptyset"
    if _ALL_REALS.fullmatch(re.sub(r"^[a-z] ?(?:\\in ?|is |can be |= ?)", "", flat)):
        return r"\mathbb{R}"
    if flat in _INTEGERS:
        return r"\mathbb{Z}"
    if flat in _NUMBERS:
        return str(_NUMBERS.index(flat))
    return text


def _suffix(digits: str) -> str:
    return "th" if digits[-2:] in ("11", "12", "13") else {"1": "st", "2": "nd", "3": "rd"}.get(digits[-1], "th")
