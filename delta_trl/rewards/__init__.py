r"""Verified rewards for mathematics and code, for training and evaluation alike. Imports neither torch nor TRL.

>>> from delta_trl.rewards import grade
>>> grade([r"So it is $\boxed{\frac12}$."], ["0.5"])[0].reason
'correct'
"""

from ..responses import opens_thought
from .code import code_reward, make_code_reward
from .gym import reasoning_gym_reward
from .math import REASONS, Explanation, Verdict, explain, grade, math_reward, same_answers, scorable


__all__ = [
    "REASONS",
    "Explanation",
    "Verdict",
    "code_reward",
    "explain",
    "grade",
    "make_code_reward",
    "math_reward",
    "opens_thought",
    "reasoning_gym_reward",
    "same_answers",
    "scorable",
]
