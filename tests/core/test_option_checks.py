"""Values with which nothing can be trained are refused when the config is built, and only those."""

import copy
import math
import pickle
import warnings

import pytest
from support.models import build, config, prompts
from trl import GRPOConfig, GRPOTrainer

from delta_trl import DeltaGRPOConfig
from delta_trl.config import GRPOBaseConfig
from delta_trl.option_checks import _names_in_help


UNUSABLE = [
    ({"loss_type": "foo"}, "loss_type must be one of 'grpo', .*; got 'foo'"),
    ({"temperature": 0.0}, "temperature must be above 0; got 0.0. A group of responses has to differ"),
    ({"temperature": None}, "temperature must be a number; got None"),
    ({"learning_rate": -1.0}, "learning_rate must be at least 0; got -1.0"),
    ({"learning_rate": math.nan}, "learning_rate must be at least 0; got nan"),
    ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0"),
    ({"min_p": 2.0}, "min_p must be at least 0 and at most 1; got 2.0"),
    ({"adam_epsilon": -1.0}, "adam_epsilon must be at least 0"),
    ({"max_completion_length": 0}, "max_completion_length must be at least 1; got 0"),
    ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be at least 1"),
    ({"gradient_accumulation_steps": -1}, "gradient_accumulation_steps must be at least 1"),
    ({"steps_per_generation": 0}, "steps_per_generation must be at least 1"),
    ({"num_generations": 0}, "num_generations must be at least 1; got 0"),
    ({"max_steps": None}, "max_steps must be a number"),
    (
        {"importance_sampling_level": "turn"},
        "importance_sampling_level must be one of 'token', 'sequence'; got 'turn'",
    ),
    ({"multi_objective_aggregation": "sum"}, "multi_objective_aggregation must be one of 'sum_then_normalize'"),
]


@pytest.mark.parametrize(("options", "message"), UNUSABLE, ids=lambda value: str(value)[:40])
def test_what_no_training_can_run_with_is_refused_at_once(tmp_path, options, message):
    for config_class in (DeltaGRPOConfig, GRPOBaseConfig):
        with pytest.raises(ValueError, match=message):
            config(tmp_path, config_class, **options)


@pytest.mark.parametrize("options", [options for options, _ in UNUSABLE], ids=str)
def test_what_is_refused_does_not_run_with_trl_either(tmp_path, options):
    with pytest.raises((ValueError, TypeError, ZeroDivisionError)):
        build(GRPOTrainer, config(tmp_path, GRPOConfig, **{"max_steps": 1, **options})).train()


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": 0.0},
        {"repetition_penalty": None},
        {"min_p": 0.0},
        {"max_steps": -5, "num_train_epochs": 0.1},
        {"epsilon": -0.1},
        {"num_iterations": 0, "save_strategy": "steps"},
        {"scale_rewards": True},
    ],
    ids=str,
)
def test_what_runs_with_trl_is_left_alone(tmp_path, options):
    build(GRPOTrainer, config(tmp_path, GRPOConfig, **{"max_steps": 1, **options})).train()
    config(tmp_path, **options)


def test_losses_are_those_that_trl_describes():
    losses = {"grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"}
    assert losses <= set(_names_in_help("loss_type"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": "cispo"}, "epsilon_high=0.28, .* multiplied by 0.28. Set epsilon_high=5"),
        ({"loss_type": "cispo", "epsilon_high": None}, "with epsilon=0.2, "),
        ({"loss_type": "cispo", "epsilon_high": 0.5}, "with epsilon_high=0.5, "),
        ({"max_steps": 0, "num_train_epochs": 2}, "max_steps=0 is no limit, .* num_train_epochs=2 decides"),
        (
            {"generation_kwargs": {"repetition_penaly": 1.1}},
            "does not know 'repetition_penaly', .* 'repetition_penalty'?",
        ),
        ({"generation_kwargs": '{"xyzzy": 1, "top_h": 0.5}'}, "does not know 'xyzzy', and would ignore it. Its Gener"),
    ],
    ids=str,
)
def test_values_that_mean_something_else_are_said(tmp_path, options, message):
    with pytest.warns(UserWarning, match=message) as caught:
        config(tmp_path, **options)
    assert caught[0].filename.endswith("models.py"), "the warning points at the caller"


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": "cispo", "epsilon_high": 5.0},
        {"max_steps": 1},
        {"max_steps": -1},
        {"generation_kwargs": {"no_repeat_ngram_size": 3, "typical_p": 0.9}},
    ],
    ids=str,
)
def test_what_means_what_it_says_is_not_warned_about(tmp_path, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config(tmp_path, **options)


def test_cispo_multiplies_by_its_bound(tmp_path):
    """The reason for the warning, in TRL's loss: on-policy, the gradient is as large as the bound below 1."""

    def gradient_norm(bound):
        args = config(tmp_path, loss_type="cispo", epsilon_high=bound, coef_max=0.8, max_steps=1)
        trainer = build(GRPOTrainer, args, train_dataset=prompts(8))
        trainer.train()
        return trainer.state.log_history[0]["grad_norm"]

    with pytest.warns(UserWarning, match="cispo"):
        assert gradient_norm(0.28) == pytest.approx(0.28 * gradient_norm(5.0), rel=1e-3)


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
@pytest.mark.parametrize("config_class", [DeltaGRPOConfig, GRPOBaseConfig])
def test_a_copied_config_keeps_the_token_and_a_pickled_one_does_not(tmp_path, config_class, make):
    args = config(tmp_path, config_class, hub_token="hf_secret", lr_scheduler_kwargs={"a": [1]})
    copied = make(args)
    assert type(copied) is config_class
    assert copied.hub_token == "hf_secret"
    assert copied.to_dict() == args.to_dict()
    assert (copied.lr_scheduler_kwargs is args.lr_scheduler_kwargs) == (make is copy.copy)
    copied.learning_rate = 1.0
    assert args.learning_rate != 1.0
    assert b"hf_secret" not in pickle.dumps(args)
    assert pickle.loads(pickle.dumps(args)).hub_token is None
    assert b"hf_secret" not in pickle.dumps({"kept": [copied]})
