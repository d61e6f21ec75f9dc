"""Compares two LaTeX answers as mathematics, for `worker.py`: parsed by math-verify's parser, equal by value where they
have one, by math-verify's own comparison where not. Imports sympy; no other module of the package does."""

import logging
import re

import sympy as s
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify
from sympy.core.function import AppliedUndef
from sympy.logic.boolalg import BooleanFunction


# Where functions are compared: both signs and sizes, integers among them, so that |x-5| is not 5-x and max(x, 10) is
# not 10. The first are small: most differences show there, and cheaply.
POINTS = tuple(map(s.Rational, ("-1.37", "0.577", "3", "2.236", "-0.29", "7", "0.125", "-12.25", "1234", "-987.5")))
INTEGER_POINTS = tuple(map(s.Integer, (2, 3, 5, 1, 4, 6, 7, 8, 9, 10, 11, 12, 19, 30, 47, 122)))
LARGEST_EXACT = 130  # larger points are put in as floating-point numbers: their powers may have no end of digits
ENOUGH_POINTS = 3
# Names that stand for integers where a floor, factorial or binomial depends on them.
INTEGERS = frozenset("i j k l m n p q N K M".split())
DIGITS = 200  # closed forms are equal if they agree to 150 digits: a Pell number without its small term is not one
ZERO = s.Float("1e-150", 30)
# A decimal against an exact value, as in numerals.py, which this script does not import.
DECIMAL_ABSOLUTE = 5e-7
DECIMAL_RELATIVE = 1e-5

_CASE_SENSITIVE = ConversionConfig(lowercase_symbols=False)
_BUILDER = re.compile(r"\\\{((?:[^{}|:]|\{[^{}|:]*\})*)[|:](.*)\\\}")
# What asks for work, unless the gold has it too.
_TASKS = (s.Mod, s.re, s.im, s.conjugate, s.arg, s.Integral, s.Derivative, s.Sum, s.Product, s.Limit, s.Determinant,
          s.Trace, s.Transpose, s.Inverse, s.MatAdd, s.MatPow, s.Intersection)  # fmt: skip

logging.disable(logging.WARNING)  # math-verify warns that its own time-outs, unneeded here, are off


class Comparer:
    def __init__(self) -> None:
        self._golds: dict[str, object] = {}

    def parse(self, text: str):
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

    def parse_gold(self, text: str):
        if text not in self._golds:
            if len(self._golds) > 1000:
                self._golds.clear()
            self._golds[text] = self.parse(text)
        return self._golds[text]

    def compare(self, gold_text: str, answer_text: str | None, is_final: bool = True) -> str:
        """The reason of the verdict. An answer of None asks whether the gold can be compared with anything; a step on
        the way to an answer (not `is_final`) may leave work undone."""
        gold = self.parse_gold(gold_text)
        if gold is None or _is_undefined(gold):
            return "unscorable gold"
        if answer_text is None:
            return "scorable"
        answer = self.parse(answer_text)
        if answer is None or _is_undefined(answer):
            return "unparseable answer"
        if is_final and is_undone(gold, answer):
            return "unevaluated"
        if _says_nothing(answer):
            return "wrong"
        return "correct" if equal(gold, answer) else "wrong"


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
    if r"\pm" not in text or "=" not in text and not re.search(r"\{[^{}]*\\pm", text):
        return text
    depth, start, parts = 0, 0, []
    for position, character in enumerate(text + ","):
        depth += (character in "([{") - (character in ")]}")
        if character in ",;" and depth <= 0:
            parts.append(text[start:position])
            start = position + 1
    split = []
    for part in parts:
        split += [part.replace(r"\pm", sign) for sign in "+-"] if part.count(r"\pm") == 1 else [part]
    return ",".join(split)


def _is_undefined(parsed) -> bool:
    return isinstance(parsed, s.Basic) and parsed.has(s.nan, s.zoo)


def _is_number(value) -> bool:
    return isinstance(value, s.Rational) or (isinstance(value, s.Pow) and value.exp == 1 and _is_number(value.base))


def is_undone(gold, answer) -> bool:
    """Whether the answer leaves work undone that the gold does not: sums and products of plain numbers, also inside
    functions, where the gold is made of numbers; functions of constants that ask for a value; operations on matrices
    and sets."""
    gold, answer = (x.as_immutable() if isinstance(x, s.MatrixBase) else x for x in (gold, answer))
    gold_nodes = list(s.preorder_traversal(gold))
    nodes = list(s.preorder_traversal(answer))
    gold_kinds = {type(node) for node in gold_nodes}
    if any(type(node) not in gold_kinds and _is_task(node) for node in nodes):
        return True
    if any(isinstance(node, AppliedUndef) and type(node) not in gold_kinds for node in nodes):
        return not isinstance(gold, s.Rel)
    if gold.free_symbols:
        return False
    return any(map(_is_plain_work, nodes)) and not any(map(_is_plain_work, gold_nodes))


