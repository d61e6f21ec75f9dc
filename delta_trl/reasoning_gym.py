r"""Problems of reasoning-gym as prompts, and its scorers as a reward.

The package `reasoning-gym` (pip install 'delta_trl[reasoning-gym]') generates problems of about a hundred kinds, each with
a scorer of its own: https://github.com/open-thought/reasoning-gym

>>> from delta_trl.reasoning_gym import load_reasoning_gym, reasoning_gym_reward
>>> data = load_reasoning_gym("chain_sum", size=1000, seed=0)
>>> trainer = DeltaGRPOTrainer(..., reward_funcs=reasoning_gym_reward, train_dataset=data.train)

For `python -m delta_trl.train`: dataset_name reasoning_gym/chain_sum, reward_funcs reasoning_gym.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .data import DataArguments, ProblemData
from .data.problems import REASONING_GYM
from .responses import after_thoughts, response_texts
from .rewards.gym import SCORER
from .rewards.math.extraction import extract_answer


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

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
NO_SINGLE_ANSWER = "no single answer"  # the solution of problems for which reasoning-gym only has a scorer


def load_reasoning_gym(
    name: str,
    size: int = 1000,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    max_prompt_length: int | None = None,
    **data_options,
) -> ProblemData:
    """Generate problems, remove repeated ones and prompts that are too long, and render the prompts.

    Args:
        name: A dataset of reasoning-gym, such as "chain_sum".
        size: Problems to generate; repeated ones are then removed.
        seed: The same seed gives the same problems. Problem i of seed s is problem 0 of seed s + i: take unseen problems
            with `held_out_share`, not with another seed.
        options: Of the dataset's config, such as `{"min_terms": 2}`.
        tokenizer: Needed for `max_prompt_length`, and to check that a "chat" prompt can be rendered.
        max_prompt_length, data_options: See `delta_trl.data.DataArguments`: prompt_format, system_prompt, held_out_share.

    Returns:
        `ProblemData`, whose datasets have the columns `prompt`, `solution` (reasoning-gym's answer) and `entry` (JSON, from
        which `reasoning_gym_reward` makes the problem again).

    Raises:
        ValueError: An unknown name or option, a dataset whose scorer executes the answer, nothing left.
        ModuleNotFoundError: reasoning-gym is not installed.
    """
    arguments = DataArguments(
        dataset_name=REASONING_GYM + name,
        reasoning_gym_size=size,
        reasoning_gym_seed=seed,
        reasoning_gym_options=dict(options or {}),
        max_prompt_length=max_prompt_length,
        **data_options,
    )
    return arguments.load(tokenizer)


def generate(name: str, size: int, seed: int, options: dict[str, Any]) -> "Dataset":
    """Problems as rows with `question`, `solution` and `entry`, for `DataArguments`."""
    from datasets import Dataset

    problems = _create(name, size, seed, options)
    made = [problems[index] for index in range(size)]
    return Dataset.from_list(
        [
            {
                "question": entry["question"],
                "solution": NO_SINGLE_ANSWER if entry["answer"] is None else str(entry["answer"]),
                "entry": json.dumps({"name": name, "size": size, "seed": seed, "options": options, "index": index}),
            }
            for index, entry in enumerate(made)
        ]
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
    """
    _require()
    for name in {json.loads(specification)["name"] for specification in entry}:
        _refuse_executed(name)
    answers = [read_answer(text) for text in response_texts(completions, kwargs)]
    if log_extra is not None:
        log_extra("answer", [answer or "" for answer in answers])
    return [
        0.0 if answer is None else SCORER.score(specification, answer)
        for specification, answer in zip(entry, answers, strict=True)
    ]


def read_answer(completion: str) -> str | None:
    """What the last `<answer>...</answer>` after a closed `</think>` holds, else the last box, else None."""
    before, closing, _ = (after_thoughts(completion) or "").rpartition("</answer>")
    _, opening, answer = before.rpartition("<answer>")
    if opening and closing:
        return answer.strip()
    return extract_answer(completion)[0]


def _create(name: str, size: int, seed: int, options: dict[str, Any]):
    _require()
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        raise ValueError(f"reasoning-gym has no dataset {name!r}. It has: {', '.join(sorted(DATASETS))}.")
    _refuse_executed(name)
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}.")
    try:
        return reasoning_gym.create_dataset(name, size=size, seed=seed, **options)
    except (TypeError, AssertionError) as error:  # an unknown option, or one outside its range
        raise ValueError(f"reasoning-gym refuses the options {options} of {name!r}: {error}") from error


def _refuse_executed(name: str) -> None:
    if name in EXECUTE_ANSWERS:
        raise ValueError(
            f"The scorer of reasoning-gym's {name!r} runs the answer as Python, so a model could run anything here. These "
            f"datasets are not offered: {', '.join(sorted(EXECUTE_ANSWERS))}."
        )


def _require() -> None:
    if find_spec("reasoning_gym") is None:
        raise ModuleNotFoundError("reasoning-gym is not installed. Run: pip install 'delta_trl[reasoning-gym]'.")
