"""What reads a model's output in the training process takes time linear in its length: it holds Python's lock meanwhile."""

import contextlib
import random
import re
import time

import pytest

from delta_trl.evaluation.multiple_choice import answer_letter, grade_choice
from delta_trl.report.callback import HeatMap, extremes_table
from delta_trl.report.text import visible
from delta_trl.responses import after_thoughts, opens_thought, response_texts
from delta_trl.rewards.code.compare import read_value, same_text
from delta_trl.rewards.code.extraction import extract_code
from delta_trl.rewards.code.grading import contains_outputs
from delta_trl.rewards.code.tests import read_tests
from delta_trl.rewards.gym import read_answer
from delta_trl.rewards.math.extraction import boxed, extract_answer
from delta_trl.rewards.math.golds import canonical_gold
from delta_trl.rewards.math.grading import decide_texts
from delta_trl.rewards.math.limits import MAX_CHARACTERS
from delta_trl.rewards.math.spelling import canonical


SIZE = 40_000  # characters of the longer text; the other has a quarter
FEW = 16_000  # for what takes microseconds a character
FREE_SECONDS = 0.05  # of CPU time: quadratic work on so much text takes longer
GROWTH = 8.0  # linear work takes 4 times as long on 4 times the text, quadratic work 16 times
TRIES = 3  # of the measurement, of which the best counts: other processes share the machine's caches

# fmt: off
REPEATED = (
    "(", ")", "[", "{", "}", "\\", "\\{", "$", "$$", "\n", " ", "\t", "!", "=", "^", "_", "1", "1,", "1.", "a", "ab ",
    "A, ", "é", "𝐀", "\u200b", "٣", "½", "\ud800", "&", "|", "`", "```\n", "```python\n", "~~~\n", "````\n", "- ",
    "> ", "# ", "\"\"\"", "'''\n", "- ```python\n", "> ```\n", "``` ", "x```\n", "    ```python\n", "\"\"\"\n```\n",
    "\\boxed{", "\\boxed{1}", "\\boxed 1 and ", "\\boxed{1}, ", "\\frac{", "\\text{", "\\frac1", "\\sqrt2 ", "\\left(",
    "x^{", "x_1=", "10^", "3!", "\\pm ", "\\cdot ", "<think>", "</think>", "<answer>", "</answer>",
    "<answer>1</answer>", "Answer: ", "answer is (", "Answer: A or ", "Answer\n", "answer is\n\n", "**Answer:**", ".",
    ",", "\\\\", "a,", "x^", "1!", "(1)!", "1/", "²", "and ", "infinity", "\\text{a}", "\\sqrt{", "\\hspace{",
    "\\begin{pmatrix}", "^{\\circ}", "1\\text{cm},", "\\{x|", "\\pmod{", "\\overline{", "\\text{five}", "\\equiv",
    "\\left.", "\\quad ", "1 cm, ", "\\choose ", "1 ",
)
# fmt: on
UNITS = {f"repeated {unit!r}": unit for unit in REPEATED}
# Runs between parts that keep an expression from matching
FRAMES = (("\\boxed{1", "x}"), ("x", "^x"), ("{", "}"))
RUNS = ("(", "{", "$", "^", "=", "1", "1,", "a ", " ", "\\frac1", "\\sqrt{", "\\text{a}", "3!", "\\quad ", "1 cm, ")
FRAMED = {f"{unit!r} after {start!r}": (start, unit, end) for start, end in FRAMES for unit in RUNS}


def text_of(name: str, size: int, salt: int) -> str:
    """A text of a family. The salt keeps it out of every cache."""
    kind, _, rest = name.partition(" ")
    if kind == "repeated":
        unit = UNITS[name]
        text = unit * (size // len(unit))
    elif name in FRAMED:
        before, unit, after = FRAMED[name]
        text = before + unit * (size // len(unit)) + after
    elif kind == "nested":
        opening, closing = {
            "boxes": ("\\boxed{", "}"),
            "fractions": ("\\frac{1}{", "}"),
            "thoughts": ("<think>", "</think>"),
        }.get(rest, tuple(rest))
        count = size // (len(opening) + len(closing))
        text = opening * count + closing * count
    else:
        draw = random.Random(rest)
        units = draw.sample(list(UNITS.values()), 4)
        text = "".join(draw.choices(units, k=size // max(1, sum(map(len, units)) // 4)))
    return f"{text}{salt}"


NESTED = ["nested boxes", "nested fractions", "nested thoughts", "nested ()", "nested {}", "nested []"]
FAMILIES = [*UNITS, *NESTED, *FRAMED, *(f"mixture {number}" for number in range(12))]


def responses(text: str):
    parts = [{"type": "text", "text": text}]
    return response_texts([text, [{"role": "assistant", "content": parts}]], {"prompts": [text, []]})


def boxes_near(text: str):
    return boxed(text, near=10)


def rules(text: str):
    """What decides on an answer before a worker is asked."""
    return [decide_texts(gold, text) for gold in GOLDS]


def contains_known_outputs(text: str):
    return contains_outputs(text, TESTS)


def same_output(text: str):
    return same_text(text, text + "1")


def value(text: str):
    return read_value(text.encode("utf-8", "replace"))


def choice(text: str):
    return grade_choice(text, "A", "ABCD")


def heat_map_table(text: str):
    return extremes_table(HeatMap([text], [1.0], [-1.0], advantage=1.0))


GOLDS = ("7", r"\frac{1}{2}", "x=3", "1,2", "(1,2]", "x^2+1")
TESTS = read_tests({"inputs": ["1", "2"], "outputs": ["12345678901", "23456789012"]})
READERS = {
    after_thoughts: SIZE,
    opens_thought: SIZE,
    responses: SIZE,
    extract_answer: SIZE,
    boxed: SIZE,
    boxes_near: SIZE,
    canonical_gold: SIZE,
    canonical: 4 * MAX_CHARACTERS,  # what `grade` reads of an answer
    rules: 4 * MAX_CHARACTERS,
    extract_code: FEW,
    contains_known_outputs: SIZE,
    same_output: SIZE,
    value: SIZE,
    read_answer: SIZE,
    answer_letter: SIZE,
    choice: SIZE,
    visible: FEW,
    heat_map_table: FEW,
}


def seconds(reader, text: str) -> float:
    start = time.process_time()
    with contextlib.suppress(ValueError):  # read_value's answer to what is no value
        reader(text)
    return time.process_time() - start


def growth(reader, family: str, size: int) -> float:
    """How much longer four times the text takes; 0 if it takes next to no time anyway."""
    longer = shorter = float("inf")
    for salt in range(TRIES):
        longer = min(longer, seconds(reader, text_of(family, size, 2 * salt)))
        if longer < FREE_SECONDS:
            return 0.0
        shorter = min(shorter, seconds(reader, text_of(family, size // 4, 2 * salt + 1)))
        if longer < GROWTH * shorter:
            break
    return longer / shorter


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_reading_takes_linear_time(reader):
    ratios = {family: growth(reader, family, READERS[reader]) for family in FAMILIES}
    assert not {family: ratio for family, ratio in ratios.items() if ratio >= GROWTH}


def test_the_measurement_notices_quadratic_work():
    assert growth(re.compile(r"\(+\}").search, "repeated '('", FEW) >= GROWTH
