r"""The rules' own examples, pairs of every kind that was mended, what a user is told, and what is worked around upstream."""

import collections
import json
import subprocess
import sys

import pytest
from support.places import DATA

from delta_trl.rewards import REASONS, explain, grade
from delta_trl.rewards.math.grading import ask_workers
from delta_trl.rewards.math.rule import RULES, Pair, decide
from delta_trl.rewards.math.verdicts import settle


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).open(encoding="utf-8")]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_decides_its_own_examples(rule):
    assert rule.purpose
    assert len(rule.purpose.strip().splitlines()) <= 2
    for gold, answer, expected in rule.examples:
        reason, names = settle(decide(Pair(gold, answer)), lambda leaf: ask_workers([leaf])[leaf])
        assert (reason, names[0]) == (expected, rule.name), (gold, answer, names)
        assert reason in REASONS


def test_every_rule_has_an_example_and_a_name_of_its_own():
    assert all(rule.examples for rule in RULES)
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_pairs_of_every_kind():
    pairs = lines("answer_pairs.jsonl")
    assert len(pairs) > 450
    verdicts = grade([rf"\boxed{{{pair['answer']}}}" for pair in pairs], [pair["gold"] for pair in pairs])
    missed = [
        (*pair.values(), v.reason)
        for pair, v in zip(pairs, verdicts, strict=True)
        if float(v.score or 0) != pair["score"]
    ]
    assert not missed


def test_reported_answers_by_group():
    cases = lines("answers_3.jsonl")
    assert len(cases) == 743
    verdicts = grade([case["completion"] for case in cases], [case["gold"] for case in cases])
    right, accepted = collections.defaultdict(list), []
    for case, verdict in zip(cases, verdicts, strict=True):
        is_right = (verdict.score == 1.0) == case["expected"]
        right[case["group"]].append(is_right)
        if not is_right and not case["expected"]:
            accepted.append((case["gold"], case["completion"]))
    shares = {group: sum(found) / len(found) for group, found in right.items()}
    assert not accepted
    assert shares["holds"] >= 0.997
    assert shares["fault"] >= 0.98
    assert shares["policy to widen"] >= 0.95


@pytest.mark.parametrize(
    ("gold", "answer", "reason", "rule"),
    [
        ("x+y+z", "3y", "wrong", ("algebra",)),
        (r"5\text{ cm}", r"5\text{ m}", "wrong", ("units",)),
        ("3", "x = 3", "correct", ("chain", "same text")),
        ("1, x", "x, 2", "wrong", ("list",)),
        ("The series converges by the comparison test and so it has a limit", "5", "unscorable gold", ("gold",)),
        (r"\frac{1}{", "5", "unscorable gold", ("gold",)),
    ],
)
def test_an_explanation_names_the_rule_and_what_was_read(gold, answer, reason, rule):
    found = explain(gold, answer)
    assert (found.reason, found.rules) == (reason, rule)
    assert found.why
    for part in (found.reason, found.gold_read, found.rules[-1]):
        assert part in str(found)


def test_an_explanation_shows_what_the_algebra_compared():
    assert explain("x+y+z", "3y").compared == (("x + y + z", "3*y"),)
    assert explain("5", "no box", completion=None).compared == ()


def test_an_explanation_of_a_completion():
    assert explain("5", completion="no box").reason == "no box"
    assert explain("5", completion=r"<think>\boxed{5}").reason == "unfinished thought"
    assert explain("5", completion=r"\boxed{4} but \boxed{5}").score == 1.0
    for wrong in ({}, {"answer": "5", "completion": "5"}):
        with pytest.raises(ValueError, match="either"):
            explain("5", **wrong)


def test_the_command_prints_the_explanation(tmp_path):
    file = tmp_path / "completion.txt"
    file.write_text(r"So $\boxed{\frac12}$.", encoding="utf-8")
    command = [sys.executable, "-m", "delta_trl.rewards"]
    done = subprocess.run([*command, "0.5", "--completion", str(file)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "correct" in done.stdout
    assert "numbers" in done.stdout
    done = subprocess.run([*command, "0.5", r"\frac13"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    missing = subprocess.run(
        [*command, "5", "--completion", "nowhere.txt"], capture_output=True, text=True, timeout=120
    )
    assert missing.returncode == 2
    assert "cannot read nowhere.txt" in missing.stderr


# The smallest input of each thing that is rewritten before the parser (`algebra.rewriting`, `algebra.reading`) or kept from
# it, and what it makes of it today. The list for readers is in docs/development.md.
WORKED_AROUND = {
    r"\gamma-1": "zoo",
    "E": "E",  # Euler's number, like e
    "5!!": "factorial(factorial(5))",
    r"\gcd(m,n)": "1",
    r"\lcm(m,n)": "m*n",
    r"\coth x": "cot(h*x)",
    r"\sech x": "sec(h*x)",
    r"\csch x": "csc(h*x)",
    "y'": "y",
    "3!^2": "refused",
    r"\lg 2": "refused",
    r"\max\{a,b\}": "refused",
    r"\mathbb{R}^+": "refused",
    "0 He": "0*E*H",
    "5,120": "5120",
    "[5,5]": "{5}",
    "i^2": "i**2",
    r"x>1\land x<3": "refused",
}


@pytest.mark.parametrize("text", WORKED_AROUND)
def test_the_parser_still_needs_what_is_worked_around(text):
    """When this fails, the parser reads the input another way: look whether the rewriting can go."""
    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    try:
        parsed = latex2sympy(
            text,
            is_real=True,
            convert_degrees=True,
            normalization_config=None,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
        found = str(parsed.doit() if text.startswith((r"\gcd", r"\lcm")) else parsed)
    except Exception:  # the parser raises bare Exceptions
        found = "refused"
    assert found == WORKED_AROUND[text]


@pytest.mark.parametrize(
    ("gold", "answer", "score"),
    [
        (r"1-\gamma", "-1", 0),
        ("E+1", "e+1", 0),
        ("105", "7!!", 1),
        (r"\gcd(m,n)", "1", 0),
        (r"\coth x", r"\frac{\cosh x}{\sinh x}", 1),
        ("y'=2y", "y=2y", 0),
        ("(3!)^2", "3!^2", 1),
        (r"\max\{a,b\}", r"\max(b,a)", 1),
        ("x=0", "x=0 He sells", 0),
        ("5120", r"5\text{ and }120", 0),
    ],
)
def test_what_is_worked_around_is_read_rightly(gold, answer, score):
    (verdict,) = grade([rf"\boxed{{{answer}}}"], [gold])
    assert verdict.score == score, verdict
