"""The made programming task: its programs are right in the real sandbox, and its mistakes wrong."""

import random

import pytest

from delta_trl.research.code_task import TOKENS, code_problems, written_program
from delta_trl.research.tasks import TASKS, character_tokenizer
from delta_trl.rewards import code_reward


def test_written_programs_pass_and_flawed_ones_often_do_not():
    problems = code_problems(100)
    rng = random.Random(0)
    tests = [problem["tests"] for problem in problems]
    assert code_reward([written_program(p["question"], rng) for p in problems], tests=tests) == [1.0] * 100
    passed = sum(code_reward([written_program(p["question"], rng, 0.25) for p in problems], tests=tests))
    assert 25 < passed < 75


def test_problems_are_distinct_and_the_same_for_a_seed():
    problems = code_problems(TASKS["code"].n_problems)
    assert len({problem["question"] for problem in problems}) == 26**3
    assert code_problems(5) == problems[:5]
    with pytest.raises(ValueError, match="There are 17576 distinct problems; 17577 were asked for"):
        code_problems(17_577)


def test_a_completion_begins_at_a_token_of_its_own():
    """Or the model would be trained on another prompt than it sees."""
    tokenizer = character_tokenizer(TOKENS)
    (problem,) = code_problems(1)
    prompt, program = f"{problem['question']}\n", written_program(problem["question"], random.Random(0))
    ids = tokenizer(prompt)["input_ids"]
    whole = tokenizer(prompt + program)["input_ids"]
    assert whole[: len(ids)] == ids
    assert tokenizer.decode(whole) == prompt + program
    assert tokenizer.unk_token_id not in whole
