"""Loading, filters, prompt formats, the held-out share, and `delta-trl inspect`, all offline."""

from support.places import DATA
import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.commands import run_command
from support.places import ROOT
from support.dataset_hub import DatasetHub
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from delta_trl.data import DataArguments, PromptFormat, load_math_dataset, load_problem_data, rows_fingerprint


MATH500 = DATA / "math500.jsonl"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache of its own, so that nothing is taken from, or left in, the user's."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def rows(number: int = 20) -> list[dict]:
    return [
        {
            "question": f"What is {i} plus {i}?",
            "final_answer": str(2 * i),
            "difficulty": float(i % 10),
            "topic": "Mathematics -> Algebra -> Sums" if i % 2 else "Mathematics -> Geometry",
            "r1_solution_1": "long " * 1000,
        }
        for i in range(number)
    ]


def write(path: Path, records: list[dict]) -> str:
    if path.suffix == ".parquet":
        Dataset.from_list(records).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, with the end-of-sequence tokens of a base and of a chat model."""
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<|endoftext|>": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<|endoftext|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return fast


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_local_files_give_prompt_and_solution_and_never_the_long_columns(tmp_path, suffix):
    data = load_math_dataset(write(tmp_path / f"data{suffix}", rows()))
    assert data.train.column_names == ["solution", "difficulty", "topic", "prompt"]
    assert data.held_out is None
    assert data.train[3]["solution"] == "6"
    assert data.train[3]["prompt"] == (
        "User:\nWhat is 3 plus 3?\nPlease reason step by step, and put your final answer within \\boxed{}.\n\n"
        "Assistant:\n"
    )


def test_of_parquet_shards_only_the_needed_columns_are_read(tmp_path):
    (tmp_path / "repo" / "data").mkdir(parents=True)
    for number in range(2):
        shard = tmp_path / "repo" / "data" / f"train-{number:05d}-of-00002.parquet"
        write(shard, rows(40)[number::2])
        groups = pq.read_metadata(shard).row_group(0)
        (chunk,) = [c for i in range(groups.num_columns) if (c := groups.column(i)).path_in_schema == "r1_solution_1"]
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        content = bytearray(shard.read_bytes())
        content[start : start + chunk.total_compressed_size] = b"\0" * chunk.total_compressed_size
        shard.write_bytes(content)
        with pytest.raises(OSError, match=r"deserialize|thrift|page"):
            pq.read_table(shard)  # whoever reads the long column fails
    assert len(load_math_dataset(str(tmp_path / "repo")).train) == 40


@pytest.mark.slow
def test_from_the_hub_only_the_needed_columns_travel_and_only_once(tmp_path):
    repository = tmp_path / "repository"
    (repository / "data").mkdir(parents=True)
    long = random.Random(0)
    records = [{**row, "r1_solution_1": long.randbytes(40_000).hex()} for row in rows(1000)]
    shard = repository / "data" / "train-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(records), shard, row_group_size=250)
    hub = DatasetHub(repository)
    code = "from delta_trl.data import load_math_dataset; print(len(load_math_dataset('user/math').train))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "home")}
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}
    sent = []
    for _ in range(2):
        before = hub.bytes_sent
        result = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
        )
        assert result.stdout.strip() == "1000", result.stderr
        sent.append(hub.bytes_sent - before)
    hub.server.shutdown()
    # Every range request reads ahead by some megabytes, which weighs on a file as small as this one.
    assert sent[0] < shard.stat().st_size / 3
    assert sent[1] < 500_000


def test_other_schemas_by_naming_the_columns(tmp_path):
    path = write(tmp_path / "data.jsonl", [{"id": i, "problem": f"Problem {i}", "answer": i} for i in range(5)])
    with pytest.raises(
        ValueError, match=r"no column 'question' and no column 'final_answer'. It has: id, problem, answer"
    ):
        load_math_dataset(path)
    data = load_math_dataset(path, question_column="problem", answer_column="answer")
    assert data.train["solution"][:] == ["0", "1", "2", "3", "4"]  # integers become text
    with pytest.raises(ValueError, match="need a column 'difficulty'"):
        load_math_dataset(path, question_column="problem", answer_column="answer", min_difficulty=3)


def test_every_filter_counts_what_it_removes(tmp_path, tokenizer, caplog):
    records = rows(20)
    records += [records[0], {**records[1], "final_answer": "wrong"}, {**records[2], "question": "  "}]
    records += [{**records[3], "question": "Empty gold?", "final_answer": None}]
    records += [{**records[3], "question": "Bad gold?", "final_answer": r"\frac{1}{", "difficulty": 5.0}]
    records += [{**records[3], "question": "Long? " + "word " * 50, "difficulty": 5.0}]
    path = write(tmp_path / "data.jsonl", records)
    with caplog.at_level(logging.INFO, logger="delta_trl.data"):
        data = load_math_dataset(
            path,
            min_difficulty=3,
            max_difficulty=8,
            topic="Algebra",
            max_prompt_length=30,
            tokenizer=tokenizer,
            allow_unscorable=True,
        )
    assert data.report == [
        f"{path}: 26 rows",
        "rows with an empty question or answer: 2 of 26 (7.7%), for example row 23, row 24",
        "empty question or answer: 2 rows removed",
        "repeated question: 3 rows removed",  # one copy, and both rows of the question with two answers
        "difficulty outside [3, 8]: 7 rows removed",
        "topic other than 'Algebra': 6 rows removed",
        "prompt longer than 30 tokens: 1 rows removed",
        "gold answers that cannot be scored: 1 of 7 (14.3%), for example '\\\\frac{1}{'",
        "answer that cannot be scored: 1 rows removed",
        "left to train on: 6 rows",
    ]
    assert caplog.messages == data.report
    assert sorted(map(int, data.train["solution"])) == [6, 10, 14, 26, 30, 34]
    assert data.unscorable_share == pytest.approx(1 / 7)


def test_many_unscorable_golds_are_an_error_with_examples(tmp_path):
    records = rows(20)
    for record in records[:2]:
        record["final_answer"] = r"\frac{1}{"
    path = write(tmp_path / "data.jsonl", records)
    with pytest.raises(ValueError, match=r"Gold answers that cannot be scored: 10.0%, for example .*allow_unscorable"):
        load_math_dataset(path)
    assert len(load_math_dataset(path, allow_unscorable=True).train) == 18
    records[1]["final_answer"] = "1"
    assert len(load_math_dataset(write(tmp_path / "better.jsonl", records)).train) == 19  # 5% is still allowed


def test_held_out_share_depends_on_the_question_alone(tmp_path):
    records = rows(400)
    before = load_math_dataset(write(tmp_path / "a.jsonl", records[:300]), held_out_share=0.2)
    random.Random(0).shuffle(records)
    after = load_math_dataset(write(tmp_path / "b.jsonl", records), held_out_share=0.2)
    out_before, out_after = set(before.held_out["prompt"]), set(after.held_out["prompt"])
    assert out_before < out_after
    assert out_before == out_after & (out_before | set(before.train["prompt"]))
    assert not out_after & set(after.train["prompt"])
    assert len(after.train) + len(after.held_out) == 400
    assert 50 < len(after.held_out) < 110  # 80 expected, standard deviation 8


def test_a_changed_file_is_not_taken_from_the_cache(tmp_path):
    path = tmp_path / "data.jsonl"
    assert len(load_math_dataset(write(path, rows(5))).train) == 5
    assert len(load_math_dataset(write(path, rows(7))).train) == 7


def test_only_the_main_process_talks(tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "data.jsonl", rows(3))
    monkeypatch.setenv("RANK", "1")
    with caplog.at_level(logging.INFO, logger="delta_trl.data"):
        report = load_math_dataset(path).report
    assert report
    assert not caplog.messages


def test_chat_prompts_are_messages_with_the_instruction_and_the_system_prompt(tmp_path, tokenizer):
    path = write(tmp_path / "data.jsonl", rows(3))
    with pytest.raises(ValueError, match=r"needs a chat template.*prompt_format 'paper'"):
        load_math_dataset(path, prompt_format="chat", tokenizer=tokenizer)
    tokenizer.chat_template = CHAT_TEMPLATE
    data = load_math_dataset(path, prompt_format="chat", system_prompt="Be brief.", tokenizer=tokenizer)
    system, user = data.train[1]["prompt"]
    assert system == {"role": "system", "content": "Be brief."}
    assert user["role"] == "user"
    assert user["content"].startswith("What is 1 plus 1?\nPlease reason")
    ids = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert data.prompt_format.end_token_ids(tokenizer) == ids
    assert data.prompt_format.stop_strings == []


def test_prompt_lengths_are_counted_as_trl_tokenizes(tmp_path, tokenizer):
    tokenizer.chat_template = CHAT_TEMPLATE
    chosen = PromptFormat("chat")
    prompt = chosen.render("one two")
    text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert chosen.count_tokens([prompt], tokenizer) == [len(ids)] == [len(tokenizer(text)["input_ids"])]
    assert PromptFormat("{question}").count_tokens(["one two three"], tokenizer) == [3]
    paper = PromptFormat()
    assert paper.stop_strings == ["\nUser:"]
    assert paper.end_token_ids(tokenizer) == [tokenizer.eos_token_id]


def test_own_templates_may_be_full_of_braces(tmp_path):
    path = write(tmp_path / "data.jsonl", [{"question": r"Find $\frac{1}{2}$ {x}", "final_answer": "1"}])
    data = load_math_dataset(path, prompt_format=r"Q: {question} Put it in \boxed{}. <think>")
    assert data.train[0]["prompt"] == r"Q: Find $\frac{1}{2}$ {x} Put it in \boxed{}. <think>"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_format": "papre"}, "must be 'paper', 'chat', or a template"),
        ({"system_prompt": "Be brief."}, "only used by prompt_format 'chat'"),
        ({"held_out_share": 1.0}, "at least 0 and below 1, got 1.0"),
        ({"max_prompt_length": 100}, "pass the model's tokenizer"),
        ({"held_out_share": 0.999999}, "No row of .* is left"),
        ({"held_out_share": 1e-9}, "holds none out"),
        ({"topic": "Topology"}, "No topic starts with 'Topology'. Available: Algebra, Geometry"),
        ({"min_difficulty": 20}, "No row of .* is left"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, message):
    path = write(tmp_path / "data.jsonl", rows(4))
    with pytest.raises(ValueError, match=message):
        load_math_dataset(path, **options)


def test_options_of_the_script_reach_the_loader(tmp_path, tokenizer):
    path = write(tmp_path / "data.jsonl", rows(40))
    arguments = DataArguments(dataset_name=path, max_difficulty=5, held_out_share=0.5, prompt_format="{question}")
    data = load_problem_data(arguments, tokenizer)
    assert len(data.train) + len(data.held_out) == 24
    assert data.train[0]["prompt"].startswith("What is")
    with pytest.raises(ValueError, match="held_out_share"):
        DataArguments(held_out_share=-0.1)
    with pytest.raises(ValueError, match="max_prompt_length"):
        DataArguments(max_prompt_length=0)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nothing\.jsonl"):
        load_math_dataset(str(tmp_path / "nothing.jsonl"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no"):
        load_math_dataset(str(tmp_path / "empty"))


def test_math500_loads_whole():
    data = load_math_dataset(str(MATH500))
    assert len(data.train) == 500
    assert data.unscorable_share <= 0.01


@pytest.mark.slow
def test_inspect_data_reads_a_training_config_and_saves_one_picture(tmp_path, tokenizer):
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(tmp_path / "model")
    config = tmp_path / "train.yaml"
    config.write_text(
        f"dataset_name: {MATH500}\nmodel_name_or_path: {tmp_path / 'model'}\nlearning_rate: 1.0e-6\n"
        "prompt_format: chat\nmin_difficulty: 3\nheld_out_share: 0.1\nreport_to: none\n"
    )
    picture = tmp_path / "figures" / "data.png"
    arguments = ["--config", config, "--min_difficulty", 4, "--picture", picture, "--examples", 2]
    result = run_command("inspect", *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("<|im_start|>assistant") == 2  # rendered as the model will see them
    assert "difficulty outside [4, inf]: 238 rows removed" in result.stdout
    assert "Prompt length in tokens: min" in result.stdout
    assert "Gold answers that can be scored: 100.0%" in result.stdout
    assert "Intermediate Algebra" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    refused = run_command("inspect", "--dataset_name", tmp_path / "none.jsonl")
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [f"error: There is no file {tmp_path / 'none.jsonl'}."]


def test_held_out_problems_of_their_own_are_read_alike_and_kept_out_of_training(tmp_path):
    records = rows(30)
    train, test = write(tmp_path / "train.jsonl", records[:20]), write(tmp_path / "test.jsonl", records[15:])
    data = load_math_dataset(train, held_out_name=test, max_difficulty=5)
    assert data.held_out.column_names == data.train.column_names
    assert [int(answer) // 2 for answer in data.held_out["solution"]] == [15, 20, 21, 22, 23, 24, 25]
    assert [int(answer) // 2 for answer in data.train["solution"]] == [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14]
    assert any("also held out" in line and "1 rows removed" in line for line in data.report)
    with pytest.raises(ValueError, match="two ways to hold problems out"):
        DataArguments(held_out_name=test, held_out_share=0.1)


def test_a_held_out_problem_in_another_spelling_is_kept_out_of_training(tmp_path):
    question = "Find the area of a café\u2019s 3 × 4 table."
    spellings = [
        question.replace(" ", "  ").replace(" 3", "\n3"),
        question.replace(" ", "\u00a0"),
        question.replace("a", "a\u200b") + "\ufeff",  # invisible
        question.replace("é", "e\u0301"),
        question.replace("3", "\uff13"),  # full width
    ]
    other = [{"question": q, "final_answer": "9"} for q in ("What is 3²?", "What is 32?", "What is 3₂?")]
    held_out = write(tmp_path / "test.jsonl", [{"question": question, "final_answer": "12"}])
    for number, spelling in enumerate(spellings):
        rows = [{"question": spelling, "final_answer": "12"}, *other]
        train = write(tmp_path / f"train{number}.jsonl", rows)
        data = load_math_dataset(train, held_out_name=held_out)
        assert len(data.train) == 3, repr(spelling)  # nor are the powers taken for each other
    repeated = [{"question": spelling, "final_answer": "12"} for spelling in (question, *spellings)]
    assert len(load_math_dataset(write(tmp_path / "repeated.jsonl", repeated)).train) == 1


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_gold_that_is_not_a_number_is_a_missing_one(tmp_path, suffix):
    records = [{"question": f"What is {i}?", "final_answer": float(i)} for i in range(5)]
    records[2]["final_answer"] = float("nan")
    data = load_math_dataset(write(tmp_path / f"data{suffix}", records), allow_unscorable=True)
    assert "nan" not in data.train["solution"]
    assert "empty question or answer: 1 rows removed" in data.report


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "data.jsonl is empty"),
        ("\n \n", "data.jsonl is empty"),
        (
            '{"question": "a?", "final_answer": "1"}\n{"question": "b?", "final_\n',
            r"data.jsonl, line 2: not valid JSON",
        ),
        ('{"question": "a?", "final_answer": "1"}\n[1, 2]\n', r"data.jsonl, line 2: a JSON object is needed"),
        ('{"question": [{"role": "user", "content": "a?"}], "final_answer": "1"}\n', "column 'question' holds a list"),
    ],
)
def test_broken_files_are_named_with_the_line(tmp_path, text, message):
    (tmp_path / "data.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_math_dataset(str(tmp_path / "data.jsonl"))


def test_a_file_broken_far_from_its_start_is_named_with_the_line(tmp_path):
    path = write(tmp_path / "data.jsonl", rows(3000))
    with open(path, "a") as file:
        file.write('{"question": "torn')
    with pytest.raises(ValueError, match=r"data.jsonl, line 3001: not valid JSON"):
        load_math_dataset(path)


def test_a_broken_parquet_file_is_named(tmp_path):
    (tmp_path / "data.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(ValueError, match=r"data.parquet is no readable Parquet file"):
        load_math_dataset(str(tmp_path / "data.parquet"))


def test_columns_for_rewards_of_ones_own(tmp_path):
    records = [{"question": f"Say {i}", "final_answer": "any prose at all", "tests": [i, i]} for i in range(4)]
    path = write(tmp_path / "data.jsonl", records)
    data = load_math_dataset(path, extra_columns=["tests"], check_golds=False)
    assert data.train["tests"][3] == [3, 3]
    with pytest.raises(ValueError, match=r"no column 'test'\. It has: question, final_answer, tests"):
        load_math_dataset(path, extra_columns=["test"], check_golds=False)


def test_prompts_are_counted_once_and_the_longest_is_known(tmp_path, tokenizer):
    records = [{"question": "word " * i, "final_answer": "1"} for i in range(1, 6)]
    path = write(tmp_path / "data.jsonl", records)
    data = load_math_dataset(path, prompt_format="{question}", tokenizer=tokenizer, max_prompt_length=4)
    assert (data.prompt_tokens, data.longest_prompt) == ([1, 2, 3, 4], 4)
    assert "prompt_tokens" not in data.train.column_names


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"prompt_format": "{topic}: {question}"}, r"prompt_format contains \{topic\}, a column"),
        ({"prompt_format": "{question}\nHint: {final_answer}, {difficulty}."}, r"\{final_answer\}, \{difficulty\}"),
        ({"prompt_format": "chat", "system_prompt": "You know {topic}."}, r"system_prompt contains \{topic\}"),
        ({"prompt_format": "chat", "system_prompt": "Solve {question}."}, r"system_prompt contains \{question\}"),
    ],
)
def test_a_column_in_a_prompt_format_is_refused_since_it_would_not_be_filled_in(tmp_path, options, named):
    with pytest.raises(ValueError, match=named):
        load_math_dataset(write(tmp_path / "data.jsonl", rows(4)), **options)


@pytest.mark.parametrize(
    "template", [r"{question} \boxed{topic}", r"{question} x^{topic}", "{question} {a} {}", "{question}"]
)
def test_braces_of_latex_and_names_that_are_no_column_stay(tmp_path, template):
    data = load_math_dataset(write(tmp_path / "data.jsonl", rows(4)), prompt_format=template)
    assert data.train[1]["prompt"] == template.replace("{question}", "What is 1 plus 1?")


def test_a_fingerprint_tells_rows_by_their_content_alone(tmp_path):
    records = rows(300)
    first = rows_fingerprint(load_math_dataset(write(tmp_path / "a.jsonl", records)).train)
    assert first == rows_fingerprint(load_math_dataset(write(tmp_path / "b.parquet", records)).train)
    assert first == rows_fingerprint(load_math_dataset(write(tmp_path / "a.jsonl", records)).train)
    records[299]["final_answer"] = "0"
    others = [records[:299], [records[1], records[0], *records[2:]], records]
    assert (
        len({first, *(rows_fingerprint(load_math_dataset(write(tmp_path / "a.jsonl", o)).train) for o in others)}) == 4
    )
