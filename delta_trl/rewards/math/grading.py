r"""Graded answers: `grade` for evaluation, `math_reward` for training, `scorable` for a look at the golds beforehand.

The verdict on one completion, in this order:
1. Its answer is taken from the last box (`extraction`): "no box", "unfinished thought".
2. The rules decide from the text (`rules`), or say what is left to compare.
3. math-verify compares that in a worker process (`rewards.pool`), remembered for each question.

Only "correct" scores 1. "unscorable gold" scores None, and only that: the gold is at fault, not the answer.
"""

import collections
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...responses import response_texts
from ..pool import POOL
from .extraction import extract_answer
from .golds import canonical_gold, gold_questions
from .limits import MAX_CHARACTERS, too_costly
from .reasons import CORRECT, REASONS, SCORABLE, TIMED_OUT, TOO_COSTLY, UNSCORABLE_GOLD
from .rule import Pair
from .rules import decide
from .spelling import canonical
from .verdicts import VERDICT, Tree, is_decided, settle


MEMO_SIZE = 100_000  # questions; a few hundred bytes each


@dataclass(frozen=True)
class Verdict:
    """The outcome for one completion.

    Attributes:
        score: 1.0 (correct), 0.0, or None if the gold cannot be scored.
        answer: The text in the box, None without one.
        reason: One of `REASONS`.
    """

    score: float | None
    answer: str | None
    reason: str


# The latest replies of the workers. Threads may share it: each of the operations below is atomic
_MEMO: collections.OrderedDict[Tree, str] = collections.OrderedDict()


def ask_workers(questions: Sequence[Tree]) -> dict[Tree, str]:
    """The workers' reply to each question: a tree of `verdicts`, or (SCORABLE, gold)."""
    reasons: dict[Tree, Any] = {question: _MEMO.get(question) for question in questions}
    unknown = [question for question, reason in reasons.items() if reason is None]
    for question, (reply, repeatable) in zip(unknown, POOL.run(unknown), strict=True):
        reasons[question] = TIMED_OUT if reply is None else reply
        if repeatable:
            _MEMO[question] = reasons[question]
    while len(_MEMO) > MEMO_SIZE:
        _MEMO.popitem(last=False)
    return reasons


def grade(completions: Sequence[str], solutions: Sequence[str | None]) -> list[Verdict]:
    r"""Grade one completion after another against its gold answer.

    Args:
        completions: The generated texts. A text that continues an opened `<think>` of its prompt must include it.
        solutions: The gold answers, as many: LaTeX or plain, bare or in `$...$` or in a box. None: unscorable.

    Returns:
        One `Verdict` a completion. Never raises for what a completion contains, never hangs: an item takes at most
        about `PoolConfig.wall_seconds`.

    Raises:
        ValueError: Different numbers of completions and solutions.
        RuntimeError: The worker processes cannot start.
    """
    if len(completions) != len(solutions):
        raise ValueError(
            f"grade() needs one solution a completion, got {len(completions)} completions and {len(solutions)} "
            "solutions. Repeat the solution for every sample of a problem."
        )
    golds = [canonical_gold(solution) for solution in solutions]
    answers: list[str | None] = []
    trees: list[Tree] = []
    for completion, gold in zip(completions, golds, strict=True):
        answer, reason = extract_answer(completion)
        answers.append(answer)
        trees.append(decide_texts(gold, answer) if reason is None and gold else (VERDICT, "box", reason))
    can_score = dict(zip(golds, _can_score(golds), strict=True))
    open_trees = [tree for tree, gold in zip(trees, golds, strict=True) if can_score[gold] and not is_decided(tree)]
    replies = ask_workers(open_trees)
    verdicts = []
    for gold, answer, tree in zip(golds, answers, trees, strict=True):
        reason = replies[tree] if tree in replies else settle(tree, lambda _: UNSCORABLE_GOLD)[0]
        if not can_score[gold] and not (gold and reason == CORRECT and too_costly(gold)):
            reason = UNSCORABLE_GOLD
        score = None if reason == UNSCORABLE_GOLD else float(reason == CORRECT)
        verdicts.append(Verdict(score, answer, reason))
    return verdicts


