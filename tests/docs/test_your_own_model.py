"""The page docs/your_own_model.md as typed by a reader: its reward, and its YAML file with a tiny model."""

import json
import re
import sys

import pytest
from support.commands import parse
from support.models import tiny_model
from support.places import ROOT

from delta_trl.research.tasks import arithmetic_problems, character_tokenizer
from delta_trl.train.__main__ import train


PAGE = (ROOT / "docs" / "your_own_model.md").read_text()
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


def block(start: str) -> str:
    """The code block of the page that starts with this text."""
    (found,) = [text for text in re.findall(r"```\w+\n(.*?)```", PAGE, flags=re.DOTALL) if text.startswith(start)]
    return found


@pytest.fixture
def reward():
    names = {}
    exec(block("# my_rewards.py"), names)
    return names["exact_match"]


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        (r"So it is \boxed{5}.", "5", 1),
        ("The answer is 15", "5", 0),
        ("The answer is 5", "5", 1),
        ("The answer is $5$.", "5", 1),
        (r"First \boxed{5}, no: \boxed{ 7 }", "7", 1),
        (r"First \boxed{5}, no: \boxed{7}", "5", 0),
        (r"\boxed{15}", "5", 0),
        (r"\boxed{7} and 5", "5", 0),
        ("", "5", 0),
        ("no", "no", 1),
    ],
)
def test_the_reward_on_the_page_scores_answers_and_not_their_endings(reward, text, gold, expected):
    for completion in (text, [{"role": "assistant", "content": text}]):
        assert reward([completion], solution=[gold], difficulty_label=["easy"], prompts=[""]) == [expected]


def test_the_yaml_file_on_the_page_runs_and_says_little(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tokenizer = character_tokenizer()
    tiny_model(tokenizer=tokenizer, max_position_embeddings=512).save_pretrained("model")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained("model")
    rows = [
        {"problem": row["question"], "answer": row["final_answer"], "difficulty_label": "easy"}
        for row in arithmetic_problems(400)
    ]
    (tmp_path / "my_data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text(block("# mine.yaml"))
    (tmp_path / "my_rewards.py").write_text(block("# my_rewards.py"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    smaller = ["--model_name_or_path", "model", "--dtype", "float32", "--use_cpu", "--bf16", "false", "--lora_r", 4]
    shorter = ["--max_steps", 2, "--max_completion_length", 8, "--gradient_accumulation_steps", 1, "--eval_steps", 2]
    train(*parse("--config", "mine.yaml", *smaller, *shorter, "--logging_steps", 1))
    printed = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert len(printed) < 10, printed
    assert any(line.startswith("evaluation 2/2") for line in printed)
    assert len(list((tmp_path / "outputs/mine/delta/completions").glob("completions_*.parquet"))) == 2
