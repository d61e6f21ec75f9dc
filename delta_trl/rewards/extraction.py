r"""From a completion to the text of its answer, and from any LaTeX answer to one canonical spelling.

Only the last box counts, after the last closed `</think>`. Boxes directly before it are joined to it where nothing
but spaces, commas, "and" or "or" (and math delimiters) lies between: `\boxed{1}` and `\boxed{2}` is the one answer
`1, 2`. Earlier boxes never count, so spraying candidates cannot pay. `\fbox{7}` and `\boxed 7` are boxes too.
"""

import re
import unicodedata
from functools import lru_cache


NO_BOX = "no box"
UNFINISHED_THOUGHT = "unfinished thought"

# Two backslashes: some models write LaTeX as if inside a JSON string.
_BOX_START = re.compile(r"\\{1,2}(?:boxed|fbox)(?![a-zA-Z])")
_BOX_TOKENS = re.compile(_BOX_START.pattern + r"|\\.|[{}]", re.DOTALL)
_OPENING_BRACE = re.compile(r"\s*\{")
# TeX would box one token; a number or a word is what is meant.
_BRACELESS_CONTENT = re.compile(r"\s*(-?\d[\d,]*(?:\.\d+)?|[a-zA-Z]+)")
_BETWEEN_BOXES = re.compile(
    r"(?:\s|[$,~]|\*\*|\\[()\[\],;:! ]|\\q?quad(?![a-zA-Z])|(?:and|or)(?![a-zA-Z])"
    r"|\\text\s*\{\s*,?\s*(?:and|or)\s*\})*"
)
_LONGEST_SEPARATOR = 64  # characters; longer text between two boxes is prose


def extract_answer(completion: str) -> tuple[str | None, str | None]:
    """The text inside the last box of `completion`, or the reason why there is none.

    Returns `(answer, None)`, or `(None, reason)` with reason `NO_BOX` (no box, or its braces do not close) or
    `UNFINISHED_THOUGHT` (a `<think>` that is never closed). Takes time linear in the length, whatever the text.
    """
    text = completion.rpartition("</think>")[2]
    if "<think>" in text:
        return None, UNFINISHED_THOUGHT
    boxes = _outermost_boxes(text)
    if not boxes:
        return None, NO_BOX
    start, _, content = boxes[-1]
    contents = [content]
    for earlier_start, earlier_end, earlier_content in reversed(boxes[:-1]):
        separator = text[earlier_end:start]
        if len(separator) > _LONGEST_SEPARATOR or not _BETWEEN_BOXES.fullmatch(separator):
            break
        if earlier_content not in contents:
            contents.append(earlier_content)
        start = earlier_start
    return ", ".join(reversed(contents)), None


def _outermost_boxes(text: str) -> list[tuple[int, int, str]]:
    """(start, end, content) of the boxes that lie in no other box, or [] if the last box is never closed."""
    first = _BOX_START.search(text)
    if first is None:
        return []
    closed: list[tuple[int, int, str]] = []
    last_start = -1
    open_braces: list[tuple[int, int] | None] = []  # (start of the box, start of its content), None for other braces
    position = first.start()
    while token := _BOX_TOKENS.search(text, position):
        position = token.end()
        if token.group() == "{":
            open_braces.append(None)
        elif token.group() == "}":
            if open_braces and (box := open_braces.pop()):
                start, content_start = box
                while closed and closed[-1][0] > start:  # boxes inside this one
                    closed.pop()
                closed.append((start, position, _BOX_START.sub("", text[content_start : token.start()]).strip()))
        elif _BOX_START.fullmatch(token.group()):
            last_start = token.start()
            if brace := _OPENING_BRACE.match(text, position):
                position = brace.end()
                open_braces.append((last_start, position))
            elif content := _BRACELESS_CONTENT.match(text, position):
                position = content.end()
                closed.append((last_start, position, content.group(1)))
    if not closed or closed[-1][1] <= last_start:
        return []
    return closed


_GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "zeta": "ζ", "eta": "η", "theta": "θ",
    "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ",
    "phi": "φ", "chi": "χ", "psi": "ψ", "omega": "ω", "Gamma": "Γ", "Delta": "Δ", "Theta": "Θ", "Lambda": "Λ",
    "Phi": "Φ", "Psi": "Ψ", "Omega": "Ω",
}  # fmt: skip
_SYMBOLS = {
    "infty": "∞", "times": "×", "cdot": "·⋅∙", "div": "÷", "pm": "±", "mp": "∓", "le": "≤⩽", "ge": "≥⩾", "ne": "≠",
    "cup": "∪", "cap": "∩", "in": "∈", "setminus": "∖", "emptyset": "∅", "sqrt": "√", "to": "→", "int": "∫",
    "sum": "∑", "prod": "∏", "mathbb{R}": "ℝ", "mathbb{Z}": "ℤ", "mathbb{Q}": "ℚ", "mathbb{N}": "ℕ", "mathbb{C}": "ℂ",
}  # fmt: skip
_COMMAND_OF = {ord(c): f"\\{name} " for table in (_GREEK, _SYMBOLS) for name, chars in table.items() for c in chars}
_COMMAND_OF |= {ord("°"): r"^{\circ}", ord("−"): "-", ord("–"): "-", ord("⁄"): "/", ord("′"): "'"}
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ"
_LOWERED = "₀₁₂₃₄₅₆₇₈₉₊₋"
_RAISED_OR_LOWERED = re.compile(f"[{_RAISED}]+|[{_LOWERED}]+")


def _from_unicode(text: str) -> str:
    """Unicode mathematics as ASCII LaTeX. Plain NFKC would read 2½ as 21/2 and x² as x2, hence the order."""
    text = _RAISED_OR_LOWERED.sub(
        lambda m: ("^{" if m[0][0] in _RAISED else "_{") + unicodedata.normalize("NFKC", m[0]) + "}", text
    )
    text = text.translate(_COMMAND_OF)
    characters = []
    for character in text:
        category = unicodedata.category(character)
        if category == "Cf":  # zero-width and direction marks
            continue
        if category == "No" and unicodedata.decomposition(character).startswith("<fraction>"):
            over, under = unicodedata.normalize("NFKC", character).split("⁄")
            characters.append(rf"\frac{{{over}}}{{{under}}}")
        elif category == "Nd":
            characters.append(str(unicodedata.decimal(character)))
        else:
            characters.append(character)
    return unicodedata.normalize("NFKC", "".join(characters)).translate(_COMMAND_OF)


_INVISIBLE = re.compile(
    r"\\!\s*|\\(?:displaystyle|textstyle|limits|nolimits|mathstrut|[bB]ig{1,2}[lrm]?|boldsymbol|bm|unicode)"
    r"(?![a-zA-Z])|\\(?:left|right)\s*\.|\\(?:left|right)(?![a-zA-Z])|(?<!\\)\$|(?<!\\)\\[()\[\]]"
)
_SPACES = re.compile(r"(?:(?<!\\)\\[,;: ]|\\q?quad(?![a-zA-Z])|(?<!\\)~|\s|\\(?:hspace|vspace)\{[^{}]*\})+")
_THIN_SPACED_THOUSANDS = re.compile(r"(?<=\d)(?:\\[,;: ]|\{,\}|\{\\,\}|,\\!\s*)(?=\d{3}(?!\d))")
_COMMA_IN_BRACES = re.compile(r"\{\s*,\s*\}")
_FRACTION_SIZES = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_TEXT_STYLES = re.compile(r"\\(?:textrm|textbf|textit|textsf|textnormal|mbox|hbox|text|mathrm|mathit)\s*\{")
_UPRIGHT_LETTER = re.compile(r"\\(?:mathrm|mathit)\s*\{\s*([a-zA-Z])\s*\}")
_SYNONYMS = [
    (re.compile(r"\\(?:leq|leqslant)(?![a-zA-Z])"), r"\\le "),
    (re.compile(r"\\(?:geq|geqslant)(?![a-zA-Z])"), r"\\ge "),
    (re.compile(r"\\neq(?![a-zA-Z])|!="), r"\\ne "),
    (re.compile(r"\\varnothing(?![a-zA-Z])|\\\{\s*\\\}"), r"\\emptyset "),
    (re.compile(r"\\mathbb\s*([A-Z])"), r"\\mathbb{\1}"),
    (re.compile(r"\\[lr]angle(?![a-zA-Z])"), lambda m: "(" if m[0][1] == "l" else ")"),
    (re.compile(r"\\log\s*_\s*(?:e|\{\s*e\s*\})(?![a-zA-Z])"), r"\\ln "),
    (re.compile(r"[,;]\s*(?:\\text\{[^{}]*\})?\s*[a-z]\s*\\in\s*\\mathbb\{[ZN]\}\S{0,4}$"), ""),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"[\[(]?\\begin\{array\}\{[^{}]*\}"), r"\\begin{pmatrix}"),
    (re.compile(r"\\end\{array\}[\])]?"), r"\\end{pmatrix}"),
    (re.compile(r"(?<=begin\{|..end\{)[bB]matrix\}"), r"pmatrix}"),
    (re.compile(r"\\(?:lbrace|lbrack)(?![a-zA-Z])"), lambda m: r"\{" if "brace" in m[0] else "["),
    (re.compile(r"\\(?:rbrace|rbrack)(?![a-zA-Z])"), lambda m: r"\}" if "brace" in m[0] else "]"),
    (re.compile(r"\s*\^\s*\{?\s*\\circ\s*\}?|\s*\\degree(?![a-zA-Z])"), r"^{\\circ}"),
    (re.compile(r"\\text\s*\{\s*infinity\s*\}|(?<![a-zA-Z\\])infinity(?![a-zA-Z])", re.IGNORECASE), r"\\infty "),
    (re.compile(r"(\\[a-zA-Z]+)\s+(?![a-zA-Z])"), r"\1"),
]
_DOUBLED_BACKSLASH = re.compile(r"\\{2,}(?=[a-zA-Z])")  # or more of them: once is enough
_LAST_STOP = re.compile(r"(?:\s|\\\\|[.,;])+$")
_SPACE = re.compile(r"(?<![a-zA-Z0-9,;]) | (?![a-zA-Z0-9.])")


