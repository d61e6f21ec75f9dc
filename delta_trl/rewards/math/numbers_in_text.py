"""Thousands separators, French brackets and semicolons: punctuation that other countries put into numbers and intervals."""

import re

from .brackets import depths


# 1,234 with a digit group of three each; not after another digit, comma or point.
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")
_BRACED_COMMA = re.compile(r"(?<![\d.,])([1-9]\d{0,2})((?:\{,\}\d{3})+)(?!\d)")
_POINTS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:\.\d{3}){2,}(?![\d.,])|(?<![\d.,])[1-9]\d{0,2}(?:'\d{3})+(?![\d'])")
_SEPARATOR = re.compile(r"[,;]|\\text\{ ?(?:and|or) ?\}|(?<![a-zA-Z])(?:and|or)(?![a-zA-Z])")
_NO_NUMBER = re.compile(r"[^\d,. +%\\$-]")
_DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)")
_FRENCH = re.compile(
    r"\](?P<open>[^\[\],]+),(?P<end>[^\[\],]+)(?P<close>[\[\]])|\[(?P<start>[^\[\],]+),(?P<last>[^\[\],]+)\["
)


def with_plain_numbers(text: str) -> str:
    """`text` with its numbers in digits and a decimal point, and its intervals in the brackets of English."""
    if ";" in text:
        text = _with_commas(text)
    if "'" in text or text.count(".") > 1:
        text = _POINTS.sub(lambda m: re.sub(r"[.']", "", m[0]), text)
    if "{,}" in text:
        text = _BRACED_COMMA.sub(lambda m: m[1] + m[2].replace("{,}", ""), text)
    if "," in text and _THOUSANDS.search(text):
        text = _without_thousands(text)
    if text.startswith("]") or text.endswith("["):
        text = _FRENCH.sub(_english, text)
    return text


def _with_commas(text: str) -> str:
    r"""`[1;3]` as `[1,3]` and `[0,5;1,5]` as `[0.5,1.5]`."""
    if "," in text and not re.search(r", |,(?!\d)|(?<!\d),", text):
        text = _DECIMAL_COMMA.sub(".", text)
    depth = depths(text)
    groups, start = [], 0
    for i, character in enumerate(text):
        if character == ";" and depth[i] == 0:
            groups.append(text[start:i].strip())
            start = i + 1
    groups.append(text[start:].strip())
    if len(groups) > 1 and all(_has_comma_outside(group) for group in groups):  # p=1, q=2; p=3, q=4
        return ", ".join(f"({group})" for group in groups).replace(";", ",")
    return text.replace(";", ",")


def _has_comma_outside(text: str) -> bool:
    return any(character == "," and d == 0 for character, d in zip(text, depths(text), strict=True))


def _without_thousands(text: str) -> str:
    r"""`1,000\pi` as `1000\pi`: inside braces always; outside of all brackets where no comma lists anything and the text
    is more than one number, or where another comma with a space does. `(1,234)` stays a pair, and `1,234` for `numerals`."""
    depth, braces, brackets = depths(text), 0, 0
    in_braces = []
    for character in text:
        braces += (character == "{") - (character == "}")
        brackets += (character in "([") - (character in ")]")
        in_braces.append((braces > 0, brackets > 0))
    found = list(_THOUSANDS.finditer(text))
    commas = sum(1 for i, c in enumerate(text) if c in ",;" and depth[i] == 0)
    in_numbers = sum(m[0].count(",") for m in found if depth[m.start()] == 0)
    no_list = (
        commas == in_numbers
        and _NO_NUMBER.search(text) is not None
        and not _SEPARATOR.search(_THOUSANDS.sub("", text))
    )
    spaced = ", " in text and not re.search(r",(?! |\d{3}(?!\d))", text)
    set_brace = "\\{" in text

    def plain(match: re.Match) -> str:
        inner, bracketed = in_braces[match.start()]
        if (inner and not set_brace and not bracketed) or (not inner and not bracketed and (no_list or spaced)):
            return match[0].replace(",", "")
        return match[0]

    return _THOUSANDS.sub(plain, text)


def _english(match: re.Match) -> str:
    if match["open"]:
        return f"({match['open']},{match['end']}" + (")" if match["close"] == "[" else "]")
    return f"[{match['start']},{match['last']})"
