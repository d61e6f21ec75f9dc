r"""One canonical spelling for the many that LaTeX, Unicode and plain text allow. Linear in the length.

`canonical` never changes what is said: it drops layout and styles, writes Unicode mathematics as LaTeX, gives
brace-less arguments their braces and names each operator in one way. What it leaves is read by `exact` and by the
workers' parser.
"""

import re
from functools import lru_cache

from .brackets import closing_braces, closing_brackets
from .extraction import BOX_START
from .unicode import from_unicode
from .units import unit_name


# Commands without meaning. `\left` and `\right` may stand before a dot, which is an invisible bracket.
_INVISIBLE = re.compile(
    r"\\!|\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|(?:math)?strut|[bB]ig{1,2}[lrm]?|unicode|nobreak"
    r"|tiny|scriptsize|footnotesize|small|normalsize|[lL]arge|LARGE|[hH]uge|rm|bf|it|sf|tt)(?![a-zA-Z])"
    r"|\\color ?\{[^{}]*\}|\\textcolor ?\{[^{}]*\}|\\(?:left|right) ?\.(?! ?\\frac)|\\(?:left|right)(?![a-zA-Z])"
    r"|(?<!\\)\$|(?<!\\)\\[()\[\]]"
)
_SPACES = re.compile(r"(?:(?<!\\)\\[,;: ]|(?<!\\)~| |\\[hv]space\{[^{}]*\})+")
# A wide space between two things lists them.
_WIDE_SPACE = re.compile(r" ?(?:\\q?quad(?![a-zA-Z]) ?)+")
_THIN_SPACED_THOUSANDS = re.compile(r"(?<=\d)(?:\\[,;: ]|\{,\}|\{\\,\}|,\\! ?)(?=\d{3}(?!\d))")
_FRACTION_SIZES = re.compile(r"\\(?:[dtc]|nice)frac(?![a-zA-Z])")
_TEXT = re.compile(
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


def _text(match: re.Match) -> str:
    r"""Text and upright or bold letters: numbers and single letters without their style, all else as `\text{...}`."""
    style, inner, after = match[1], match[2].strip(" ~"), match[3]
    if not inner:
        return ""
    if style.startswith("operatorname"):
        return rf"\{inner} " if inner in _FUNCTIONS else rf"\operatorname{{{inner}}}"
    if style == "mathrm" and inner in _FUNCTIONS:
        return rf"\{inner} "
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
        before = match.string[max(0, match.start() - 4) : match.start()].rstrip(" ,;:~\\")[-1:]
        follows_number = before.isdigit() or before in ("}", ")", "/")
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


_SYNONYMS = [
    (re.compile(r"\\not ?="), r"\\ne "),
    (re.compile(r"\\not ?\\(in|equiv|subset)(?![a-zA-Z])"), r"\\not\1 "),
    (re.compile(r"\\(?:leq|leqslant)(?![a-zA-Z])|<=|=<"), r"\\le "),
    (re.compile(r"\\(?:geq|geqslant)(?![a-zA-Z])|>="), r"\\ge "),
    (re.compile(r"\\lt(?![a-zA-Z])"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
    (re.compile(r"\\neq(?![a-zA-Z])|!="), r"\\ne "),
    (re.compile(r"\\varnothing(?![a-zA-Z])|\\\{ ?\\\}"), r"\\emptyset "),
    (re.compile(r"\\mathbb ?([A-Z])"), r"\\mathbb{\1}"),
    (re.compile(r"\\var(epsilon|phi|theta|rho|sigma|pi|kappa)(?![a-zA-Z])"), r"\\\1 "),
    (re.compile(r"\\(?:[lr]angle)(?![a-zA-Z])"), lambda m: "(" if m[0][1] == "l" else ")"),
    (re.compile(r"\\(?:[lr]?vert|mid)(?![a-zA-Z])"), "|"),
    (re.compile(r"\\(?:lor|vee)(?![a-zA-Z])"), r"\\text{ or }"),
    (re.compile(r"\\(?:land|wedge)(?![a-zA-Z])"), r"\\text{ and }"),
    (re.compile(r"\\(?:ldots|cdots|dotsc|dotsb)(?![a-zA-Z])|(?<!\.)\.\.\.(?!\.)"), r"\\dots "),
    (re.compile(r"\\colon(?![a-zA-Z])|\{:\}"), ":"),
    (re.compile(r"\\ast(?![a-zA-Z])"), r"\\cdot "),
    (re.compile(r"\\log ?_ ?(?:e|\{ ?e ?\})(?![a-zA-Z])"), r"\\ln "),
    (re.compile(r"\{([^{}]*[^{}\\a-zA-Z ]) ?\\choose ?(?![a-zA-Z])([^{}]*)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"\{([^{}\\]*)\\choose(?![a-zA-Z])([^{}]*)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"[,;] ?(?:\\text ?\{[^{}]*\})? ?[a-z] ?\\in ?\\mathbb\{[ZN]\}[^ ,;\\]{0,4}$"), ""),
    (re.compile(r"[\[(]?\\begin\{array\}\{[^{}]*\}"), r"\\begin{pmatrix}"),
    (re.compile(r"\\end\{array\}[\])]?"), r"\\end{pmatrix}"),
    (re.compile(r"\|\\begin\{p?matrix\}"), r"\\begin{vmatrix}"),
    (re.compile(r"\\end\{p?matrix\}\|"), r"\\end{vmatrix}"),
    (re.compile(r"[\[(]?\\begin\{(?:small)?matrix\}"), r"\\begin{pmatrix}"),
    (re.compile(r"\\end\{(?:small)?matrix\}[\])]?"), r"\\end{pmatrix}"),
    (re.compile(r"(?<=begin\{|..end\{)[bB]matrix\}"), r"pmatrix}"),
    (re.compile(r"(?<![ \\])(?: |\\\\)+(?=\\end\{)"), ""),
    (re.compile(r"\\(?:lbrace|lbrack)(?![a-zA-Z])"), lambda m: r"\{" if "brace" in m[0] else "["),
    (re.compile(r"\\(?:rbrace|rbrack)(?![a-zA-Z])"), lambda m: r"\}" if "brace" in m[0] else "]"),
    (re.compile(r" ?\^ ?\{? ?\\circ ?(?![a-zA-Z])\}?| ?\\degree(?![a-zA-Z])"), r"^{\\circ}"),
    (re.compile(r"\\text ?\{ ?infinity ?\}|(?<![a-zA-Z\\])infinity(?![a-zA-Z])", re.IGNORECASE), r"\\infty "),
    (
        re.compile(
            r" ?\(? ?(?:\\pmod|\\bmod(?=[^()]{0,9}\))|\(\\mod|\(\\text\{ ?mod ?\}|\(mod(?![a-z])) ?\{? ?(\w+) ?\}? ?\)?"
        ),
        r"\\pmod{\1}",
    ),
    (re.compile(r"(?<![a-zA-Z\\])(sqrt|pi|sin|cos|tan|arctan|arcsin|arccos|ln|log|exp)(?![a-zA-Z])"), r"\\\1 "),
    (re.compile(r"(\\[a-zA-Z]+) (?![a-zA-Z])"), r"\1"),
]  # fmt: skip
_UNIT_THEN_NUMBER = re.compile(r"(\\text\{([^{}]*)\}) ?(?=\d)")  # "2 hours 30 minutes"
_DOUBLED_BACKSLASH = re.compile(r"(?<!\\)\\{2,}(?=[a-zA-Z])")  # or more of them: once is enough
_SPACE = re.compile(r"(?<![a-zA-Z0-9,;]) | (?![a-zA-Z0-9.])")
_PERCENT_WORD = re.compile(
    r" ?\\text\{ ?(?:percent|percentage|pct) ?\}| ?(?<![a-zA-Z])(?:percent|pct|percentage)(?![a-zA-Z])"
)
_LEADING = ("=", r"\approx", r"\therefore", ":")


@lru_cache(maxsize=16384)
def canonical(answer: str) -> str:
    r"""`answer` in canonical spelling: without layout (`\left`, sizes, colours, `$`), styles and a final full stop."""
    if not answer.isascii():
        answer = from_unicode(answer)
    answer = " ".join(answer.split())
    answer = BOX_START.sub("", answer)
    if r"\begin" not in answer:
        answer = _DOUBLED_BACKSLASH.sub(r"\\", answer)
    answer = _THIN_SPACED_THOUSANDS.sub(lambda m: "," if "," in m[0].replace(r"\,", "") else "", answer)
    answer = _INVISIBLE.sub("", answer)
    answer = answer.replace("{,}", ",").replace("{ , }", ",")
    answer = _FRACTION_SIZES.sub(r"\\frac", answer)
    answer = _TEXT.sub(_text, answer)
    answer = _SPACES.sub(" ", answer).strip()
    for pattern, replacement in _SYNONYMS:
        answer = pattern.sub(replacement, answer)
    answer = _UNIT_THEN_NUMBER.sub(lambda m: m[1] + ", " if unit_name(m[2]) else m[0], " ".join(answer.split()))
    answer = _separate_wide_spaces(answer)
    answer = _with_braces(answer)
    answer = _PERCENT_WORD.sub(r"\\%", answer)
    answer = _SPACE.sub("", answer).strip()
    return _without_frame(answer)


def _separate_wide_spaces(text: str) -> str:
    if "quad" not in text:
        return text
    pieces = [piece.strip() for piece in _WIDE_SPACE.split(text)]
    out = pieces[0]
    for piece in pieces[1:]:
        is_separated = not out or not piece or out[-1] in ",;([{" or piece[0] in ",;(|"
        after_link = out.endswith((" and", " or")) or (out[-1:] == "}" and r"\text{" in out[-12:])
        is_separated |= after_link or piece.startswith((r"\text{", r"\pmod", "and ", "or "))
        out += (" " if is_separated else ", ") + piece
    return out


def _without_frame(text: str) -> str:
    """Without what surrounds an answer: a final stop, a leading equals sign, braces around all of it."""
    start, end = 0, len(text)
    while start < end:
        if text[start] in "= :" and text[start : start + 2] != "==":
            start += 1
        elif text.startswith(r"\approx", start):
            start += len(r"\approx")
        elif (
            text[end - 1] in " ,;"
            or (text[end - 1] == "." and not text.endswith("..", 0, end))
            or text[end - 1] == "\\"
        ):
            end -= 1
        else:
            break
    text = text[start:end]
    if text.startswith("{"):
        closing = closing_braces(text)
        depth = 0
        while depth < len(text) and text[depth] == "{" and closing.get(depth) == len(text) - 1 - depth:
            depth += 1
        if depth:
            return _without_frame(text[depth : len(text) - depth].strip())
    return text


_BRACE_TAKERS = re.compile(r"\\(frac|sqrt|overline|dot|bar|binom)(?![a-zA-Z])|\^(?= ?\()")
_ARGUMENT = re.compile(r" ?(\\(?!frac|sqrt|text|left|begin)[a-zA-Z]+|[a-zA-Z0-9])")
_ROOT_INDEX = re.compile(r" ?(\[[^\[\]]*\])")
_OPENING = re.compile(r" ?\{")
_BRACKET = re.compile(r" ?\(")


def _with_braces(text: str) -> str:
    r"""`\frac12` to `\frac{1}{2}`, `\sqrt3` to `\sqrt{3}`, `2^(1/2)` to `2^{1/2}`: TeX takes one token where there are
    no braces, and plain text has brackets."""
    if not _BRACE_TAKERS.search(text):
        return text
    braces = closing_braces(text)
    brackets = closing_brackets(text) if "(" in text else {}
    insert: dict[int, str] = {}  # at each position, text to put there
    replace: dict[int, str] = {}
    for command in _BRACE_TAKERS.finditer(text):
        position = command.end()
        missing = 2 if command[1] in ("frac", "binom") else 1
        if command[1] == "sqrt" and (index := _ROOT_INDEX.match(text, position)):
            position = index.end()
        if command[1] in (None, "sqrt") and (bracket := _BRACKET.match(text, position)):
            end = brackets.get(bracket.end() - 1)
            if end is not None:
                replace[bracket.end() - 1], replace[end] = "{", "}"
            continue
        while missing:
            if brace := _OPENING.match(text, position):
                position = braces.get(brace.end() - 1, len(text)) + 1
            elif argument := _ARGUMENT.match(text, position):
                insert[argument.start(1)] = insert.get(argument.start(1), "") + "{"
                insert[argument.end()] = "}" + insert.get(argument.end(), "")
                position = argument.end()
            else:
                break
            missing -= 1
    if not insert and not replace:
        return text
    out = []
    for position, character in enumerate(text):
        out.append(insert.get(position, ""))
        out.append(replace.get(position, character))
    out.append(insert.get(len(text), ""))
    return "".join(out)
