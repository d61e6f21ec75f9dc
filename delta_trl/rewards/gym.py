"""reasoning-gym's scorers as a reward, in worker processes: an answer such as 1e999999999 can keep one busy for hours."""

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from ..responses import after_thoughts, response_texts
from .math.extraction import extract_answer
from .pool import PoolConfig, WorkerPool


SCORE_SECONDS = 5  # of CPU time
MEMORY_BYTES = 4 * 2**30
MAX_ANSWER_CHARACTERS = 10_000  # of an answer; longer ones score 0
# The clock only guards against what burns no CPU time: making a problem takes many seconds for some
_LIMITS = {"soft_seconds": SCORE_SECONDS, "hard_seconds": SCORE_SECONDS + 1, "wall_seconds": 150.0}
SCORERS = WorkerPool(PoolConfig(**_LIMITS, memory_bytes=MEMORY_BYTES), job="gym_job.GymJob", needs="reasoning-gym")

# Their scorers call eval() or sympy's parse_expr() on the answer, which would run what the model writes (0.1.25)
EXECUTE_ANSWERS = frozenset(
    {
        "binary_matrix",
        "countdown",
        "intermediate_integration",
        "n_queens",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
        "spiral_matrix",
        "string_insertion",
    }
)


def reasoning_gym_reward(
    completions: Sequence[str | list[dict[str, Any]]],
    entry: Sequence[str],
    log_extra: Callable[[str, list], None] | None = None,
    **kwargs,
) -> list[float | None]:
    r"""reasoning-gym's score of each answer, for problems of `load_reasoning_gym`.

    A TRL reward function. The answer is what the last `<answer>...</answer>` holds, else the last box; after a closed
    `</think>`, as for `math_reward`. Without an answer the reward is 0.

    Args:
        completions: Plain texts, or conversations.
        entry: The dataset's column of that name.
        log_extra: Given by the trainer. Gets the column `answer` of the completions table.

    Returns:
        A reward a completion in [0, 1], which for some problems is partial. An answer that the scorer fails on, or needs
        more than `delta_trl.rewards.gym.SCORE_SECONDS` for, gets 0.

    Raises:
        ModuleNotFoundError: reasoning-gym is not installed.
        ValueError: A dataset whose scorer executes the answer.
        RuntimeError: reasoning-gym cannot make a problem, or its processes do not start.
    """
    require_package()
    for name in {json.loads(specification)["name"] for specification in entry}:
        refuse_executed(name)
    answers = [read_answer(text) for text in response_texts(completions, kwargs)]
    if log_extra is not None:
        log_extra("answer", [answer or "" for answer in answers])
    pairs = list(zip(entry, answers, strict=True))
    asked = list(dict.fromkeys(p for p in pairs if p[1] is not None and len(p[1]) <= MAX_ANSWER_CHARACTERS))
    scores: dict[tuple[str, str | None], float] = {}
    for pair, (reply, _) in zip(asked, SCORERS.run(asked), strict=True):
        if isinstance(reply, str):
            raise RuntimeError(f"reasoning-gym does not make the problem {pair[0]}:\n{reply}")
        scores[pair] = reply or 0.0
    return [scores.get(pair, 0.0) for pair in pairs]


def read_answer(completion: str) -> str | None:
    """What the last `<answer>...</answer>` after a closed `</think>` holds, else the last box, else None."""
    before, closing, _ = (after_thoughts(completion) or "").rpartition("</answer>")
    _, opening, answer = before.rpartition("<answer>")
    if opening and closing:
        return answer.strip()
    return extract_answer(completion)[0]


def refuse_executed(name: str) -> None:
    """Raise ValueError for a dataset whose scorer executes the answer."""
    if name in EXECUTE_ANSWERS:
        raise ValueError(
            f"The scorer of reasoning-gym's {name!r} runs the answer as Python, so a model could run anything here. These "
            f"datasets are not offered: {', '.join(sorted(EXECUTE_ANSWERS))}."
        )


def require_package() -> None:
    """Raise ModuleNotFoundError, with the command that installs it, if reasoning-gym is missing."""
    if find_spec("reasoning_gym") is None:
        raise ModuleNotFoundError("reasoning-gym is not installed. Run: pip install 'delta_trl[reasoning-gym]'.")
