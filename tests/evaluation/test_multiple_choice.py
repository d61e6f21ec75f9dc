"""Multiple-choice questions: rows of the real schemas, and answers as models write them."""

import hashlib
import json

import datasets
import pytest
from datasets.exceptions import DatasetNotFoundError
from support.models import tiny_model
from support.places import DATA

from delta_trl.data import PromptFormat
from delta_trl.evaluation.__main__ import main as evaluate
from delta_trl.evaluation.benchmarks import BENCHMARKS, find_benchmarks, load_problems
from delta_trl.evaluation.multiple_choice import (
    LETTERS,
    answer_letter,
    gpqa_questions,
    grade_choice,
    mmlu_pro_questions,
)
from delta_trl.research.tasks import character_tokenizer


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("Answer: C", "C"),
        ("... so it is B.\nAnswer: B", "B"),
        ("Answer: $D$", "D"),
        ("Answer: (C)", "C"),
        ("**Answer:** (B)", "B"),
        ("**Answer: A**", "A"),
        ("answer: b", "B"),
        ("ANSWER : D.", "D"),
        ("Answer: C) 4 m/s", "C"),
        ("Answer: C because the field vanishes", "C"),
        (r"Answer: \boxed{C}", "C"),
        (r"The final answer is $\boxed{\text{A}}$.", "A"),
        (r"So we get \boxed{D}", "D"),
        (r"\boxed{(B)}", "B"),
        ("The correct answer is (J).", "J"),
        ("the answer is: **E**", "E"),
        ("The answer is C, since 2 > 1.", "C"),
        # The last one counts
        ("Answer: A\nWait, that is wrong.\nAnswer: B", "B"),
        (r"\boxed{A} was my first guess. Answer: C", "C"),
        ("Answer: C. I checked that the answer is not D.", "C"),
        # None
        ("", None),
        ("I do not know.", None),
        ("C", None),
        ("The answer is not C.", None),
        ("The answer isn't C.", None),
        ("Answer: not B", None),
        ("The answer cannot be B", None),
        ("Answer: Carbon", None),
        ("Answer: a cat", None),
        ("The answer is I think 4", None),
        ("The answer is A cat", None),
        ("Answer: A or B", None),
        ("Answer: (A) and (C)", None),
        ("Answer: A, B", None),
        ("Answer: K", None),
        (r"\boxed{12}", None),
        (r"\boxed{BC}", None),
    ],
)
def test_answer_letters(response, letter):
    assert answer_letter(response) == letter


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        # Reasons, dashes, quotes, the word "option", the next line, formulas in boxes, letters that are discussed; then none
        ("The answer is D since energy is conserved.", "D"),
        ("The answer is A as the field vanishes.", "A"),
        ("The answer is B, because A is too small.", "B"),
        ("The correct answer is C – the others violate charge.", "C"),
        ("Answer: B—it is the only one", "B"),
        ("Answer: (D) – reason", "D"),
        ("The answer is A - it fits", "A"),
        ('Answer: "B"', "B"),
        ("The answer is “C”.", "C"),
        ("Answer: `D`", "D"),
        ("The answer is 'A'", "A"),
        ('The answer is "B" because', "B"),
        ("The correct answer is choice B.", "B"),
        ("Answer: option D", "D"),
        ("The answer is Option A: 5 J", "A"),
        ("The answer is letter C", "C"),
        ("The correct option is C.", "C"),
        ("**The best choice is: B**", "B"),
        ("The answer is:\n\n**B**", "B"),
        ("### Answer\n\nD", "D"),
        ("## Final Answer:\n(B)", "B"),
        ("Answer:\nC) 42 m/s", "C"),
        ("The correct answer is\n\nA", "A"),
        ("**Answer:**\n\n$$\\boxed{B}$$", "B"),
        ("Answer: A, I believe.", "A"),
        ("The answer is D, I think", "D"),
        ("The answer is B I guess", "B"),
        ("Answer: B\n\nSo we get \\boxed{F = ma}", "B"),
        ("Answer: C. Here $\\boxed{C_p = 5}$", "C"),
        ("Answer: B\n\\boxed{A + B}", "B"),
        ("\\boxed{\\text{C) 42 m/s}}", "C"),
        ("\\boxed{\\mathrm{D}}", "D"),
        ("\\boxed{A}\\text{ is right}", "A"),
        ("Answer: \\(\\boxed{C}\\)", "C"),
        ("Answer: \\[C\\]", "C"),
        ("Answer: C</s>", "C"),
        ("Answer: C<|eot_id|>", "C"),
        ("The answer must be E.", "E"),
        ("The answer is most likely B.", "B"),
        ("The answer is therefore D", "D"),
        ("the answer is clearly (c)", "C"),
        ("Answer – B", "B"),
        ("Answer = D", "D"),
        ("Answer → A", "A"),
        ("Answer： （B）", "B"),
        ("Answer: Ｃ", "C"),
        ("<answer>B</answer>", "B"),
        ("<answer> (C) </answer>", "C"),
        ('{"reasoning": "x", "answer": "D"}', "D"),
        ("The answer to this question is B.", "B"),
        ("The answer is C 42", "C"),
        ("Answer: b) 42", "B"),
        ("The answer is A (not B or C).", "A"),
        ("The answer is D (see above)", "D"),
        ("Answer: C, D is wrong because", "C"),
        ("The answer is B. A and C are wrong.", "B"),
        ("The answer is C, and A is wrong.", "C"),
        ("Answer: D. E. coli grows", "D"),
        ("Answer: A, B because both hold", None),
        ("Answer: A/B", None),
        ("Answer: A & C", None),
        ("The answer is A and B.", None),
        ("Answer: A, B are both right", None),
        ("The answer is either A or B", None),
        ("\\boxed{A} or \\boxed{B}", None),
        ("\\boxed{A, C}", None),
        ("Answer: A (or B)", None),
        ("Answer: A B", None),
        ("Answer: A-D", None),
        ("Answer: C = 5", None),
        ("The answer is F(x) = 2", None),
        ("The answer is A + B", None),
        ("\\boxed{E = mc^2}", None),
        ("\\boxed{C_2}", None),
        ("Answer: $A \\cap B$", None),
        ("Answer: $E=mc^2$", None),
        ("Answer: $\\text{E} = 5$", None),
        ("Answer: G > 0", None),
        ("The answer is A-level chemistry", None),
        ("Answer: C-14", None),
        ("The answer is B cells.", None),
        ("Answer: A force of 5 N", None),
        ("Answer: A ball", None),
        ("Answer:\nA force acts", None),
        ("Answer: I think it is wrong", None),
        ("The answer is I", "I"),
        ("The wrong answer is A.", None),
        ("The incorrect answer: B", None),
        ("If the answer is A, then x", None),
        ("Suppose the correct answer is B.", None),
        ("Is the answer B?", None),
        ("The answer is not A but B", None),
        ("Answer: None of the above", None),
        ("answer\nA plan", None),
        ("This gives the final answer\nC is wrong", None),
        ("Answer: a bit", None),
        ("The answer could be C", None),
        ("Answer: C's value", None),
        ("Answer: A's", None),
        ("Answer: Both A and B", None),
        ("Answer: Cl", None),
        ("Answer: D2O", None),
        ("The answer is H2O", None),
        ("Answer: 5 C", None),
        ("Answer: C++", None),
        ("Answer: B|C", None),
        ("Answers: A", None),
        ("Answer: $LETTER (without quotes) where LETTER is one of ABCD", None),
        ("Answer: [LETTER]", None),
        ("Answer: X", None),
        ("The answer is the option B", "B"),
        ("The answer is B i.e. 3.2", "B"),
        ("Answer: __B__", "B"),
        ("Answer:\r\nB\r\n", "B"),
        ("Answer: «B»", "B"),
        ("Answer: B ~ 5", None),
        ("Answer: A is wrong", None),
        ("Answer: A is not possible. Answer: D", "D"),
    ],
)
def test_letters_as_models_write_them(response, letter):
    assert answer_letter(response) == letter


