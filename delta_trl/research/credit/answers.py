"""Which tokens decide in an answer of real language, to a task of `delta_trl.research.language`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..language import LANGUAGE_TASKS, LanguageTask
from .tokens import ERROR, REST, RIGHT, RIGHT_FORK, SPECIAL, TOKEN_TASKS, WRONG_FORK, Reading


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class LanguageReading:
    """
    How answers to a task of real language are read, a `Reading`.

    An answer is read if it begins in the words of the worked example. Each of its numbers is compared with that of the
    right solution: the digits before the first character at which the two part are right, that character is the error (it
    may be the end of a number that is too short), and what follows in this number has no class. Where the answer chooses
    one of the numbers that it has read, the choice is a fork instead: the first digit at which those two numbers differ.

    Attributes:
        name (`str`): One of `LANGUAGE_TASKS`.
        max_completion_length (`int`): Tokens of an answer, as in `configs/study/`.
        chooses (`bool`): Whether the last number of an answer is one of the two before it.
    """

    name: str
    max_completion_length: int
    chooses: bool = False

    marks: ClassVar[tuple[tuple[int, ...], ...]] = ((RIGHT, ERROR, RIGHT_FORK, WRONG_FORK),)
    advice: ClassVar = "It takes a chat model that writes as the worked example does, as SmolLM2-135M-Instruct."

    @property
    def task(self) -> LanguageTask:
        return LANGUAGE_TASKS[self.name]

    @cached_property
    def _cases(self) -> dict[str, tuple]:
        return {self.task.question(*case): case for case in self.task.cases}

    def asks(self, question: str) -> bool:
        """Whether this is one of the task's questions."""
        return question in self._cases

    def pieces(self, ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> list[str]:
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        return [SPECIAL if i in special or i >= len(tokenizer) else str(tokenizer.decode([i])) or SPECIAL for i in ids]

    def classes(self, text: str, question: str, finished: bool) -> np.ndarray:
        """
        Class of every character of an answer, shape (len(text),): indices of `CLASSES`.

        Args:
            text (`str`): The answer, `SPECIAL` at its end if it ended by itself.
            question (`str`): One of the task's.
            finished (`bool`): Whether it did. A number at the very end of one that was cut off may have been going on.
        """
        classes = np.full(len(text), REST)
        case = self._cases[question]
        solution = self.task.solution(*case)
        words = re.split(r"\d+", solution)
        right = re.findall(r"\d+", solution)
        written, end = [], 0
        for before, number in zip(words, [*right, ""], strict=True):
            if not number or not text.startswith(before, end):
                break
            found = re.compile(r"\d+").match(text, end + len(before))
            if found is None:
                break
            end = found.end()
            if end == len(text) and not finished:
                _compare(classes, found.start(), found[0], number[: len(found[0])])
                break
            written.append(found[0])
            if self.chooses and len(written) == len(right) and found[0] in written[:-1] and len({*written}) > 1:
                place = _parting(*written[:2])
                classes[found.start() + place] = RIGHT_FORK if int(found[0]) == self.task.answer(*case) else WRONG_FORK
            else:
                _compare(classes, found.start(), found[0], number)
        return classes


def _parting(one: str, other: str) -> int:
    """The first place at which two strings differ; the length of the shorter one if it begins the other."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _compare(classes: np.ndarray, start: int, written: str, right: str) -> None:
    """Mark a number that begins at `start`, and the character after it if a digit is missing there."""
    place = start + _parting(written, right)
    classes[start:place] = RIGHT
    if written != right and place < len(classes):
        classes[place] = ERROR


LANGUAGE_READINGS = {
    reading.name: reading
    for reading in (
        LanguageReading("number_words", 10),
        LanguageReading("larger", 20, chooses=True),
        LanguageReading("together", 40),
    )
}


def reading_of(rows: Sequence[Mapping[str, Any]]) -> tuple[Reading, list[str]]:
    """How responses to these rows are read, and the questions: of a task of real language where rows have a question."""
    if "question" in rows[0]:
        questions = [row["question"] for row in rows]
        return next(r for r in LANGUAGE_READINGS.values() if r.asks(questions[0])), questions
    questions = [row["prompt"].strip() for row in rows]
    return TOKEN_TASKS["precedence" if any("*" in question for question in questions) else "ledger"], questions
