"""Which tokens of a made task's completion decide: the digits of its steps, right or wrong, and the fork.

A token is a character in the made tasks (or a special token, which counts as one). In those of real language it may be
longer: then its class is that of its first character that has one.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

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


class Reading(Protocol):
    """
    How completions of a task are read.

    Attributes:
        name: Of the task.
        marks: Most completions have a token of a class in each of these.
        advice: What to do if they have not.
    """

    marks: ClassVar[tuple[tuple[int, ...], ...]]

    @property
    def name(self) -> str: ...

    @property
    def advice(self) -> str: ...

    def pieces(self, ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> list[str]:
        """The text of each token; `SPECIAL` for one that is none."""
        ...

    def classes(self, text: str, question: str, finished: bool) -> np.ndarray:
        """Class of every character of a completion to this question, shape (len(text),): indices of `CLASSES`."""
        ...


@dataclass(frozen=True)
class TokenTask:
    """
    How completions of a made task are read, a `Reading`.

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

    marks: ClassVar[tuple[tuple[int, ...], ...]] = ((RIGHT, ERROR), (PHRASING,))

    @property
    def advice(self) -> str:
        return (
            f"It takes a model of delta_trl.research.tasks.warm_up(task={self.name!r}); without --model one is made."
        )

    def pieces(self, ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> list[str]:
        # None: an id that the model has and its tokenizer has not
        written = tokenizer.convert_ids_to_tokens(list(ids))
        return [token if token is not None and len(token) == 1 else SPECIAL for token in written]

    def classes(self, text: str, question: str, finished: bool) -> np.ndarray:
        return character_classes(text, self, question, finished)

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
    task: Reading,
    questions: Sequence[str],
) -> np.ndarray:
    """Class of every token of a rollout batch, shape (N,): indices of `CLASSES`. `questions`: one for each response."""
    responses = tokens.responses.cpu().numpy()
    starts = np.flatnonzero(np.diff(responses, prepend=-1))
    found = []
    for start, ids in zip(starts, np.split(tokens.ids.cpu().numpy(), starts[1:]), strict=True):
        finished = bool(ids[-1] == tokenizer.eos_token_id)
        pieces = task.pieces(ids.tolist(), tokenizer)
        classes = task.classes("".join(pieces), questions[responses[start]], finished)
        ends = np.cumsum([len(piece) for piece in pieces])
        found.append([_first(classes[end - len(piece) : end]) for piece, end in zip(pieces, ends, strict=True)])
    return np.concatenate(found)


def _first(classes: np.ndarray) -> int:
    """The first of a token's characters' classes that is not `REST`."""
    telling = classes[classes != REST]
    return int(telling[0]) if len(telling) else REST


def require_task(classes: np.ndarray, tokens: Rollout, task: Reading, model: str | os.PathLike) -> None:
    """Raise `ValueError` unless most responses are written in the task's words."""
    responses = tokens.responses.cpu().numpy()
    having = [set(responses[np.isin(classes, wanted)].tolist()) for wanted in task.marks]
    share = len(set.intersection(*having)) / len(set(responses.tolist()))
    if share < 0.5:
        raise ValueError(
            f"Only {share:.0%} of the responses of {model} are written in the words of the task {task.name}, so its "
            f"deciding tokens are unknown. {task.advice}"
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
