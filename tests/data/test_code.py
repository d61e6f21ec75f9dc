"""Programming problems of every schema, from small local files: columns, filters, malformed rows, memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import ROOT
from datasets import Dataset

from delta_trl.data import CODE_INSTRUCTION, DataArguments, load_code_dataset
from delta_trl.data.asserts import tests_of_asserts as calls_of  # not a test
from delta_trl.rewards import code_reward


EURUS_END = "\n\nWrite Python code to solve the problem. Present the code in \n```python\nYour code\n```\nat the end."
SUM = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache of its own, so that nothing is taken from, or left in, the user's."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def eurus(number: int, tests: object = None, ability: str = "code", source: str = "taco") -> dict:
    return {
        "data_source": source,
        "prompt": [
            {"role": "system", "content": "When tackling complex reasoning tasks, you have access to actions."},
            {"role": "user", "content": f"Problem {number}: add two numbers.{EURUS_END}"},
        ],
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": json.dumps(SUM if tests is None else tests)},
        "extra_info": {"split": "train", "index": number},
    }


def write(path: Path, rows: list[dict]) -> str:
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_eurus_rows_become_prompt_and_tests(tmp_path, suffix):
    data = load_code_dataset(write(tmp_path / f"data{suffix}", [eurus(i) for i in range(3)]))
    assert sorted(data.train.column_names) == ["prompt", "tests"]
    assert data.train[1]["prompt"] == f"User:\nProblem 1: add two numbers.\n{CODE_INSTRUCTION}\n\nAssistant:\n"
    completion = "```python\nprint(sum(map(int, input().split())))\n```"
    assert code_reward([completion, "none"], tests=data.train["tests"][:2]) == [1.0, 0.0]


def test_malformed_rows_are_counted_with_examples_and_removed(tmp_path):
    rows = [eurus(i) for i in range(20)]
    rows += [eurus(20, ability="math"), eurus(21, tests={}), eurus(22, {"inputs": ["1"], "outputs": []}), eurus(3)]
    rows[5]["reward_model"]["ground_truth"] = "not json"
    rows[6]["prompt"] = [{"role": "system", "content": "only a system message"}]
    path = write(tmp_path / "data.parquet", rows)
    with pytest.raises(ValueError, match=r"Tests that cannot be used: 13.0%, for example row 6: tests are no"):
        load_code_dataset(path)
    data = load_code_dataset(path, allow_unscorable=True)
    assert data.report[:4] == [
        f"{path}: 24 rows, schema Eurus-2",
        "ability other than code: 1 rows removed",
        "sources: taco 23",
        "tests that cannot be used: 3 of 23 (13.0%), for example row 6: tests are not valid JSON: Expecting value: line 1 "
        "column 1 (char 0); row 22: tests must hold a list of inputs and a list of outputs; row 23: tests hold 1 inputs and "
        "0 outputs",
    ]
    assert data.report[4:] == [
        "tests that cannot be used: 3 rows removed",
        "empty question: 1 rows removed",
        "repeated question: 1 rows removed",
        "left to train on: 18 rows",
    ]
    assert data.unscorable_share == pytest.approx(3 / 23)


def test_apps_and_taco(tmp_path):
    rows = [
        {
            "problem_id": i,
            "question": f"Question {i}",
            "input_output": json.dumps({"inputs": [[i]], "outputs": [2 * i], "fn_name": "double"}),
            "starter_code": "class Solution:\n    def double(self, x):" if i else "",
            "difficulty": "introductory",
            "solutions": "[]",
        }
        for i in range(3)
    ]
    data = load_code_dataset(write(tmp_path / "apps.jsonl", rows), prompt_format="{question}", held_out_share=0.5)
    shown = data.train["prompt"][:] + data.held_out["prompt"][:]
    assert "Question 0" in shown
    assert "Question 1\n\nUse this starter code:\n```python\nclass Solution:\n    def double(self, x):\n```" in shown
    assert data.train[0]["difficulty"] is None


def test_mbpp_shows_one_assertion_and_never_runs_them(tmp_path):
    mark = tmp_path / "ran"
    rows = [
        {
            "task_id": 2,
            "text": "Write a function to find the shared elements of two lists.",
            "code": "def similar(a, b): return tuple(set(a) & set(b))",
            "test_list": [
                "assert similar((3, 4), (5, 4)) == (4,)",
                "assert set(similar((1, 2), (2,))) == {2}",
                f"assert similar(open({str(mark)!r}, 'w'), ()) == ()",
                "assert similar([1, 2], [3]) == []",
            ],
            "challenge_test_list": [],
        }
    ]
    data = load_code_dataset(write(tmp_path / "mbpp.jsonl", rows), prompt_format="{question}")
    assert data.train[0]["prompt"].endswith("pass this test:\nassert similar((3, 4), (5, 4)) == (4,)")
    tests = json.loads(data.train[0]["tests"])
    assert tests == {
        "inputs": ["((3, 4), (5, 4),)", "([1, 2], [3],)"],
        "outputs": [[4], []],
        "fn_name": "similar",
        "format": "python",
    }
    right = "```python\ndef similar(a, b):\n    return [x for x in a if x in b]\n```"
    wrong = "```python\ndef similar(a, b):\n    return (4,)\n```"
    assert code_reward([right, wrong], tests=[json.dumps(tests)] * 2) == [1.0, 0.0]
    assert not mark.exists()


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("assert f(1) == 2", ("(1,)", 2)),
        ("assert f(-1, [2, {'a': (3,)}]) == {'b': None}", ("(-1, [2, {'a': (3,)}],)", {"b": None})),
        ("assert 2 == f()", ("()", 2)),
        ("assert f('x') is True", ("('x',)", True)),
        ("assert f(1)", ("(1,)", True)),
        ("assert not f(1)", ("(1,)", False)),
        ("assert f({1}) == {2, 1}", ("({1},)", {"$set": [1, 2]})),
        ("assert f(1) == 2, 'message'", ("(1,)", 2)),
        ("assert f(x) == 2", None),
        ("assert f(1) == g(1)", None),
        ("assert f(1) > 2", None),
        ("assert f(1) == 2 == 2", None),
        ("assert f(a=1) == 2", None),
        ("assert m.f(1) == 2", None),
        ("assert math.isclose(f(1), 2, rel_tol=0.001)", None),
        ("f(1)", None),
        ("assert f(1) == 2; print(1)", None),
        ("assert (", None),
        ("", None),
    ],
)
def test_assertions_become_calls(text, call):
    if call is None:
        tests, left_out = calls_of(["assert f(0) == 0", text])
        assert (tests["inputs"], left_out) == (["(0,)"], 1)
        with pytest.raises(ValueError, match="no assertion is a call with plain values"):
            calls_of([text])
    else:
        tests, left_out = calls_of([text])
        assert (tests["inputs"], tests["outputs"], left_out) == ([call[0]], [call[1]], 0)


def test_assertions_of_two_functions_are_no_tests():
    with pytest.raises(ValueError, match="call f, g"):
        calls_of(["assert f(1) == 1", "assert g(1) == 1"])


def test_own_tests_may_have_different_shapes(tmp_path):
    calls = {"fn_name": "f", "inputs": [[1, "a"]], "outputs": [None]}
    rows = [
        {"question": "a", "tests": SUM},
        {"question": "b", "tests": calls},
        {"question": "c", "tests": json.dumps(SUM)},
    ]
    data = load_code_dataset(write(tmp_path / "own.jsonl", rows))
    assert [json.loads(tests) for tests in data.train["tests"]] == [SUM, calls, SUM]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"question": "a", "final_answer": "1"}], {}, "no programming problems are found"),
        ([{"question": "a", "tests": SUM}], {"answer_column": "answer"}, "answer_column .* is not used"),
        ([{"question": "a", "tests": SUM}], {"dataset_files": "*.jsonl"}, "is for datasets on the Hub"),
        ([{"question": "a", "tests": SUM}], {"extra_columns": ["id"]}, "no column 'id'"),
        ([{"question": "a", "tests": SUM}], {"min_difficulty": 1}, "need a column 'difficulty'"),
        ([["a"]], {}, "own.jsonl, item 1: a JSON object is needed"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, rows, options, message):
    path = write(tmp_path / "own.jsonl", rows)
    with pytest.raises(ValueError, match=message):
        load_code_dataset(path, **options)


def test_an_unknown_type_of_problem_is_refused():
    with pytest.raises(ValueError, match="problem_type must be 'math' or 'code', got 'cod'"):
        DataArguments(problem_type="cod")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_tests(tmp_path):
    """200 MB of tests, loaded and read with 100 MB of memory."""
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for number in range(100):
            tests = {"inputs": [f"{number} " + "7" * 2_000_000], "outputs": ["1"]}
            file.write(json.dumps({"question": f"Question {number}", "tests": json.dumps(tests)}) + "\n")
    code = f"""
import resource
from delta_trl.data import load_code_dataset
import delta_trl.rewards, datasets
datasets.Dataset.from_generator(lambda: iter([{{"a": 1}}])).select([0])
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (used * 1024 + 100_000_000,) * 2)
data = load_code_dataset({str(path)!r}, prompt_format="{{question}}")
print(len(data.train), sum(len(row["tests"]) for row in data.train) > 200_000_000)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert done.stdout.split()[-2:] == ["100", "True"], done.stderr