def _is_task(node) -> bool:
    if isinstance(node, (s.floor, s.ceiling, s.Max, s.Min, s.Abs)):
        return not node.free_symbols
    if isinstance(node, s.MatMul):  # a matrix with a number before it is an answer
        return sum(isinstance(part, s.MatrixBase) or getattr(part, "is_Matrix", False) for part in node.args) > 1
    if isinstance(node, s.Pow):
        return isinstance(node.base, s.MatrixBase) or getattr(node.base, "is_Matrix", False)
    if isinstance(node, (s.Union, s.Complement)):
        return all(isinstance(part, s.FiniteSet) for part in node.args)
    return isinstance(node, _TASKS)


def _is_plain_work(node) -> bool:
    """A sum of plain numbers, or a product of several."""
    if isinstance(node, s.Add):
        return (len(node.args) >= 2 and all(map(_is_number, node.args))) or 0 in node.args
    if isinstance(node, s.Mul):
        under = [a for a in node.args if isinstance(a, s.Pow) and a.exp == -1 and isinstance(a.base, s.Rational)]
        if sum(isinstance(a, s.Add) and a.has(s.I) and not a.free_symbols for a in node.args) >= 2:
            return True
        over = [a for a in node.args if _is_number(a) and a != -1]
        rest = len(node.args) - len(under) - sum(map(_is_number, node.args))
        if any(a.base.q != 1 for a in under) or (under and any(a.is_Rational and a.q != 1 for a in over)):
            return rest == 0
        return rest == 0 and (len(over) >= 2 or len(under) >= 2)
    return False


def _says_nothing(parsed) -> bool:
    """Relations without a variable or true for every value: math-verify takes any two of them for equal."""
    if isinstance(parsed, s.Rel):
        try:
            return not s.simplify(parsed.lhs - parsed.rhs).free_symbols
        except (TypeError, AttributeError, ValueError):
            return False  # sides that cannot be subtracted, such as x = an interval
    return not isinstance(parsed, s.MatrixBase) and any(_says_nothing(part) for part in parsed.args)


def equal(gold, answer) -> bool:
    """Whether two parsed answers are the same."""
    if isinstance(gold, s.MatrixBase) or isinstance(answer, s.MatrixBase):
        if not (isinstance(gold, s.MatrixBase) and isinstance(answer, s.MatrixBase)):
            return bool(verify(gold, answer, timeout_seconds=None))
        return gold.shape == answer.shape and all(map(equal, gold.flat(), answer.flat()))
    if isinstance(answer, s.FiniteSet) and isinstance(gold, (s.Tuple, s.Interval)):
        answer = s.Tuple(*getattr(answer, "_unsorted_args", answer.args))  # a list without brackets, in its order
    if (pair := _as_tuples(gold, answer)) is not None:
        return len(pair[0]) == len(pair[1]) and all(map(equal, *pair))
    if (
        isinstance(gold, s.FiniteSet)
        and isinstance(answer, s.FiniteSet)
        and not (gold.has(s.Rel) or answer.has(s.Rel))
    ):
        return _same_elements(list(gold.args), list(answer.args))
    if isinstance(gold, s.Expr) and isinstance(answer, s.Expr):
        by_value = equal_by_value(gold, answer)
        return by_value if by_value is not None else bool(verify(gold, answer, timeout_seconds=None))
    if isinstance(gold, s.Expr) and isinstance(answer, s.Set):
        return False  # {5} and [5,5] are not 5
    if relations := _relations(gold):
        by_relation = _equal_relations(gold, relations, answer)
        if by_relation is not None:
            return by_relation
    elif any(not is_solved(relation) for relation in _relations(answer)):
        return False  # x^2 = 4 is the question of 2, -2
    return bool(verify(gold, answer, timeout_seconds=None))


def _as_tuples(gold, answer):
    """The parts of two tuples, or of two intervals of one kind: an open interval and a pair look the same."""
    parts = []
    for parsed in (gold, answer):
        if isinstance(parsed, s.Tuple):
            parts.append(tuple(parsed))
        elif isinstance(parsed, s.Interval):
            parts.append((parsed.start, parsed.end))
        else:
            return None
    kinds = [(x.left_open, x.right_open) if isinstance(x, s.Interval) else (True, True) for x in (gold, answer)]
    return parts if [*map(str, kinds[0])] == [*map(str, kinds[1])] else ((), (0,))


