"""The tasks of real language: that answers are right, problems distinct and repeatable, and prompts what the model knows."""

import re

import pytest
import yaml
from support.places import ROOT

from delta_trl.data import load_math_dataset
from delta_trl.research.language import LANGUAGE_TASKS, in_words
from delta_trl.research.tasks import write_problems
from delta_trl.rewards import math_reward


SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
ROUND = "twenty thirty forty fifty sixty seventy eighty ninety"
VALUES = {word: i for i, word in enumerate(SMALL.split())} | {
    word: 20 + 10 * i for i, word in enumerate(ROUND.split())
}


def read(words: str) -> int:
    """The number that is meant, read word by word."""
    total = 0
    for word in words.replace("-", " ").split():
        total = total * 100 if word == "hundred" else total + (0 if word == "and" else VALUES[word])
    return total


def expected(task: str, question: str) -> int:
    if task == "number_words":
        return read(re.fullmatch(r"Write (.+) in digits\.", question)[1])
    if task == "larger":
        return max(map(read, re.fullmatch(r"Which is larger, (.+) or (.+)\?", question).groups()))
    name, first, other, second = re.fullmatch(
        r"(\w+) has (\w+) coins and (\w+) has (\w+) coins\. How many coins do they have together\?", question
    ).groups()
    assert name != other
    return read(first) + read(second)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety-nine"),
        (100, "one hundred"),
        (407, "four hundred and seven"),
        (660, "six hundred and sixty"),
        (919, "nine hundred and nineteen"),
    ],
)
def test_numbers_are_written_as_in_english(number, words):
    assert in_words(number) == words


def test_every_number_is_read_back_and_larger_ones_are_refused():
    assert [read(in_words(number)) for number in range(1000)] == list(range(1000))
    for number in (-1, 1000):
        with pytest.raises(ValueError, match=f"from 0 to 999 are written in words; got {number}"):
            in_words(number)


@pytest.mark.parametrize("name", LANGUAGE_TASKS)
def test_all_answers_are_right_and_all_problems_distinct(name):
    task = LANGUAGE_TASKS[name]
    problems = task.problems(task.n_problems, 3)
    assert all(problem["final_answer"] == str(expected(name, problem["question"])) for problem in problems)
    questions = [problem["question"] for problem in problems]
    assert len(set(questions)) == len(questions) == task.n_problems > 800
    shown, solution, _ = (message["content"] for message in task.messages())
    assert shown not in questions
    assert math_reward(completions=[solution], solution=[str(expected(name, shown))]) == [1.0]
    with pytest.raises(ValueError, match=f"There are {task.n_problems} distinct problems; {task.n_problems + 1} were"):
        task.problems(task.n_problems + 1)


@pytest.mark.parametrize("name", LANGUAGE_TASKS)
def test_the_same_seed_draws_the_same_problems(name):
    task = LANGUAGE_TASKS[name]
    assert task.problems(50, 7) == task.problems(50, 7)
    assert task.problems(50, 7) != task.problems(50, 8)


@pytest.mark.parametrize("name", LANGUAGE_TASKS)
def test_solutions_are_right_and_neighbours_are_not(name):
    task = LANGUAGE_TASKS[name]
    cases = [case for case in task.cases if case != task.example][::97]
    golds = [str(task.answer(*case)) for case in cases]
    assert math_reward(completions=[task.solution(*case) for case in cases], solution=golds) == [1.0] * len(cases)
    wrong = [f"\\boxed{{{int(gold) + 1}}}" for gold in golds]
    assert math_reward(completions=wrong, solution=golds) == [0.0] * len(cases)


def test_no_pair_of_numbers_is_both_trained_on_and_held_out():
    pairs = [frozenset(case) for case in LANGUAGE_TASKS["larger"].cases]
    assert len(set(pairs)) == len(pairs) == 79 * 78 / 2
    first = sum(a > b for a, b in LANGUAGE_TASKS["larger"].cases)
    assert 0.45 < first / len(pairs) < 0.55


def test_answers_get_longer_from_task_to_task():
    lengths = [len(task.messages()[1]["content"].split()) for task in LANGUAGE_TASKS.values()]
    assert lengths == sorted(set(lengths))
    assert lengths[-1] >= 15


@pytest.mark.parametrize("name", LANGUAGE_TASKS)
def test_problems_pass_through_the_loader(name, tmp_path):
    task = LANGUAGE_TASKS[name]
    kept = write_problems(task.problems(60), 20, tmp_path)
    data = load_math_dataset(
        str(tmp_path / "train.jsonl"),
        held_out_name=str(tmp_path / "test.jsonl"),
        prompt_format=task.prompt_format,
        max_prompt_length=None,
    )
    assert data.train["prompt"] == [task.prompt_format.replace("{question}", question) for question in kept]
    assert len(data.held_out) == 20
    assert not set(data.held_out["prompt"]) & set(data.train["prompt"])
    assert data.held_out["solution"] == [problem["final_answer"] for problem in task.problems(20)]


PROMPTED = [*(ROOT / "configs/study").glob("smollm2_*.yaml"), ROOT / "configs/smollm2_135m/delta.yaml"]


@pytest.mark.parametrize("path", sorted(PROMPTED), ids=lambda path: path.stem)
def test_studies_and_recipe_ask_in_the_models_markup_with_the_tasks_example(path):
    content = yaml.safe_load(path.read_text())
    name = content["task"]["name"] if "task" in content else "number_words"
    assert content.get("settings", content)["prompt_format"] == LANGUAGE_TASKS[name].prompt_format
