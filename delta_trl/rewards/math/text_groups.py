r"""Text, upright and bold letters: which of `\text{...}`, `\mathrm{...}` and their like hold words, units or names."""

import re

from .units import unit_name


TEXT = re.compile(
    r"\\(text(?:rm|bf|it|sf|tt|normal|up)?|emph|mbox|hbox|underline|mathrm|mathbf|mathit|mathsf|mathtt|boldsymbol|bm"
    r"|operatorname\*?) ?\{([^{}]*)\}(?=(.?))"
)
_FUNCTION_TEXT = (
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth ln log lg exp max min gcd lcm "
    "det lim sup inf arsinh arcosh artanh deg dim ker arg"
)
_FUNCTIONS = frozenset(_FUNCTION_TEXT.split())
_NUMBER_AND_WORDS = re.compile(r"([-+]?[\d.,/]+)( [a-zA-Z%].*| ?\\?%)?")
_LINKING_WORD = re.compile(r"(?<![a-zA-Z])(?:, ?)?(and|or|while|with)(?![a-zA-Z])")


def read_text(match: re.Match) -> str:
    r"""Text and upright or bold letters: numbers and single letters without their style, all else as `\text{...}`."""
    style, inner, after = match[1], match[2].strip(" ~"), match[3]
    if not inner:
        return ""
    if style.startswith("operatorname"):
        return rf"\{inner} " if inner in _FUNCTIONS else rf"\operatorname{{{inner}}}"
    before = match.string[max(0, match.start() - 5) : match.start()].rstrip(" ,;:~\\")
    follows_number = (
        before[-1:].isdigit()
        or before[-1:] in ("}", ")", "/", "]")
        or before.endswith((r"\pi", "cdot", "cdot ", r"\mu"))
    )
    is_unit = follows_number and unit_name(inner) and after not in tuple("({\\")
    if style == "mathrm" and inner in _FUNCTIONS and not is_unit:
        return rf"\{inner} "
    if follows_number and (unit := _compound_unit(inner)):
        return rf"\text{{ {unit}}}"
    if inner in (r"\%", "%"):
        return r"\%"
    if len(inner) > 1 and unit_name(inner):
        return rf"\text{{{match[2]}}}"
    is_upright = style.startswith(("math", "b", "u"))
    if "\\" in inner or any(c in inner for c in "=^_<>") or (is_upright and not inner.replace(" ", "").isalpha()):
        return " " + inner + " "
    if number := _NUMBER_AND_WORDS.fullmatch(inner):
        words = (number[2] or "").strip(" \\")
        return number[1] + (rf"\text{{ {words}}}" if words and words != "%" else r"\%" if words else "")
    if len(inner) == 1 and inner.isalpha():
        is_unit = not is_upright or (style == "mathrm" and inner not in "eidx" and (not after or after in "^/ $\\.,"))
        return rf"\text{{{match[2]}}}" if follows_number and is_unit else " " + inner + " "
    # "2 hours and 30 minutes" is a list of two
    if letter := re.fullmatch(r"\(([a-zA-Z])\)", inner):
        return f" {letter[1]} "
    if not any(map(str.isalpha, inner)) or re.fullmatch(r"[a-zA-Z](?:, ?[a-zA-Z])+", inner):
        return f" {inner} "
    parts = _LINKING_WORD.split(inner)
    if len(parts) > 1 and all(len(part.strip()) == 1 for part in parts[::2]):
        return ", ".join(part.strip() for part in parts[::2])
    return "".join(
        rf"\text{{ {part.strip()} }}" if i % 2 else (rf"\text{{{part}}}" if part.strip(" ,;") else part.strip())
        for i, part in enumerate(parts)
    )


def _compound_unit(inner: str) -> str:
    r"""`N\cdot m`, `\mu m` and `k\Omega` as words of units, "" for what is none."""
    if "\\" not in inner:
        return ""
    plain = re.sub(r"\\cdot ?|\\times ?|\\,|\\ |~", " ", inner)
    plain = re.sub(r"\\mu ?", "u", re.sub(r"\\Omega ?", "ohm", plain))
    return plain if "\\" not in plain and unit_name(plain) else ""
