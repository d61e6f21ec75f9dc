"""Whether two parsed answers are the same: by value where they have one, by math-verify's own comparison where not."""

import logging

import sympy as s
from math_verify import verify

from ..reasons import CORRECT, SCORABLE, UNEVALUATED, UNPARSEABLE_ANSWER, UNSCORABLE_GOLD, WRONG
from ..verdicts import COMPARE, NEAR, PERIODIC, READ, Tree, settle
from .reading import parse_latex
from .relations import equal_relations, is_solved, relations_in, same_solutions
from .undone import is_undone
from .values import equal_by_value, has_nearly_nothing, is_near, rounds_to, same_up_to_periods


# It warns that its own time-outs, unneeded here, are off
logging.getLogger("math_verify").setLevel(logging.ERROR)

LONGEST_READING = 500  # characters


class Comparer:
    def __init__(self) -> None:
        self._golds: dict[str, object] = {}

    def parse_gold(self, text: str):
        if text not in self._golds:
            if len(self._golds) > 1000:
                self._golds.clear()
            self._golds[text] = parse_latex(text)
        return self._golds[text]

    def answer(self, question: Tree) -> str:
        """The reason that settles a tree of `verdicts`, or whether a gold can be compared with anything."""
        question = _as_tuples_of_json(question)
        if question[0] == SCORABLE:
            gold = self.parse_gold(question[1])
            return UNSCORABLE_GOLD if gold is None or _is_undefined(gold) else SCORABLE
        if question[0] == READ:
            parsed = parse_latex(question[1])
            return "nothing" if parsed is None else str(parsed)[:LONGEST_READING]
        return settle(question, self._leaf)[0]

    def _leaf(self, leaf: Tree) -> str:
        kind, _, gold_text, answer_text, *rest = leaf
        if kind == COMPARE:
            return self.compare(gold_text, answer_text, is_final=not rest[0])
        exact, decimal = self.parse_gold(gold_text), parse_latex(answer_text)
        if exact is None or decimal is None:
            return UNPARSEABLE_ANSWER
        if kind == PERIODIC:
            return CORRECT if same_up_to_periods(exact, decimal) else WRONG
        test = is_near if kind == NEAR else rounds_to
        return CORRECT if test(exact, decimal, answer_text) else WRONG

    def compare(self, gold_text: str, answer_text: str, is_final: bool = True) -> str:
        """The reason of the verdict; a step on the way to an answer (not `is_final`) may leave work undone."""
        gold = self.parse_gold(gold_text)
        if gold is None or _is_undefined(gold):
            return WRONG  # what makes it scorable was asked before: the answer says less or more
        answer = parse_latex(answer_text)
        if answer is None or _is_undefined(answer):
            return UNPARSEABLE_ANSWER
        if is_final and is_undone(gold, answer):
            return UNEVALUATED
        if _says_nothing(answer) or not equal(gold, answer):
            return WRONG
        return WRONG if has_nearly_nothing(answer) and not has_nearly_nothing(gold) else CORRECT


def _as_tuples_of_json(question):
    return tuple(map(_as_tuples_of_json, question)) if isinstance(question, (list, tuple)) else question


def _is_undefined(parsed) -> bool:
    return isinstance(parsed, s.Basic) and parsed.has(s.nan, s.zoo)


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
        return isinstance(answer, s.FiniteSet) and len(answer.args) == 1 and equal(gold, answer.args[0])
    is_named_set = isinstance(gold, s.Eq) and gold.lhs.is_Symbol and isinstance(gold.rhs, s.Set)
    if is_named_set and relations_in(answer) and answer.free_symbols == {gold.lhs} and not answer.has(s.Eq):
        return bool(same_solutions(gold.rhs, answer))  # x in [1, 2] and 1 <= x <= 2
    if relations := relations_in(gold):
        by_relation = equal_relations(gold, relations, answer, _same_elements)
        if by_relation is not None:
            return by_relation
    elif isinstance(gold, s.Set) and (excluded := relations_in(answer)) and all(isinstance(x, s.Ne) for x in excluded):
        return bool(same_solutions(gold, answer))
    elif any(not is_solved(relation) for relation in relations_in(answer)):
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