@lru_cache(maxsize=16384)
def canonical(answer: str) -> str:
    r"""One spelling for the many that LaTeX and Unicode allow, without changing what is said.

    Drops layout (`\left`, `\displaystyle`, spacing, `$`), turns Unicode mathematics into LaTeX, gives brace-less
    `\frac12` and `\sqrt3` their braces, joins thousands, and strips a final full stop. Linear in the length.
    """
    if not answer.isascii():
        answer = _from_unicode(answer)
    answer = _BOX_START.sub("", answer)
    if r"\begin" not in answer:
        answer = _DOUBLED_BACKSLASH.sub(r"\\", answer)
    answer = _THIN_SPACED_THOUSANDS.sub(lambda m: "," if "," in m[0].replace(r"\,", "") else "", answer)
    answer = _INVISIBLE.sub("", answer)
    answer = _COMMA_IN_BRACES.sub(",", answer)
    answer = _FRACTION_SIZES.sub(r"\\frac", answer)
    answer = _UPRIGHT_LETTER.sub(r"\1", answer)
    answer = _TEXT_STYLES.sub(r"\\text{", answer)
    for pattern, replacement in _SYNONYMS:
        answer = pattern.sub(replacement, answer)
    answer = _SPACES.sub(" ", answer).strip()
    answer = _with_braces(answer)
    answer = _SPACE.sub("", answer)
    if not answer.endswith("..."):  # an ellipsis says that the list goes on
        answer = _LAST_STOP.sub("", answer)
    while answer.startswith("{") and closing_brace(answer, 0) == len(answer) - 1:
        answer = answer[1:-1].strip()
    return answer


def closing_brace(text: str, start: int) -> int:
    """Index of the brace that closes the one at `start`, or -1."""
    depth = 0
    position = start
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return position
        position += 1
    return -1


_BRACE_TAKERS = re.compile(r"\\(frac|sqrt)(?![a-zA-Z])")
_ARGUMENT = re.compile(r"\s*(\\(?!frac|sqrt)[a-zA-Z]+|[a-zA-Z0-9])")
_ROOT_INDEX = re.compile(r"\s*(\[[^\]]*\])")


def _with_braces(text: str) -> str:
    r"""`\frac12` to `\frac{1}{2}`, `\sqrt3` to `\sqrt{3}`: TeX takes one token where there are no braces."""
    out, position = [], 0
    while command := _BRACE_TAKERS.search(text, position):
        out.append(text[position : command.end()])
        position = command.end()
        missing = 2 if command[1] == "frac" else 1
        if missing == 1 and (index := _ROOT_INDEX.match(text, position)):
            out.append(index[1])
            position = index.end()
        while missing and (argument := _ARGUMENT.match(text, position)):
            out.append("{" + argument[1] + "}")
            position = argument.end()
            missing -= 1
        if missing == 2 and (brace := _OPENING_BRACE.match(text, position)):
            end = closing_brace(text, brace.end() - 1)
            argument = _ARGUMENT.match(text, end + 1) if end > 0 else None
            if argument:  # \frac{270}7
                text = text[: argument.start()] + "{" + argument[1] + "}" + text[argument.end() :]
    out.append(text[position:])
    return "".join(out)
