"""Expressions as numbers: whether two of them have the same value, everywhere if they have variables."""

import sympy as s
from sympy.core.function import AppliedUndef

from ..numerals import DECIMAL_ABSOLUTE, DECIMAL_RELATIVE


# Where functions are compared: both signs and sizes, integers among them, so that |x-5| is not 5-x and max(x, 10) is
# not 10. The first are small: most differences show there, and cheaply.
POINTS = tuple(map(s.Rational, ("-1.37", "0.577", "3", "2.236", "-0.29", "7", "0.125", "-12.25", "1234", "-987.5")))
INTEGER_POINTS = tuple(map(s.Integer, (2, 3, 5, 1, 4, 6, 7, 8, 9, 10, 11, 12, 19, 30, 47, 122)))
LARGEST_EXACT = 130  # larger points are put in as floating-point numbers: their powers may have no end of digits
ENOUGH_POINTS = 3
# Names that stand for integers where a floor, factorial or binomial depends on them.
INTEGERS = frozenset(["i", "j", "k", "l", "m", "n", "p", "q", "N", "K", "M"])
DIGITS = 200  # closed forms are equal if they agree to 150 digits: a Pell number without its small term is not one
ZERO = s.Float("1e-150", 30)


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


def values(gold, answer):
    """Pairs of values at points where both are finite, and real unless one of them has an i."""
    gold, answer = plain(gold), plain(answer)
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    is_complex = gold.has(s.I) or answer.has(s.I)
    steps = [node for x in (gold, answer) for node in x.atoms(s.floor, s.ceiling, s.factorial, s.binomial)]
    stepped = {symbol for node in steps for symbol in node.free_symbols if symbol.name in INTEGERS}
    for index, point in enumerate(INTEGER_POINTS if stepped else POINTS):
        at = {}
        for i, symbol in enumerate(symbols):
            if stepped and symbol not in stepped:
                at[symbol] = POINTS[index % len(POINTS)] + s.Rational(i, 7)
            else:
                at[symbol] = point + (2 * i if point.is_Integer else s.Rational(i, 7))
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
    except (TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError, NotImplementedError):
        return None  # not every expression has a value


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
