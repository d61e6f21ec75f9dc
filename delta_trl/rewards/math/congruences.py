"""Congruences, and the numbers `4k+1` that are another way to write one."""

import re


_CONGRUENCE = re.compile(
    r"(?:(?P<left>[^=<>]*?)\\equiv ?)?(?P<rest>-?\d+(?:(?:, ?| ?\\text\{ ?or ?\})-?\d+)*)"
    r"(?: ?\\pmod\{|(?<=\d)\\b?mod\{? ?)(?P<modulus>\d+)\}?"
)
# Letters that stand for an index over all integers.
INDEX_LETTERS = "klmnjpqt"
_RESIDUE_CLASS = re.compile(
    rf"(?:(?P<left>[a-zA-Z])=)?(?P<modulus>[2-9]|[1-9]\d{{1,3}})\*?(?P<index>[{INDEX_LETTERS}])(?:(?P<sign>[+-])(?P<rest>\d{{1,4}}))?"
)

Congruence = tuple[str, frozenset[int], int]


def congruence(text: str) -> Congruence | None:
    """(left side, residues, modulus), or None."""
    match = _CONGRUENCE.fullmatch(text)
    if match is None or len(text) > 200 or not (modulus := int(match["modulus"])):
        return None
    if not (match["left"] or r"\pmod" in text):
        return None  # 23 mod 5 is a task
    return match["left"] or "", frozenset(int(n) % modulus for n in re.findall(r"-?\d+", match["rest"])), modulus


def residue_class(text: str) -> Congruence | None:
    """The same for `n = 4k+1`: the numbers with residue 1 modulo 4. Without a name it may be an expression in k."""
    match = _RESIDUE_CLASS.fullmatch(text)
    if match is None or match["left"] in (None, match["index"]):
        return None
    modulus, rest = int(match["modulus"]), int((match["sign"] or "") + (match["rest"] or "0"))
    return match["left"], frozenset([rest % modulus]), modulus
