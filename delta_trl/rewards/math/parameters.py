r"""Letters whose name is free: the index of a solution that runs over all integers, constants of integration, the parameter
of a line. Renamed only where nothing else tells them from given quantities could be meant: one such letter on each side."""

import re

from .congruences import INDEX_LETTERS
from .equations import equal_parts, is_name
from .lists import bracketed


_LETTER = re.compile(r"\\text\{[^{}]*\}|\\[a-zA-Z]+|[a-zA-Z](?:_(?:\{\w+\}|\w))?")
_GREEK_LETTERS = frozenset([r"\lambda", r"\mu", r"\alpha", r"\theta"])
_CONSTANT = re.compile(r"[CcKkAam](?:_\{?\d\}?)?")
_LINE_LETTERS = frozenset("tsruklmnacp") | {r"\lambda", r"\mu", r"\alpha"}
_INTEGER_MULTIPLE = re.compile(r"(?:[2-9]|[1-9]\d+)\*?L(?:[+-]\d+)?")
_VARIABLES = frozenset("xtuyz") | {r"\theta"}  # of an integral: with other letters a c may be one of them
FREE = r"\nu"


def with_common_parameter(gold: str, answer: str) -> tuple[str, str] | None:
    """Gold and answer with one name for the letter that is free, or None where there is none or it has the same name."""
    if "=" in gold and not is_name(equal_parts(gold)[0]):
        return None
    gold_letters, answer_letters = _letters(_value(gold)), _letters(_value(answer))
    for is_free in (_is_index, _is_constant, _is_of_a_line):
        ours = [letter for letter in gold_letters if is_free(gold, letter)]
        theirs = [letter for letter in answer_letters if is_free(answer, letter)]
        if len(ours) == len(theirs) == 1 and ours != theirs and gold_letters - {*ours} == answer_letters - {*theirs}:
            return _renamed(gold, ours[0]), _renamed(answer, theirs[0])
        indices = sorted(map(_index, ours))
        are_numbered = len(set(indices)) == len(ours) > 1 and indices == sorted(map(_index, theirs))
        if is_free is _is_constant and are_numbered and set(ours) != set(theirs):
            return _lower_constants(gold, ours), _lower_constants(answer, theirs)
    return None


def as_periodic(gold: str, answer: str) -> tuple[str, str] | None:
    r"""The values of two general solutions such as `x=\frac{\pi}{4}+k\pi`, whose index has any name; None for others."""
    sides, names = [], set()
    for text in (gold, answer):
        if r"\pm" in text:
            return None  # two of them
        parts, letters = equal_parts(text), _letters(_value(text))
        if (
            len(parts) > 2
            or len(letters) != 1
            or not _is_index(text, *letters)
            or _INTEGER_MULTIPLE.match(_value(text))
        ):
            return None
        if not (r"\pi" in parts[-1] or r"^{\circ}" in parts[-1]):
            return None
        names |= set(parts[:-1])
        sides.append(parts[-1].replace(r"^{\circ}", ""))
    return (sides[0], sides[1]) if len(names) < 2 else None


def _value(text: str) -> str:
    return equal_parts(text)[-1]


def _letters(text: str) -> set[str]:
    """The letters of `text` apart from e, i and the d of a differential, each also where it stands in a product."""
    found = (match[0] for match in _LETTER.finditer(text))
    return {x for x in found if x not in ("e", "i", "d") and (x[0] != "\\" or x in _GREEK_LETTERS)}


def _is_index(text: str, letter: str) -> bool:
    r"""In `\frac{\pi}{4}+k\pi` and `4k+1`: the only letter of the value, with π or with a factor of 2 or more."""
    value = _value(text)
    if letter not in INDEX_LETTERS or _letters(value) != {letter}:
        return False
    with_mark = _renamed(value, letter, "L").replace(" ", "")
    if _INTEGER_MULTIPLE.fullmatch(with_mark):
        return True
    is_inside = re.search(rf"\\[a-z]+\(?{letter}|\^{{?{letter}", value) is not None
    return (r"\pi" in value or r"^{\circ}" in value) and not is_inside


def _is_constant(text: str, letter: str) -> bool:
    """`+C` at the end, `C_1e^x`, or the one letter beside x of `f(x)=cx`."""
    if not _CONSTANT.fullmatch(letter):
        return False
    value, name = _value(text), equal_parts(text)[0]
    others = _letters(value) - {letter}
    if value.endswith("+" + letter) and letter[0] in "CcKkA" and others <= _VARIABLES:
        return True
    is_named_or_numbered = name != value or "_" in letter
    leads = re.search(rf"[+-]{re.escape(letter)}$|(?:^|[=+-]){re.escape(letter)}(?=[a-zA-Z\\(])", value)
    if letter[0] in "Cc" and is_named_or_numbered and leads:
        return True
    variable = name[2] if re.fullmatch(r"[a-zA-Z]\([a-z]\)", name) else "x" if name == "y" else ""
    return bool(variable) and len(_letters(value) - {variable}) == 1


def _is_of_a_line(text: str, letter: str) -> bool:
    """The only letter of a tuple with two or more parts that have it."""
    found = bracketed(_value(text))
    if letter not in _LINE_LETTERS or found is None or _letters(_value(text)) != {letter}:
        return False
    return sum(letter in _letters(part) for part in found[1]) > 1


def _renamed(text: str, letter: str, new: str = FREE) -> str:
    """The value of `text` with `new` in place of `letter`, behind the name that it had."""
    name, equals, value = text.rpartition("=")
    value = _LETTER.sub(lambda m: f"{new} " if m[0] == letter else m[0], value)
    return name + equals + re.sub(r" (?![a-zA-Z])", "", value)


def _index(letter: str) -> str:
    return letter[1:].strip("_{}")


def _lower_constants(text: str, letters: list[str]) -> str:
    for letter in letters:
        text = _renamed(text, letter, f"c_{{{_index(letter)}}}")
    return text
