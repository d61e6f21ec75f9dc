"""The made tasks: what their writers write, and that a tokenizer of single characters can read it."""

import random
import re

import pytest

from delta_trl.research.tasks import (
    CLOSINGS,
    LEDGER_STEPS,
    SLIPS,
    TASKS,
    arithmetic_problems,
    character_tokenizer,
    warm_up,
    written_ledger,
    written_precedence,
    written_solution,
)


SUM = re.compile(r"(-?\d+)\+(\d+)=(-?\d+)")


def sums(text: str) -> list[tuple[int, int, int]]:
    return [tuple(map(int, found)) for found in SUM.findall(text)]


def box(text: str) -> int:
    return int(re.search(r"\$\\boxed\{(-?\d+)\}\$$", text)[1])


@pytest.fixture(scope="module")
def problems():
    return arithmetic_problems(500, seed=1)


SUMS = ("quickstart", "ledger")


@pytest.mark.parametrize("task", SUMS)
def test_without_errors_every_sum_is_true_and_the_box_holds_the_answer(task, problems):
    rng = random.Random(0)
    for problem in problems:
        text = TASKS[task].solution(problem["question"], rng)
        operands = [int(operand) for operand in problem["question"].removesuffix("=?").split("+")]
        assert [second for _, second, _ in sums(text)] == operands[1:]
        assert all(a + b == c for a, b, c in sums(text))
        assert str(box(text)) == problem["final_answer"]


@pytest.mark.parametrize("task", SUMS)
def test_errors_are_slips_at_the_rate_asked_for_and_are_carried_on(task, problems):
    rng = random.Random(0)
    slips = []
    for problem in problems * 4:
        text = TASKS[task].solution(problem["question"], rng, 0.25)
        written = sums(text)
        assert len(written) == 3
        assert [first for first, _, _ in written[1:]] == [result for _, _, result in written[:-1]]
        assert box(text) == written[-1][2]
        slips += [c - a - b for a, b, c in written]
    assert set(slips) == {0, *SLIPS}
    # 6000 steps: the standard error of the share is 0.0056
    assert sum(slip != 0 for slip in slips) / len(slips) == pytest.approx(0.25, abs=0.02)


def test_the_ledger_uses_every_phrasing_and_closing_about_equally(problems):
    rng = random.Random(0)
    texts = [written_ledger(problem["question"], rng, 0.25) for problem in problems]
    for wordings, expected in ((LEDGER_STEPS, 3 * 500 / 6), (CLOSINGS, 500 / 4)):
        for wording in wordings:
            known = wording.split("{")[0] if "{" in wording else f"{wording} $"
            assert sum(text.count(known) for text in texts) == pytest.approx(expected, rel=0.3)
    assert sum(map(len, texts)) / len(texts) == pytest.approx(100, abs=15)


@pytest.mark.parametrize("task", TASKS)
def test_the_tokenizer_reads_every_solution_and_gives_it_back(task):
    tokenizer, rng = character_tokenizer(TASKS[task].tokens), random.Random(0)
    for problem in TASKS[task].problems(500, 1):
        text = TASKS[task].solution(problem["question"], rng, 0.25)
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_the_quickstarts_solutions_stay_as_they_were(problems):
    rng = random.Random(5)
    texts = [written_solution("3+5+9+2=?", rng, 0.5) for _ in range(3)]
    assert texts == [
        "so 3+5=8, then 8+9=17, then 17+2=19. The answer is $\\boxed{19}$",
        "so 3+5=8, then 8+9=17, then 17+2=19. The answer is $\\boxed{19}$",
        "so 3+5=18, then 18+9=27, then 27+2=19. The answer is $\\boxed{19}$",
    ]


def steps(text: str) -> list[tuple[int, str, int, int]]:
    found = re.findall(r"(-?\d+)([+*])(-?\d+)=(-?\d+)", text)
    return [(int(a), operator, int(b), int(c)) for a, operator, b, c in found]


def is_true(a: int, operator: str, b: int, c: int) -> bool:
    return c == (a + b if operator == "+" else a * b)


def test_precedence_has_distinct_problems_two_thirds_of_which_depend_on_the_order():
    made = TASKS["precedence"].problems(1093, 3)
    assert len({problem["question"] for problem in made}) == 1093
    assert sum(problem["difficulty"] == 2.0 for problem in made) == 729
    assert all(str(eval(p["question"].removesuffix("=?"))) == p["final_answer"] for p in made)
    with pytest.raises(ValueError, match="1093 distinct"):
        TASKS["precedence"].problems(1094, 3)


def test_precedence_without_errors_takes_the_product_first():
    rng = random.Random(0)
    for problem in TASKS["precedence"].problems(500, 1):
        text = written_precedence(problem["question"], rng)
        assert all(is_true(*step) for step in steps(text))
        assert [operator for _, operator, _, _ in steps(text)] == ["*", "+"]
        assert str(box(text)) == problem["final_answer"]


def test_precedence_with_errors_mostly_works_from_left_to_right():
    rng = random.Random(0)
    questions = [p["question"] for p in TASKS["precedence"].problems(1093, 1) if p["difficulty"] == 2.0]
    written = [steps(written_precedence(question, rng, 0.1)) for question in questions * 4]
    left = sum(first[1] == "+" for first, _ in written) / len(written)
    slips = sum(not is_true(*step) for both in written for step in both) / (2 * len(written))
    # 2916 solutions: the standard errors are 0.008 and 0.004
    assert left == pytest.approx(0.75, abs=0.03)
    assert slips == pytest.approx(0.1, abs=0.015)


def test_an_unknown_task_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"quickstart, ledger, precedence, code; got 'legder'"):
        warm_up(str(tmp_path), ["1+1+1+1=?"], task="legder")
