"""Verified rewards for code: tests read, programs found in completions, run in the sandbox and compared."""

from .reward import code_reward, grade_code, make_code_reward


__all__ = ["code_reward", "grade_code", "make_code_reward"]
