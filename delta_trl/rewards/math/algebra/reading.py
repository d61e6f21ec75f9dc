r"""From canonical spelling to an object of sympy, by math-verify's parser."""

import re

import sympy as s
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from sympy.core.function import AppliedUndef

from ..lists import elements, joined_by
from ..qualifiers import ORDER
from .functions import PLACEHOLDERS
from .rewriting import rewritten


_CASE_SENSITIVE = ConversionConfig(lowercase_symbols=False)
_BUILDER = re.compile(r"\\\{((?:[^{}|:]|\{[^{}|:]*\})*)[|:](.*)\\\}")
_PLACEHOLDER = re.compile(r"\\mathfrak\{([A-Z])\}")


def parse_latex(text: str):
    """A sympy object, or None. What is written as a sum stays a sum, so that work left undone can be seen. Inequalities
    that "and" or "or" joins are one statement."""
    text = condition(text)
    if ORDER.search(text) and (link := joined_by(text)):
        parts = [_parsed(part) for part in elements(text)]
        if len(parts) > 1 and all(isinstance(part, s.Rel) or part in (s.true, s.false) for part in parts):
            with s.evaluate(False):
                return (s.And if link == "and" else s.Or)(*parts)
    return _parsed(text)


# The parser would take the letters of a word for factors, and zero times anything is zero.
_WORD_AFTER_ZERO = re.compile(r"(?<![\d.,])0(?:\.0+)? ?(?:[a-zA-Z]{2,}|[a-zA-Z] [a-zA-Z])")


def _parsed(text: str):
    if _WORD_AFTER_ZERO.search(text):
        return None
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
    constants |= {s.Symbol("math{g}", real=True): s.Symbol("gamma", real=True)}
    if not isinstance(parsed, s.Basic) or parsed.free_symbols & set(constants):
        with s.evaluate(False):
            parsed = parsed.xreplace({k: v for k, v in constants.items() if k in parsed.free_symbols})
    return _with_functions(parsed)


def _with_functions(parsed):
    found = {f: _PLACEHOLDER.fullmatch(str(f.func)) for f in parsed.atoms(AppliedUndef)}
    known = {f: PLACEHOLDERS[m[1]](*f.args) for f, m in found.items() if m and m[1] in PLACEHOLDERS}
    if not known:
        return parsed
    with s.evaluate(False):
        return parsed.xreplace(known)


def condition(text: str) -> str:
    r"""Set-builder notation as its condition."""
    if builder := _BUILDER.fullmatch(text):
        name, said = (part.strip() for part in builder.groups())
        name = name.removesuffix(r"\in\mathbb{R}")
        if re.fullmatch(r"[a-zA-Z]|\([a-zA-Z](?:, ?[a-zA-Z])+\)", name):
            return said
    return text


def readable(text: str) -> str:
    r"""Canonical spelling as the parser reads it: lists with commas, and without what it reads wrongly."""
    text = re.sub(r"\\text\{ ?(?:and|or|while|with) ?\}", ", ", text)
    text = re.sub(r"(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])", ", ", text)
    text = re.sub(r",(?: ?,)+", ", ", text)
    return rewritten(text).strip(" ,")
