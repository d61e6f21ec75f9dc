# ruff: noqa: E501 - some programs are one line
"""The code reward against programs that try for a reward without solving, and honest programs that looked like them."""

import pytest

from delta_trl.rewards.code.compare import read_value, same_set, same_text, same_value
from delta_trl.rewards.code.grading import grade_program
from delta_trl.rewards.code.tests import read_tests
from delta_trl.sandbox import Sandbox


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox(workers=1)
    yield sandbox
    sandbox.close()


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [
        ("Infinity", "5", False),
        ("-Infinity", "0", False),
        ("[1, Infinity]", "[1, 2.5]", False),
        ('{"a": 1e999}', '{"a": 7}', False),
        ("Infinity", "-Infinity", False),
        ("Infinity", "NaN", False),
        ("Infinity", "Infinity", True),
        ("-Infinity", "-1e999", True),
    ],
)
def test_no_number_is_near_infinity(expected, got, same):
    assert same_value(read_value(expected), read_value(got)) is same


@pytest.mark.parametrize(
    ("expected", "got"), [("1e999", "5"), ("12e4567", "0.5"), ("a -1e400", "a 1"), ("1e999", "2e999")]
)
def test_no_token_is_near_one_beyond_the_floats(expected, got):
    assert not same_text(expected, got)
    assert same_text(expected, expected)


def test_large_sets_cost_the_trainer_little():
    """A list of floats where integers are expected has no element word for word."""
    wanted = list(range(20_000))
    assert not same_set(wanted, [float(n) for n in wanted])  # 800 million comparisons otherwise
    assert same_set(wanted, wanted[::-1])
    assert same_set(wanted[:500], [float(n) for n in wanted[:500]])


ANSWERS = {"inputs": [str(n) for n in range(7)], "outputs": ["NO", "YES", "NO", "NO", "YES", "NO", "NO"]}
# Each gives one answer in the first run of a process and another in later ones
SECOND_TRIES = {
    "an attribute of a class": "import json\nD = json.JSONDecoder\nprint('YES' if hasattr(D, 'seen') else 'NO')\nD.seen = 1",
    "its standard error": "import os\nprint('YES' if os.lseek(2, 0, os.SEEK_END) else 'NO')\nos.write(2, b'seen')",
    "its descriptors": "import os\nprint('NO' if os.dup(3) == 6 else 'YES')",
}


@pytest.mark.parametrize("program", SECOND_TRIES.values(), ids=SECOND_TRIES)
def test_a_second_try_gains_no_share_of_the_reward(sandbox, program):
    """A run that fails behind another one is repeated: neither answer alone is right everywhere."""
    verdict = grade_program(program, read_tests(ANSWERS), sandbox, fraction=True)
    assert (verdict.score, verdict.reason) == (pytest.approx(5 / 7), "wrong")
    assert grade_program(program, read_tests(ANSWERS), sandbox).score == 0.0
    outputs = [result.stdout for result in sandbox.run_inputs(program, [b"", b"", b""])]
    assert outputs == [b"NO\n", b"YES\n", b"YES\n"]  # the control: there are two answers


def test_state_that_spoils_a_later_run_costs_an_honest_program_nothing(sandbox):
    program = "import json\nn = int(input())\nD = json.JSONDecoder\nD.seen = getattr(D, 'seen', 0) + n\nprint('YES' if D.seen in (1, 4) else 'NO')"
    for fraction in (True, False):
        assert grade_program(program, read_tests(ANSWERS), sandbox, fraction=fraction).score == 1.0
