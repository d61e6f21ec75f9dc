"""From the names in `reward_funcs` to reward functions."""

import difflib
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
        elif name == "reasoning_gym":
            from ..reasoning_gym import reasoning_gym_reward

            rewards.append(reasoning_gym_reward)
        elif name == "soft_overlong":
            from trl.rewards import get_soft_overlong_punishment

            rewards.append(get_soft_overlong_punishment(*lengths))
        elif "." in name:
            rewards.append(_imported(name))
        else:
            near = difflib.get_close_matches(name, ("math_reward", "reasoning_gym", "soft_overlong"), n=1)
            raise ValueError(
                f"Unknown reward function {name!r}: expected 'math_reward', 'reasoning_gym', 'soft_overlong' or a dotted "
                f"import path such as 'my_rewards.{name}'." + (f" Did you mean {near[0]!r}?" if near else "")
            )
    return rewards


def _imported(name: str) -> Callable:
    """The function of a dotted path; modules are also looked for in the current folder."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module_name, _, function = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # found, but it imports something that is not there
        raise ValueError(
            f"Reward function {name!r}: there is no module {error.name!r}, neither installed nor in {os.getcwd()}."
        ) from None
    reward = getattr(module, function, None)
    if not callable(reward):
        raise ValueError(f"Reward function {name!r}: {module_name} has no function {function!r}.")
    return reward
