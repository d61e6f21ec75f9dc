r"""Several statements on several lines, `\begin{cases}`, `\begin{aligned}`: a list of them with commas."""

import re


_LINE_BREAK = re.compile(r" *(?:\$ *)?\n[\s$]*")
_CONTINUES = re.compile(
    r"(?:[-+*/=<>,;:({\[|&^_\\]|\\(?:cdot|times|le|ge|in|cup|cap|text\{ ?(?:and|or) ?\})|(?<![a-zA-Z])(?:and|or))$"
)
_CONTINUED = re.compile(
    r"[-+*/=<>,;:)}\]|&^_]|\\(?:cdot|times|le|ge|in|cup|cap|end|text\{|q?quad)(?![a-zA-Z])|(?:and|or)(?![a-zA-Z])"
)
_SYSTEM = re.compile(
    r"(?:\\left)? ?(?:\\\{)? ?\\begin ?\{"
    r"(?P<name>cases|dcases|rcases|aligned|align\*?|alignedat|gathered|gather\*?|split|array|eqnarray\*?)\}"
    r"(?P<columns> ?\{[lcr| @{}]*\})?(?P<body>(?:(?!\\begin)[\s\S])*?)\\end ?\{(?P=name)\} ?(?:\\right ?\.?)?"
)
_ROW_BREAK = re.compile(r"\\\\\*?(?: ?\[ ?-?\d+ ?\w+ ?\])?|\\cr(?![a-zA-Z])|\\newline(?![a-zA-Z])")
_RELATION = re.compile(r"=|[<>]|\\(?:leq?|geq?|neq?|leqslant|geqslant|lt|gt|in|equiv|approx)(?![a-zA-Z])")
_CONDITION_WORD = re.compile(
    r"\\(?:text|mathrm|mbox) ?\{ ?,? ?(?:if|for|when|where|as)? ?\}|(?<![a-zA-Z\\])(?:if|for|when)(?![a-zA-Z])"
)


def as_lists(text: str) -> str:
    """`text` with its lines and systems of equations as lists. Matrices stay."""
    if "\n" in text and r"\begin" not in text:
        text = _joined_lines(text)
    if r"\begin" in text:
        text = _SYSTEM.sub(_system, text)
    if "\\\\" in text and r"\begin" not in text:
        text = ", ".join(row.strip(" ,") for row in _ROWS.split(text) if row.strip(" ,"))
    return text


# Outside an environment two backslashes may be those of a JSON string: before a name of two letters they are one.
_ROWS = re.compile(r"\\\\(?: ?\[ ?-?\d+ ?\w+ ?\]|(?![a-zA-Z]{2}|[\\()\[\]{},;!:%$]))")


def _joined_lines(text: str) -> str:
    lines = [line for line in _LINE_BREAK.split(text) if line.strip(" $")]
    out, depth = "", 0
    for line in lines:
        line = line.strip()
        separate = out and depth == 0 and not _CONTINUES.search(out[-20:]) and not _CONTINUED.match(line.lstrip("$ "))
        out += (", " if separate else " " if out else "") + line
        depth += line.count("{") - line.count("}")
    return out


def _system(match: re.Match) -> str:
    rows = [row.strip() for row in _ROW_BREAK.split(match["body"]) if row.strip(" ,")]
    cells = [[cell.strip(" ,") for cell in row.split("&")] for row in rows]
    name = match["name"]
    if name.endswith("cases") or (name == "array" and r"\{" in match[0][:12]):
        filled = [[cell for cell in row if cell] for row in cells]
        if all(len(row) == 2 and _is_piece(row) for row in filled) and filled:
            pieces = (f"({row[0]},{_CONDITION_WORD.sub('', row[1]).strip()})" for row in filled)
            return r"\{" + ", ".join(pieces) + r"\}"
    elif name == "array" and not all(_RELATION.search(row) for row in rows):
        return match[0]
    out = ""
    for row in ("".join(parts) for parts in cells):
        continues = row.startswith("=") or not out
        out += ("" if continues else ", ") + row
    return out


def _is_piece(row: list[str]) -> bool:
    """A value and its condition, not the two sides of an equation."""
    return not _RELATION.search(row[0]) and not row[1].startswith(("=", "<", ">", "\\le", "\\ge"))
