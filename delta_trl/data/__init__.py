"""Datasets with a question and an answer, as `prompt` and `solution` columns for TRL."""

from .problems import DataArguments, MathData, load_math_dataset
from .prompts import INSTRUCTION, PAPER_TEMPLATE, PromptFormat


__all__ = ["INSTRUCTION", "PAPER_TEMPLATE", "DataArguments", "MathData", "PromptFormat", "load_math_dataset"]
