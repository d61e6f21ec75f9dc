"""reasoning-gym itself as a source of prompts and rewards: `make test-real`."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from reasoning_gym.factory import DATASETS

from delta_trl.data import DataArguments, load_problem_data, load_reasoning_gym
from delta_trl.rewards import reasoning_gym_reward
from delta_trl.rewards.gym import EXECUTE_ANSWERS


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


def test_an_answer_that_keeps_the_scorer_busy_costs_one_reward():
    data = load_reasoning_gym("coin_flip", size=2, seed=0).train
    start = time.monotonic()
    rewards = reasoning_gym_reward([r"\boxed{1e999999999}", f"\\boxed{{{data[1]['solution']}}}"], data["entry"])
    assert rewards == [0.0, 1.0]
    assert time.monotonic() - start < 200


def test_a_problem_that_cannot_be_made_is_an_error_and_no_reward():
    entry = json.dumps({"name": "chain_sum", "size": 1, "seed": 0, "options": {"no_such": 1}, "index": 0})
    with pytest.raises(RuntimeError, match=r"does not make the problem .*no_such"):
        reasoning_gym_reward([r"\boxed{1}"], [entry])


BUSY = """
import os, threading, time
from delta_trl.data import load_reasoning_gym
from delta_trl.rewards import gym, reasoning_gym_reward
data = load_reasoning_gym("coin_flip", size=2, seed=0).train
reasoning_gym_reward([r"\\boxed{1}"], data["entry"][:1])
threading.Thread(target=reasoning_gym_reward, args=([r"\\boxed{1e999999999}"], data["entry"][:1]), daemon=True).start()
time.sleep(0.5)
print(os.getpid(), *gym.SCORERS.pids(), flush=True)
time.sleep(60)
"""


def test_a_busy_worker_does_not_outlive_a_trainer_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True) as trainer:
        _, *workers = map(int, trainer.stdout.readline().split())
        assert workers
        trainer.kill()
    deadline = time.monotonic() + 100
    while any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers):
        assert time.monotonic() < deadline, workers
        time.sleep(0.2)


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
        load_problem_data(DataArguments(**{"max_prompt_length": None, **arguments}))
