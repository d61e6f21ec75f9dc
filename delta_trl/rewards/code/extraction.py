"""From a completion to the text of its program. Takes time linear in the length, whatever the text."""

import re
from collections.abc import Iterator
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

from ...responses import after_thoughts


_PYTHON = re.compile(r"\{?[ .\t]*(?:python|pypy|py)[\d.]*(?![\w-])", re.IGNORECASE)
_FENCE = re.compile(r"[ \t]*+(`{3,}+|~{3,}+)([^`\n]*+)$")
_LINE_END = re.compile("\r\n?")
# Between a tag and a fence in one line: `<answer>```python`, or "```</answer>" and "```<|im_end|>", which close a block
_TAG_AT_FENCE = re.compile(r"(?<=\w>)(?=```|~~~)|(?<=```|~~~)(?=</|<\|)")
# What a line may begin with besides its text: quotes and list items
_CONTAINERS = re.compile(r"(?:[ \t>*+-]|\d{1,9}[.)](?=[ \t]))*")
# For each quotation the parser looks at all lines that may lazily belong to it, so that many of them are quadratic work
MOST_QUOTATIONS = 20
_TRIPLE_QUOTE = re.compile(r"\"{3}|'{3}")


def _parser(*rules: str) -> MarkdownIt:
    """CommonMark, reduced to its blocks and to what changes where a fence begins and ends."""
    parser = MarkdownIt("zero").enable(["fence", *rules])
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


_COMMONMARK = _parser("code", "list", "blockquote")
_WITHOUT_QUOTATIONS = _parser("code", "list")
_ANY_INDENTATION = _parser()  # also what a list item's code, if it is not indented, or four spaces make of a fence


def extract_code(completion: str) -> str | None:
    """The last closed fenced block marked as Python after the last `</think>`; else the last block without a language.

    Blocks are those of CommonMark; also fences at any indentation, and fences that begin or end in a line with other text.
    Fences in a docstring belong to the program. None without a block, or if a thought does not end.
    """
    text = after_thoughts(completion)
    if text is None or ("```" not in text and "~~~" not in text):
        return None
    program = unmarked = None
    end = 0  # the line after the program
    text = _LINE_END.sub("\n", text)  # as the parser counts lines
    text = _TAG_AT_FENCE.sub("\n", text)
    commonmark = _COMMONMARK if _quotations(text) <= MOST_QUOTATIONS else _WITHOUT_QUOTATIONS
    for parser, form in ((commonmark, str), (_ANY_INDENTATION, str), (_ANY_INDENTATION, _with_lines_of_their_own)):
        if program is not None and form is not str:
            break
        rewritten = form(text)
        last = None
        for token in _closed_fences(parser, rewritten):
            if _PYTHON.match(token.info):
                last = token
            elif not token.info.strip() and parser is commonmark:
                unmarked = token.content
        if last is not None and _lines(last)[0] >= end:
            program, end = _whole_program(last, rewritten)
    return unmarked if program is None else program


def _quotations(text: str) -> int:
    """How many quotations begin, at the most: lines that are quoted more deeply than the line before them."""
    beginnings = (_CONTAINERS.match(line) for line in text.split("\n"))  # each may be empty
    depths = [0, *(beginning[0].count(">") for beginning in beginnings if beginning)]
    return sum(after > before for before, after in pairwise(depths))


def _closed_fences(parser: MarkdownIt, text: str) -> Iterator[Token]:
    for token in parser.parse(text + "\n"):
        # Its lines are its content and two fences. One that never ends has its content and one fence.
        if token.type == "fence" and len(range(*_lines(token))) == token.content.count("\n") + 2:
            yield token


def _lines(fence: Token) -> tuple[int, int]:
    """The numbers of a block's first line and of the line after it."""
    assert fence.map is not None  # only tokens within a line have no lines of their own
    first, end = fence.map
    return first, end


def _whole_program(token: Token, text: str) -> tuple[str, int]:
    """The program of a block, and the number of the line after it.

    A fence in a docstring is no fence, and a block that begins again with a fence of its own was never closed.
    """
    quote, kept = None, []
    first, end = _lines(token)
    for line in token.content.split("\n")[:-1]:
        if quote is None and _opens_python(line):
            kept.clear()
        else:
            kept.append(line + "\n")
        quote = _open_quote(line, quote)
    if quote is None:
        return "".join(kept), end
    # What closed the block was in a docstring: look for a fence behind the docstring
    lines = text.split("\n")
    column = lines[first].find(token.markup)
    for number, line in enumerate(lines[end - 1 :], end):
        line = line[min(column, len(line) - len(line.lstrip())) :]
        fence = _FENCE.match(line)
        if quote is None and fence and fence[1].startswith(token.markup) and not fence[2].strip():
            return "".join(kept), number
        kept.append(line + "\n")
        quote = _open_quote(line, quote)
    return token.content, end


def _opens_python(line: str) -> bool:
    fence = _FENCE.match(line)
    return bool(fence and len(line) - len(line.lstrip()) < 4 and _PYTHON.match(fence[2]))


def _open_quote(line: str, quote: str | None) -> str | None:
    """The triple quotes that are open after a line of Python, if these were before it."""
    for found in _TRIPLE_QUOTE.findall(line):
        if quote is None:
            quote = found
        elif quote == found:
            quote = None
    return quote


def _with_lines_of_their_own(text: str) -> str:
    """A text in which fences at the ends of lines with other text, such as "Code: ```python", begin lines."""
    lines = []
    for line in text.split("\n"):
        line = line.rstrip()
        before = line[: line.rfind("```") + 3].rstrip("`") if "```" in line else ""
        info = line[len(before) :].lstrip("`")
        if before.strip() and "```" not in before and (not info or _PYTHON.match(info)):
            lines += [before, line[len(before) :]]
        else:
            lines.append(line)
    return "\n".join(lines)
