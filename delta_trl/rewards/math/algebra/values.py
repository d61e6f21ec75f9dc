"""Expressions as numbers: whether two of them have the same value, everywhere if they have variables."""

import random
import re
from typing import Any

import sympy as s
from sympy.core.function import AppliedUndef

from ..numerals import DECIMAL_ABSOLUTE, DECIMAL_RELATIVE
from .functions import INTEGER_FUNCTIONS, Gcd, Lcm


# Where functions are compared: each letter gets values of its own, drawn from its name, so that no relation between
# letters (equal distances, order) can hide a difference. The largest size of a draw and whether all are positive: small
# values show most differences and cheaply, large ones that |x-5| is not 5-x, both signs that |x| is not x.
DRAWS = ((2, True), (4, False), (1, True), (3, False), (1, False), (6, True), (12, False), (2000, False), (1500, True),
         (2, True), (30, False), (3, True))  # fmt: skip
INTEGER_DRAWS = (6, 9, 12, 5, 30, 8, 11, 60, 7, 10, 9, 122, 13, 6, 20, 8)
LARGEST_EXACT = 130  # larger points are put in as floating-point numbers: their powers may have no end of digits
ENOUGH_POINTS = 3
# Names that stand for integers where a floor, factorial or binomial depends on them.
INTEGERS = frozenset(["i", "j", "k", "l", "m", "n", "p", "q", "N", "K", "M"])
DIGITS = 200  # closed forms are equal if they agree to 150 digits: a Pell number without its small term is not one
ZERO = s.Float("1e-150", 30)
# What sympy raises for an expression that has no value
NO_VALUE = (TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError, NotImplementedError)


def plain(expression):
    """Functions without a definition as symbols; odd roots of negative numbers as the real ones."""
    functions = expression.atoms(AppliedUndef)
    expression = expression.xreplace({f: s.Symbol(str(f), real=True) for f in functions})
    if expression.has(s.I):
        return expression
    roots = {
        power: -s.Pow(-power.base, power.exp)
        for power in expression.atoms(s.Pow)
        if power.exp.is_Rational and power.exp.q % 2 and power.exp.q > 1 and power.exp.p % 2 and power.base.is_negative
    }
    return expression.xreplace(roots)


def _draw(name: str, index: int, size: int, is_positive: bool):
    """A rational number with no simple relation to that of another letter, the same in every run."""
    draw = random.Random(f"{name}/{index}")
    value = s.Rational(draw.randrange(101, 997), 997) * size + s.Rational(draw.randrange(1, 89), 8999)
    return value if is_positive or draw.random() < 0.5 else -value


def _points(symbols, integers):
    """Values of all letters, one after another; those of `integers` are whole numbers."""
    for index, largest in enumerate(INTEGER_DRAWS):
        whole = integers if integers or index < len(DRAWS) else symbols  # (-1)^n is real at whole numbers only
        yield {
            symbol: s.Integer(random.Random(f"{symbol.name}:{index}").randint(1, largest))
            if symbol in whole
            else _draw(symbol.name, index, *DRAWS[index % len(DRAWS)])
            for symbol in symbols
        }


def values(gold, answer):
    """Pairs of values at points where both are finite, and real unless one of them has an i."""
    gold, answer = plain(gold), plain(answer)
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    is_complex = gold.has(s.I) or answer.has(s.I)
    steps = [node for x in (gold, answer) for node in x.atoms(*INTEGER_FUNCTIONS)]
    stepped = {symbol for node in steps for symbol in node.free_symbols if symbol.name in INTEGERS}
    stepped |= {symbol for node in steps if isinstance(node, (Gcd, Lcm)) for symbol in node.free_symbols}
    powers = set() if is_complex else gold.atoms(s.Pow) | answer.atoms(s.Pow)
    under_roots = [
        power.base for power in powers if power.exp.is_Rational and power.exp.q % 2 == 0 and power.free_symbols
    ]
    for at in _points(symbols, stepped):
        if any(base.evalf(15, subs={k: s.Float(v, 15) for k, v in at.items()}).is_negative for base in under_roots):
            continue  # two roots of negative numbers have a real product, which is none of what is meant
        pair = []
        for expression in (gold, answer):
            if all(value.is_Integer and abs(value) <= LARGEST_EXACT for value in at.values()):
                pair.append(expression.xreplace(at).doit().evalf(25))
            else:
                pair.append(expression.evalf(25, subs={k: s.Float(v, 30) for k, v in at.items()}))
        # Outside the reals, roots and logarithms have branches that nobody means.
        if all(x.is_number and x.is_finite and (is_complex or x.is_real) for x in pair):
            yield tuple(pair)


