"""Multiple-choice questions: GPQA-Diamond and MMLU-Pro, the paper's benchmarks outside mathematics (§4.1).

Questions become text with lettered options, answers are letters, and `answer_letter` reads a response. No question is
bundled: GPQA asks that its texts are not published.
"""

import hashlib
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..responses import after_thoughts
from ..rewards import Verdict
from ..rewards.math.reasons import CORRECT, UNFINISHED_THOUGHT, WRONG


LETTERS = "ABCDEFGHIJ"
# Why a completion is wrong, besides the reasons of `rewards`
NO_LETTER = "no letter"
# Of the order of options, and of the choice of questions
SEED = 0
# The paper takes 600 of MMLU-Pro's 12,032 test questions and does not say which
MMLU_PRO_QUESTIONS = 600

# The prompt that verl and others use for such questions
PROMPT = """\
Answer the following multiple choice question. The last line of your response should be of the following format: \
'Answer: $LETTER' (without quotes) where LETTER is one of {letters}. Think step by step before answering.

{question}

{options}"""


@dataclass(frozen=True)
class ChoiceQuestion:
    """
    Attributes:
        id: Names the question within its benchmark.
        prompt: The question with its options and the format of the answer.
        answer: The letter of the right option.
        letters: The letters of all options.
    """

    id: str
    prompt: str
    answer: str
    letters: str


def gpqa_questions(rows: Iterable[Mapping[str, Any]]) -> list[ChoiceQuestion]:
    """From rows of GPQA (`Question`, `Correct Answer`, `Incorrect Answer 1` to `3`, perhaps `Record ID`), in their order.

    Raises:
        ValueError: A column is missing or empty.
    """
    wrong = [f"Incorrect Answer {number}" for number in (1, 2, 3)]
    questions = []
    for number, row in enumerate(rows):
        question, right, *others = _columns(row, number, "GPQA", ("Question", "Correct Answer", *wrong))
        questions.append(_question(str(row.get("Record ID") or number), question, [right, *others], right=0))
    return questions


def mmlu_pro_questions(
    rows: Iterable[Mapping[str, Any]], size: int | None = MMLU_PRO_QUESTIONS
) -> list[ChoiceQuestion]:
    """From rows of MMLU-Pro (`question_id`, `question`, `options`, `answer`, `answer_index`, `category`).

    Options "N/A", which pad some of the questions, are left out, as in the benchmark's own evaluation.

    Args:
        size: How many questions to take: those whose `question_id` hashes lowest (SHA-256 of "SEED:question_id"). So the
            choice depends neither on the order of the rows nor on a library. `None`: all.

    Returns:
        The questions in the order of the rows.

    Raises:
        ValueError: A column is missing or empty, `answer` and `answer_index` differ, or there are fewer questions.
    """
    columns = ("question_id", "question", "options", "answer", "answer_index")
    questions = []
    for number, row in enumerate(rows):
        identity, question, options, answer, index = _columns(row, number, "MMLU-Pro", columns)
        if not (0 <= index < min(len(options), len(LETTERS)) and LETTERS[index] == answer):
            raise ValueError(
                f"Row {number} of MMLU-Pro names option {answer!r} as its answer and answer_index {index} of "
                f"{len(options)} options: these must be the same, among at most {len(LETTERS)}."
            )
        kept = [i for i, option in enumerate(options) if i == index or str(option).strip() != "N/A"]
        questions.append(_question(str(identity), question, [options[i] for i in kept], right=kept.index(index)))
    if size is None:
        return questions
    if len(questions) < size:
        raise ValueError(
            f"MMLU-Pro has {len(questions)} questions here, and {size} are asked for: the file is not complete."
        )
    chosen = sorted(questions, key=lambda q: hashlib.sha256(f"{SEED}:{q.id}".encode()).hexdigest())[:size]
    names = {question.id for question in chosen}
    return [question for question in questions if question.id in names]


# "Answer:" or "answer is", then what may stand before a letter, then the letter; or the letter in a box
_BEFORE = r"(?:[ \t*_$(\[{]|\\[(\[]|\\(?:boxed|text|textbf|mathrm|mathbf)[ \t]*\{)*"
_LETTER = re.compile(
    rf"(?:\banswer[*_]*[ \t]*(?P<verb>:|is\b[ \t]*:?)|\\boxed[ \t]*\{{){_BEFORE}(?P<letter>[a-z])(?![\w'’])",
    re.IGNORECASE,
)
# A letter that ends its line, and one that ends what it is part of
_END_OF_LINE = re.compile(r"[ \t*_$)\]}.\\]*(?:\n|\Z)")
_END = re.compile(r"[ \t*_$\\]*(?:[.,;:!)\]}]|\n|\Z)")
_ANOTHER = re.compile(r"[ \t*_$)\]}]*(?:,|/|\bor\b|\band\b)[ \t*_$(\[{]*[A-Z](?!\w)")


def answer_letter(response: str, letters: str = LETTERS) -> str | None:
    r"""
    The letter that a response gives as its answer: the last one of the form "Answer: C", "the answer is C" or \boxed{C}.

    Parentheses, bold type and dollar signs around the letter do not matter. `None` where there is no such letter, where the
    last one is followed by another ("A or B"), or where it is none of `letters`. "The answer is not C" gives no letter, and
    a word that begins with one, as in "Answer: Carbon" or "the answer is I think 4", is none.
    """
    last = None
    for found in _LETTER.finditer(response):
        prose = (found["verb"] or "").lower().startswith("is")
        if found["letter"].islower() and not _END_OF_LINE.match(response, found.end()):
            continue  # an article, as in "Answer: a cat"
        if prose and not _END.match(response, found.end()) and not _ANOTHER.match(response, found.end()):
            continue
        last = found
    if last is None or _ANOTHER.match(response, last.end()):
        return None
    letter = last["letter"].upper()
    return letter if letter in letters else None


def grade_choice(completion: str, solution: str, letters: str) -> Verdict:
    """The verdict on a completion by the letter it gives after its thoughts; a thought that never ends gives none."""
    answer = after_thoughts(completion)
    if answer is None:
        return Verdict(0.0, None, UNFINISHED_THOUGHT)
    letter = answer_letter(answer, letters)
    if letter is None:
        return Verdict(0.0, None, NO_LETTER)
    return Verdict(float(letter == solution), letter, CORRECT if letter == solution else WRONG)


def _columns(row: Mapping[str, Any], number: int, name: str, columns: tuple[str, ...]) -> list[Any]:
    lacking = [column for column in columns if row.get(column) is None or row[column] in ("", [])]
    if lacking:
        raise ValueError(
            f"Row {number} of {name} lacks {', '.join(lacking)}; it has {', '.join(sorted(row))}. A local copy needs the "
            f"columns {', '.join(columns)}."
        )
    return [row[column] for column in columns]


def _question(identity: str, question: str, options: list[str], right: int) -> ChoiceQuestion:
    """With the options in an order that depends on the seed and the question alone."""
    order = list(range(len(options)))
    random.Random(f"{SEED}:{identity}").shuffle(order)
    letters = LETTERS[: len(options)]
    lines = [f"{letter}) {str(options[i]).strip()}" for letter, i in zip(letters, order, strict=True)]
    prompt = PROMPT.format(letters=letters, question=str(question).strip(), options="\n".join(lines))
    return ChoiceQuestion(identity, prompt, letters[order.index(right)], letters)
