"""Which brackets of a text are open where, and which closes which."""

import re
from collections.abc import Iterable
from itertools import accumulate


def depths(text: str) -> list[int]:
    """For each character, how many round, square and curly brackets are open after it; negative where too many closed."""
    return list(accumulate((character in "([{") - (character in ")]}") for character in text))


def closing_braces(text: str) -> dict[int, int]:
    """For each opening brace the index of the one that closes it. Escaped braces are no braces."""
    return _pairs(re.finditer(r"\\.|[{}]", text, re.DOTALL))


def closing_brackets(text: str) -> dict[int, int]:
    """The same for round brackets."""
    return _pairs(re.finditer(r"[()]", text))


def _pairs(found: Iterable[re.Match]) -> dict[int, int]:
    pairs, stack = {}, []
    for match in found:
        if match[0] in ("(", "{"):
            stack.append(match.start())
        elif match[0] in (")", "}") and stack:
            pairs[stack.pop()] = match.start()
    return pairs
