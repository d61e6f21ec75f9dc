"""What needs no reasoning-gym. With it: tests/real/test_reasoning_gym.py."""

import json

import pytest

from delta_trl import reasoning_gym
from delta_trl.data import DataArguments, load_reasoning_gym
from delta_trl.rewards import gym, reasoning_gym_reward
from delta_trl.rewards.gym import read_answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"so \boxed{7}", "7"),
        ("<answer> 7 </answer>", "7"),
        (r"\boxed{1} <answer>2</answer> <answer>3\n4</answer> \boxed{5}", "3\n4"),
        ("<think>a</think> <answer>7</answer>", "7"),
        ("<think> <answer>7</answer>", None),
        ("<answer>7</answer> <think> 8", None),
        ("<answer>7</answer></think>", None),
        ("7", None),
        ("</answer> 7 <answer>", None),
    ],
)
def test_the_answer_of_a_completion(completion, answer):
    assert read_answer(completion.replace("\\n", "\n")) == answer


def test_reading_an_answer_takes_linear_time():
    assert read_answer("<answer>" * 200_000) is None


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(gym, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'delta_trl\[reasoning-gym\]'"):
        reasoning_gym_reward([r"\boxed{1}"], [json.dumps({"name": "chain_sum"})])
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        load_reasoning_gym("chain_sum")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset_name": "reasoning_gym/chain_sum", "topic": "Algebra"}, "topic would be ignored"),
        ({"reasoning_gym_seed": 1}, "reasoning_gym_seed would be ignored"),
    ],
)
def test_options_that_would_be_ignored_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(**arguments)


def test_the_earlier_place_of_the_names_still_works():
    assert reasoning_gym.load_reasoning_gym is load_reasoning_gym
    assert reasoning_gym.reasoning_gym_reward is reasoning_gym_reward
