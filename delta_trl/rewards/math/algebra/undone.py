"""Work that an answer leaves undone, in the tree of its parts."""

import sympy as s
from sympy.core.function import AppliedUndef


# What asks for work, unless the gold has it too.
_TASKS = (s.Mod, s.re, s.im, s.conjugate, s.arg, s.Integral, s.Derivative, s.Sum, s.Product, s.Limit, s.Determinant,
          s.Trace, s.Transpose, s.Inverse, s.MatAdd, s.MatPow, s.Intersection)  # fmt: skip


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
