"""Multiple-choice questions: GPQA-Diamond and MMLU-Pro, the paper's benchmarks outside mathematics (§4.1).

Questions become text with lettered options, answers are letters, and `answer_letter` reads a response. No question is
bundled: GPQA asks that its texts are not published.
"""

import hashlib
import random
import re
import unicodedata
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


# What may stand before a letter and after it: brackets, quotes, bold type, LaTeX. All repetitions are bounded, so that
# reading takes time linear in the length, whatever the text.
_BEFORE = r"(?:[\s*_$(\[{'\"`“‘„«]|\\[(\[]|\\(?:boxed|fbox|text[a-z]{0,4}|math[a-z]{1,4})[ \t]?\{){0,16}"
_AFTER = r"[ \t*_$)\]}'\"`”’“»\\]{0,12}"
_SUBJECT = (
    r"(?P<what>\banswer|\b(?:correct|right|best)[ \t](?:option|choice))"
    r"(?:[ \t]to[ \t](?:this|the)[ \t](?:question|problem))?[*_\"'`]{0,6}[ \t]{0,8}"
)
_VERB = (
    r"(?:is|(?:should|must|would|will|has to) be)\b"
    r"(?:[ \t](?:most likely|likely|probably|clearly|therefore|thus|then|definitely|indeed|simply))?[ \t]{0,4}:?"
)
# "Answer: C", <answer>C, "the answer is C", "Answer - C", "Answer" alone on its line, or a box
_STATED = re.compile(
    rf"(?:{_SUBJECT}(?:(?P<colon>[:>])|(?P<verb>{_VERB})|(?P<dash>[-–—=→]{{1,2}})|(?P<heading>\n))|\\boxed[ \t]?\{{)"
    rf"{_BEFORE}(?:(?:the[ \t])?(?:option|choice|letter)[ \t]{{1,4}}{_BEFORE})?(?P<letter>[a-z])(?![^\W_]|['’]\w|[-–]\w|\()",
    re.IGNORECASE,
)
# Before the word "answer" where it is alone on its line
_HEADING = re.compile(r"(?:\A|\n)[#*_> \t]{0,12}(?:(?:the|my|final|correct)[ \t]){0,3}\Z", re.IGNORECASE)
# Before "answer": what makes it no statement
_UNSTATED = re.compile(
    r"\b(?:wrong|incorrect|(?:if|whether|suppose|assume|assuming|unless)(?:[ \t]that)?(?:[ \t](?:the|my))?"
    r"(?:[ \t](?:correct|right|final|best))?)[ \t]\Z",
    re.IGNORECASE,
)
_LOOK_BACK = 60  # characters, more than `_HEADING` and `_UNSTATED` can take
_END_OF_LINE = re.compile(rf"(?:{_AFTER}[.!]?){{1,2}}[ \t]?(?:\n|\Z|<[|/])")
_CLOSED = re.compile(rf"{_AFTER}(?:[.:)]|\n|\Z|<[|/])")
# Of a letter that belongs to a formula: E = mc^2, A \cap B, C_2
_FORMULA = re.compile(rf"[ \t*$)\]]{{0,8}}(?:[=+^>≤≥≈~′∝·×÷∈⊂⊆∪∩]|<(?![|/])|_[^\W_]|_[{{\\]|\\[a-zA-Z])|{_AFTER}=")
_DENIED = re.compile(rf"{_AFTER}(?:is|was)[ \t](?:not|wrong|incorrect|false)\b")
_ENDS = r"\)?[ \t]?(?:\n|\Z)"
_ANOTHER = re.compile(
    rf"{_AFTER}\(?(?:(?P<comma>[,;][ \t]?(?:and\b)?)|[/|&]|\bor\b|\band\b|(?:[-–—]|(?=[ \t]))(?=[ \t]?\(?[A-Z]{_ENDS}))"
    rf"(?:[ \t](?:possibly|perhaps|maybe|also))?{_BEFORE}(?P<letter>[A-Z])(?![\w'’])"
)
# After a comma and a letter: "Answer: B, A is wrong", "C, I think", but not "A, B are both right"
_CLAUSE = re.compile(r"[ \t](?!(?:are|were|both|because|since|as|and|or)\b)[a-z]")
# After a letter in running text, so that it is no article, no pronoun and no part of a name
_PUNCTUATED = re.compile(rf"{_AFTER}(?:[.,;:!)\]}}—–(]|-{{1,3}}[ \t]|[ \t]\d|\n|\Z|<[|/])")
_REASON = re.compile(
    rf"{_AFTER}(?:because|since|as|for|so|due|given|based|according|which|where|when|while|whereas|but|by|and|not|is|with|from"
    r"|if|hence|thus|therefore|using|i\.e|I)\b"
)
_WORD = re.compile(r"[ \t]{1,4}[a-z]")
_NAME = re.compile(r"[ \t]{1,4}[A-Z]")


def answer_letter(response: str, letters: str = LETTERS) -> str | None:
    r"""
    The letter that a response gives as its answer: the last one of the form "Answer: C", "the answer is C" or \boxed{C}.

    Brackets, quotes, bold type and dollar signs around the letter do not matter, nor what follows it: the option's text, a
    reason, other letters that are discussed. It may stand on the next line, and after the word "option".

    `None` where there is no such letter, where the last one is followed by another ("A or B"), or where it is none of
    `letters`. "The answer is not C" gives no letter. None are a word that begins with one ("Answer: Carbon", "the answer is
    I think 4"), an article ("the answer is a cat") and a letter of a formula (\boxed{E = mc^2}).
    """
    if not response.isascii():
        response = unicodedata.normalize("NFKC", response)  # full-width colons, brackets and letters
    response = response.replace("\r\n", "\n")
    last, is_one_of_several, next_letter = None, False, -1
    for found in _STATED.finditer(response):
        if not _is_answer(response, found):
            continue
        another = _ANOTHER.match(response, found.end())
        if another and another["comma"] and _CLAUSE.match(response, another.end()):
            another = None
        # Also the second of "\boxed{A} or \boxed{B}"
        is_one_of_several = another is not None or found.start("letter") == next_letter
        next_letter = another.start("letter") if another else -1
        last = found
    if last is None or is_one_of_several:
        return None
    letter = last["letter"].upper()
    return letter if letter in letters else None


def _is_answer(response: str, found: re.Match) -> bool:
    """Whether a letter that something announces is an option's, by what stands before and after both."""
    before, end = response[max(0, found.start() - _LOOK_BACK) : found.start()], found.end()
    if _UNSTATED.search(before) or _FORMULA.match(response, end) or _DENIED.match(response, end):
        return False
    ends_line = _END_OF_LINE.match(response, end)
    if found["heading"] and not (_HEADING.search(before) and ends_line):
        return False
    if found["dash"] or found["letter"].islower():
        return bool(ends_line) or response[end : end + 1] == ")"
    between = response[found.start() + len(found["what"] or "") : found.start("letter")]
    if "\n" in between and not _CLOSED.match(response, end):
        return False
    if _WORD.match(response, end):
        is_word = found["letter"] in "AI" or not found["colon"]
        return not is_word or bool(_REASON.match(response, end))
    if found["verb"] and not _PUNCTUATED.match(response, end):
        return bool(_REASON.match(response, end) or _ANOTHER.match(response, end)) or (
            found["letter"] not in "AI" and bool(_NAME.match(response, end))
        )
    return True


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
