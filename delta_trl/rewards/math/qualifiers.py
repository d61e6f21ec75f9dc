r"""What stands behind a value and says for which letters it holds: `k\in\mathbb{Z}`, "for all x", "for |x|<1"."""

import re
from dataclasses import dataclass

from .lists import LIST


ORDER = re.compile(r"\\(?:le|ge|ne)(?![a-zA-Z])|[<>]")
REGION = re.compile(r"\\(?:cup|cap|infty|mathbb|setminus)|\\\{|[\[(].*,")  # what may be said by inequalities
_LETTERS = r"(?:[a-zA-Z](?:_\{?\w\}?)?(?:(?:, ?| ?and ?)[a-zA-Z](?:_\{?\w\}?)?){0,3})"
_SET = r"\\mathbb\{[A-Z]\}(?:[_^]\{?[^ {}()]{1,8}\}?)?"
_KIND = r"(?:arbitrary|real|complex|positive|negative|nonnegative|non-negative|natural|whole|rational|fixed|suitable)"
_NOUN = r"(?:integers?|constants?|reals?|numbers?|scalars?|parameters?|constants? of integration)"
_LEAD = r"[,;( ]*(?:\\forall )?(?:(?:where|for|with|and|such that|if|when),? ?)?"
_MEMBERSHIP = re.compile(
    rf"{_LEAD}(?:all |any |every |each |some )?(?<![^,;( }}])(?P<letters>{_LETTERS}) ?\\in ?(?P<set>{_SET})[) ]*\.?$"
)
_FOR_ALL = re.compile(
    rf"[,;( ]*(?:for|where|with|and),? ?(?:all|any|every|each|some|an)(?: {_KIND})*(?: {_NOUN})?(?: ?{_LETTERS})?"
    rf"(?:\\in ?{_SET})?[) ]*\.?$|[,;( ]*\\forall ?{_LETTERS}(?: ?\\in ?{_SET})?[) ]*\.?$"
)
_IS_A = re.compile(
    rf"{_LEAD}(?<![a-zA-Z\\]){_LETTERS} ?(?:is|are|being|denotes?)(?: an?| any| some| the)?(?: {_KIND})* {_NOUN}[) ]*\.?$"
)
_CONDITION = re.compile(
    r"(?: ?\(|[,; ]*(?:for|if|when|where|provided that|provided|with) )(?P<condition>[^()]*)\)?\.?$"
)
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
LONGEST = 80  # characters of a qualifier


@dataclass(frozen=True)
class Qualified:
    """A statement, the sets that its letters are said to lie in, and a condition ("" without one)."""

    statement: str
    memberships: frozenset[str]
    condition: str


def split_qualifiers(text: str) -> Qualified:
    """`text` without what is said about its letters behind it. The statement is never empty."""
    if not any(
        word in text for word in (r"\in", "for", r"\forall", "where", "with", "if", "when", " is ", "are", "(")
    ):
        return Qualified(text, frozenset(), "")
    start = max(0, len(text) - LONGEST)
    head, tail = text[:start], " ".join(_TEXT.sub(r" \1 ", text[start:]).split())
    sets, condition, found = set(), "", False
    for _ in range(4):
        if match := _MEMBERSHIP.search(tail):
            sets.add(match["set"])
        elif not (match := _FOR_ALL.search(tail) or _IS_A.search(tail)):
            match = _CONDITION.search(tail)
            if condition or not match or not ORDER.search(match["condition"]) or LIST.search(match["condition"]):
                break
            condition = match["condition"].strip()
        if not (head + tail[: match.start()]).strip() or (head + tail[: match.start()]).endswith(("=", "{", "|", ":")):
            break
        tail, found = tail[: match.start()].rstrip(" ,;"), True
    if not found or not (head + tail).strip():
        return Qualified(text, frozenset(), "")
    return Qualified((head + tail).strip(), frozenset(sets), condition)
