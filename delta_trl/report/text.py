"""Text and numbers for a reader: nothing invisible, nothing that breaks a page or a file, one minus sign."""

import math
import unicodedata


# What a reader must see although it has no shape. Everything else that is invisible gets its code point.
SYMBOLS = {"\n": "↵", "\r": "␍", "\t": "⇥", "\x7f": "␡"}
# Control, formatting (bidirectional overrides, zero-width joints), surrogate, unassigned: none may reach a page as it is
INVISIBLE_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
MINUS = "−"
MISSING = "–"


def visible(text: str, *, alone: bool = False) -> str:
    """
    Replace what cannot be seen in `text`. The result encodes as UTF-8, and is still untrusted: escape it for HTML.

    Args:
        text (`str`): Any string, lone surrogates and null characters included.
        alone (`bool`): The text stands by itself, as in a table: spaces become `␣`, an empty text `∅`, and a line break
            does not break the line. In running text a space stays a space, and line breaks and tabs are both shown and
            made, so that a program keeps its shape.
    """
    if alone:
        return "".join("␣" if c == " " else _visible_character(c) for c in text) or "∅"
    return "".join(_visible_character(c) + (c if c in "\n\t" else "") for c in text)


def _visible_character(character: str) -> str:
    if character in SYMBOLS:
        return SYMBOLS[character]
    if unicodedata.category(character) not in INVISIBLE_CATEGORIES:
        return character
    if character < " ":
        return chr(0x2400 + ord(character))  # Unicode's control pictures: ␀, ␁, ...
    return f"⟨U+{ord(character):04X}⟩"


def decode(raw: bytes | None) -> str:
    """Text of a Parquet cell. Broken UTF-8 becomes `�`, where Arrow itself would refuse to read the whole file."""
    return "" if raw is None else raw.decode("utf-8", errors="replace")


def short_number(value: float) -> str:
    """Four significant digits without zeros at the end, as `short` in `numbers.js` writes them."""
    if value == 0 or not math.isfinite(value):
        return number(value)
    mantissa, exponent = f"{value:.3e}".split("e")
    exponent = int(exponent)
    if not -3 <= exponent <= 6:
        return f"{short_number(float(mantissa))}e{MINUS if exponent < 0 else ''}{abs(exponent)}"
    text = number(value, max(0, 3 - exponent))
    return text.rstrip("0").rstrip(".") if "." in text else text


def number(value: float | None, digits: int = 0, *, signed: bool = False) -> str:
    """
    A number as every part of a report writes it: `numbers.js` has the same function for what a browser draws.

    Args:
        value (`float`, *optional*): `None` or one that is not finite becomes a dash.
        digits (`int`): Decimal places.
        signed (`bool`): Put a plus sign before positive numbers.
    """
    if value is None or not math.isfinite(value):
        return MISSING
    size = f"{abs(value):,.{digits}f}"
    if not size.strip("0.,"):
        return size
    return (MINUS if value < 0 else "+" if signed else "") + size
