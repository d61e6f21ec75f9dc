r"""Why an answer was accepted or refused: what each side was read as, and the rule that decided."""

from dataclasses import dataclass
from typing import Any

from ..pool import POOL
from .extraction import extract_answer
from .golds import canonical_gold, gold_questions
from .grading import Verdict, ask_workers, decide_texts, grade
from .reasons import MEANING
from .rules import RULES
from .spelling import canonical
from .verdicts import READ, Tree, open_leaves, settle


@dataclass(frozen=True)
class Explanation:
    """How one answer was graded.

    Attributes:
        score: 1.0 (correct), 0.0, or None if the gold cannot be scored.
        reason: One of `REASONS`.
        gold, answer: Both as they were given; the answer is None without a box.
        gold_read, answer_read: Their canonical spelling, "" for none.
        rules: The names of the rules that led to the verdict, the deciding one last.
        why: What the deciding rule is for, in a sentence or two.
        compared: What the algebra compared, as (gold, answer) pairs of sympy expressions; empty where text decided.
    """

    score: float | None
    reason: str
    gold: str
    answer: str | None
    gold_read: str
    answer_read: str
    rules: tuple[str, ...]
    why: str
    compared: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        lines = [
            f"verdict   {self.reason} (score {self.score})",
            f"          {MEANING[self.reason]}",
            f"gold      {self.gold}",
            f"  read as {self.gold_read or 'nothing'}",
            f"answer    {self.answer if self.answer is not None else 'none'}",
            f"  read as {self.answer_read or 'nothing'}",
            f"rule      {' > '.join(self.rules)}",
            f"          {self.why}",
        ]
        lines += [f"algebra   {gold}\n  against {answer}" for gold, answer in self.compared]
        return "\n".join(lines)


MOST_COMPARED = 4  # pairs that are shown


def explain(gold: str, answer: str | None = None, *, completion: str | None = None) -> Explanation:
    r"""How an answer is graded against a gold, and why.

    >>> explain("0.5", r"\frac12").rules
    ('numbers',)

    Args:
        gold: A gold answer as in a dataset.
        answer: What stands in the box.
        completion: A whole completion instead, whose last box is taken.

    Raises:
        ValueError: Both or neither of `answer` and `completion`.
    """
    if (answer is None) == (completion is None):
        raise ValueError("explain() needs either the answer (the text in the box) or a completion.")
    text = completion if completion is not None else rf"\boxed{{{answer}}}"
    (verdict,) = grade([text], [gold])
    gold_read = canonical_gold(gold)
    found, reason = extract_answer(text)
    given = answer if answer is not None else found
    answer_read = canonical(found) if found is not None else ""
    if verdict.score is None:
        return _explanation(verdict, gold, given, gold_read, answer_read, ("gold",), _why_unscorable(gold_read), ())
    if reason is not None:
        return _explanation(verdict, gold, given, gold_read, answer_read, ("box",), MEANING[reason], ())
    tree = decide_texts(gold_read, found)
    _, rules = settle(tree, lambda leaf: ask_workers([leaf])[leaf])
    purposes = {rule.name: " ".join(rule.purpose.split()) for rule in RULES}
    why = purposes.get(rules[-1], MEANING[verdict.reason])
    return _explanation(verdict, gold, given, gold_read, answer_read, rules, why, _compared(tree))


def _explanation(
    verdict: Verdict,
    gold: Any,
    answer: str | None,
    gold_read: str | None,
    answer_read: str | None,
    rules: tuple[str, ...],
    why: str,
    compared: Any,
) -> Explanation:
    return Explanation(verdict.score, verdict.reason, str(gold), answer, gold_read, answer_read, rules, why, compared)


def _why_unscorable(gold: str) -> str:
    questions = gold_questions(gold)
    if not gold:
        return "The gold is empty."
    if questions is None:
        return "The gold is a sentence, or beyond the cost guard."
    replies = ask_workers(questions)
    unread = [question[1] for question in questions if replies[question] != "scorable"]
    return "The algebra cannot read this of the gold, or it has no value: " + ", ".join(unread)


def _compared(tree: Tree) -> tuple[tuple[str, str], ...]:
    leaves = list(dict.fromkeys(leaf[2:4] for leaf in open_leaves(tree)))[:MOST_COMPARED]
    readings = [
        reply or "nothing within its limits"
        for reply, _ in POOL.run([(READ, text) for leaf in leaves for text in leaf])
    ]
    return tuple(zip(readings[::2], readings[1::2], strict=True))
