r"""Lists, equations, chains and families, taken apart by their text."""

import re

from .brackets import depths
from .lists import LIST, elements
from .qualifiers import ORDER
from .units import other_text


_EQUALS = re.compile(r"(?<![<>!:=\\])=(?!=)")
_VARIABLE = re.compile(r"\\text|(?<![\\a-zA-Z])[a-zA-Z]")
_COMMANDS = re.compile(r"\\(?!text)[a-zA-Z]+")
_RELATION = re.compile(r"\\(?:le|ge|ne|lt|gt|in|equiv|approx|sim|subset)(?![a-zA-Z])|[<>=]")
_NAME = re.compile(
    r"(?:[a-zA-Z]{1,2}|[A-Z]{3,4}|\\(?!frac|sqrt)[a-zA-Z]+|\\(?:overline|bar|hat|vec|angle|mathbb|operatorname|text)\{[^{}]{1,20}\}"
    r"|\\angle ?[A-Z]{1,3}|[a-z]')"
    r"(?:_\{?[\w,+-]{1,6}\}?|_\{\\text\{[^{}]*\}\})?'*(?:\^\{-1\})?(?:\([a-zA-Z](?:,[a-zA-Z])*\))?"
    r"|\|\|?\\?(?:[A-Z]{1,3}|vec\{\w\}|overline\{\w+\})\|?\|"
    r"|\([a-zA-Z](?:_\w)?(?:, ?[a-zA-Z](?:_\w)?)+\)"  # (x,y)
    r"|(?:P|E|\\mathbb\{[PE]\}|\\operatorname\{(?:Var|Cov)\}|\\(?:Pr|text\{Var\})|Var)(?:_\{?\w+\}?)?[\[(].{1,40}[\])]"
    r"|\\frac\{d(?:\^\{?\d\}?)? ?[a-zA-Z]\}\{d ?[a-zA-Z](?:\^\{?\d\}?)?\}"
    r"|\\text\{[^{}=<>]{1,40}\}"
)


def is_name(text: str) -> bool:
    r"""Whether `text` names what an equation gives a value: `x`, `\theta_1`, `f(x)`, `(x,y)`, `P(X=4)`, `|AB|`, `dx/dt`."""
    return _NAME.fullmatch(text) is not None and not _DENIAL.search(text)


_DENIAL = re.compile(r"(?<![a-zA-Z])(?:not|isn't|no|never|except|without|less|more|least|most|than|about)(?![a-zA-Z])")


def has_variable(text: str) -> bool:
    return bool(_VARIABLE.search(_COMMANDS.sub(" ", text).replace("e^", " ")))


def exact_and_rounded(text: str) -> tuple[str, str]:
    """What stands before ≈ and what behind it."""
    exact, _, rounded = (part.strip() for part in text.partition(r"\approx"))
    return exact, rounded


def has_relation(text: str) -> bool:
    """Whether a sign such as = or < stands outside of brackets."""
    depth = depths(text)
    return any(depth[match.start()] <= 0 for match in _RELATION.finditer(text))


def has_order(text: str) -> bool:
    """Whether an inequality stands outside of brackets."""
    if not ORDER.search(text):
        return False
    depth = depths(text)
    return any(depth[match.start()] <= 0 for match in ORDER.finditer(text))


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
_SOLVED_FAMILY = re.compile(r"\\\{([a-z])[|:] ?\1=([^|:,;]+)[,;] ?([a-z])(\\in ?\\mathbb\{[A-Z]\}[^|:,;]{0,5})\\\}")
_OPEN_FAMILY = re.compile(
    r"(?:[a-z](?:=|\\in\\\{))?([^|:,;=]+)[,;]? ?\(?([a-z])(\\in ?\\mathbb\{[A-Z]\}[^|:,;()]{0,5})\)?"
)


def family(text: str, *, is_open: bool = False) -> tuple[str, str] | None:
    r"""(`2\nu`, `\in\mathbb{Z}`) of `\{2k \mid k \in \mathbb{Z}\}`, `\{x \mid x=2k, k\in\mathbb{Z}\}` and, if it may be
    open, `x=2k, k\in\mathbb{Z}`, whatever the name of the parameter; or None."""
    if match := _SOLVED_FAMILY.fullmatch(text):
        member, letter, where = match[2], match[3], match[4]
    elif (match := _FAMILY.fullmatch(text)) or (is_open and (match := _OPEN_FAMILY.fullmatch(text))):
        member, letter, where = match[1], match[2], match[3]
    else:
        return None
    member = re.sub(rf"\\[a-zA-Z]+|{letter}", lambda m: r"\nu " if m[0] == letter else m[0], member)
    return re.sub(r"(\\nu) (?![a-zA-Z])", r"\1", member).strip(), where.replace(" ", "")


def subject(gold: str) -> str:
    """What of a gold is compared with a value: the last part of a long chain, the member of a family, or all of it."""
    if (found := family(gold)) is not None:
        return found[0]
    parts = equal_parts(gold)
    if len(parts) == 2 and is_name(parts[0]):
        return parts[1]
    return parts[-1] if len(parts) > 2 and not is_several(parts) and not LIST.search(gold) else gold


def is_several(parts: list[str]) -> bool:
    r"""Whether what stands between equals signs is more than one equation: a list, alternatives, text in between."""
    return any(
        not is_name(part)
        and (len(elements(part)) > 1 or other_text(part) or part.count("|") % 2 or has_order(part))
        for part in (parts[:-1] if not other_text(parts[0]) else parts[1:-1])
    ) or parts[-1].count("|") % 2 == 1  # fmt: skip
