"""What is refused or warned about before a model is loaded."""

import functools
import logging
from types import SimpleNamespace
from typing import ClassVar

import pytest
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from support.models import build, config, digit_reward, tiny_model
from transformers import (
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen2Model,
    T5Config,
    T5ForConditionalGeneration,
)

from delta_trl import DeltaGRPOTrainer
from delta_trl.checks import NoRewardDifferenceCallback, check_model, check_prompt_lengths, check_reward_columns
from delta_trl.research.tasks import character_tokenizer
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


@pytest.mark.parametrize(
    ("reward", "columns", "message"),
    [
        (needs_two, ["prompt", "tests", "language"], "needs_two needs 'tests', 'language', and remove_unused_columns"),
        (needs_two, ["prompt", "tests", "language", "image"], "leaves rewards no column but the prompt. Leave that"),
        (digit_reward, ["prompt", "tests"], None),
    ],
)
def test_columns_that_an_option_removes_are_missed(tmp_path, reward, columns, message):
    data = Dataset.from_dict({column: ["1"] * 8 for column in columns})
    args = config(tmp_path, remove_unused_columns=True, max_steps=1)
    if message is None:
        build(DeltaGRPOTrainer, args, reward_funcs=reward, train_dataset=data).train()
    else:
        with pytest.raises(ValueError, match=message):
            build(DeltaGRPOTrainer, args, reward_funcs=reward, train_dataset=data)


@pytest.mark.parametrize(
    ("evaluated", "message"),
    [
        (DATA.select_columns("prompt"), "eval_dataset: needs_answer needs a column 'answer'"),
        ({"a": DATA, "b": DATA.select_columns("prompt")}, "eval_dataset 'b': needs_answer needs a column 'answer'"),
        (DATA.select_columns("answer"), "eval_dataset: The dataset needs a column 'prompt'"),
        (DATA.select_columns("prompt").to_iterable_dataset(), "eval_dataset: needs_answer needs"),
    ],
)
@pytest.mark.parametrize("by_position", [False, True])
def test_what_an_evaluation_lacks_is_said_before_training(tmp_path, evaluated, message, by_position):
    def needs_answer(completions, answer, **kwargs):
        return [float(len(one)) for one in answer]

    def built(**options):
        args = config(tmp_path, **options)
        model, tokenizer = tiny_model(), character_tokenizer()
        if by_position:
            return DeltaGRPOTrainer(model, needs_answer, args, DATA, evaluated, tokenizer)
        given = {"train_dataset": DATA, "eval_dataset": evaluated, "processing_class": tokenizer}
        return DeltaGRPOTrainer(model, needs_answer, args, **given)

    with pytest.raises(ValueError, match=message):
        built(eval_strategy="steps", eval_steps=1)
    built()  # nothing evaluates it


def test_a_dataset_needs_a_prompt_column():
    for data in (Dataset.from_dict({"question": ["a"]}), Dataset.from_dict({"question": ["a"]}).to_iterable_dataset()):
        with pytest.raises(ValueError, match="needs a column 'prompt'; it has: question"):
            check_reward_columns(digit_reward, data)
        with pytest.raises(ValueError, match="needs a column 'prompt'; it has: question"):
            check_reward_columns(digit_reward, data, has_rollout_func=True)  # which gets the prompts
        check_reward_columns(digit_reward, data, has_environment=True)
    check_reward_columns(digit_reward, None)
    check_reward_columns(digit_reward, DATA.to_iterable_dataset())


def test_environments_are_handed_over_where_there_are_some():
    def all_by_name(prompts, completions, completion_ids, answer, trainer_state, log_extra, log_metric, environments):
        return digit_reward(completions)

    check_reward_columns(all_by_name, DATA, has_environment=True)
    with pytest.raises(ValueError, match="needs a column 'environments'"):
        check_reward_columns(all_by_name, DATA)
    with pytest.raises(ValueError, match=r"does not take 'answer', .*'environments'"):
        check_reward_columns(takes_no_rest, DATA, has_environment=True)


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


class Sums:
    """An environment without tools, which states the problem and judges the answer."""

    asked: ClassVar[list[str]] = []

    def reset(self, **columns):
        self.asked.append("".join(sorted(columns)))
        self.number = len(self.asked)
        return "1+1=?"

    def get_reward(self) -> float:
        return float(self.number % 3)


