"""The earlier place of `delta_trl.data.load_reasoning_gym` and `delta_trl.rewards.reasoning_gym_reward`."""

from .data import load_reasoning_gym
from .rewards import reasoning_gym_reward


__all__ = ["load_reasoning_gym", "reasoning_gym_reward"]
