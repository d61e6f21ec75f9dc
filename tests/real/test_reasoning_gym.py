"""reasoning-gym itself as a source of prompts and rewards: `make test-real`."""

import json
import time

import pytest
from reasoning_gym.factory import DATASETS

from delta_trl.data import DataArguments
from delta_trl.reasoning_gym import EXECUTE_ANSWERS, load_reasoning_gym, reasoning_gym_reward
from delta_trl.rewards import gym


def test_prompts_solutions_and_held_out_problems():
    data = load_reasoning_gym("chain_sum", size=300, seed=3, options={"max_terms": 2}, held_out_share=0.2)
    again = load_reasoning_gym("chain_sum", size=300, seed=3, options={"max_terms": 2}, held_out_share=0.2)
    assert data.train[:] == again.train[:]
    assert set(data.train.column_names) == {"prompt", "solution", "entry"}
    assert 20 < len(data.held_out) < 100
    assert not set(data.train["prompt"]) & set(data.held_out["prompt"])
    assert len(set(data.train["prompt"])) == len(data.train)
    assert data.train[0]["prompt"].startswith("User:\nState the final answer")


def test_right_answers_are_paid_and_others_are_not():
    data = load_reasoning_gym("chain_sum", size=20, seed=0).train
    right = [f"I think \\boxed{{{solution}}}" for solution in data["solution"]]
    assert reasoning_gym_reward(right, data["entry"]) == [1.0] * len(data)
    tagged = [[{"role": "assistant", "content": f"<answer> {s} </answer>"}] for s in data["solution"]]
    assert reasoning_gym_reward(tagged, data["entry"]) == [1.0] * len(data)
    wrong = [f"{solution}" for solution in data["solution"]]  # not marked as an answer
    assert reasoning_gym_reward(wrong, data["entry"]) == [0.0] * len(data)
    other = [f"\\boxed{{{int(solution) + 1}1}}" for solution in data["solution"]]
    assert max(reasoning_gym_reward(other, data["entry"])) < 1


def test_several_answers_that_a_scorer_accepts():
    (row,) = load_reasoning_gym("letter_jumble", size=1, seed=1).train
    assert reasoning_gym_reward([f"\\boxed{{{row['solution']}}}"], [row["entry"]]) == [1.0]


def test_an_answer_that_keeps_the_scorer_busy_costs_one_reward(monkeypatch):
    monkeypatch.setattr(gym, "SCORE_SECONDS", 1.0)
    data = load_reasoning_gym("coin_flip", size=2, seed=0).train
    start = time.monotonic()
    rewards = reasoning_gym_reward([r"\boxed{1e999999999}", f"\\boxed{{{data[1]['solution']}}}"], data["entry"])
    assert rewards == [0.0, 1.0]
    assert time.monotonic() - start < 200


def test_scorers_that_would_run_the_answer_are_refused():
    assert set(DATASETS) >= EXECUTE_ANSWERS
    with pytest.raises(ValueError, match="runs the answer as Python"):
        load_reasoning_gym("countdown", size=1)
    entry = json.dumps({"name": "n_queens", "size": 1, "seed": 0, "options": {}, "index": 0})
    with pytest.raises(ValueError, match="runs the answer as Python"):
        reasoning_gym_reward([r"\boxed{1}"], [entry])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset_name": "reasoning_gym/no_such"}, "no dataset 'no_such'"),
        ({"dataset_name": "reasoning_gym/chain_sum", "reasoning_gym_options": '{"terms": 2}'}, "refuses the options"),
        (
            {"dataset_name": "reasoning_gym/chain_sum", "reasoning_gym_options": {"min_terms": 0}},
            "refuses the options",
        ),
        ({"dataset_name": "reasoning_gym/chain_sum", "topic": "Algebra"}, "topic would be ignored"),
        ({"reasoning_gym_seed": 1}, "reasoning_gym_seed would be ignored"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(**{"max_prompt_length": None, **arguments}).load()