CASES = [json.loads(line) for line in (DATA / "choices.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=[case["kind"] for case in CASES])
def test_letters_of_public_reports_and_test_files(case):
    assert answer_letter(case["completion"], case["letters"]) == case["expected"]


def test_a_letter_must_be_one_of_the_options():
    assert answer_letter("Answer: E", "ABCD") is None
    assert answer_letter("Answer: C\nAnswer: E", "ABCD") is None
    assert answer_letter("Answer: D", "ABCD") == "D"


def test_reading_a_long_response_takes_no_quadratic_time():
    # Nested openings and repeated beginnings, which a careless pattern would try in every split
    assert answer_letter("Answer: " + "(" * 100_000) is None
    assert answer_letter("answer is " * 50_000 + "C") == "C"


GPQA = {
    "Record ID": "rec06pnAkLOr2t2mp",
    "Question": "Which one has the longest lifetime?",
    "Correct Answer": "10^-8 s",
    "Incorrect Answer 1": "10^-9 s",
    "Incorrect Answer 2": "10^-11 s\n",
    "Incorrect Answer 3": "10^-4 s",
    "High-level domain": "Physics",
}


def test_gpqa_rows_become_questions_with_shuffled_options():
    rows = [{**GPQA, "Record ID": f"rec{i}"} for i in range(200)]
    questions = gpqa_questions(rows)
    assert [q.id for q in questions] == [f"rec{i}" for i in range(200)]
    for q in questions:
        assert q.letters == "ABCD"
        assert f"{q.answer}) 10^-8 s" in q.prompt
        assert q.prompt.endswith(tuple(f"D) {text}" for text in ("10^-8 s", "10^-9 s", "10^-11 s", "10^-4 s")))
        assert "LETTER is one of ABCD. Think step by step before answering.\n\nWhich one" in q.prompt
    # Every letter is right about as often, and a question's order does not depend on the others
    assert all(35 <= sum(q.answer == letter for q in questions) <= 65 for letter in "ABCD")
    assert gpqa_questions(rows[::-1])[::-1] == questions
    assert gpqa_questions([{k: v for k, v in GPQA.items() if k != "Record ID"}])[0].id == "0"
    with pytest.raises(ValueError, match="Row 1 of GPQA lacks Correct Answer; it has"):
        gpqa_questions([GPQA, {**GPQA, "Correct Answer": ""}])


def mmlu_pro_row(number: int, options: int = 10, answer: int = 3) -> dict:
    return {
        "question_id": number,
        "question": f"What is {number}?",
        "options": [f"option {i}" for i in range(options)],
        "answer": LETTERS[answer],
        "answer_index": answer,
        "cot_content": "",
        "category": "math",
        "src": "test",
    }


def test_mmlu_pro_rows_become_questions(tmp_path):
    # Through a file, as users have it
    file = tmp_path / "mmlu_pro.parquet"
    datasets.Dataset.from_list([mmlu_pro_row(70), mmlu_pro_row(71, options=4)]).to_parquet(str(file))
    rows = list(datasets.load_dataset("parquet", data_files=str(file), split="train", cache_dir=str(tmp_path)))
    ten, four = mmlu_pro_questions(rows, size=None)
    assert (ten.id, ten.letters, four.letters) == ("70", "ABCDEFGHIJ", "ABCD")
    assert f"{ten.answer}) option 3" in ten.prompt
    assert "LETTER is one of ABCDEFGHIJ." in ten.prompt
    padded = {**mmlu_pro_row(1, options=5, answer=4), "options": ["a", "N/A", "b", "N/A", "c"]}
    (question,) = mmlu_pro_questions([padded], size=None)
    assert question.letters == "ABC"
    assert f"{question.answer}) c" in question.prompt
    with pytest.raises(ValueError, match="option 'B' as its answer and answer_index 3 of 10"):
        mmlu_pro_questions([{**mmlu_pro_row(1), "answer": "B"}], size=None)
    with pytest.raises(ValueError, match="Row 0 of MMLU-Pro lacks options"):
        mmlu_pro_questions([{**mmlu_pro_row(1), "options": []}], size=None)


def test_the_subset_is_the_same_in_any_order():
    rows = [mmlu_pro_row(number) for number in range(2000)]
    chosen = mmlu_pro_questions(rows)
    assert len(chosen) == 600
    ids = [int(q.id) for q in chosen]
    assert ids == sorted(ids)
    assert {q.id for q in mmlu_pro_questions(rows[::-1])} == {q.id for q in chosen}
    lowest = sorted(range(2000), key=lambda number: hashlib.sha256(f"0:{number}".encode()).hexdigest())
    assert set(ids) == set(lowest[:600])
    with pytest.raises(ValueError, match="has 599 questions here, and 600 are asked for"):
        mmlu_pro_questions(rows[:599])


def test_verdicts_look_after_the_thoughts():
    verdict = grade_choice("<think>Answer: A</think>Answer: B", "B", "ABCD")
    assert (verdict.score, verdict.answer, verdict.reason) == (1.0, "B", "correct")
    assert grade_choice("Answer: C", "B", "ABCD").reason == "wrong"
    assert grade_choice("<think>Answer: B", "B", "ABCD").reason == "unfinished thought"
    nothing = grade_choice("Answer: E", "B", "ABCD")
    assert (nothing.score, nothing.answer, nothing.reason) == (0.0, None, "no letter")


def test_local_copies_become_problems(tmp_path):
    gpqa, mmlu_pro = tmp_path / "gpqa.jsonl", tmp_path / "mmlu_pro.jsonl"
    gpqa.write_text("".join(json.dumps({**GPQA, "Record ID": f"rec{i}"}) + "\n" for i in range(198)))
    mmlu_pro.write_text("".join(json.dumps(mmlu_pro_row(i)) + "\n" for i in range(700)))
    first, second = find_benchmarks([f"gpqa_diamond={gpqa}", f"mmlu_pro={mmlu_pro}"])
    assert [b.name for b in find_benchmarks(["out_of_domain"])] == [first.name, second.name]
    problems = load_problems(first)
    assert len(problems) == 198
    assert (problems[0].id, problems[0].letters) == ("rec0", "ABCD")
    assert f"{problems[0].answer}) 10^-8 s" in problems[0].question
    assert len(load_problems(second)) == 600
    gpqa.write_text(json.dumps(GPQA) + "\n")
    with pytest.raises(ValueError, match="has 1 problems where 198 are expected"):
        load_problems(first)


def test_the_question_brings_its_own_instruction():
    for name in ("paper", "chat"):
        with_box, without = (str(PromptFormat(name).render("Q?", instruct)) for instruct in (True, False))
        assert "boxed" in with_box
        assert "boxed" not in without
        assert "Q?" in without
    assert PromptFormat().render("Q?", instruct=False) == "User:\nQ?\n\nAssistant:\n"
    assert PromptFormat("{question}!").render("Q?", instruct=False) == "Q?!"


def test_gated_data_says_what_to_do(monkeypatch):
    def refused(*args, **kwargs):
        raise DatasetNotFoundError(message)

    monkeypatch.setattr(datasets, "load_dataset", refused)
    message = "Dataset 'Idavidrein/gpqa' is a gated dataset on the Hub. You must be authenticated to access it."
    with pytest.raises(
        ValueError, match=r"gated: accept its conditions at https://.*hf auth login.*gpqa_diamond=file"
    ):
        load_problems(BENCHMARKS["gpqa_diamond"])
    message = "Dataset 'TIGER-Lab/MMLU-Pro' doesn't exist on the Hub or cannot be accessed."
    with pytest.raises(ValueError, match="doesn't exist"):
        load_problems(BENCHMARKS["mmlu_pro"])


@pytest.mark.slow
def test_an_evaluation_by_letters(tmp_path):
    """The command on a model that knows nothing: prompts, records and the weighted average are real."""
    tokenizer = character_tokenizer()
    tiny_model(tokenizer=tokenizer, max_position_embeddings=512).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    gpqa = tmp_path / "gpqa.jsonl"
    gpqa.write_text("".join(json.dumps({**GPQA, "Record ID": f"rec{i}"}) + "\n" for i in range(198)))
    command = ["--model", str(tmp_path / "model"), "--samples", "1"]
    command += ["--benchmark", f"gpqa_diamond={gpqa}", "--max_tokens", "2", "--output", str(tmp_path / "out")]
    command += ["--backend", "transformers", "--dtype", "float32", "--batch_size", "99"]
    evaluate(command)
    (file,) = (tmp_path / "out").glob("*.jsonl")
    samples = [line for line in map(json.loads, file.read_text().splitlines()) if "sample" in line]
    assert len(samples) == 198
    assert {sample["reason"] for sample in samples} <= {"no letter", "correct", "wrong"}
    assert {sample["solution"] for sample in samples} == set("ABCD")
    assert samples[0]["prompt"].startswith("User:\nAnswer the following multiple choice question.")
    assert samples[0]["prompt"].endswith("\n\nAssistant:\n")
    assert "boxed" not in samples[0]["prompt"]
