"""`math_reward` with a share of its verdicts turned round, for studies of noisy rewards.

Use them beside the true reward, which then is logged and evaluated and does not count:

    reward_funcs: [math_reward, delta_trl.research.noisy_rewards.flipped_30_percent]
    reward_weights: [0.0, 1.0]
"""

import hashlib
import json
from collections.abc import Sequence

from ..rewards import math_reward


SEED = 0


def flipped_10_percent(completions: Sequence, prompts: Sequence, solution: Sequence, **kwargs) -> list[float | None]:
    """A TRL reward function: `math_reward`, of which one in ten verdicts is turned round."""
    return flipped(0.1, completions, prompts, solution)


def flipped_30_percent(completions: Sequence, prompts: Sequence, solution: Sequence, **kwargs) -> list[float | None]:
    """A TRL reward function: `math_reward`, of which three in ten verdicts are turned round."""
    return flipped(0.3, completions, prompts, solution)


def flipped(share: float, completions: Sequence, prompts: Sequence, solution: Sequence) -> list[float | None]:
    """
    `math_reward`, with r replaced by 1 − r for a share of all pairs of prompt and completion.

    A hash of both decides, so that the same completion is always judged alike, in every run and on every process.
    """
    rewards = math_reward(completions, solution, prompts=prompts)
    return [
        reward if reward is None or _hash_share(prompt, completion) >= share else 1.0 - reward
        for reward, prompt, completion in zip(rewards, prompts, completions, strict=True)
    ]


def _hash_share(prompt, completion) -> float:
    """Uniform in [0, 1)."""
    text = json.dumps([SEED, prompt, completion])
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8]) / 2**64
