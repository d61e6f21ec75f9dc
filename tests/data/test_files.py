"""Forms in which problems come: files of every format, ragged rows, saved datasets, rows in memory, and caches."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import shutil
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from delta_trl.data import filters, fingerprint, load_code_dataset, load_math_dataset


RECORDS = [
    {"question": f'What is {i} + {i},\n"please"?', "final_answer": str(2 * i), "difficulty": i} for i in range(6)
]
GOLDS = [record["final_answer"] for record in RECORDS]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache of its own, so that nothing is taken from, or left in, the user's."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def lines(records: list) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def as_csv(records: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, records[0])
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


COLUMNS = {name: [record[name] for record in RECORDS] for name in RECORDS[0]}
TEXTS = {
    "lines.jsonl": lines(RECORDS),
    "lines.json": lines(RECORDS),
    "bom.jsonl": "\ufeff" + lines(RECORDS),
    "list.json": json.dumps(RECORDS),
    "pretty.json": json.dumps(RECORDS, indent=4),
    "pretty.jsonl": json.dumps(RECORDS, indent=4),
    "pretty_documents.jsonl": "\n".join(json.dumps(record, indent=2) for record in RECORDS),
    "under_a_key.json": json.dumps({"version": "1", "data": RECORDS}, indent=1),
    "under_the_split.json": json.dumps({"test": RECORDS[:1], "train": RECORDS}),
    "columns.json": json.dumps(COLUMNS),
    "pandas.json": json.dumps({name: {str(i): v for i, v in enumerate(values)} for name, values in COLUMNS.items()}),
    "table.csv": as_csv(RECORDS),
    "bom.csv": "\ufeff" + as_csv(RECORDS),
}


@pytest.mark.parametrize("compression", ["", ".gz", ".bz2", ".xz"])
@pytest.mark.parametrize("name", TEXTS)
def test_files_of_every_form_give_the_same_rows(tmp_path, name, compression):
    compress = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[compression]
    path = tmp_path / (name + compression)
    path.write_bytes(compress(TEXTS[name].encode()))
    data = load_math_dataset(str(path), prompt_format="{question}")
    assert data.train["prompt"][:] == [record["question"] for record in RECORDS]
    assert data.train["solution"][:] == GOLDS
    assert data.train["difficulty"][:] == [float(i) for i in range(6)]


def test_a_single_row_is_a_row(tmp_path):
    for indent in (None, 2):
        path = tmp_path / f"one{indent}.json"
        path.write_text(json.dumps({**RECORDS[1], "messages": [{"role": "user"}]}, indent=indent))
        assert load_math_dataset(str(path)).train["solution"][:] == ["2"]


def test_a_saved_dataset_and_a_split_of_several(tmp_path):
    rows = Dataset.from_list(RECORDS)
    rows.save_to_disk(tmp_path / "one")
    assert load_math_dataset(str(tmp_path / "one")).train["solution"][:] == GOLDS
    DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(tmp_path / "several")
    assert load_math_dataset(str(tmp_path / "several")).train["solution"][:] == GOLDS
    assert load_math_dataset(str(tmp_path / "several"), dataset_split="test").train["solution"][:] == ["2"]
    with pytest.raises(ValueError, match=r"several has no split 'dev'\. It has: train, test"):
        load_math_dataset(str(tmp_path / "several"), dataset_split="dev")


@pytest.mark.parametrize(
    "given",
    [RECORDS, Dataset.from_list(RECORDS), DatasetDict({"train": Dataset.from_list(RECORDS)})],
    ids=["list", "Dataset", "DatasetDict"],
)
def test_rows_in_memory_are_data_too(given):
    data = load_math_dataset(given, min_difficulty=2, extra_columns=["difficulty"])
    assert data.train["solution"][:] == GOLDS[2:]
    assert data.report[0] == "the rows given: 6 rows"
    code = [{"question": "Add.", "tests": {"inputs": ["1 2"], "outputs": ["3"]}}]
    assert len(load_code_dataset(code).train) == 1


@pytest.mark.parametrize("given", [["What is 1?"], {"question": ["a"]}, 7])
def test_what_is_no_rows_is_refused_by_name(given):
    with pytest.raises(ValueError, match=r"Rows must be a datasets\.Dataset|has no split"):
        load_math_dataset(given)


def test_of_files_named_after_splits_only_those_of_the_split_are_read(tmp_path):
    tmp_path = tmp_path / "data"  # not where the cache is
    tmp_path.mkdir()
    Dataset.from_list(RECORDS[:2]).to_parquet(tmp_path / "train-00000-of-00002.parquet")
    Dataset.from_list(RECORDS[2:4]).to_parquet(tmp_path / "train-00001-of-00002.parquet")
    (tmp_path / "test.jsonl").write_text(lines(RECORDS[4:]))
    assert load_math_dataset(str(tmp_path)).train["solution"][:] == GOLDS[:4]
    assert load_math_dataset(str(tmp_path), dataset_split="test").train["solution"][:] == GOLDS[4:]
    with pytest.raises(ValueError, match=r"mixes .json and .parquet files"):
        load_math_dataset(str(tmp_path), dataset_split="dev")
    (tmp_path / "test.jsonl").rename(tmp_path / "more.jsonl")
    (tmp_path / "train-00000-of-00002.parquet").unlink()
    (tmp_path / "train-00001-of-00002.parquet").unlink()
    (tmp_path / "testing.jsonl").write_text(lines(RECORDS[:1]))
    assert len(load_math_dataset(str(tmp_path)).train) == 3  # names that are of no split


# --- rows that differ


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_later_rows_may_have_more_columns(tmp_path, suffix):
    records = [*RECORDS[:3], *({**record, "topic": "Algebra", "hint": ["a"]} for record in RECORDS[3:])]
    path = tmp_path / f"data{suffix}"
    path.write_text(lines(records) if suffix == ".jsonl" else json.dumps(records))
    data = load_math_dataset(str(path), extra_columns=["hint"])
    assert data.train["topic"][:] == [None] * 3 + ["Algebra"] * 3
    assert data.train["hint"][:] == [None] * 3 + [["a"]] * 3


def test_a_column_that_begins_beyond_the_first_rows_is_found(tmp_path):
    path = tmp_path / "data.jsonl"
    records = [{"question": f"What is {i}?", "answer": i} for i in range(2500)]
    records[2400]["hint"] = "half"
    path.write_text(lines(records))
    data = load_math_dataset(str(path), answer_column="answer", extra_columns=["hint"])
    assert [hint for hint in data.train["hint"] if hint] == ["half"]
    with pytest.raises(ValueError, match=r"no column 'hints'. It has: question, answer, hint\."):
        load_math_dataset(str(path), answer_column="answer", extra_columns=["hints"])


def test_half_a_surrogate_pair_in_a_text_is_replaced(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"question": "Smile \\ud83d, please", "final_answer": "1"}\n' * 2)
    (row,) = load_math_dataset(str(tmp_path / "data.jsonl"), prompt_format="{question}").train
    assert row["prompt"] == "Smile ?, please"


def test_types_may_change_from_row_to_row(tmp_path):
    path = tmp_path / "data.jsonl"
    records = [{"question": f"{i}?", "final_answer": i, "difficulty": i, "weight": 1} for i in range(1100)]
    records[1050] |= {"final_answer": "1/2", "difficulty": 2.5, "weight": 0.5}
    records[1051] |= {"difficulty": "hard", "weight": None}
    path.write_text(lines(records))
    train = load_math_dataset(str(path), extra_columns=["weight"]).train
    assert train[1050] | {"prompt": ""} == {"solution": "1/2", "difficulty": 2.5, "weight": 0.5, "prompt": ""}
    assert (train[1051]["difficulty"], train[1051]["weight"], train[0]["weight"]) == (None, None, 1.0)
    records[3]["weight"] = "heavy"
    path.write_text(lines(records))
    with pytest.raises(ValueError, match="column 'weight' holds values of different types"):
        load_math_dataset(str(path), extra_columns=["weight"])


def test_shards_may_differ_in_their_columns(tmp_path):
    Dataset.from_list(RECORDS[:3]).to_parquet(tmp_path / "a.parquet")
    Dataset.from_list([{**record, "hint": "h"} for record in RECORDS[3:]]).to_parquet(tmp_path / "b.parquet")
    assert load_math_dataset(str(tmp_path), extra_columns=["hint"]).train["hint"][:] == [None] * 3 + ["h"] * 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.csv", b"question,question,final_answer\na,b,1\n", r"data.csv: the first line names 'question' twice"),
        ("data.csv", b"question,final_answer\na,1\nb,c,2\n", r"data.csv, line 3: 3 cells, and the first line names 2"),
        ("data.csv", b'question,final_answer\n"a,1\n', r"data.csv: not valid CSV after line 1"),
        ("data.csv", b"question,final_answer\n", "data.csv is empty"),
        ("data.json", b'[{"question": "a"},\n{"question": }]', r"data.json, line 2: not valid JSON"),
        ("data.json", b"[" * 200_000, r"data.json: JSON that is nested too deep"),
        ("data.jsonl", lines(RECORDS).encode() + b"[" * 200_000, r"data.jsonl, line 7: JSON that is nested too deep"),
        ("data.json", b"[1, 2]", r"data.json, item 1: a JSON object is needed"),
        ("data.jsonl.gz", b"no gzip", r"data.jsonl.gz cannot be decompressed"),
        ("data.jsonl.gz", gzip.compress(lines(RECORDS).encode())[:-20], r"data.jsonl.gz cannot be decompressed"),
        ("data.jsonl", b'{"question": "\xff"}', r"data.jsonl is not encoded in UTF-8"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_math_dataset(str(tmp_path / name))


def test_many_missing_answers_are_an_error_that_counts_them():
    records = [
        {"question": f"{i}?", "final_answer": "1" if i % 4 == 0 else missing}
        for i, missing in enumerate([None, "", "nan", float("nan")] * 5)
    ]
    with pytest.raises(ValueError, match=r"empty question or answer: 75.0%, .*row 2, row 3.*allow_unscorable"):
        load_math_dataset(records)
    data = load_math_dataset(records, allow_unscorable=True)
    assert len(data.train) == 5
    assert any("empty question or answer: 15 of 20 (75.0%)" in line for line in data.report)
    few = [{"question": f"{i}?", "final_answer": i or None} for i in range(20)]
    assert len(load_math_dataset(few).train) == 19


def test_golds_that_are_words_around_a_number_are_removed_and_named():
    golds = ["There are 12 ways to do this", "about 7 apples in total", "The total is 15 dollars"]
    kept = [
        "The answer is 7",
        "7",
        "5 square inches",
        "all real numbers",
        r"\text{square } 5",
        "7*sin(pi*x/5)",
        "seven",
    ]
    rows = [{"question": f"{i}?", "final_answer": gold} for i, gold in enumerate([*golds, *kept])]
    named = f"3 of 10 (30.0%), for example {', '.join(map(repr, golds))}"
    with pytest.raises(ValueError, match=re.escape(f"{', '.join(map(repr, golds))}. That is more than 5%")):
        load_math_dataset(rows)
    data = load_math_dataset(rows, allow_unscorable=True)
    assert f"gold answers that cannot be scored: {named}" in data.report
    assert data.train["solution"] == kept


# --- caches


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A copy of the package's code, which a test may change; not what runs."""
    for folder in ("data", "rewards", "sandbox"):
        shutil.copytree(Path(fingerprint.__file__).parents[1] / folder, tmp_path / "package" / folder)
    monkeypatch.setattr(fingerprint, "__file__", str(tmp_path / "package" / "data" / "fingerprint.py"))
    fingerprint.code_fingerprint.cache_clear()
    yield tmp_path / "package"
    fingerprint.code_fingerprint.cache_clear()


