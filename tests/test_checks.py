"""What is refused or warned about before a model is loaded."""

import functools
import logging
from types import SimpleNamespace

import pytest
from conftest import build, config, digit_reward
from datasets import Dataset

from delta_trl import DeltaGRPOTrainer
from delta_trl.checks import NoRewardDifferenceCallback, check_prompt_lengths, check_reward_columns
from delta_trl.rewards import math_reward


DATA = Dataset.from_dict({"prompt": ["1+1=?", "2+2=?"], "answer": ["2", "4"]})


def needs_two(completions, tests, language, **kwargs):
    return [0.0] * len(completions)


def takes_prompt(prompt, completions, **kwargs):
    return [0.0] * len(completions)


def takes_no_rest(prompts, completions):
    return [0.0] * len(completions)


class Judge:
    def __call__(self, completions, solution, **kwargs):
        return [0.0] * len(completions)


async def asks_elsewhere(completions, solution, **kwargs):
    return [0.0] * len(completions)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (math_reward, r"^math_reward needs a column 'solution'; you have 'answer'\. Rename"),
        ([digit_reward, math_reward], "^math_reward needs a column 'solution'"),
        (needs_two, r"^needs_two needs the columns 'tests', 'language'; you have 'answer'\."),
        (takes_prompt, "TRL hands the column 'prompt' on as 'prompts'"),
        (takes_no_rest, r"^takes_no_rest does not take 'answer', .*Add \*\*kwargs"),
        (Judge(), "^Judge needs a column 'solution'"),
        (asks_elsewhere, "^asks_elsewhere needs a column 'solution'"),
        (functools.partial(needs_two, tests=1), "needs a column 'language'"),
        (lambda completions, answer, /, **kwargs: [], "takes 'completions' by position only"),
    ],
)
def test_rewards_that_trl_could_not_call_are_refused(reward, message):
    with pytest.raises(ValueError, match=message):
        check_reward_columns(reward, DATA)


@pytest.mark.parametrize(
    "reward",
    [
        digit_reward,
        "a/reward-model",
        lambda completions, answer, trainer_state, log_metric, **kwargs: [],
        lambda prompts, completions, completion_ids, answer, trainer_state, log_extra, log_metric: [],
        lambda completions, answer, strict=True, **kwargs: [],
        functools.partial(needs_two, tests=1, language="python"),
    ],
)
def test_rewards_that_trl_can_call_are_left_alone(reward):
    check_reward_columns(reward, DATA)


def test_a_dataset_needs_a_prompt_column():
    for data in (Dataset.from_dict({"question": ["a"]}), Dataset.from_dict({"question": ["a"]}).to_iterable_dataset()):
        with pytest.raises(ValueError, match="needs a column 'prompt'; it has: question"):
            check_reward_columns(digit_reward, data)
    check_reward_columns(digit_reward, None)
    check_reward_columns(digit_reward, DATA.to_iterable_dataset())


def test_what_the_check_lets_pass_trl_calls(tmp_path):
    """The names that TRL really hands over: more or fewer than PASSED, and one of these runs fails."""
    data = Dataset.from_dict({"prompt": ["1+1=?\n", "2+2=?\n"], "answer": ["2", "4"]})

    def all_by_name(prompts, completions, completion_ids, answer, trainer_state, log_extra, log_metric):
        return digit_reward(completions)

    check_reward_columns(all_by_name, data)
    args = config(tmp_path, max_steps=1)
    build(DeltaGRPOTrainer, args, reward_funcs=all_by_name, train_dataset=data).train()


def test_what_a_rollout_function_returns_is_not_missed(tmp_path):
    """TRL hands its further fields to the rewards, which the dataset's columns do not show."""

    def of_the_rollout(completions, score, **kwargs):
        return score

    def rollouts(prompts, trainer):
        ids = [[5 + i, 6] for i in range(len(prompts))]
        return {
            "prompt_ids": ids,
            "completion_ids": ids,
            "logprobs": None,
            "score": [float(i) for i in range(len(ids))],
        }

    args = config(tmp_path, max_steps=1)
    build(DeltaGRPOTrainer, args, reward_funcs=of_the_rollout, rollout_func=rollouts).train()
    with pytest.raises(ValueError, match="of_the_rollout needs a column 'score'"):
        build(DeltaGRPOTrainer, args, reward_funcs=of_the_rollout)


def test_prompts_and_responses_must_fit_in_the_context():
    with pytest.raises(ValueError, match=r"has 18000 tokens, .*=256, .* context is 512\. Drop prompts longer"):
        check_prompt_lengths(18_000, 256, 512)
    with pytest.raises(ValueError, match="Shorten responses"):
        check_prompt_lengths(10, 512, 512)
    check_prompt_lengths(256, 256, 512)
    check_prompt_lengths(18_000, 256, None)


@pytest.mark.parametrize(
    ("reward", "warned"), [(lambda completions, **kwargs: [0.0] * len(completions), 1), (digit_reward, 0)]
)
def test_rewards_without_any_difference_are_warned_about_once(tmp_path, caplog, reward, warned):
    args = config(tmp_path, max_steps=5)
    trainer = build(DeltaGRPOTrainer, args, reward_funcs=reward, callbacks=[NoRewardDifferenceCallback(patience=2)])
    with caplog.at_level(logging.WARNING, logger="delta_trl.checks"):
        trainer.train()
    messages = [record.message for record in caplog.records if record.name == "delta_trl.checks"]
    assert len(messages) == warned
    if warned:
        assert (
            "In 2 logged steps in a row, all completions of a prompt got the same reward (mean reward 0)"
            in messages[0]
        )


def test_only_steps_in_a_row_count(caplog):
    callback, state = NoRewardDifferenceCallback(patience=2), SimpleNamespace(is_world_process_zero=True)
    for share in (1.0, 0.5, 1.0, None, 0.9):
        callback.on_log(None, state, None, logs={"frac_reward_zero_std": share} if share is not None else {})
    assert not caplog.records
