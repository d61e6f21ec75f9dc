"""Problems that reasoning-gym generates: https://github.com/open-thought/reasoning-gym"""

import json
from typing import TYPE_CHECKING, Any

from ..rewards.gym import refuse_executed, require_package


if TYPE_CHECKING:
    from datasets import Dataset

NO_SINGLE_ANSWER = "no single answer"  # the solution of problems for which reasoning-gym only has a scorer


def generate(name: str, size: int, seed: int, options: dict[str, Any]) -> "Dataset":
    """Problems as rows with `question`, `solution` and `entry`: JSON, from which the reward makes the problem again."""
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


def _create(name: str, size: int, seed: int, options: dict[str, Any]):
    require_package()
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        raise ValueError(f"reasoning-gym has no dataset {name!r}. It has: {', '.join(sorted(DATASETS))}.")
    refuse_executed(name)
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}.")
    try:
        return reasoning_gym.create_dataset(name, size=size, seed=seed, **options)
    except (TypeError, AssertionError) as error:  # an unknown option, or one outside its range
        raise ValueError(f"reasoning-gym refuses the options {options} of {name!r}: {error}") from error