class Products(Sums):
    def reset(self, **columns):
        self.asked.append("".join(sorted(columns)))
        self.number = len(self.asked)
        return "2*3=?"


@pytest.mark.parametrize(
    ("factory", "data", "columns"),
    [
        (Sums, None, {"prompt"}),
        (Sums, {"level": [1, 2]}, {"level"}),
        ({"sums": Sums, "products": Products}, {"environment": ["sums", "products"]}, {""}),
        ({"sums": Sums, "products": Products}, {"environment": ["sums", "sums"], "level": [1, 2]}, {"level"}),
    ],
)
def test_where_an_environment_gives_the_prompts_the_data_need_none(tmp_path, factory, data, columns):
    """Whatever TRL accepts is accepted: no dataset, one without prompts, one that names the environment of each row."""
    tokenizer = character_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}{% endfor %}"
    )
    Sums.asked.clear()
    trainer = DeltaGRPOTrainer(
        model=tiny_model(tokenizer=tokenizer, max_position_embeddings=512),
        reward_funcs=None if data is None else digit_reward,
        args=config(tmp_path, max_steps=1),
        train_dataset=None if data is None else Dataset.from_dict(data),
        processing_class=tokenizer,
        environment_factory=factory,
    )
    trainer.train()
    assert set(Sums.asked) == columns
    assert "delta/coef/mean" in trainer.state.log_history[0]


def test_rewards_hear_of_an_open_thought_only_if_they_take_it(tmp_path):
    """A function that names what TRL hands over, one that takes what comes, and an asynchronous one, on one template."""
    seen = {}

    def strict(prompts, completions, completion_ids, trainer_state, log_extra, log_metric):
        seen["strict"] = {}
        return digit_reward(completions)

    def open_to_all(completions, **columns):
        seen["open"] = columns
        return digit_reward(completions)

    async def by_name(prompts, completions, completion_ids, trainer_state, log_extra, log_metric, opens_thought=None):
        seen["named"] = {"opens_thought": opens_thought}
        return digit_reward(completions)

    tokenizer = character_tokenizer()
    data = Dataset.from_dict({"prompt": [[{"role": "user", "content": f"{i}+1=?"}] for i in range(8)]})
    for end, opens in (("<think>", True), ("", False)):
        tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}" + end
        trainer = DeltaGRPOTrainer(
            model=tiny_model(tokenizer=tokenizer),
            reward_funcs=[strict, open_to_all, by_name],
            args=config(tmp_path, max_steps=1),
            train_dataset=data,
            processing_class=tokenizer,
        )
        trainer.train()
        assert trainer.state.global_step == 1
        assert seen.keys() == {"strict", "open", "named"}
        assert seen["open"].get("opens_thought") == seen["named"]["opens_thought"] == ([True] * 8 if opens else None)


def other_model(kind):
    """A tiny model that is no causal language model."""
    sizes = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0}
    if kind == "encoder-decoder":
        return T5ForConditionalGeneration(
            T5Config(vocab_size=20, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
        )
    qwen = Qwen2Config(**sizes, num_key_value_heads=1, intermediate_size=16)
    return {"classifier": Qwen2ForSequenceClassification, "backbone": Qwen2Model}[kind](qwen)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "encoder-decoder",
            "T5ForConditionalGeneration: this is an encoder-decoder; a causal language model is required",
        ),
        ("classifier", "Qwen2ForSequenceClassification: this is a model without a language model head; a causal"),
        ("backbone", "Qwen2Model: this is a model without a language model head; a causal"),
    ],
)
def test_a_model_that_does_not_continue_its_prompt_is_refused(tmp_path, monkeypatch, kind, message):
    model = other_model(kind)
    model.save_pretrained(tmp_path / "model")
    args = config(tmp_path)
    with pytest.raises(ValueError, match=message):
        build(DeltaGRPOTrainer, args, model)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", None)  # no weights are loaded
    with pytest.raises(ValueError, match=message):
        build(DeltaGRPOTrainer, args, str(tmp_path / "model"))


def test_models_that_trl_trains_are_left_alone(tmp_path):
    adapted = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"]))
    for model in (tiny_model(), tiny_model("qwen3_moe"), adapted, "no/such/model", str(tmp_path)):
        check_model(model)
    tiny_model().save_pretrained(tmp_path)
    check_model(str(tmp_path), {"dtype": "float32"})
