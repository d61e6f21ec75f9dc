"""Lists, tuples and signs taken apart by their text."""

import itertools
import re

from .brackets import depths


LINK = r"\\text\{ ?(?:and|or|while|with) ?\}|(?<![a-zA-Z])(?:and|or)(?![a-zA-Z])"
LIST = re.compile(rf"[,;]|{LINK}")
_SEPARATOR = re.compile(rf"(?:[,;] ?|{LINK})+")
_BOTH_SIGNS = re.compile(r"\\(?:pm|mp)(?![a-zA-Z])")
MOST_SIGNS = 3  # in one element: eight values


def elements(text: str) -> list[str]:
    """The parts between the commas, semicolons, "and" and "or" that lie in no brackets."""
    if not LIST.search(text):
        return [text.strip()] if text.strip() else []
    start, parts, depth = 0, [], depths(text)
    for separator in _SEPARATOR.finditer(text):
        if depth[separator.start()] == 0:
            parts.append(text[start : separator.start()])
            start = separator.end()
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def joined_by(text: str) -> str:
    """ "and" or "or" where only the one joins the parts outside brackets, else ""."""
    depth = depths(text)
    found = {"or" if "or" in m[0] else "and" for m in re.finditer(LINK, text) if depth[m.start()] == 0}
    return found.pop() if len(found) == 1 else ""


def with_both_signs(text: str) -> list[str]:
    r"""`a \pm b` as `a + b` and `a - b`; `\mp` has the sign that `\pm` has not."""
    signs = _BOTH_SIGNS.findall(text)
    if not signs or len(signs) > MOST_SIGNS:
        return [text]
    if any("mp" in sign for sign in signs):
        choices = [("+", "-"), ("-", "+")]
        return [
            _BOTH_SIGNS.sub(lambda m, plus=plus, minus=minus: plus if m[0] == r"\pm" else minus, text)
            for plus, minus in choices
        ]
    out = []
    for choice in itertools.product("+-", repeat=len(signs)):
        given = iter(choice)
        out.append(_BOTH_SIGNS.sub(lambda _, given=given: next(given), text))
    return out


def outer_brackets(text: str) -> tuple[str, str, str] | None:
    r"""(opening bracket, what is inside, closing bracket) where one pair of `(`, `[` or `\{` holds all of `text`."""
    opening = "\\{" if text.startswith("\\{") else text[:1]
    closing = "\\}" if text.endswith("\\}") else text[-1:]
    if opening not in ("(", "[", "\\{") or closing not in (")", "]", "\\}") or len(text) < 2:
        return None
    inner = text[len(opening) : len(text) - len(closing)]
    return (opening, inner, closing) if min(depths(inner), default=0) >= 0 else None


_BUILDER = re.compile(r"\\\{[^{}|:]*(?:\{[^{}]*\}[^{}|:]*)*[|:].*(?:[=<>]|\\(?:in|le|ge|ne|text|pmod)(?![a-zA-Z]))")


def listed(text: str) -> list[str]:
    r"""The elements of a list or of a set in braces, with both values of each `\pm`. A point or an element of a set that is
    given twice counts once."""
    brackets = outer_brackets(text)
    is_set = brackets is not None and brackets[0] == "\\{" and brackets[2] == "\\}"
    if is_set and _BUILDER.match(text):
        return [text]
    parts = elements(brackets[1] if is_set else text)
    out = [value for part in parts for value in with_both_signs(part)]
    are_points = all(part.startswith("(") and part.endswith(")") for part in out)
    return list({key(part): part for part in out}.values()) if is_set or are_points else out


def key(text: str) -> str:
    """`text` without the freedoms of layout: a space behind a comma, braces around one character of an index."""
    return _ONE_CHARACTER_INDEX.sub(r"_\1", text.replace(", ", ",").replace("; ", ";"))


_ONE_CHARACTER_INDEX = re.compile(r"_\{(\w)\}")
_COLUMN = re.compile(r"\\begin\{pmatrix\}([^&]*)\\end\{pmatrix\}")


def bracketed(text: str) -> tuple[str, list[str]] | None:
    r"""(brackets, parts) of a tuple, an interval or a column of a matrix, or None."""
    if (column := _COLUMN.fullmatch(text)) and r"\begin" not in column[1]:
        rows = [row.strip() for row in re.split(r"\\\\", column[1]) if row.strip()]
        return ("()", rows) if len(rows) > 1 else None
    found = outer_brackets(text)
    if found is None or found[0] == "\\{" or found[2] == "\\}":
        return None
    parts = elements(found[1])
    return (found[0] + found[2], parts) if len(parts) > 1 else None


_LETTER_NAME = re.compile(r"([a-zA-Z](?:_\{?\d\}?)?)=([^=<>]+)")


def tuple_of_names(text: str, other: tuple[str, list[str]] | None) -> tuple[str, list[str]] | None:
    """A list without brackets beside the tuple `other`: in the order of its names if each part has one, else as it is."""
    if other is None:
        return None
    parts = elements(text)
    if len(parts) < 2:
        return None
    named = [match for part in parts if (match := _LETTER_NAME.fullmatch(part))]
    if len(named) == len(parts):
        return ("()", [match[2] for match in sorted(named, key=lambda match: match[1])])
    return (
        None if any(re.search(r"[=<>]|\\(?:le|ge|ne|in)(?![a-zA-Z])", part) for part in parts) else (other[0], parts)
    )


def are_of_one_letter(parts: list[str]) -> bool:
    """Whether all parts are inequalities of the same single letter."""
    letters = set(re.findall(r"(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z])", " ".join(parts)))
    return len(letters) == 1 and all(re.search(r"\\(?:le|ge|ne)(?![a-zA-Z])|[<>]", part) for part in parts)


def rejoined(text: str, parts: list[str]) -> str:
    """The parts of `text` joined as they were: by "and", by "or" or by commas."""
    link = joined_by(text)
    return (rf" \text{{ {link} }} " if link else ", ").join(parts)
