"""Benchmarks: names, local files, and every refusal that keeps figures comparable."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from support.benchmarks import MATH, SHARED, needs_aime24

from delta_trl.evaluation.__main__ import EvaluationArguments
from delta_trl.evaluation.benchmarks import BENCHMARKS, SUITES, find_benchmarks, load_problems
from delta_trl.evaluation.models import find_model
from delta_trl.evaluation.problem import fingerprint


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def made_up_aime(count: int = 30) -> list[dict]:
    return [{"id": 60 + i, "problem": f"What is {i} + 1?", "answer": i + 1, "solution": "long"} for i in range(count)]


def test_paper_is_the_seven():
    assert [benchmark.name for benchmark in find_benchmarks(["paper"])] == list(SUITES["paper"])
    assert len(SUITES["paper"]) == 7


def test_every_entry_says_what_may_be_done_with_its_texts():
    for benchmark in BENCHMARKS.values():
        known = benchmark.licence.startswith(("CC BY-NC-SA", "CC BY 4.0; ", "MIT", "Apache-2.0"))
        assert known or "not to be published" in benchmark.licence
        assert benchmark.size > 0


def test_a_local_jsonl_with_deepmath_columns():
    (benchmark,) = find_benchmarks([str(MATH)])
    problems = load_problems(benchmark)
    assert (benchmark.name, len(problems)) == ("math500_first_12", 12)
    assert problems[1].answer == "p - q"
    assert [problem.id for problem in problems] == [str(i) for i in range(12)]


def test_a_local_parquet_with_columns_named(tmp_path):
    path = tmp_path / "mine.parquet"
    pa.parquet.write_table(pa.table({"q": ["1+1?", "1+2?"], "a": [2, 3], "id": ["x", "y"]}), path)
    (benchmark,) = find_benchmarks([str(path)], question_column="q", answer_column="a")
    assert [(p.id, p.question, p.answer) for p in load_problems(benchmark)] == [("x", "1+1?", "2"), ("y", "1+2?", "3")]


def test_a_local_copy_of_a_named_benchmark_is_held_to_its_size(tmp_path):
    whole = write(tmp_path / "whole.jsonl", made_up_aime())
    (benchmark,) = find_benchmarks([f"aime24={whole}"])
    problems = load_problems(benchmark)
    assert (benchmark.name, benchmark.title, len(problems)) == ("aime24", "AIME24", 30)
    assert problems[0].answer == "1"  # a number in the file, text here; and not the column `solution`
    short = write(tmp_path / "short.jsonl", made_up_aime(29))
    with pytest.raises(ValueError, match="has 29 problems where 30 are expected"):
        load_problems(find_benchmarks([f"aime24={short}"])[0])


def test_a_dataset_is_loaded_with_datasets(tmp_path, monkeypatch):
    """As from the Hub, but that the repository is a folder: integers as in MathArena's sets, and a column gone."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"problem_idx": i + 1, "problem": f"What is {i} + 1?", "answer": i + 1} for i in range(33)]
    (tmp_path / "repository").mkdir()
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "repository" / "train-00000-of-00001.parquet")
    entry = replace(BENCHMARKS["hmmt26_feb"], source=str(tmp_path / "repository"))
    problems = load_problems(entry)
    assert len(problems) == 33
    with pytest.raises(ValueError, match=r"hmmt26_feb.*To use a local copy: hmmt26_feb=file\.jsonl"):
        load_problems(replace(entry, source=str(tmp_path / "nothing")))
    assert (problems[0].id, problems[0].answer) == ("1", "1")
    with pytest.raises(ValueError, match="has 33 problems where 30 are expected"):
        load_problems(replace(entry, size=30))
    with pytest.raises(ValueError, match=r"no column \['question'\] in row 0; its columns are .*--question_column"):
        load_problems(replace(entry, question="question"))


