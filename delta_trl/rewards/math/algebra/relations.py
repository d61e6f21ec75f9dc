"""Equations and inequalities, alone and in lists."""

import sympy as s
from sympy.core.function import AppliedUndef
from sympy.logic.boolalg import BooleanFunction

from .values import ENOUGH_POINTS, plain, values


def relations_in(parsed) -> list:
    if isinstance(parsed, s.Rel):
        return [parsed]
    if isinstance(parsed, (BooleanFunction, s.FiniteSet)):
        return [relation for part in parsed.args for relation in relations_in(part)]
    return []


def is_solved(relation) -> bool:
    """A symbol, its absolute value or a function's name against what does not contain it."""
    for side, other in ((relation.lhs, relation.rhs), (relation.rhs, relation.lhs)):
        name = side.args[0] if isinstance(side, s.Abs) else side
        if isinstance(name, s.Mul) and len(name.args) == 2 and name.args[0] == -1:
            name = name.args[1]
        is_name = name.is_Symbol or isinstance(name, (AppliedUndef, s.Tuple)) or str(name).isalpha()
        if is_name and not name.free_symbols & other.free_symbols:
            return True
    return False


def _has_value(relation) -> bool:
    """A symbol against a number."""
    return is_solved(relation) and not (relation.lhs.free_symbols and relation.rhs.free_symbols)


def equal_relations(gold, relations: list, answer, same_elements) -> bool | None:
    """Whether the answer says what the `relations` of the gold say; None: cannot tell. `same_elements` compares two lists
    of any parts."""
    others = relations_in(answer)
    if all(map(_has_value, relations)) and any(not _has_value(relation) for relation in others):
        return False  # 3x > 6 is the question of x > 2
    if isinstance(gold, s.Rel) and isinstance(answer, s.Rel):
        same = _equal_two(gold, answer)
        if same is not None:
            return same
    if isinstance(gold, s.FiniteSet):
        are_two_lists = isinstance(answer, s.FiniteSet) and len(answer.args) == len(gold.args)
        if are_two_lists and len(others) == len(relations) == len(gold.args):
            if same_elements(list(gold.args), list(answer.args)):
                return True
            return same_solutions(gold, answer) or False
        if len(relations) == len(gold.args) and all(map(_has_value, relations)):
            return same_solutions(gold, answer)
        return None
    if not isinstance(gold, s.Eq) and all(map(_has_value, relations)):
        return same_solutions(gold, answer)
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


def same_solutions(gold, answer) -> bool | None:
    """Inequalities of one variable, against others or against a set."""
    if isinstance(answer, s.Eq) and isinstance(answer.rhs, s.Set):
        answer = answer.rhs
    gold, answer = (plain(x) if isinstance(x, s.Basic) else x for x in (gold, answer))
    is_set = isinstance(answer, s.Set) and not relations_in(answer)
    if len(gold.free_symbols | answer.free_symbols) != 1 or (not is_set and gold.free_symbols - answer.free_symbols):
        return None
    try:
        with s.evaluate(True):
            sets = [_solutions(x) for x in (gold, answer)]
            return bool(sets[0] == sets[1] or sets[0].symmetric_difference(sets[1]) == s.EmptySet)
    except (NotImplementedError, TypeError, AttributeError, ValueError):
        return None


def _solutions(statement):
    """What solves an inequality, several that "and" or "or" joins, or a list of them: both of `x > 1, x < 3`, where no
    number is both, as for `x < 1, x > 3`, either."""
    if isinstance(statement, s.FiniteSet) and relations_in(statement):
        sets = [part.doit().as_set() for part in statement.args]
        common = s.Intersection(*sets)
        return common if common != s.EmptySet else s.Union(*sets)
    return statement if isinstance(statement, s.Set) else statement.doit().as_set()
