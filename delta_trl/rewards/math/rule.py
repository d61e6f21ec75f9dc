"""What a rule is, the list of them, and how a pair of answers is put to them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from .reasons import TOO_COSTLY
from .units import without_units
from .verdicts import EVERY, VERDICT, Tree


MOST_DEPTH = 7  # parts of parts: a list of equations whose sides are tuples needs four


@dataclass(frozen=True)
class Pair:
    """A gold and an answer in canonical spelling; a step is not the answer but stands before it in a chain."""

    gold: str
    answer: str
    is_step: bool = False
    depth: int = 0

    @cached_property
    def bodies(self) -> tuple[str, str]:
        """Both without their units."""
        return without_units(self.gold)[0], without_units(self.answer)[0]

    def inner(self, gold: str, answer: str, *, is_step: bool = False) -> Tree:
        """The verdict on a part."""
        if self.depth >= MOST_DEPTH:
            return (VERDICT, "depth", TOO_COSTLY)
        return decide(Pair(gold, answer, is_step or self.is_step, self.depth + 1))


Decide = Callable[[Pair], str | Tree | None]


@dataclass(frozen=True)
class Rule:
    """A named rule; `examples` are (gold, answer, reason)."""

    name: str
    decide: Decide
    examples: tuple[tuple[str, str, str], ...]

    @property
    def purpose(self) -> str:
        return self.decide.__doc__ or ""


RULES: list[Rule] = []


def rule(name: str, *examples: tuple[str, str, str]) -> Callable[[Decide], Decide]:
    def add(function: Decide) -> Decide:
        RULES.append(Rule(name, function, examples))
        return function

    return add


def decide(pair: Pair) -> Tree:
    """What the first rule that knows says of `pair`."""
    for each in RULES:
        outcome = each.decide(pair)
        if outcome is not None:
            if isinstance(outcome, str):
                return (VERDICT, each.name, outcome)
            return outcome if outcome[1] == each.name else (EVERY, each.name, (outcome,))
    raise AssertionError("the last rule asks the workers")
