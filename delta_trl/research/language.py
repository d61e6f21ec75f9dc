"""Tasks of real language for a pretrained model of some hundred million parameters, which starts right now and then.

A prompt holds one worked example in the model's own chat markup, so that nothing has to be warmed up. Problems come in the
schema of `delta_trl.research.tasks`, and every answer is a number. From task to task the answer gets longer, and what
decides moves inside: in `number_words` the answer is the box alone, in `larger` both numbers are read before one is chosen,
in `together` both are read and added.
"""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass


# fmt: off
ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
        "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
# fmt: on
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NAMES = ("Anna", "Ben", "Ida", "Leo", "Lucy", "Max", "Mia", "Nora", "Sam", "Tom")


def in_words(number: int) -> str:
    """0 to 999 in words: 407 is 'four hundred and seven'."""
    if not 0 <= number <= 999:
        raise ValueError(f"Numbers from 0 to 999 are written in words; got {number}.")
    if number < 20:
        return ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens - 2] + (f"-{ONES[ones]}" if ones else "")
    hundreds, rest = divmod(number, 100)
    return f"{ONES[hundreds]} hundred" + (f" and {in_words(rest)}" if rest else "")


@dataclass(frozen=True)
class LanguageTask:
    """
    Problems that a pretrained model is asked in its chat markup, after one worked example.

    Attributes:
        cases (`Sequence[tuple]`): What a problem is made of; the worked example's is among them, and never drawn.
        question (`Callable`): From a case to the question.
        answer (`Callable`): From a case to the number that is right.
        solution (`Callable`): From a case to the answer as the example writes it, with its working and its box.
        example (`tuple`): The case that is shown in every prompt.
        topic (`str`): In the problems' schema.
    """

    cases: Sequence[tuple]
    question: Callable[..., str]
    answer: Callable[..., int]
    solution: Callable[..., str]
    example: tuple
    topic: str

    @property
    def n_problems(self) -> int:
        return len(self.cases) - 1

    def problems(self, n_problems: int, seed: int = 0) -> list[dict]:
        """
        Draw distinct problems, in DeepMath-103K's schema: question, final_answer, difficulty, topic.

        Args:
            n_problems (`int`): How many, at most `n_problems` of the task.
            seed (`int`): The same seed gives the same problems in the same order.

        Raises:
            `ValueError`: if more problems are asked for than there are.
        """
        if n_problems > self.n_problems:
            raise ValueError(f"There are {self.n_problems} distinct problems; {n_problems} were asked for.")
        drawn = random.Random(seed).sample([case for case in self.cases if case != self.example], n_problems)
        return [
            {
                "question": self.question(*case),
                "final_answer": str(self.answer(*case)),
                "difficulty": 1.0,
                "topic": self.topic,
            }
            for case in drawn
        ]

    def messages(self) -> list[dict[str, str]]:
        """The conversation that a prompt renders: the worked example, and `{question}` in place of the question."""
        return [
            {"role": "user", "content": self.question(*self.example)},
            {"role": "assistant", "content": self.solution(*self.example)},
            {"role": "user", "content": "{question}"},
        ]

    @property
    def prompt_format(self) -> str:
        """The conversation in ChatML, the markup of SmolLM2 and Qwen, without a system message."""
        turns = (f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in self.messages())
        return f"{''.join(turns)}<|im_start|>assistant\n"


def _read_both(a: int, b: int) -> str:
    return f"{a} or {b}: \\boxed{{{max(a, b)}}}"


def _in_common(name: str, other: str, a: int, b: int) -> str:
    return f"{name} has {a} coins and {other} has {b} coins. {a} + {b} = {a + b}. \\boxed{{{a + b}}}"


LANGUAGE_TASKS = {
    "number_words": LanguageTask(
        cases=[(number,) for number in range(100, 1000)],
        question=lambda number: f"Write {in_words(number)} in digits.",
        answer=lambda number: number,
        solution=lambda number: f"\\boxed{{{number}}}",
        example=(642,),
        topic="Language -> Numbers -> Reading",
    ),
    "larger": LanguageTask(
        # Each pair once, so that no pair is both trained on and held out; the larger one comes first in half of them
        cases=[(a, b) if (a + b) % 2 else (b, a) for a, b in itertools.combinations(range(21, 100), 2)],
        question=lambda a, b: f"Which is larger, {in_words(a)} or {in_words(b)}?",
        answer=max,
        solution=_read_both,
        example=(34, 52),
        topic="Language -> Numbers -> Comparison",
    ),
    "together": LanguageTask(
        cases=[
            (*names, *coins)
            for names in itertools.permutations(NAMES, 2)
            for coins in itertools.product(range(2, 10), repeat=2)
        ],
        question=lambda name, other, a, b: (
            f"{name} has {in_words(a)} coins and {other} has {in_words(b)} coins. How many coins do they have together?"
        ),
        answer=lambda name, other, a, b: a + b,
        solution=_in_common,
        example=("Ben", "Anna", 4, 7),
        topic="Language -> Numbers -> Sums",
    ),
}
