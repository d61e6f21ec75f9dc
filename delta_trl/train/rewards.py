"""From the names in `reward_funcs` to reward functions."""

import difflib
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from .arguments import ScriptArguments


KNOWN = ("math_reward", "code_reward", "reasoning_gym", "soft_overlong")
# What makes a code reward, each an option of that name after "code_reward_"
CODE_OPTIONS = ("fraction", "tests", "timeout", "memory", "workers")


def load_rewards(script_args: ScriptArguments) -> list[Callable]:
    """The reward functions named by `reward_funcs`."""
    lengths = (script_args.soft_overlong_max_length, script_args.soft_overlong_cache)
    if ("soft_overlong" in script_args.reward_funcs) != (None not in lengths) or lengths.count(None) == 1:
        raise ValueError(
            "The reward 'soft_overlong' needs both soft_overlong_max_length and soft_overlong_cache, and they mean nothing "
            f"without it; got reward_funcs={script_args.reward_funcs} and lengths {lengths}."
        )
    code_options = {name: getattr(script_args, f"code_reward_{name}") for name in CODE_OPTIONS}
    code_options = {name: value for name, value in code_options.items() if value is not None}
    if code_options and "code_reward" not in script_args.reward_funcs:
        listed = ", ".join(f"code_reward_{name}={value}" for name, value in code_options.items())
        raise ValueError(
            f"{listed} means nothing without the reward 'code_reward'; got reward_funcs={script_args.reward_funcs}."
        )
    rewards = []
    for name in script_args.reward_funcs:
        if name == "math_reward":
            from ..rewards import math_reward

            rewards.append(math_reward)
        elif name == "reasoning_gym":
            from ..rewards import reasoning_gym_reward

            rewards.append(reasoning_gym_reward)
        elif name == "code_reward":
            rewards.append(_code_reward(code_options))
        elif name == "soft_overlong":
            from trl.rewards import get_soft_overlong_punishment

            rewards.append(get_soft_overlong_punishment(*lengths))
        elif "." in name:
            rewards.append(_imported(name))
        else:
            near = difflib.get_close_matches(name, KNOWN, n=1)
            raise ValueError(
                f"Unknown reward function {name!r}: expected {', '.join(map(repr, KNOWN))} or a dotted import path such as "
                f"'my_rewards.{name}'." + (f" Did you mean {near[0]!r}?" if near else "")
            )
    return rewards


def _code_reward(options: dict[str, Any]) -> Callable:
    """A code reward that has run a program, so that a machine without isolation is told before a model is loaded."""
    from ..rewards import make_code_reward
    from ..sandbox import SandboxUnavailable

    try:
        reward = make_code_reward(**options)
        reward(["```python\nprint(1)\n```"], tests=[{"inputs": [""], "outputs": ["1"]}])
    except SandboxUnavailable as error:
        raise ValueError(f"The reward 'code_reward' cannot be used here. {error}") from None
    except ValueError as error:
        raise ValueError(f"code_reward: {error}") from None
    return reward


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
