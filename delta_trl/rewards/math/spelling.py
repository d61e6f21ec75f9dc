r"""One canonical spelling for the many that LaTeX, Unicode and plain text allow. Linear in the length.

`canonical` never changes what is said: it drops layout and styles, writes Unicode mathematics as LaTeX, gives
brace-less arguments their braces and names each operator in one way. What it leaves is read by `exact` and by the
workers' parser.
"""

import re
from functools import lru_cache

from .brackets import closing_braces, closing_brackets
from .extraction import BOX_START
from .frames import without_frame, without_markdown
from .names import with_commands
from .numbers_in_text import with_plain_numbers
from .phrases import as_symbols
from .statements import as_lists
from .text_groups import TEXT, read_text
from .unicode import from_unicode
from .units import unit_name
from .vectors import as_tuple


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
_FRACTION_SIZES = re.compile(r"\\(?:[dtcs]|nice)frac(?![a-zA-Z])")
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
    (re.compile(r"\\([ZRNQ])(?![a-zA-Z])"), r"\\mathbb{\1}"),
    (re.compile(r"\\root ?(\w|\{[^{}]*\}) ?\\of ?"), r"\\sqrt[\1]"),
    (re.compile(r"(?<![a-zA-Z\\])d([a-z])/d([a-z])(?![a-zA-Z])"), r"\\frac{d\1}{d\2}"),
    (re.compile(r"(?<=\d) ?\\mu(?: ?\\text\{ ?(\w+) ?\}| ?(m|s|g|L|F|A|V)$)"), r"\\text{ u\1\2}"),
    (re.compile(r"(?<=\d) ?([kM]?) ?\\Omega$"), r"\\text{ \1ohm}"),
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
    (re.compile(r" ?\^ ?(?:\{ ?\\circ ?\}|\\circ(?![a-zA-Z]))| ?\\degree(?![a-zA-Z])"), r"^{\\circ}"),
    (
        re.compile(
            r" ?\(? ?(?:\\pmod|\\bmod(?=[^()]{0,9}\))|\(\\mod|\(\\text\{ ?mod ?\}|\(mod(?![a-z])) ?\{? ?(\w+) ?\}? ?\)?"
        ),
        r"\\pmod{\1}",
    ),
    (re.compile(r"\\mod(?![a-zA-Z])"), r"\\bmod "),
    (re.compile(r"(\\[a-zA-Z]+) (?![a-zA-Z])"), r"\1"),
]  # fmt: skip
_UNIT_THEN_NUMBER = re.compile(r"(\\text\{([^{}]*)\}) ?(?=\d)")  # "2 hours 30 minutes"
_DOUBLED_BACKSLASH = re.compile(r"(?<!\\)\\{2,}(?=[a-zA-Z]{2})")  # or more of them: once is enough
_SPACE = re.compile(r"(?<![a-zA-Z0-9,;]) | (?![a-zA-Z0-9.])")
_PERCENT_WORD = re.compile(
    r" ?\\text\{ ?(?:percent|percentage|pct) ?\}| ?(?<![a-zA-Z])(?:percent|pct|percentage)(?![a-zA-Z])"
)


_CALCULATOR_POWER = re.compile(r"(?<=[\w)}])\*\*")
_DEGREE_LETTER = re.compile(r"(?<=[\d)}]) ?\^ ?(?:\{ ?o ?\}|o(?![a-zA-Z(]))")
_UNIT_POWER = re.compile(r"(\\(?:mathrm|text|rm|mathsf|operatorname) ?\{[^{}]{0,40})\^\{(-?\d)\}")
_NOON = re.compile(r"(?<=\d) ?(?:\\[;,: ] ?)?([apAP])\. ?[mM]\.?(?![a-zA-Z])")
_PERIOD_UNIT = re.compile(r"(?<=\d) ([a-zA-Z]{1,3})\.$")
_MAPPING = re.compile(r"^(?:([a-zA-Z]) ?: ?)?([a-zA-Z]) ?\\mapsto ?")


@lru_cache(maxsize=16384)
def canonical(answer: str) -> str:
    r"""`answer` in canonical spelling: without layout (`\left`, sizes, colours, `$`), styles and a final full stop."""
    if not answer.isascii():
        answer = from_unicode(answer)
    answer = as_tuple(without_markdown(as_lists(BOX_START.sub("", answer))))
    answer = " ".join(answer.split())
    if "^{" in answer and _UNIT_POWER.search(answer):
        answer = _UNIT_POWER.sub(r"\1^\2", _UNIT_POWER.sub(r"\1^\2", answer))
    answer = _NOON.sub(r"\\text{ \1.m.}", answer)
    answer = _PERIOD_UNIT.sub(lambda m: rf"\text{{ {m[1]}}}" if unit_name(m[1]) else m[0], answer)
    if r"\begin" not in answer:
        answer = _DOUBLED_BACKSLASH.sub(r"\\", answer)
    answer = _THIN_SPACED_THOUSANDS.sub(lambda m: "," if "," in m[0].replace(r"\,", "") else "", answer)
    answer = _INVISIBLE.sub("", answer)
    answer = with_plain_numbers(answer)
    answer = answer.replace("{,}", ",").replace("{ , }", ",")
    answer = _FRACTION_SIZES.sub(r"\\frac", answer)
    answer = _CALCULATOR_POWER.sub("^", answer)
    answer = _DEGREE_LETTER.sub(r"^{\\circ}", answer)
    answer = with_commands(TEXT.sub(read_text, answer))
    answer = _SPACES.sub(" ", answer).strip()
    for pattern, replacement in _SYNONYMS:
        answer = pattern.sub(replacement, answer)
    answer = _UNIT_THEN_NUMBER.sub(lambda m: m[1] + ", " if unit_name(m[2]) else m[0], " ".join(answer.split()))
    answer = _separate_wide_spaces(answer)
    answer = _with_braces(answer)
    answer = _PERCENT_WORD.sub(r"\\%", answer)
    answer = _SPACE.sub("", answer).strip()
    answer = without_frame(answer)
    answer = _MAPPING.sub(lambda m: f"{m[1] or 'f'}({m[2]})=", answer)
    return as_symbols(_without_needless_braces(answer))


_GROUP = re.compile(r"(?:(?<=[-+=,(\[ ])|^)\{")


def _without_needless_braces(text: str) -> str:
    r"""`-{3}` as `-3` and `{80}^{\circ}` as `80^{\circ}`: braces that are the argument of nothing. Around a sum they
    become brackets."""
    if not _GROUP.search(text) or "\\begin" in text:
        return text
    closing = closing_braces(text)
    out = list(text)
    for match in _GROUP.finditer(text):
        end = closing.get(match.end() - 1)
        if end is None or text[: match.start()].endswith(("_", "^", "\\", "}", "]")):
            continue
        is_sum = re.search(r"(?<!^)[-+=,]", text[match.end() : end]) is not None
        out[match.end() - 1], out[end] = ("(", ")") if is_sum else ("", "")
    return "".join(out)


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
