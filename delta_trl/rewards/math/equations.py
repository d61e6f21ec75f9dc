r"""Lists, equations, chains and families, taken apart by their text."""

import re

from .brackets import depths
from .limits import undone_operators
from .numerals import literal
from .units import other_text


_EQUALS = re.compile(r"(?<![<>!:=\\])=(?!=)")
_VARIABLE = re.compile(r"\\text|(?<![\\a-zA-Z])[a-zA-Z]")
_COMMANDS = re.compile(r"\\(?!text)[a-zA-Z]+")
_RELATION = re.compile(r"\\(?:le|ge|ne|lt|gt|in|equiv|approx|sim|subset)(?![a-zA-Z])|[<>=]")
ORDER = re.compile(r"\\(?:le|ge|ne)(?![a-zA-Z])|[<>]")
_LINK = r"\\text\{ ?(?:and|or|while|with) ?\}|(?<![a-zA-Z])(?:and|or)(?![a-zA-Z])"
LIST = re.compile(rf"[,;]|{_LINK}")
_SEPARATOR = re.compile(rf"(?:[,;] ?|{_LINK})+")
_NAME = re.compile(r"(?:[a-zA-Z]|\\[a-zA-Z]+)(?:_\{?\w+\}?)?'*(?:\^\{-1\})?(?:\([a-zA-Z](?:,[a-zA-Z])*\))?")


def has_variable(text: str) -> bool:
    return bool(_VARIABLE.search(_COMMANDS.sub(" ", text).replace("e^", " ")))


def elements(text: str) -> list[str]:
    """The parts between the commas, semicolons, "and" and "or" that lie in no brackets."""
    start, parts, depth = 0, [], depths(text)
    for separator in _SEPARATOR.finditer(text):
        if depth[separator.start()] == 0:
            parts.append(text[start : separator.start()])
            start = separator.end()
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def equal_parts(text: str) -> list[str]:
    """The parts between the equals signs that lie in no brackets."""
    if "=" not in text:
        return [text]
    start, parts, depth = 0, [], depths(text)
    for sign in _EQUALS.finditer(text):
        if depth[sign.start()] <= 0:
            parts.append(text[start : sign.start()].strip())
            start = sign.end()
    return [*parts, text[start:].strip()]


_FAMILY = re.compile(r"\\\{((?:[^{}|:]|\{[^{}|:]*\})+)[|:] ?([a-zA-Z])(\\in[^|:]*)\\\}")


def family(text: str) -> tuple[str, str] | None:
    r"""(`2\nu`, `\in\mathbb{Z}`) of `\{2k \mid k \in \mathbb{Z}\}`, whatever the name of the parameter; or None."""
    match = _FAMILY.fullmatch(text)
    if match is None:
        return None
    member = re.sub(rf"(?<![a-zA-Z\\]){match[2]}(?![a-zA-Z])", r"\\nu ", match[1])
    return re.sub(r"(\\nu) (?![a-zA-Z])", r"\1", member), match[3]


def subject(gold: str) -> str:
    """What of a gold is compared with a value: the last part of a long chain, the member of a family, or all of it."""
    if (found := family(gold)) is not None:
        return found[0]
    parts = equal_parts(gold)
    return parts[-1] if len(parts) > 2 and not _is_several(parts) and not LIST.search(gold) else gold


def candidates(gold: str, answer: str) -> tuple[str, list[str]] | None:
    r"""The gold and the parts of the answer that must all equal it; None for an answer that says nothing (`y = y`).

    Takes `x = 3` apart against `3` and against `x = 3`, chains such as `x = 1 + 2 = 3`, and what is only a rounding of
    the answer before it, as in `\frac{1}{3} \approx 0.33`. Everything else stays whole.
    """
    if (gold_family := family(gold)) is not None:
        found = family(answer)
        return (gold_family[0], [found[0]]) if found and found[1] == gold_family[1] else None
    exact, _, rounded = (part.strip() for part in answer.partition(r"\approx"))
    if rounded and exact:
        value, approximation = literal(exact), literal(rounded)
        if value and approximation and abs(value.value - approximation.value) > abs(value.value) / 10:
            return None
        answer = f"{exact}={rounded}" if _NAME.fullmatch(exact) else exact
    parts, gold_parts = equal_parts(answer), equal_parts(gold)
    gold_name = gold_parts[0] if len(gold_parts) > 1 and _NAME.fullmatch(gold_parts[0]) else None
    gold_is_chain = len(gold_parts) > 1 and not _is_several(gold_parts)
    if len(parts) == 1:
        is_value = gold_name or len(gold_parts) > 2
        if is_value and gold_is_chain and not LIST.search(gold) and not _RELATION.search(answer):
            return gold_parts[-1], [answer]
        return gold, [answer]
    if _is_several(parts):
        return gold, [answer]
    if len(set(parts)) < len(parts):
        return None
    if gold_name is not None and gold_name == parts[0] and not LIST.search(gold):
        return gold_parts[-1], parts[-1:]
    if len(gold_parts) > 1 or _RELATION.search(gold):
        return gold, [answer]
    if has_variable(parts[0]) or undone_operators(parts[0]):
        return gold, parts[-1:]
    steps = [step for step in parts[:-1] if not (has_variable(step) or undone_operators(step))]
    return gold, steps + parts[-1:]


def _is_several(parts: list[str]) -> bool:
    r"""Whether what stands between equals signs is more than one equation: a list, alternatives, text in between."""
    return any(
        len(elements(part)) > 1 or other_text(part) or part.count("|") % 2 or ORDER.search(part)
        for part in (parts[:-1] if not other_text(parts[0]) else parts[1:-1])
    ) or parts[-1].count("|") % 2 == 1  # fmt: skip
