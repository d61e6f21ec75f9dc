r"""Verified answers in mathematics: from a completion to its box (`extraction`), to one canonical spelling (`spelling`), to
the rules that decide (`rules`), and where text is not enough to the workers' algebra (`algebra`)."""

from .grading import Verdict, grade, math_reward, same_answers, scorable
from .reasons import REASONS


__all__ = ["REASONS", "Verdict", "grade", "math_reward", "same_answers", "scorable"]
