"""What surrounds an answer and is no part of it: a final stop, a leading equals sign, braces, markdown, "Answer:"."""

import re

from .brackets import closing_braces


MOST_ROUNDS = 8
_LEADING = re.compile(
    r"(?:[ :]|=(?!=)|\\(?:approx|therefore|Rightarrow|implies|Longrightarrow|to|rightarrow)(?![a-zA-Z])"
    r"|\\text\{(?![^{}]*(?<![a-zA-Z])(?:not|no|never|except|least|most|less|more|than)(?![a-zA-Z]))"
    r"[a-zA-Z ,']{2,40}(?::|=| is| are) ?\}"
    r"|(?:[Tt]he )?(?:[Ff]inal )?[Aa]nswer(?: is|:| is:) ?)+"
)
_MARKDOWN = re.compile(r"(\*\*|\*|__|`)([^*`]+)\1")
_ONE_SIGN = frozenset("=:")


def without_frame(text: str) -> str:
    """`text` without its frame, however often one stands in another, up to `MOST_ROUNDS` times."""
    for _ in range(MOST_ROUNDS):
        inner = _without_one(text)
        if inner == text:
            break
        text = inner
    return text


def _without_one(text: str) -> str:
    if text in _ONE_SIGN:
        return text
    start = match.end() if (match := _LEADING.match(text)) else 0
    end = len(text)
    while start < end:
        if (
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
        return text[depth : len(text) - depth].strip() if depth else text
    return text


def without_markdown(text: str) -> str:
    """`**73**` as `73`."""
    marked = _MARKDOWN.fullmatch(text.strip())
    return marked[2] if marked else text