def decide_texts(gold: str, answer: str) -> Tree:
    """What the rules say of a canonical gold and the text in a box."""
    if len(answer) > 4 * MAX_CHARACTERS:
        return (VERDICT, "cost", TOO_COSTLY)
    return decide(Pair(gold, canonical(answer)))


def scorable(golds: Sequence[str | None]) -> list[bool]:
    """Whether answers to each gold can be scored: `grade` gives None to every answer to the others."""
    return _can_score([canonical_gold(gold) for gold in golds])


def _can_score(golds: Sequence[str]) -> list[bool]:
    questions = {gold: gold_questions(gold) for gold in dict.fromkeys(golds)}
    asked = sorted({question for parts in questions.values() for question in parts or ()})
    replies = ask_workers(asked)
    # Once more what the clock ended: on a busy machine a good gold may get no turn, and readers of data keep the reply
    replies |= ask_workers([question for question, reply in replies.items() if reply == TIMED_OUT])
    good = {
        gold: parts is not None and all(replies[part] == SCORABLE for part in parts)
        for gold, parts in questions.items()
    }
    return [good[gold] for gold in golds]


def same_answers(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether the two answers of each pair count as the same: either is accepted where the other is the gold.

    For the votes of majority@n, where no answer is the gold. In contrast to `grade`, it does not matter which comes first.
    """
    boxes = [(rf"\boxed{{{a}}}", rf"\boxed{{{b}}}") for a, b in pairs]
    both_ways = [*boxes, *(pair[::-1] for pair in boxes)]
    scores = [verdict.score == 1.0 for verdict in grade([a for a, _ in both_ways], [b for _, b in both_ways])]
    return [
        canonical(a) == canonical(b) or there or back
        for (a, b), there, back in zip(pairs, scores[: len(pairs)], scores[len(pairs) :], strict=True)
    ]


def math_reward(
    completions: Sequence[str | list[dict[str, Any]]],
    solution: Sequence[str | None],
    log_extra: Callable[[str, list], None] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    r"""Verified reward for mathematics: 1.0 if the answer in the completion's last box equals the gold, else 0.0.

    A TRL reward function: `GRPOTrainer(reward_funcs=math_reward, ...)`, or `delta_trl.rewards.math_reward` by name.

    Args:
        completions: Plain texts, or conversations (lists of messages), as TRL passes them.
        solution: The gold answers (see `grade`), from the dataset's column of that name.
        log_extra: Given by the trainer. Gets the columns `answer` and `verdict` of the completions table.
        log_metric: Given by the trainer. Gets the share of each reason as `math_reward/<reason>`.
        **kwargs: TRL's other columns. Of these `prompts` and `opens_thought` are used: a plain prompt that ends inside
            `<think>`, or a true value in the column `opens_thought` (for conversations, whose prompt gets its `<think>`
            from the chat template; this package's trainers set it), makes a completion without `</think>` an unfinished
            thought, as in evaluation.

    Returns:
        A reward a completion; None, which TRL leaves out, only where the gold cannot be parsed.

    What counts as the same answer is stated in docs/rewards.md, costs and limits in `delta_trl.rewards.pool`.
    """
    texts = response_texts(completions, kwargs)
    verdicts = grade(texts, solution)
    if log_extra is not None:
        log_extra("answer", [v.answer or "" for v in verdicts])
        log_extra("verdict", [v.reason for v in verdicts])
    if log_metric is not None and verdicts:
        for reason in REASONS:
            share = sum(v.reason == reason for v in verdicts) / len(verdicts)
            log_metric(f"math_reward/{reason.replace(' ', '_')}", share)
    return [v.score for v in verdicts]