def equal_by_value(gold, answer) -> bool | None:
    """Whether two expressions have the same value, at many points if they have variables; None: cannot tell.

    Faster than simplifying the difference, finds more identities, and is relative: to math-verify, whose comparison is
    absolute, two tiny numbers are equal.
    """
    if gold == answer:
        return True
    if gold.is_Symbol and answer.is_Symbol:
        return False
    if answer.free_symbols and not gold.free_symbols:
        return False
    try:
        if not (gold.free_symbols or answer.free_symbols or gold.has(AppliedUndef) or answer.has(AppliedUndef)):
            return _same_number(plain(gold).doit(), plain(answer).doit())
        agreements = 0
        for a, b in values(gold.doit(), answer.doit()):
            if abs(a - b) > 1e-12 * abs(a):
                return False
            agreements += 1
        return True if agreements >= ENOUGH_POINTS else None
    except NO_VALUE:
        return None


def _same_number(gold, answer) -> bool | None:
    if gold.is_Rational and answer.is_Rational:
        return gold == answer
    a, b = gold.evalf(30), answer.evalf(30)
    if not (a.is_number and b.is_number and a.is_finite and b.is_finite):
        return bool(a == b) if a.is_infinite and b.is_infinite else None
    size = max(abs(a), abs(b))
    if gold.has(s.Float) or answer.has(s.Float):
        difference = abs((gold - answer).evalf(30))
        if gold.is_Integer or answer.is_Integer:
            return bool(difference == 0)
        return bool(difference <= DECIMAL_ABSOLUTE and difference <= DECIMAL_RELATIVE * abs(a))
    difference = abs((gold - answer).evalf(15, maxn=DIGITS))
    if size < ZERO:  # what evaluation leaves of an expression that is exactly zero has no digit that is right
        return all(x == 0 or getattr(x, "_prec", 99) < 9 for x in (a, b)) or bool(difference <= size * 1e-9)
    return bool(difference <= ZERO * size)


NEARLY_NOTHING = s.Float("1e-100", 15)
NEARLY_NOTHING_BESIDE_LETTERS = s.Float("1e-9", 15)


def has_nearly_nothing(parsed) -> bool:
    """Whether a number so small that no comparison of digits can see it is added to something, or an exponent: 7 + 0.1^9999
    is not 7."""
    parsed = parsed.as_immutable() if isinstance(parsed, s.MatrixBase) else parsed
    least = NEARLY_NOTHING_BESIDE_LETTERS if parsed.free_symbols else NEARLY_NOTHING
    for node in s.preorder_traversal(parsed):
        parts: Any = (
            node.args if isinstance(node, (s.Add, s.exp)) else node.args[1:] if isinstance(node, s.Pow) else ()
        )
        sizes = (abs(part.evalf(5)) for part in parts if not part.free_symbols)
        if any(size.is_number and size.is_finite and 0 < size < least for size in sizes):
            return True
    return False


def is_near(exact, rounded, _: str = "") -> bool:
    """Whether a rounding differs from its exact value by at most a tenth of it; True for what has no value."""
    try:
        a, b = (plain(x).doit().evalf(15) for x in (exact, rounded))
        return bool(abs(a - b) <= abs(a) / 10) if a.is_number and b.is_number else True
    except NO_VALUE:
        return True


def rounds_to(exact, decimal, text: str) -> bool:
    """Whether `text`, a decimal, is the rounding of an exact value to as many decimals as it has."""
    decimals = len(re.sub(r"[^\d.]", "", text).partition(".")[2])
    try:
        difference = abs((plain(exact).doit() - decimal).evalf(15))
        return bool(difference.is_number and difference <= s.Rational(1, 2 * 10**decimals) * s.Rational(1001, 1000))
    except NO_VALUE:
        return False


def same_up_to_periods(gold, answer) -> bool:
    """Whether a + nT and b + nU run over the same values: the same period but for its sign, and starts that differ by
    whole periods."""
    if not (isinstance(gold, s.Expr) and isinstance(answer, s.Expr)):
        return False
    lines = []
    for expression in (gold.doit(), answer.doit()):
        letters = expression.free_symbols
        if len(letters) != 1:
            return False
        (letter,) = letters
        period = s.expand(expression).coeff(letter, 1)
        start = s.simplify(expression - period * letter)
        if start.free_symbols or not period:
            return False
        lines.append((start, period))
    (a, t), (b, u) = lines
    return bool(abs(s.simplify(t / u)) == 1 and s.simplify((a - b) / t).is_integer)
