"""Record files: honest denominators, nothing counted twice, broken lines, and files that belong to something else."""

import json
import multiprocessing

import pytest

from delta_trl.evaluation.records import RecordFile, plan, read_run


SETTINGS = {"model": "m", "temperature": 1.0, "versions": {"torch": "2.13"}}
PROBLEMS = ["p", "q", "r"]


def begin(path, settings=SETTINGS, problems=PROBLEMS, benchmark="b", n=2):
    return RecordFile(path).begin([plan(benchmark, benchmark.upper(), "0123", problems, n, settings)])


def sample(problem, index, score=1.0, **fields):
    return {"benchmark": "b", "problem": problem, "sample": index, "score": score, "answer": "1", **fields}


def test_what_is_missing_counts_as_wrong_and_is_listed(tmp_path):
    path = tmp_path / "run.jsonl"
    begin(path)
    RecordFile(path).append([sample("p", 0), sample("p", 1, 0.0), sample("q", 1, None)])
    benchmark = read_run(path).benchmarks["b"]
    assert benchmark.correct.tolist() == [[True, False], [False, False], [False, False]]
    assert benchmark.without_sample == ["r"]
    assert benchmark.missing == 3
    assert benchmark.answers() == [["1", "1"], [None, "1"], [None, None]]


def test_a_sample_that_is_there_twice_counts_once_as_first_written(tmp_path):
    path = tmp_path / "run.jsonl"
    begin(path)
    RecordFile(path).append([sample("p", 0, 1.0), sample("p", 0, 0.0)])
    benchmark = read_run(path).benchmarks["b"]
    assert benchmark.correct.sum() == 1
    assert benchmark.missing == 5


@pytest.mark.parametrize("keep", [1, 10, -2, -1])
def test_a_line_cut_off_at_any_place_is_dropped_and_the_next_append_is_whole(tmp_path, keep):
    path = tmp_path / "run.jsonl"
    begin(path)
    RecordFile(path).append([sample("p", 0)])
    whole = len(path.read_bytes())
    RecordFile(path).append([sample("p", 1, completion="\N{INTEGRAL}" * 9)])
    lines = path.read_bytes()
    path.write_bytes(lines[: whole + keep] if keep > 0 else lines[:keep])
    expected = {("b", "p", 0), ("b", "p", 1)} if keep == -1 else {("b", "p", 0)}  # without its newline a line is whole
    assert begin(path) == expected
    RecordFile(path).append([sample("q", 0)])
    assert read_run(path).keys == {*expected, ("b", "q", 0)}


def test_a_cut_inside_a_character_is_dropped_too(tmp_path):
    path = tmp_path / "run.jsonl"
    begin(path)
    RecordFile(path).append([sample("p", 0, completion="\N{INTEGRAL}")])
    data = path.read_bytes()
    path.write_bytes(data[: data.index("\N{INTEGRAL}".encode()) + 1])
    assert begin(path) == set()


def test_other_settings_are_refused_by_name(tmp_path):
    path = tmp_path / "run.jsonl"
    begin(path)
    with pytest.raises(ValueError, match=r"temperature: 1\.0 in the file, now 0\.6") as error:
        begin(path, {**SETTINGS, "temperature": 0.6})
    assert "model" not in str(error.value).split("share it.")[1]
    with pytest.raises(ValueError, match=r'versions.torch: "2\.13" in the file, now "2\.14"'):
        begin(path, {**SETTINGS, "versions": {"torch": "2.14"}})
    with pytest.raises(ValueError, match=r"problems of b.*samples: 2 in the file, now 4"):
        begin(path, n=4)
    with pytest.raises(ValueError, match=r"top_p: null in the file, now 0\.7"):
        begin(path, {**SETTINGS, "top_p": 0.7})
    assert begin(path) == set()


def test_another_benchmark_joins_the_file_only_with_its_settings(tmp_path):
    path = tmp_path / "run.jsonl"
    begin(path)
    begin(path, benchmark="c")
    assert list(read_run(path).benchmarks) == ["b", "c"]
    with pytest.raises(ValueError, match="temperature"):
        begin(path, {**SETTINGS, "temperature": 0.6}, benchmark="d")


def _append_many(path, problem):
    for index in range(200):
        RecordFile(path).append([sample(problem, index, completion="x" * 5000)])


def test_processes_that_append_at_once_do_not_mix_lines(tmp_path):
    path = tmp_path / "run.jsonl"
    begin(path, n=200)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_append_many, args=(path, problem)) for problem in PROBLEMS]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert read_run(path).benchmarks["b"].missing == 0
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 601


@pytest.mark.parametrize("content", [None, "", "not json\n"])
def test_what_is_no_record_file_is_refused(tmp_path, content):
    path = tmp_path / "run.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"Give the \.jsonl file that an evaluation wrote"):
        read_run(path)
