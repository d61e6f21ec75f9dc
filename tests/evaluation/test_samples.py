"""Sample files: honest denominators, nothing counted twice, and files that belong to something else."""

import json

import pytest

from delta_trl.evaluation.samples import SampleFile, plan, read_evaluation


SETTINGS = {
    "model": "m", "backend": "vllm", "dtype": "auto", "samples": 2, "temperature": 1.0, "top_p": 0.7, "top_k": 0,
    "max_tokens": 30, "seed": 0, "prompt_format": "paper", "versions": {"torch": "2.13"},
}  # fmt: skip
PROBLEMS = ["p", "q", "r"]


def begin(path, settings=SETTINGS, problems=PROBLEMS, benchmark="b", n=2):
    return SampleFile(path).begin([plan(benchmark, benchmark.upper(), "0123", problems, n, settings)])


def sample(problem, index, score=1.0, **fields):
    known = {"benchmark": "b", "problem": problem, "sample": index, "score": score, "answer": "1", "tokens": 3}
    return {**known, "truncated": False, "reason": "correct", **fields}


def test_what_is_missing_counts_as_wrong_and_is_listed(tmp_path):
    path = tmp_path / "run.jsonl"
    begin(path)
    SampleFile(path).append([sample("p", 0), sample("p", 1, 0.0), sample("q", 1, None), sample("p", 1, 1.0)])
    benchmark = read_evaluation(path).benchmarks["b"]
    # The second sample ("p", 1) does not count: it is there already.
    assert benchmark.correct.tolist() == [[True, False], [False, False], [False, False]]
    assert benchmark.without_sample == ["r"]
    assert benchmark.missing == 3
    assert benchmark.samples_of("q") == [None, sample("q", 1, None)]
    assert benchmark.column("score") == [1.0, 0.0, None]


def test_a_sample_that_was_cut_off_is_asked_for_again(tmp_path):
    path = tmp_path / "run.jsonl"
    begin(path)
    SampleFile(path).append([sample("p", 0), sample("p", 1)])
    path.write_bytes(path.read_bytes()[:-10])
    assert begin(path) == {("b", "p", 0)}
    SampleFile(path).append([sample("q", 0)])
    assert read_evaluation(path).keys == {("b", "p", 0), ("b", "q", 0)}


def test_other_settings_are_refused_by_name(tmp_path):
    path = tmp_path / "run.jsonl"
    begin(path)
    with pytest.raises(ValueError, match=r"other settings\. temperature: 1\.0 in the file, now 0\.6\. Repeat"):
        begin(path, {**SETTINGS, "temperature": 0.6})
    with pytest.raises(ValueError, match=r'versions.torch: "2\.13" in the file, now "2\.14"'):
        begin(path, {**SETTINGS, "versions": {"torch": "2.14"}})
    with pytest.raises(ValueError, match=r"problems of b.*samples: 2 in the file, now 4"):
        begin(path, n=4)
    assert begin(path) == set()
    begin(path, benchmark="c")
    assert list(read_evaluation(path).benchmarks) == ["b", "c"]
    with pytest.raises(ValueError, match="temperature"):
        begin(path, {**SETTINGS, "temperature": 0.6}, benchmark="d")


@pytest.mark.parametrize("content", [None, "", "not json\n"])
def test_what_is_no_sample_file_is_refused(tmp_path, content):
    path = tmp_path / "run.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"Give the \.jsonl file that an evaluation wrote"):
        read_evaluation(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (sample("p", 0, benchmark="c"), "sample 0 of problem 'p' of 'c', which its plans do not ask for"),
        (sample("z", 0), "problem 'z' of 'b'"),
        (sample("p", 2), "sample 2 of problem 'p'"),
        (
            {"sample": 0},
            "benchmark, problem, tokens, truncated, answer, score, reason is missing or of the wrong type",
        ),
        (sample("p", "0"), "sample is missing or of the wrong type"),
        ([1], "line 2: a JSON object is required"),
        ({"plan": {}, "settings": SETTINGS}, "benchmark, title, fingerprint, problems, samples is missing"),
        ({"plan": 1, "settings": SETTINGS}, "plan is missing or of the wrong type"),
        ({**plan("c", "C", "0", [], 2, {})}, "model, backend, dtype"),
    ],
)
def test_lines_that_do_not_belong_are_refused(tmp_path, line, message):
    path = tmp_path / "run.jsonl"
    begin(path)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match="run.jsonl.*" + message.replace("(", r"\(")):
        read_evaluation(path)
