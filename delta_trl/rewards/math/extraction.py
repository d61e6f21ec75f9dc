r"""From a completion to the text of its answer.

Only the last box counts, after the last closed `</think>`. Boxes directly before it are joined to it where nothing
but spaces, commas, "and" or "or" (and math delimiters) lies between: `\boxed{1}` and `\boxed{2}` is the one answer
`1, 2`. Earlier boxes never count, so spraying candidates cannot pay. `\fbox{7}` and `\boxed 7` are boxes too.
Everything here takes time linear in the length, whatever the text.
"""

import re

from ...responses import after_thoughts
from .reasons import NO_BOX, UNFINISHED_THOUGHT


# Two backslashes: some models write LaTeX as if inside a JSON string.
BOX_START = re.compile(r"\\{1,2}(?:boxed|fbox|framebox)(?![a-zA-Z])")
_BOX_TOKENS = re.compile(BOX_START.pattern + r"|\\.|[{}]", re.DOTALL)
_OPENING_BRACE = re.compile(r"\s*\{")
# TeX would box one token; a number or a word is what is meant.
_BRACELESS_CONTENT = re.compile(r"\s*(-?\d[\d,]*(?:\.\d+)?|[a-zA-Z]+)")
_BETWEEN_BOXES = re.compile(
    r"(?:\s|[$,~]|\*\*|\\[()\[\],;:! ]|\\q?quad(?![a-zA-Z])|(?:and|or)(?![a-zA-Z])"
    r"|\\text\s*\{\s*,?\s*(?:and|or)\s*\})*"
)
# "\boxed{1} papers and \boxed{2} bins", "y_1 = \boxed{1}$ and $y_2 = \boxed{2}"
_ENDS_IN_AND = re.compile(
    r"[^.!?\n]*(?<![a-zA-Z])(?:and|or)(?:[\s$,}]|\\[()\[\] ])+(?:[a-zA-Z](?:_\{?\w\}?)?\s*=\s*)?"
)
_LONGEST_SEPARATOR = 64  # characters; longer text between two boxes is prose


def extract_answer(completion: str) -> tuple[str | None, str | None]:
    """The text inside the last box of `completion`, or the reason why there is none.

    Returns `(answer, None)`, or `(None, reason)` with reason `NO_BOX` (no box, or its braces do not close) or
    `UNFINISHED_THOUGHT` (a `<think>` that is never closed).
    """
    text = after_thoughts(completion)
    if text is None:
        return None, UNFINISHED_THOUGHT
    contents = boxed(text)
    return (", ".join(contents), None) if contents else (None, NO_BOX)


def boxed(text: str, near: int = 0) -> list[str]:
    """The contents of the last box and of those joined to it, in order, without repetitions; [] without a box. Boxes
    with fewer than `near` characters between them are joined whatever these are."""
    boxes = _outermost_boxes(text)
    if not boxes:
        return []
    start = boxes[-1][0]
    spans = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        separator = text[box[1] : start]
        if len(separator) > max(near, _LONGEST_SEPARATOR):
            break
        if not (len(separator) < near or _BETWEEN_BOXES.fullmatch(separator) or _ENDS_IN_AND.fullmatch(separator)):
            break
        spans.append(box)
        start = box[0]
    contents = [BOX_START.sub("", text[begin:end]).strip() for _, _, begin, end in reversed(spans)]
    return list(dict.fromkeys(contents))


def _outermost_boxes(text: str) -> list[tuple[int, int, int, int]]:
    """(start, end, start of content, end of content) of the boxes that lie in no other box, or [] if the last box is
    never closed."""
    first = BOX_START.search(text)
    if first is None:
        return []
    closed: list[tuple[int, int, int, int]] = []
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
                closed.append((start, position, content_start, token.start()))
        elif BOX_START.fullmatch(token.group()):
            last_start = token.start()
            if brace := _OPENING_BRACE.match(text, position):
                position = brace.end()
                open_braces.append((last_start, position))
            elif content := _BRACELESS_CONTENT.match(text, position):
                position = content.end()
                closed.append((last_start, position, content.start(1), position))
    if not closed or closed[-1][1] <= last_start:
        return []
    return closed
