"""Answers of real language: which of their tokens decide, for the credit benchmark and for stability."""

import pytest
import torch
from support.commands import run_script
from support.models import tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from delta_trl.research.credit.answers import LANGUAGE_READINGS, reading_of
from delta_trl.research.credit.methods import choose_methods
from delta_trl.research.credit.run import score_methods
from delta_trl.research.credit.tokens import CLASSES, REST, SPECIAL, TOKEN_TASKS, token_classes
from delta_trl.research.language import LANGUAGE_TASKS
from delta_trl.research.sampling import language_rows
from delta_trl.research.stability import measure_stability
from delta_trl.rollout import Rollout


pytestmark = pytest.mark.trained

WORDS = "Write eight hundred and thirteen in digits."
PAIR = "Which is larger, fifty-two or fifty-seven?"
COINS = "Anna has two coins and Ben has seven coins. How many coins do they have together?"
SUM = "Anna has 2 coins and Ben has 7 coins. 2 + 7 = 9. \\boxed{9}"


@pytest.fixture(scope="module")
def tokenizer():
    """Reads bytes joined to words, and digits one by one, as that of SmolLM2 does."""
    written = [
        LANGUAGE_TASKS[name].solution(*case) for name in LANGUAGE_TASKS for case in LANGUAGE_TASKS[name].cases[:200]
    ]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trained.decoder = decoders.ByteLevel()
    special = ["<|im_end|>", "<|im_start|>"]
    asked = [LANGUAGE_TASKS[name].prompt_format for name in LANGUAGE_TASKS]
    trained.train_from_iterator(
        [*written, *asked],
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=trained, eos_token="<|im_end|>", pad_token="<|im_start|>")


def shown(name: str, question: str, answer: str, tokenizer) -> str:
    """Its tokens that have a class, with it; `<|im_end|>` is in the answer if it ended by itself."""
    ids = torch.tensor(tokenizer(answer, add_special_tokens=False)["input_ids"])
    nothing = torch.zeros(len(ids))
    tokens = Rollout(nothing[:, None], nothing, ids, nothing, nothing.long())
    classes = token_classes(tokens, tokenizer, LANGUAGE_READINGS[name], [question])
    pieces = [tokenizer.decode([i]) for i in ids.tolist()]
    return " ".join(f"{p}:{CLASSES[c]}" for p, c in zip(pieces, classes, strict=True) if c != REST)


@pytest.mark.parametrize(
    ("name", "question", "answer", "expected"),
    [
        ("number_words", WORDS, "\\boxed{813}<|im_end|>", "8:right 1:right 3:right"),
        ("number_words", WORDS, "\\boxed{838888", "8:right 3:error"),
        ("number_words", WORDS, "\\boxed{81}<|im_end|>", "8:right 1:right }:error"),
        ("number_words", WORDS, "\\boxed{8130}<|im_end|>", "8:right 1:right 3:right 0:error"),
        ("number_words", WORDS, "\\boxed{81", "8:right 1:right"),  # cut off: the number may have been going on
        ("number_words", WORDS, "\\boxed{21", "2:error"),
        ("number_words", WORDS, "The answer is 813<|im_end|>", ""),
        ("number_words", WORDS, "\\boxed{", ""),
        ("larger", PAIR, "52 or 57: \\boxed{57}<|im_end|>", "5:right 2:right 5:right 7:right 7:right_fork"),
        ("larger", PAIR, "52 or 57: \\boxed{52}<|im_end|>", "5:right 2:right 5:right 7:right 2:wrong_fork"),
        ("larger", PAIR, "52 or 57: \\boxed{59}<|im_end|>", "5:right 2:right 5:right 7:right 5:right 9:error"),
        # It chooses between the numbers that it has read
        ("larger", PAIR, "52 or 27: \\boxed{27}<|im_end|>", "5:right 2:right 2:error 2:wrong_fork"),
        ("larger", PAIR, "57: \\boxed{57}<|im_end|>", "5:right 7:error"),
        ("larger", PAIR, "52 or 52: \\boxed{52}<|im_end|>", "5:right 2:right 5:right 2:error 5:right 2:error"),
        ("together", COINS, f"{SUM}<|im_end|>", "2:right 7:right 2:right 7:right 9:right 9:right"),
        ("together", COINS, SUM.replace("= 9", "= 8"), "2:right 7:right 2:right 7:right 8:error 9:right"),
        ("together", COINS, SUM.replace("Anna", "Ben"), ""),
    ],
)
def test_the_first_character_that_parts_from_the_solution_is_the_error(name, question, answer, expected, tokenizer):
    assert shown(name, question, answer, tokenizer) == expected


@pytest.mark.parametrize("name", LANGUAGE_READINGS)
def test_solutions_have_no_error_and_a_wrong_last_number_has_one(name):
    reading, task = LANGUAGE_READINGS[name], LANGUAGE_TASKS[name]
    for case in task.cases[::7]:
        solution = task.solution(*case)
        right = [CLASSES[c] for c in reading.classes(solution + SPECIAL, task.question(*case), True)]
        digits = [kind for kind, character in zip(right, solution + SPECIAL, strict=True) if character.isdigit()]
        if reading.chooses:
            # All that both numbers begin with is settled, and so is what follows the choice
            assert digits[:4] == ["right"] * 4
            assert sorted(digits[4:]) == ["rest", "right_fork"]
        else:
            assert set(digits) == {"right"}
        answer = str(task.answer(*case))
        wrong = solution.replace(f"{{{answer}}}", f"{{1{answer}}}")
        found = [CLASSES[c] for c in reading.classes(wrong + SPECIAL, task.question(*case), True)]
        assert "error" in found[wrong.index("{") :]


