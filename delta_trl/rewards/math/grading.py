r"""Graded answers: `grade` for evaluation, `math_reward` for training, `scorable` for a look at the golds beforehand.

The verdict on one completion, in this order:
1. Its answer is taken from the last box (`extraction`): "no box", "unfinished thought".
2. What the text alone decides (`exact`): "correct", "wrong", "unevaluated",
   "too costly", "unparseable answer".
3. math-verify, in a worker process (`rewards.pool`), remembered for each (gold, answer): "correct", "wrong",
   "unparseable answer", "timed out", "unscorable gold".

Only "correct" scores 1. "unscorable gold" scores None, and only that: the gold is at fault, not the answer.
"""

import collections
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...responses import response_texts
from ..pool import POOL
from .equations import candidates, elements, subject
from .exact import decide, obviously_scorable, without_units
from .extraction import boxed, extract_answer
from .limits import MAX_CHARACTERS, too_costly
from .reasons import CORRECT, REASONS, SCORABLE, TIMED_OUT, TOO_COSTLY, UNSCORABLE_GOLD, WRONG
from .spelling import canonical
from .units import MAX_WORDS


MEMO_SIZE = 100_000  # (gold, answer) pairs; a few hundred bytes each


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


# The latest verdicts of math-verify. Threads may share it: each of the operations below is atomic
_MEMO: collections.OrderedDict[tuple[str, str | None], str] = collections.OrderedDict()


def _ask_workers(pairs: Sequence[tuple[str, str | None]]) -> dict[tuple[str, str | None], str]:
    reasons = {pair: _MEMO.get(pair) for pair in pairs}
    unknown = [pair for pair, reason in reasons.items() if reason is None]
    for pair, (reply, repeatable) in zip(unknown, POOL.run(unknown), strict=True):
        reasons[pair] = TIMED_OUT if reply is None else reply
        if repeatable:
            _MEMO[pair] = reasons[pair]
    while len(_MEMO) > MEMO_SIZE:
        _MEMO.popitem(last=False)
    return reasons


_NEAR = 10  # characters; boxes of a gold this close together are one answer
_PERCENT_AFTER = re.compile(r"\}\s*\$?\s*(?:\\?%|percent)[^{}]*$")
_STATED = re.compile(r"[Aa]nswer(?: is|:)\s*\$([^$]+)\$")


def canonical_gold(gold: object) -> str:
    """The canonical spelling of a gold, "" if there is none: bare, in dollars, after GSM8K's `####`, or in boxes, which
    are read as those of a completion. None and NaN (an empty cell of a table) are no golds."""
    if gold is None or gold != gold:
        return ""
    text = str(gold).rpartition("####")[2]
    if contents := boxed(text, near=_NEAR):
        is_percentage = _PERCENT_AFTER.search(text)
        text = ", ".join(contents) + (r"\%" if is_percentage and len(contents) == 1 else "")
    elif stated := _STATED.findall(text):
        text = stated[-1]
    return "" if len(text) > 4 * MAX_CHARACTERS else canonical(text)


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
    asked_golds = {gold for gold in golds if gold and not obviously_scorable(gold)}
    answers: list[str | None] = []
    decided: list[str | None] = []
    questions: list[list[tuple[str, str]]] = []
    for completion, gold in zip(completions, golds, strict=True):
        answer, reason = extract_answer(completion)
        pairs: list[tuple[str, str]] = []
        if reason is None and gold:
            reason, pairs = _decide_by_text(gold, answer)
        answers.append(answer)
        decided.append(reason)
        questions.append(pairs)
    can_score = dict(zip(asked_golds, scorable(list(asked_golds)), strict=True)) if asked_golds else {}
    replies = _ask_workers(
        [pair for pairs, gold in zip(questions, golds, strict=True) for pair in pairs if can_score.get(gold, True)]
    )
    verdicts = []
    for gold, answer, reason, pairs in zip(golds, answers, decided, questions, strict=True):
        if not gold or not (can_score.get(gold, True) or (reason == CORRECT and too_costly(gold))):
            reason = UNSCORABLE_GOLD
        elif reason is None:
            reason = next((replies[p] for p in pairs if replies[p] != CORRECT), CORRECT)
        score = None if reason == UNSCORABLE_GOLD else float(reason == CORRECT)
        verdicts.append(Verdict(score, answer, reason))
    return verdicts


def _decide_by_text(gold: str, answer: str) -> tuple[str | None, list[tuple[str, str]]]:
    """(reason, []), or (None, the pairs that the workers must all find correct)."""
    if len(answer) > 4 * MAX_CHARACTERS:
        return TOO_COSTLY, []
    answer = canonical(answer)
    if decide(gold, answer) == CORRECT:
        return CORRECT, []
    listed = elements(answer)
    if len(listed) > 1 and len(elements(gold)) == 1 and all(decide(gold, part) == CORRECT for part in listed):
        return CORRECT, []  # the same twice, in two boxes
    split = candidates(gold, answer)
    if split is None:
        return WRONG, []
    gold, parts = split
    pairs = []
    for i, part in enumerate(parts):
        reason = decide(gold, part, is_final=i == len(parts) - 1)
        if reason is None:
            pair = (without_units(gold)[0], without_units(part)[0])
            pairs.append(pair if i == len(parts) - 1 else (*pair, False))
        elif reason != CORRECT:
            return reason, []
    return (None, pairs) if pairs else (CORRECT, [])


def scorable(golds: Sequence[str | None]) -> list[bool]:
    """Whether answers to each gold can be scored: `grade` gives None to every answer to the others."""
    questions: list[tuple[str, None] | bool] = []
    for gold in map(canonical_gold, golds):
        if not gold or too_costly(gold):
            questions.append(False)
        elif obviously_scorable(gold):
            questions.append(True)
        else:
            body = without_units(subject(gold))[0]
            questions.append(not _is_prose(body) and (body, None))
    replies = _ask_workers(sorted({question for question in questions if isinstance(question, tuple)}))
    # Once more what the clock ended: on a busy machine a good gold may get no turn, and readers of data keep the reply
    replies |= _ask_workers([question for question, reply in replies.items() if reply == TIMED_OUT])
    return [replies[q] == SCORABLE if isinstance(q, tuple) else q for q in questions]


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


def _is_prose(gold: str) -> bool:
    """A sentence: no answer will say the same thing in the same words."""
    bare = re.sub(r"\\[a-zA-Z]+", " ", gold)
    return len(re.findall(r"(?<![a-zA-Z])[a-zA-Z]{2,}(?![a-zA-Z(])", bare)) > MAX_WORDS


def math_reward(
    completions: Sequence[str | list[dict[str, Any]]],
    solution: Sequence[str | None],
    log_extra: Callable[[str, list], None] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **kwargs,
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
