"""Datasets of problems as columns for TRL: `prompt`, and `solution` (an answer) or `tests` (of a program)."""

from .arguments import DataArguments
from .fingerprint import rows_fingerprint
from .problems import ProblemData, load_code_dataset, load_math_dataset, load_problem_data, load_reasoning_gym
from .prompts import CODE_INSTRUCTION, INSTRUCTION, PAPER_TEMPLATE, PromptFormat


__all__ = [
    "CODE_INSTRUCTION",
    "INSTRUCTION",
    "PAPER_TEMPLATE",
    "DataArguments",
    "ProblemData",
    "PromptFormat",
    "load_code_dataset",
    "load_math_dataset",
    "load_problem_data",
    "load_reasoning_gym",
    "rows_fingerprint",
]
