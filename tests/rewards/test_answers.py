r"""Graded answers by family, what costs time, and what `scorable`, `same_answers` and opened thoughts promise."""

import collections
import json
import math
import time

import pytest
from support.places import DATA

from delta_trl.rewards import grade, math_reward, opens_thought, same_answers, scorable
from delta_trl.rewards.math import grading
from delta_trl.rewards.math.extraction import extract_answer


FLOOR = 0.92  # of each family
MOST_WRONG_ACCEPTED = 0.01

# Cases whose expectation contradicts the policy of docs/rewards.md, as (gold, completion): reason. None so far.
AGAINST_POLICY: dict[tuple[str, str], str] = {}


def test_every_family_of_graded_answers_stays_above_its_floor():
    with (DATA / "answers_2.jsonl").open(encoding="utf-8") as file:
        cases = [case for case in map(json.loads, file) if case["expected"] is not None]
    assert len(cases) == 420
    verdicts = grade([case["completion"] for case in cases], [case["gold"] for case in cases])
    right = collections.defaultdict(list)
    missed, accepted = [], 0
    for case, verdict in zip(cases, verdicts, strict=True):
        is_right = float(verdict.score or 0.0) == case["expected"]
        if (case["gold"], case["completion"]) not in AGAINST_POLICY:
            right[case["family"]].append(is_right)
            accepted += not is_right and not case["expected"]
            if not is_right:
                missed.append((case["family"], case["gold"], case["completion"], verdict.reason))
    assert all(sum(family) >= math.floor(FLOOR * len(family)) for family in right.values()), missed
    assert accepted <= MOST_WRONG_ACCEPTED * len(cases), missed


# (gold, answer, score): what other members of those families do
MORE = [
    (r"0.\overline{27}", r"\frac{3}{11}", 1),
    (r"\frac{1}{6}", r"0.1\overline{6}", 1),
    (r"\mathbb{R}", r"(-\infty, +\infty)", 1),
    (r"2024!", r"2024\cdot 2023!", 1),
    (r"2024!", "2023!", 0),
    (r"100e^{-0.12345t}", r"100e^{-0.12346t}", 0),
    (r"\max(x,10)", "10", 0),
    (r"\lfloor n/5\rfloor", r"\lfloor n/7\rfloor", 0),
    (r"\lfloor n/2\rfloor", r"\frac{2n-1+(-1)^n}{4}", 1),
    ("x^2+1=0", "x^2+2=0", 0),
    ("x^2+y^2=4", "x^2+y^2-4=0", 1),
    ("5", r"x \not= 5", 0),
    ("5", r"5\text{ million dollars}", 0),
    ("5", r"5\text{ dozen}", 0),
    ("5", r"5\text{ maybe}", 0),
    (r"5\text{ N}", r"5\text{ J}", 0),
    (r"5\text{ N}", r"5\,\mathrm{N}", 1),
    (r"3:45\text{ p.m.}", r"3:45\text{ a.m.}", 0),
    (r"60\text{ mph}", r"60\text{ miles per hour}", 1),
    (r"9.8\text{ m/s}^2", r"9.8\ \text{m}/\text{s}^2", 1),
    ("45", r"2\text{ hours and }45\text{ minutes}", 0),
    (r"2\text{ hours and }30\text{ minutes}", r"30\text{ hours and }2\text{ minutes}", 0),
    ("391", r"17\cdot 23^1", 0),
    ("391", r"\left|17\cdot 23\right|", 0),
    ("13", r"(2+3i)(2-3i)", 0),
    ("(2,3)", "(1+1,3)", 0),
    ("4", r"\lceil\pi\rceil", 0),
    ("4", r"\varphi(8)", 0),
    ("2x", r"(x^2)'", 0),
    ("3", r"\left.x\right|_{x=3}", 0),
    (r"\begin{pmatrix}2&0\\0&3\end{pmatrix}", r"\begin{pmatrix}2&0\\0&3\end{pmatrix}^T", 0),
    (r"\begin{pmatrix}2&0\\0&2\end{pmatrix}", r"2\begin{pmatrix}1&0\\0&1\end{pmatrix}", 1),
    (r"x=1 \quad y=2", r"x=7 \quad y=2", 0),
    ("x=1, x=3", r"x=1\lor x=3", 1),
    ("3", r"x\in[3,3]", 0),
    ("3,5", "3.5", 0),
    ("3.5", "3,5", 1),
    (r"\sin 30^\circ", r"\frac12", 1),
    (r"\cos 20", r"\cos 20^\circ", 0),
    ("343_5", r"343\text{ (base 5)}", 1),
    ("343_5", "343_7", 0),
    (r"x\equiv3\pmod 7", r"x\equiv 10\pmod{7}", 1),
    (r"x\equiv3\pmod 7", r"x\equiv 3\pmod{8}", 0),
    (r"\{2k\mid k\in\mathbb{Z}\}", r"\{2n : n\in\mathbb{Z}\}", 1),
    (r"\{x\mid x>2\}", r"\{x \in\mathbb{R} \mid x>2\}", 1),
    (r"x>3", "2x>6", 0),
    ("2<x<5", r"x\in(2,5)", 1),
    (r"x<1\text{ or }x>2", r"(-\infty,1)\cup(2,\infty)", 1),
    ("aB", "Ab", 0),
    (r"3^{100}", r"9^{50}", 1),
    (r"10^{50}", r"10^{50}+1", 0),
    (r"\{2,3\}", r"\{2\}\cup\{3\}", 0),
    ("B, D", r"\text{D, B}", 1),
    ("2, 1", "1, 2", 1),
    ("(1,2)", "2,1", 0),
    (r"\boxed{1} and \boxed{2}", "2, 1", 1),
    (r"We get 40. Answer: $41$", "41", 1),
    ("6 * 7 = 42\n#### 42", "42", 1),
]