def test_rows_tell_how_their_responses_are_read():
    for name, task in LANGUAGE_TASKS.items():
        reading, questions = reading_of(language_rows(task, task.problems(3)))
        assert reading is LANGUAGE_READINGS[name]
        assert questions == [problem["question"] for problem in task.problems(3)]
    assert reading_of([{"prompt": "1+2*3=?\n"}]) == (TOKEN_TASKS["precedence"], ["1+2*3=?"])
    assert reading_of([{"prompt": "1+2=?\n"}])[0] is TOKEN_TASKS["ledger"]


@pytest.fixture(scope="module")
def boxing_model(tokenizer, tmp_path_factory):
    """A tiny model that answers in a box, whatever it is asked."""
    folder = tmp_path_factory.mktemp("boxing")
    task = LANGUAGE_TASKS["number_words"]
    rows = language_rows(task, task.problems(16))
    read = tokenizer([row["prompt"] for row in rows], return_tensors="pt", padding=True, padding_side="left")
    answers = tokenizer([f"\\boxed{{{row['solution']}}}<|im_end|>" for row in rows], return_tensors="pt")["input_ids"]
    mask = torch.cat([read["attention_mask"], torch.ones_like(answers)], dim=1)
    model = tiny_model(tokenizer=tokenizer, max_position_embeddings=256)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(60):
        shuffled = answers.roll(step, 0)  # so that it cannot know them by heart
        labels = torch.cat([torch.full_like(read["input_ids"], -100), shuffled], dim=1)
        ids = torch.cat([read["input_ids"], shuffled], dim=1)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def half_right(monkeypatch):
    """Nothing is learned here, so about half of the answers are called right, by their first digit."""

    def reward(completions, **kwargs):
        return [float(next((int(c) for c in text if c.isdigit()), 0) % 2) for text in completions]

    monkeypatch.setattr("delta_trl.research.sampling.math_reward", reward)


@pytest.mark.slow
def test_a_pretrained_model_is_scored_and_continued(boxing_model, half_right, tmp_path):
    methods, _ = choose_methods(["output_row", "hashed_agreement", "random"])
    sizes = {"task": "number_words", "prompts": 4, "group": 4}
    whole = score_methods(boxing_model, tmp_path / "whole", methods, {}, batches=2, **sizes)
    assert [record["batch"] for record in whole] == [0, 1]
    for record in whole:
        assert record["responses"] == 16
        assert record["right"] + record["error"] >= 16
        assert list(record["methods"]) == ["output_row", "hashed_agreement", "random"]
        assert 0 <= record["methods"]["output_row"]["credit_auc"] <= 1
    score_methods(boxing_model, tmp_path / "parts", methods, {}, batches=1, **sizes)
    assert score_methods(boxing_model, tmp_path / "parts", methods, {}, batches=2, **sizes) == whole
    with pytest.raises(ValueError, match="fipo can only be scored after an update, and on number_words there is none"):
        score_methods(boxing_model, tmp_path, *choose_methods(["random", "fipo"]), batches=2, **sizes)
    with pytest.raises(ValueError, match=r"Only \d+% of the responses .* are written in the words of the task larger"):
        score_methods(boxing_model, tmp_path / "larger", methods, {}, batches=1, **{**sizes, "task": "larger"})


@pytest.mark.slow
def test_stability_of_a_pretrained_models_answers(boxing_model, half_right, tmp_path):
    task = LANGUAGE_TASKS["number_words"]
    sizes = {"responses": 32, "batch_size": 16, "group": 4, "max_completion_length": 10}
    rows = language_rows(task, task.problems(8))
    records = measure_stability(boxing_model, rows, tmp_path, kinds=["flipped"], of=["output_row"], **sizes)
    calm = [batch for batch in records[0]["batches"] if batch["method"] == "published"]
    assert [batch["rank_correlation_positive"] for batch in calm] == pytest.approx([1, 1])
    assert "credit_auc" in calm[0]


def test_a_task_of_real_language_takes_a_model_and_no_other_data(tmp_path):
    done = run_script("scripts/credit_benchmark.py", "--task", "larger", "--folder", tmp_path)
    assert done.returncode != 0
    assert "The task larger takes a pretrained model" in done.stderr
    done = run_script("scripts/stability.py", "--model", tmp_path, "--task", "larger", "--data", "problems.jsonl")
    assert done.returncode != 0
    assert "not allowed with argument" in done.stderr
    done = run_script("scripts/proxy_fidelity.py", "--model", tmp_path, "--task", "larger", "--prompt_format", "paper")
    assert done.returncode != 0
    assert "--prompt_format has no effect with --task larger" in done.stderr
    assert not list(tmp_path.iterdir())