def change(file: Path) -> None:
    file.write_text(file.read_text() + "\n# changed\n")
    fingerprint.code_fingerprint.cache_clear()


def test_verdicts_on_golds_are_asked_again_when_the_code_or_a_package_changes(code, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("delta_trl.rewards.scorable", lambda golds: asked.append(len(golds)) or [True] * len(golds))
    path = tmp_path / "data.jsonl"
    path.write_text(lines(RECORDS))

    def load() -> int:
        before = len(asked)
        load_math_dataset(str(path))
        return len(asked) - before

    change(code / "rewards" / "math" / "algebra" / "compare.py")
    assert load() == 1
    assert load() == 0
    change(code / "rewards" / "math" / "algebra" / "compare.py")
    assert load() == 1
    monkeypatch.setattr(fingerprint, "version", lambda name: "0.0" if name == "latex2sympy2_extended" else "1.0")
    fingerprint.code_fingerprint.cache_clear()
    assert load() == 1
    assert load() == 0
    assert {"math-verify", "sympy"} < set(filters.CHECKERS)


@pytest.mark.parametrize("changed", ["data", "rewards", "sandbox"])
def test_converted_rows_are_made_again_when_the_code_changes(code, tmp_path, changed):
    path = tmp_path / "data.jsonl"
    path.write_text(lines([{"question": "Add.", "tests": {"inputs": ["1 2"], "outputs": ["3"]}}]))
    first = load_code_dataset(str(path)).train.cache_files[0]["filename"]
    assert load_code_dataset(str(path)).train.cache_files[0]["filename"] == first
    change(next((code / changed).rglob("*.py")))
    assert load_code_dataset(str(path)).train.cache_files[0]["filename"] != first