@needs_aime24
def test_the_real_aime_2024_fits_its_entry():
    problems = load_problems(find_benchmarks([f"aime24={SHARED / 'aime24.jsonl'}"])[0])
    assert len(problems) == 30
    assert all(problem.answer.isdigit() and 0 <= int(problem.answer) <= 999 for problem in problems)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "1+1?"}], "none of .*tried for the answer"),
        ([{"question": "1+1?", "answer": None}], r"\['answer'\] is empty in row 0"),
        ([{"question": "1+1?", "answer": "2"}, {"question": "1+2?"}], r"no column \['answer'\] in row 1"),
        ([{"question": "1+1?", "answer": "2", "id": 1}] * 2, "ids .*1.* stand for several problems"),
        ([], "has no rows"),
    ],
)
def test_broken_files_are_refused(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        load_problems(find_benchmarks([write(tmp_path / "mine.jsonl", rows)])[0])


def test_lines_that_are_not_json_are_refused(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "1+1?", "answer": "2"}\n{"question"\n')
    with pytest.raises(ValueError, match="line 2: not valid JSON"):
        load_problems(find_benchmarks([str(path)])[0])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["aime23"], "Unknown benchmark 'aime23'"),
        (["paper", "aime24"], r"named twice: \['aime24'\]"),
        (["nowhere.jsonl"], "is not an existing"),
        ([f"aime23={MATH}"], "local copy of 'aime23'"),
    ],
)
def test_unknown_names_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        find_benchmarks(names)


def test_the_home_folder_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    own, copy = find_benchmarks(["~/mine.jsonl", "math500=~/mine.jsonl"])
    assert own.source == copy.source == str(tmp_path / "mine.jsonl")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert find_model("~/model") == find_model(str(tmp_path / "model"))
    assert EvaluationArguments(["m"], output="~/results").output == str(tmp_path / "results")


def test_a_path_may_hold_an_equals_sign(tmp_path):
    """The first "=" ends the name of a benchmark that is known; any other belongs to the path."""
    folder = tmp_path / "lr=1e-6,seed=2"
    folder.mkdir()
    path = write(folder / "mine=whole.jsonl", made_up_aime())
    (benchmark,) = find_benchmarks([path])
    assert (benchmark.name, benchmark.source, len(load_problems(benchmark))) == ("mine=whole", path, 30)
    (copy,) = find_benchmarks([f"aime24={path}"])
    assert (copy.name, copy.source, len(load_problems(copy))) == ("aime24", path, 30)
    with pytest.raises(ValueError, match=r"lr=1e-6,seed=2/nothing.jsonl' is not an existing"):
        find_benchmarks([str(folder / "nothing.jsonl")])


@pytest.mark.parametrize(
    "content", ["[" * 200_000, '{"question": ' + '{"a":' * 100_000, '{"question": "a"}\n' + "[" * 99_999]
)
def test_a_line_that_is_nested_too_deeply_is_refused_by_its_number(tmp_path, content):
    path = tmp_path / "mine.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"mine.jsonl(, line [12])?: JSON that is nested too deep"):
        load_problems(find_benchmarks([str(path)])[0])


def test_a_torn_parquet_file_is_named(tmp_path):
    path = tmp_path / "mine.parquet"
    pa.parquet.write_table(pa.table({"question": ["1+1?"], "answer": ["2"]}), path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"Benchmark 'mine' .*mine.parquet is no readable Parquet file"):
        load_problems(find_benchmarks([str(path)])[0])


def test_the_fingerprint_changes_with_any_answer(tmp_path):
    rows = made_up_aime()
    before = fingerprint(load_problems(find_benchmarks([write(tmp_path / "a.jsonl", rows)])[0]))
    rows[7]["answer"] = 9
    assert fingerprint(load_problems(find_benchmarks([write(tmp_path / "b.jsonl", rows)])[0])) != before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.csv", b"question,answer\n1+1?,2\n"),
        ("mine.json", b'[\n {"question": "1+1?", "answer": 2}\n]'),
        ("mine.jsonl.gz", gzip.compress(b'{"question": "1+1?", "answer": "2"}\n', mtime=0)),
    ],
)
def test_local_files_are_read_in_every_format_that_training_data_may_have(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (benchmark,) = find_benchmarks([str(tmp_path / name)])
    (problem,) = load_problems(benchmark)
    assert (benchmark.name, problem.question, problem.answer) == ("mine", "1+1?", "2")
