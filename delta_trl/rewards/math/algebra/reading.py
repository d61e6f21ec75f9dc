r"""From canonical spelling to an object of sympy, by math-verify's parser."""

import re

import sympy as s
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig

from ..brackets import depths


_CASE_SENSITIVE = ConversionConfig(lowercase_symbols=False)
_BUILDER = re.compile(r"\\\{((?:[^{}|:]|\{[^{}|:]*\})*)[|:](.*)\\\}")


def parse_latex(text: str):
    """A sympy object, or None. What is written as a sum stays a sum, so that work left undone can be seen."""
    try:
        parsed = latex2sympy(
            readable(text),
            is_real=True,
            convert_degrees=True,
            normalization_config=None,
            conversion_config=_CASE_SENSITIVE,
        )
    except Exception:  # the parser raises bare Exceptions
        return None
    if not isinstance(parsed, (s.Basic, s.MatrixBase)):
        return None
    # The parser takes i for a variable like any other.
    constants = {s.Symbol("i", real=True): s.I, s.Symbol("math{E}", real=True): s.Symbol("E", real=True)}
    if not isinstance(parsed, s.Basic) or parsed.free_symbols & set(constants):
        with s.evaluate(False):
            parsed = parsed.xreplace({k: v for k, v in constants.items() if k in parsed.free_symbols})
    return parsed


def readable(text: str) -> str:
    r"""Canonical spelling as the parser reads it. Set-builder notation becomes its condition, `E` a letter, not e."""
    if builder := _BUILDER.fullmatch(text):
        name, condition = (part.strip() for part in builder.groups())
        name = name.removesuffix(r"\in\mathbb{R}")
        if re.fullmatch(r"[a-zA-Z]", name):
            text = condition
    text = re.sub(r"(?<![a-zA-Z\\])(?<!mathcal\{)E(?![a-zA-Z])", r"\\mathcal{E}", text)
    text = re.sub(r"\\text\{ ?(?:and|or|while|with) ?\}", ",", text)
    text = re.sub(r"(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])", ",", text)
    text = re.sub(r",(?: ?,)+", ",", text)
    text = both_signs(text)
    text = re.sub(r"(?<![\d.])\.(?=\d)", "0.", text)
    text = re.sub(r"(\d+|[a-zA-Z])!(?=\^)", r"(\1!)", text)
    return text.replace(r"\equiv", "=").strip(" ,")


def both_signs(text: str) -> str:
    r"""Each part of a list that has one `\pm` as two parts: the parser takes it at the outermost level only."""
    if r"\pm" not in text or ("=" not in text and not re.search(r"\{[^{}]*\\pm", text)):
        return text
    start, parts, depth = 0, [], depths(text + ",")
    for separator in re.finditer("[,;]", text + ","):
        if depth[separator.start()] <= 0:
            parts.append(text[start : separator.start()])
            start = separator.end()
    split = []
    for part in parts:
        split += [part.replace(r"\pm", sign) for sign in "+-"] if part.count(r"\pm") == 1 else [part]
    return ",".join(split)
