"""A command's YAML file: whatever stands in it, an error is one line, in little time and memory."""

import time
import tracemalloc
from dataclasses import fields

import pytest
from support.commands import parse
from support.places import ROOT
from transformers import TrainingArguments
from trl import GRPOConfig, ModelConfig

from delta_trl.config import CHECKPOINTING
from delta_trl.train.yaml_file import check_value, option_types, read_yaml


# Nine lists, each ten times the one before: a billion values
BOMB = "- &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"- &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
BOMB_IN_LIST = "extra_columns:\n" + "".join(f"  {line}\n" for line in BOMB.splitlines())
BOMB_IN_MAPPING = "generation_kwargs: &b0 {a: 1, b: 1}\n" + "".join(
    f"{name}: &b{i} {{a: *b{i - 1}, b: *b{i - 1}, c: *b{i - 1}, d: *b{i - 1}}}\n"
    for i, name in enumerate(("lr_scheduler_kwargs", *(f"further_{n}" for n in range(12))), start=1)
)
ITSELF = "extra_columns: &a [*a]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "must hold options"),
        (BOMB_IN_LIST, "more than 10,000 values"),
        (BOMB_IN_MAPPING, "more than 10,000 values"),
        (ITSELF, "more than 10,000 values"),
        ("env: &a [*a]", "more than 10,000 values"),
        ("- learning_rate: 1", "must hold options"),
        ("just a text", "must hold options"),
        ("1: 2", "1 is no name of an option"),
        ("null: 2", "None is no name of an option"),
        ("max_steps: !steps 3", "line 1: not valid YAML (could not determine a constructor for the tag '!steps')"),
        ("seed: 1\nx: !!python/object/apply:os.system ['true']", "line 2: not valid YAML (could not determine"),
        ("run_name: 2026-01-01", "run_name holds a date, .* put it in quotes"),
        ("lr_scheduler_kwargs: {at: 2026-01-01 10:00:00}", "lr_scheduler_kwargs holds a datetime"),
        ("run_name: !!binary aGVsbG8=", "run_name holds a bytes"),
        ("extra_columns: !!set {a, b}", "extra_columns holds a set"),
        ("max_steps: \x07", "not valid YAML"),
    ],
    ids=lambda value: value[:30],
)
def test_what_is_no_config_costs_one_line_and_no_memory(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(ValueError) as raised:  # noqa: PT011
            read_yaml(path)
        assert time.process_time() - start < 10
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    first, _, second = message.partition(" .* ")
    assert first in str(raised.value)
    assert second in str(raised.value)
    assert len(str(raised.value)) < 400
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"seed: \xff\xfe")
    with pytest.raises(ValueError, match=r"c\.yaml: not valid YAML \(UnicodeDecodeError"):
        read_yaml(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "save_strategy: no",
            "save_strategy is a text, and YAML reads no, off and false as false. Put the word in quotes",
        ),
        ("eval_strategy: off", "eval_strategy is a text, and YAML reads no, off and false as false"),
        ("report_to: no", "report_to is a text, and YAML reads"),
        ("run_name: 7", "run_name is a text; got 7. Put it in quotes"),
        ("dataset_revision: 0123", "dataset_revision is a text; got 83. Put it in quotes"),
        ("output_dir: [a]", "output_dir is a text; got ['a']"),
        ("reward_funcs: math_reward", "reward_funcs is a list; write reward_funcs: [math_reward]"),
        ("reward_funcs: [1]", "reward_funcs is a list of texts; got 1 in it"),
        ("reward_weights: [[1]]", "reward_weights is a list of single values; got [1] in it"),
        ("max_steps: .inf", "max_steps is an int; got inf"),
        ("max_steps: 1.5", "max_steps is an int; got 1.5"),
        ("max_steps: [3]", "max_steps is an int; got [3]"),
        ("learning_rate: true", "learning_rate is a float; got True"),
        ("learning_rate: {a: 1}", "learning_rate is a float; got {'a': 1}"),
        ("use_peft: 2", "use_peft is true or false; got 2"),
        ("prompt_format:", "prompt_format has no value. Leave the line out"),
        ("liger_kernel_config: 3", "liger_kernel_config cannot be 3"),
        ("learning_rate:", "learning_rate must be a number; got None"),
        ("max_steps: null", "max_steps must be a number; got None"),
    ],
)
def test_values_of_the_wrong_kind_are_refused_by_name(project, text, message):
    path = project / "config.yaml"
    path.write_text(path.read_text() + text + "\n")
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        parse("--config", path)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("use_cpu: 1", "use_cpu", True),
        ("bf16: 'no'", "bf16", False),
        ("max_steps: '3'", "max_steps", 3),
        ("max_steps: 3.0", "max_steps", 3),
        ("learning_rate: 1e-6", "learning_rate", 1e-6),
        ("learning_rate: 1", "learning_rate", 1.0),
        ("scale_rewards: true", "scale_rewards", "group"),
        ("save_strategy: 'no'", "save_strategy", "no"),
        ("report_to: none", "report_to", []),
        ("pad_to_multiple_of: 16", "pad_to_multiple_of", 16),
        ("generation_kwargs: {suppress_tokens: [7]}", "generation_kwargs", {"suppress_tokens": [7]}),
        ("x: &x 3", None, None),
        ("delta: null", "delta", None),
        ("top_k: null", "top_k", None),
        ("reward_weights: &w [1, 0.5]", "reward_weights", [1, 0.5]),
    ],
)
def test_values_that_an_option_takes_are_taken(project, text, name, value):
    path = project / "config.yaml"
    path.write_text(path.read_text().replace("report_to: none\n", "").replace("max_steps: 3\n", "") + text + "\n")
    if name is None:
        with pytest.raises(ValueError, match="Unknown option 'x'"):
            parse("--config", path)
        return
    (found,) = [getattr(part, name) for part in parse("--config", path) if hasattr(part, name)]
    assert found == value


def test_the_defaults_of_all_options_are_of_their_types(tmp_path):
    kinds = (GRPOConfig, ModelConfig, TrainingArguments)
    accepted = option_types(kinds)
    for kind in kinds:
        for field in fields(kind):
            value = getattr(field.default, "value", field.default)  # of an Enum
            if isinstance(value, str | int | float | list | dict | None):
                check_value(tmp_path, field.name, value, accepted[field.name])
    assert CHECKPOINTING in accepted


def test_aliases_may_be_used(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: &steps 3\nb: *steps\nc: &rest {x: 1}\nd: {<<: *rest, y: 2}\n")
    assert read_yaml(path) == {"a": 3, "b": 3, "c": {"x": 1}, "d": {"x": 1, "y": 2}}


def test_all_configs_are_read():
    configs = [path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "accelerate"]
    assert len(configs) > 10
    for path in configs:
        assert read_yaml(path)
