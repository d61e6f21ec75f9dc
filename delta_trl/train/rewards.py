"""From the names in `reward_funcs` to reward functions."""

import importlib
import os
import sys
from collections.abc import Callable

from .arguments import ScriptArguments


def load_rewards(script_args: ScriptArguments) -> list[Callable]:
    """The reward functions named by `reward_funcs`."""
    lengths = (script_args.soft_overlong_max_length, script_args.soft_overlong_cache)
    if ("soft_overlong" in script_args.reward_funcs) != (None not in lengths) or lengths.count(None) == 1:
        raise ValueError(
            "The reward 'soft_overlong' needs both soft_overlong_max_length and soft_overlong_cache, and they mean nothing "
            f"without it; got reward_funcs={script_args.reward_funcs} and lengths {lengths}."
        )
    rewards = []
    for name in script_args.reward_funcs:
        if name == "math_reward":
            from ..rewards import math_reward

            rewards.append(math_reward)
        elif name == "soft_overlong":
            from trl.rewards import get_soft_overlong_punishment

            rewards.append(get_soft_overlong_punishment(*lengths))
        elif "." in name:
            sys.path.insert(0, os.getcwd())
            module, _, function = name.rpartition(".")
            rewards.append(getattr(importlib.import_module(module), function))
        else:
            raise ValueError(
                f"Unknown reward function {name!r}: expected 'math_reward', 'soft_overlong' or a dotted import path."
            )
    return rewards
