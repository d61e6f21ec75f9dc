"""JSON Lines files: what a crash leaves, several writers at once, and files that are something else."""

import gzip
import json
import multiprocessing

import pytest
from support.places import ROOT

from delta_trl.jsonl import append_lines, read_lines, refuse_differences, replace_lines, update_lines


STUDIES = sorted((ROOT / "docs" / "results" / "study").glob("*/results.jsonl.gz"))


def test_what_is_appended_is_read(tmp_path):
    path = tmp_path / "folder" / "lines.jsonl"
    append_lines(path, [{"a": 1}, {"b": ["\N{INTEGRAL}", None]}])
    append_lines(path, [{"broken text": "\ud800"}])
    assert read_lines(path) == [{"a": 1}, {"b": ["\N{INTEGRAL}", None]}, {"broken text": "\ud800"}]
    replace_lines(path, [{"a": 2}])
    assert read_lines(path) == [{"a": 2}]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("cut", range(1, 16))
def test_a_line_cut_off_at_any_place_is_left_out_and_cut_off_by_the_next_append(tmp_path, cut):
    path = tmp_path / "lines.jsonl"
    append_lines(path, [{"a": 1}, {"b": "\N{INTEGRAL}x"}])
    path.write_bytes(path.read_bytes()[:-cut])
    whole = [{"a": 1}, {"b": "\N{INTEGRAL}x"}] if cut == 1 else [{"a": 1}]  # a line that lacks its newline is whole
    assert read_lines(path) == whole
    append_lines(path, [{"c": 3}])
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [*whole, {"c": 3}]


def test_lines_that_are_not_json_are_left_out_and_named(tmp_path, caplog):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": \n\n\xff\xfe\n{"c": 3}\n')
    assert read_lines(path) == [{"a": 1}, {"c": 3}]
    assert f"{path}: left out line 2, 4, which is not JSON" in caplog.text


@pytest.mark.parametrize("deep", ["[" * 200_000, '{"a":' * 200_000, '{"a": ' + "[" * 200_000 + "]" * 200_000 + "}"])
def test_a_line_that_is_nested_too_deeply_is_left_out_like_a_torn_one(tmp_path, caplog, deep):
    path = tmp_path / "lines.jsonl"
    path.write_text(f'{{"a": 1}}\n{deep}\n{{"b": 2}}\n{deep}')
    assert read_lines(path) == [{"a": 1}, {"b": 2}]
    assert "left out line 2, 4, which is not JSON" in caplog.text
    append_lines(path, [{"c": 3}])  # cuts the last one off, which has no end
    assert read_lines(path) == [{"a": 1}, {"b": 2}, {"c": 3}]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: b"\x00" + data, lambda data: data[:20] + b"\xff" * 9]
)
def test_a_damaged_compressed_file_is_named(tmp_path, damage):
    path = tmp_path / "lines.jsonl.gz"
    path.write_bytes(damage(gzip.compress(b'{"a": 1}\n' * 100)))
    with pytest.raises(ValueError, match=r"lines.jsonl.gz cannot be decompressed"):
        read_lines(path)


def test_lines_that_are_no_objects_are_refused(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n[1, 2]\n')
    with pytest.raises(ValueError, match=r"lines.jsonl, line 2: a JSON object is required, got \[1, 2\]"):
        read_lines(path)


def test_a_header_is_written_once_and_then_checked(tmp_path):
    path = tmp_path / "lines.jsonl"

    def begin(**settings):
        def header(lines):
            if lines:
                refuse_differences(path, lines[0], settings, "settings", "Take another file.")
            return [] if lines else [settings]

        return update_lines(path, header)

    assert begin(seed=0, sizes=(1, 2), versions={"torch": "2.13"}) == read_lines(path)
    append_lines(path, [{"a": 1}])
    assert begin(seed=0, sizes=(1, 2), versions={"torch": "2.13"})[1:] == [{"a": 1}]
    with pytest.raises(ValueError, match=r'seed: 0 in the file, now null; versions\.torch: "2\.13" .* "3"\. Take'):
        begin(sizes=(1, 2), versions={"torch": "3"})


def _append_many(path, writer):
    for index in range(200):
        append_lines(path, [{"writer": writer, "index": index, "text": "x" * 5000}])


def test_processes_that_append_at_once_do_not_mix_lines(tmp_path):
    path = tmp_path / "lines.jsonl"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_append_many, args=(path, writer)) for writer in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    written = [(line["writer"], line["index"]) for line in map(json.loads, path.read_text().splitlines())]
    assert sorted(written) == [(writer, index) for writer in range(3) for index in range(200)]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.parent.name)
def test_the_studies_records_are_readable(path):
    lines = read_lines(path)
    assert len(lines) > 5
    assert all({"method", "seed", "key", "options", "log_history"} <= set(line) for line in lines)