def _same_elements(gold: list, answer: list) -> bool:
    if len(gold) != len(answer):
        return False
    for part in gold:
        match = next((i for i, other in enumerate(answer) if equal(part, other)), None)
        if match is None:
            return False
        answer.pop(match)
    return True


def _relations(parsed) -> list:
    if isinstance(parsed, s.Rel):
        return [parsed]
    if isinstance(parsed, (BooleanFunction, s.FiniteSet)):
        return [relation for part in parsed.args for relation in _relations(part)]
    return []


def is_solved(relation) -> bool:
    """A symbol, its absolute value or a function's name against what does not contain it."""
    for side, other in ((relation.lhs, relation.rhs), (relation.rhs, relation.lhs)):
        name = side.args[0] if isinstance(side, s.Abs) else side
        if isinstance(name, s.Mul) and len(name.args) == 2 and name.args[0] == -1:
            name = name.args[1]
        if name.is_Symbol or isinstance(name, (AppliedUndef, s.Tuple)) or str(name).isalpha():
            if not name.free_symbols & other.free_symbols:
                return True
    return False


def _has_value(relation) -> bool:
    """A symbol against a number."""
    return is_solved(relation) and not (relation.lhs.free_symbols and relation.rhs.free_symbols)


def _equal_relations(gold, relations: list, answer) -> bool | None:
    others = _relations(answer)
    if all(map(_has_value, relations)) and any(not _has_value(relation) for relation in others):
        return False  # 3x > 6 is the question of x > 2
    if isinstance(gold, s.Rel) and isinstance(answer, s.Rel):
        same = _equal_two(gold, answer)
        if same is not None:
            return same
    if isinstance(gold, s.FiniteSet):
        if isinstance(answer, s.FiniteSet) and len(others) == len(answer.args) == len(relations) == len(gold.args):
            return _same_elements(list(gold.args), list(answer.args))
        if isinstance(answer, (s.Union, s.Complement)) and len(relations) == len(gold.args):
            return _same_solutions(s.Or(*relations), answer)
        return None
    if not isinstance(gold, s.Eq) and all(map(_has_value, relations)):
        return _same_solutions(gold, answer)
    return None


def _equal_two(gold, answer) -> bool | None:
    """Two equations or inequalities: one is a multiple of the other, by a negative number if the sides are swapped."""
    flipped = {s.StrictGreaterThan: s.StrictLessThan, s.GreaterThan: s.LessThan}
    kinds, sides = [], []
    for relation in (gold, answer):
        left, right = relation.lhs, relation.rhs
        if not (isinstance(left, s.Expr) and isinstance(right, s.Expr)):
            return None
        kind = type(relation)
        if kind in flipped:
            kind, left, right = flipped[kind], right, left
        kinds.append(kind)
        sides.append(left - right)
    if gold.has(s.Abs) != answer.has(s.Abs) and all(map(_has_value, (gold, answer))):
        return None
    if kinds[0] is not kinds[1] or sides[0].free_symbols != sides[1].free_symbols:
        return False
    ratios = [a / b for a, b in values(*sides) if abs(b) > 1e-9]
    if len(ratios) < ENOUGH_POINTS:
        return None
    first = ratios[0]
    if abs(first) < 1e-9 or (kinds[0] in flipped.values() and not first > 0):
        return False
    return all(abs(ratio / first - 1) < 1e-9 for ratio in ratios)


def _same_solutions(gold, answer) -> bool | None:
    """Inequalities of one variable, against others or against a set."""
    if isinstance(answer, s.Eq) and isinstance(answer.rhs, s.Set):
        answer = answer.rhs
    gold, answer = (_plain(x) if isinstance(x, s.Basic) else x for x in (gold, answer))
    if len(gold.free_symbols) != 1 or (not isinstance(answer, s.Set) and gold.free_symbols != answer.free_symbols):
        return None
    try:
        with s.evaluate(True):
            sets = [x if isinstance(x, s.Set) else x.doit().as_set() for x in (gold, answer)]
            return bool(sets[0] == sets[1] or sets[0].symmetric_difference(sets[1]) == s.EmptySet)
    except (NotImplementedError, TypeError, AttributeError, ValueError):
        return None


def _plain(expression):
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
    gold, answer = _plain(gold), _plain(answer)
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
            return _same_number(_plain(gold).doit(), _plain(answer).doit())
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
