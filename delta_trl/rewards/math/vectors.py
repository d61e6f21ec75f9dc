r"""Vectors as sums of unit vectors: `2\mathbf{i}-\mathbf{j}` is the tuple (2,-1)."""

import re

from .brackets import depths


_UNIT_VECTOR = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|hat|widehat|vec|overrightarrow) ?"
    r"(?:\{ ?\\?(i|j|k|imath|jmath) ?\}| (i|j|k)|\{ ?\\(?:mathbf|bm) ?\{ ?(i|j|k) ?\} ?\})"
)
_TERM_END = re.compile(rf"(?P<factor>.*?)(?: |\\,|\\cdot)*(?:{_UNIT_VECTOR.pattern}) ?")


def as_tuple(text: str) -> str:
    """`text` with a sum of unit vectors i, j and k as a tuple; any other text as it is."""
    if len(_UNIT_VECTOR.findall(text)) < 2:
        return text
    name, equals, value = text.rpartition("=")
    depth, start, terms = depths(value), 0, []
    for i, character in enumerate(value):
        if character in "+-" and depth[i] == 0 and value[start:i].strip(" $"):
            terms.append(value[start:i])
            start = i
    terms.append(value[start:])
    parts: dict[str, str] = {}
    for term in terms:
        match = _TERM_END.fullmatch(term.strip(" $"))
        if match is None:
            return text
        letter = next((group for group in match.groups()[1:] if group), "")[:1]
        if not letter or letter in parts:
            return text
        factor = match["factor"].replace(" ", "")
        parts[letter] = {"": "1", "+": "1", "-": "-1"}.get(factor, factor.removeprefix("+"))
    letters = "ijk" if "k" in parts else "ij"
    return name + equals + "(" + ",".join(parts.get(letter, "0") for letter in letters) + ")"