def test_other_members_of_the_families():
    verdicts = grade([rf"Hence $\boxed{{{answer}}}$." for _, answer, _ in MORE], [gold for gold, _, _ in MORE])
    missed = [(*case, v.reason) for case, v in zip(MORE, verdicts, strict=True) if v.score != case[2]]
    assert not missed


def test_nested_boxes_cost_no_more_than_their_length():
    def seconds(n: int) -> float:
        start = time.process_time()
        assert extract_answer(r"\boxed{" * n + "5" + "}" * n) == ("{" * (n - 1) + "5" + "}" * (n - 1), None)
        return time.process_time() - start

    assert min(seconds(16_000) for _ in range(3)) < 30 * max(1e-3, min(seconds(2_000) for _ in range(3)))


def test_a_gold_that_got_no_turn_is_asked_again(monkeypatch):
    """The first call on a machine so busy that the clock ends every worker; such a reply is not remembered."""
    gold, run, calls = r"\frac{\sqrt{41}}{7+x}", grading.POOL.run, []

    def busy_at_first(requests):
        calls.append(list(requests))
        return [(None, False)] * len(requests) if len(calls) == 1 else run(requests)

    monkeypatch.setattr(grading.POOL, "run", busy_at_first)
    assert scorable([gold]) == [True]
    assert len(calls) == 2
    assert calls[0] == calls[1]


def test_scorable_agrees_with_grade():
    golds = [
        "3",
        "Yes",
        r"\frac{1}{",
        r"\frac{1}{0}",
        "",
        "nan",
        float("nan"),
        None,
        r"\mathbb{Z}_2",
        r"x \mapsto",
        "2024!",
    ]
    golds += [
        r"\frac{2^n}{(n+1)!}",
        "The series converges absolutely by the comparison test and so on",
        r"\{x\mid x>2\}",
    ]
    golds += [json.loads(line)["final_answer"] for line in (DATA / "math500.jsonl").open(encoding="utf-8")]
    can_score = scorable(golds)
    for answer in [r"\boxed{17}", "no box", None]:
        completions = [answer if answer is not None else rf"\boxed{{{gold}}}" for gold in golds]
        assert [verdict.score is not None for verdict in grade(completions, golds)] == can_score
    assert scorable([float("nan"), None, "  "]) == [False] * 3


def test_a_vote_does_not_depend_on_which_answer_comes_first():
    pairs = [("x=3", "3"), ("50", r"50\%"), (r"5\text{ cm}", "5"), ("1, 2", "2, 1"), ("3", "4"), ("2<x<5", "(2,5)")]
    assert same_answers(pairs) == same_answers([pair[::-1] for pair in pairs]) == [True, True, True, True, False, True]


def test_a_thought_that_a_chat_template_opened():
    assert opens_thought("<|assistant|><think>\n")
    assert not opens_thought("<think></think>\n")
    conversations = [[{"role": "assistant", "content": text}] for text in (r"\boxed{3}", r"hm</think>\boxed{3}")]
    prompts = [[{"role": "user", "content": "1+2?"}]] * 2
    arguments = {"completions": conversations, "solution": ["3", "3"], "prompts": prompts}
    assert math_reward(**arguments, opens_thought=[True, True]) == [0.0, 1.0]
    assert math_reward(**arguments) == [1.0, 1.0]


@pytest.mark.parametrize("gold", [r"9^{9^{9^{9}}}"])
def test_a_gold_beyond_the_cost_guard_is_met_by_its_own_text_only(gold):
    assert scorable([gold]) == [False]
    assert [v.score for v in grade([rf"\boxed{{{gold}}}", r"\boxed{5}"], [gold, gold])] == [1.0, None]
