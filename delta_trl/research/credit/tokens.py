"""Which tokens of a made task's completion decide: the digits of its steps, right or wrong, and the fork.

A token is a character here (or a special token, which counts as one), so that classes of characters are classes of tokens.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...rollout import Rollout
from ..tasks import CLOSINGS, LEDGER_STEPS, PRECEDENCE_STEPS


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A digit of the result of a true or a false step, the character that decides which operation is taken first (the product or
# the sum), a character at which wordings part, anything else
CLASSES = ("right", "error", "right_fork", "wrong_fork", "phrasing", "rest")
RIGHT, ERROR, RIGHT_FORK, WRONG_FORK, PHRASING, REST = range(len(CLASSES))

# Stands for a token that is no character: in no step and in no wording
SPECIAL = "\0"

# A problem in which the order of the operations matters
FORK = re.compile(r"(\d+)\+(\d+)\*(\d+)=\?")


@dataclass(frozen=True)
class TokenTask:
    """
    How completions of a made task are read.

    Attributes:
        name: One of `delta_trl.research.tasks.TASKS`.
        wordings: Of its steps, with a field in braces.
        operators: Of its steps.
        sample: A step in its words.
    """

    name: str
    wordings: tuple[str, ...]
    operators: str
    sample: str

    @property
    def step(self) -> re.Pattern:
        """ "a+b=c" that is not part of a longer expression or chain of equations, where it is not clear what was claimed."""
        return re.compile(rf"(?<![\d+*/=-])(-?\d+)([{self.operators}])(\d+)=(-?\d+)(?![\d+*/=-])")

    @property
    def choices(self) -> dict[str, list[int]]:
        """From a wording to the characters that choose it. A step is always chosen among steps and a closing among closings:
        which of the two comes next is settled by the problem."""
        return {
            **_choices([step.partition("{")[0] for step in self.wordings]),
            **_choices([f"{closing} $" for closing in CLOSINGS]),
        }


TOKEN_TASKS = {
    task.name: task
    for task in (
        TokenTask("ledger", LEDGER_STEPS, "+", "We know that 18+9=27, fine. "),
        TokenTask("precedence", PRECEDENCE_STEPS, "+*", "We know that 3*9=27, fine. "),
    )
}


def _choices(wordings: list[str]) -> dict[str, list[int]]:
    """Where each wording parts from another that begins alike: the characters that choose."""
    return {
        wording: [
            i
            for i in range(len(wording))
            if len({other[i : i + 1] for other in wordings if other[:i] == wording[:i]}) > 1
        ]
        for wording in wordings
    }


def character_classes(text: str, task: TokenTask, question: str = "", finished: bool = True) -> np.ndarray:
    """
    Class of every character of a completion, shape (len(text),): indices of `CLASSES`.

    Args:
        text (`str`): The completion, one character a token.
        task (`TokenTask`): How it is read.
        question (`str`): Such as 3+5*2=?. Only in one with a sum before a product there is a fork.
        finished (`bool`):
            Whether the completion ended by itself. A step at the very end of one that was cut off counts for nothing: its
            result may have been going on.
    """
    classes = np.full(len(text), REST)
    for wording, choices in task.choices.items():
        for found in re.finditer(re.escape(wording), text):
            classes[[found.start() + i for i in choices]] = PHRASING
    steps = list(task.step.finditer(text))
    for found in steps:
        if finished or found.end() < len(text):
            x, y, result = int(found[1]), int(found[3]), int(found[4])
            true = (x + y if found[2] == "+" else x * y) == result
            classes[found.start(4) : found.end(4)] = RIGHT if true else ERROR
    if steps and (problem := FORK.fullmatch(question)):
        a, b, c = problem.groups()
        taken = text[steps[0].start() : steps[0].start(4) - 1]
        # Where the two orders part: at the first digit, or at the operator if the digits are the same
        place = steps[0].start() + (a == b)
        if taken in (f"{b}*{c}", f"{a}+{b}"):
            classes[place] = RIGHT_FORK if "*" in taken else WRONG_FORK
    return classes


def token_classes(
    tokens: Rollout,
    tokenizer: "PreTrainedTokenizerBase",
    task: TokenTask,
    questions: Sequence[str],
) -> np.ndarray:
    """Class of every token of a rollout batch, shape (N,): indices of `CLASSES`. `questions`: one for each response."""
    responses = tokens.responses.cpu().numpy()
    starts = np.flatnonzero(np.diff(responses, prepend=-1))
    classes = []
    for start, ids in zip(starts, np.split(tokens.ids.cpu().numpy(), starts[1:]), strict=True):
        finished = ids[-1] == tokenizer.eos_token_id
        written = tokenizer.convert_ids_to_tokens(ids.tolist())
        # None: an id that the model has and its tokenizer has not
        text = "".join(token if token is not None and len(token) == 1 else SPECIAL for token in written)
        classes.append(character_classes(text, task, questions[responses[start]], finished))
    return np.concatenate(classes)


def require_task(classes: np.ndarray, tokens: Rollout, task: TokenTask, model: str | os.PathLike) -> None:
    """Raise `ValueError` unless most responses have a step in the task's words."""
    responses = tokens.responses.cpu().numpy()

    def having(wanted: np.ndarray) -> set:
        return set(responses[wanted].tolist())

    written = having(np.isin(classes, (RIGHT, ERROR))) & having(classes == PHRASING)
    share = len(written) / len(set(responses.tolist()))
    if share < 0.5:
        raise ValueError(
            f"Only {share:.0%} of the responses of {model} have a step in the words of the task {task.name}, so its "
            f"deciding tokens are unknown. It takes a model of delta_trl.research.tasks.warm_up(task={task.name!r}); "
            "without --model one is made."
        )


def require_characters(tokenizer: "PreTrainedTokenizerBase", task: TokenTask, model: str | os.PathLike) -> None:
    """Raise `ValueError` unless every character of the task is a token of its own."""
    sample = task.sample
    written = tokenizer.convert_ids_to_tokens(tokenizer(sample, add_special_tokens=False)["input_ids"])
    if written != list(sample):
        raise ValueError(
            f"The tokenizer of {model} reads {sample!r} as {written[:8]}..., but token classes are known for single "
            f"characters only. Use a model of delta_trl.research.tasks.warm_up(task={task.name!r}); without --model one is "
            "made."
        )
