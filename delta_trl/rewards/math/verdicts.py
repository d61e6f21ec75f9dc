"""A verdict in the making: what text has decided of a pair of answers, and what the workers still have to compare.

A tree of tuples, so that it can be remembered and sent to a worker as it is:

    (VERDICT, rule, reason)             decided
    (COMPARE, rule, gold, answer, step) two texts for the algebra; a step on the way to an answer may leave work undone
    (NEAR, rule, exact, rounded)        whether a rounding is within a tenth of its exact value
    (ROUNDS, rule, exact, decimal)      whether a decimal is the rounding of an exact value
    (PERIODIC, rule, gold, answer)      whether two solutions with one index run over the same values
    (EVERY, rule, parts)                the first part that is not correct decides
    (MATCH, rule, rows)                 a row for each element of the gold: each must meet an element of its own

Standard library only: the workers read this module too.
"""

from collections.abc import Callable, Iterator

from .reasons import CORRECT, WRONG


VERDICT, COMPARE, NEAR, ROUNDS, PERIODIC = "verdict", "compare", "near", "rounds", "periodic"
EVERY, MATCH = "every", "match"
READ = "read"  # (READ, text): what the algebra reads, for explanations

Tree = tuple


def settle(tree: Tree, compare: Callable[[Tree], str]) -> tuple[str, tuple[str, ...]]:
    """(reason, the names of the rules that led to it, the deciding one last). `compare` answers for a leaf that is open."""
    kind, rule, *rest = tree
    if kind == VERDICT:
        return rest[0], (rule,)
    if kind == EVERY:
        names: tuple[str, ...] = ()
        for part in rest[0]:
            reason, names = settle(part, compare)
            if reason != CORRECT:
                return reason, (rule, *names)
        return CORRECT, (rule, *names)
    if kind == MATCH:
        return (CORRECT if _matches(rest[0], compare) else WRONG), (rule,)
    return compare(tree), (rule,)


def _matches(rows: tuple, compare: Callable[[Tree], str]) -> bool:
    """Whether each row can have a column of its own where it is correct."""
    taken: dict[int, int] = {}  # column: row
    known: dict[tuple[int, int], bool] = {}

    def meets(row: int, column: int) -> bool:
        if (row, column) not in known:
            known[row, column] = settle(rows[row][column], compare)[0] == CORRECT
        return known[row, column]

    def place(row: int, tried: set[int]) -> bool:
        for column in range(len(rows[row])):
            if column not in tried and meets(row, column):
                tried.add(column)
                if column not in taken or place(taken[column], tried):
                    taken[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(rows)))


def is_decided(tree: Tree) -> bool:
    """Whether text alone decided."""
    kind, _, *rest = tree
    if kind == VERDICT:
        return True
    if kind == EVERY:
        return all(map(is_decided, rest[0])) or any(part[0] == VERDICT and part[2] != CORRECT for part in rest[0])
    return kind == MATCH and all(is_decided(cell) for row in rest[0] for cell in row)


def is_correct(tree: Tree) -> bool:
    """Whether text alone decided, and found the answer correct."""
    return settle(tree, lambda _: WRONG)[0] == CORRECT


def open_leaves(tree: Tree) -> Iterator[Tree]:
    """What the workers have to compare."""
    kind, _, *rest = tree
    if kind == EVERY:
        for part in rest[0]:
            yield from open_leaves(part)
    elif kind == MATCH:
        for row in rest[0]:
            for cell in row:
                yield from open_leaves(cell)
    elif kind != VERDICT:
        yield tree
