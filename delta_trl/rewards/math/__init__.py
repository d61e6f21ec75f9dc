r"""Verified answers in mathematics: from a completion to its box (`extraction`), to one canonical spelling (`spelling`), to
the rules that decide (`rules`), and where text is not enough to the workers' algebra (`algebra`)."""

from .explain import Explanation, explain
from .grading import Verdict, grade, math_reward, same_answers, scorable
from .reasons import REASONS


__all__ = ["REASONS", "Explanation", "Verdict", "explain", "grade", "math_reward", "same_answers", "scorable"]
