"""The credit benchmark: measures against brute force, token classes on written completions, and real rollout batches."""

import json
import math
import random

import numpy as np
import pytest
import torch
from support.commands import run_script
from support.models import tiny_model

from delta_trl.research.credit.measures import auc, mean, measure
from delta_trl.research.credit.methods import AFTER_UPDATE, choose_methods, credit_methods
from delta_trl.research.credit.run import score_methods
from delta_trl.research.credit.scores import method_figures, tables, write_scores
from delta_trl.research.credit.tokens import (
    CLASSES,
    ERROR,
    PHRASING,
    REST,
    RIGHT,
    RIGHT_FORK,
    TOKEN_TASKS,
    WRONG_FORK,
    character_classes,
    token_classes,
)
from delta_trl.research.tasks import (
    LEDGER_STEPS,
    TASKS,
    character_tokenizer,
    warm_up,
    written_precedence,
)
from delta_trl.rollout import Rollout


pytestmark = pytest.mark.trained


# --- Measures


def pair_count(scores, labels) -> float:
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels] for b in scores[~labels]]
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_auc_is_the_share_of_pairs_in_order(levels):
    rng = np.random.default_rng(levels)
    scores, labels = rng.integers(levels, size=80) / 7, rng.random(80) < 0.3
    assert auc(scores, labels) == pytest.approx(pair_count(scores, labels), abs=1e-12)


def test_auc_of_known_cases():
    labels = np.array([False, True, False, True, False])
    assert auc(np.ones(5), labels) == 0.5
    assert auc(labels.astype(float), labels) == 1
    assert auc(-labels.astype(float), labels) == 0
    assert math.isnan(auc(np.ones(5), np.zeros(5, dtype=bool)))
    assert math.isnan(auc(np.ones(5), np.ones(5, dtype=bool)))


def test_scores_count_uncertain_tokens_of_the_right_side_only():
    advantages = torch.tensor([-1.0, -1, -1, -1, 1, 1, 1, 0])
    uncertain = torch.tensor([1, 1, 1, 0, 1, 1, 0, 1], dtype=torch.bool)
    tokens = Rollout(
        hidden=torch.zeros(8, 2),
        log_probs=torch.where(uncertain, 0.5, 0.999).log(),
        ids=torch.zeros(8, dtype=torch.int64),
        advantages=advantages,
        responses=torch.arange(8),
    )
    classes = np.array([ERROR, REST, RIGHT, ERROR, RIGHT, PHRASING, RIGHT, ERROR])
    # The error token that is certain, the right digit that is certain, and A = 0 would each pull these down
    scored = measure(torch.tensor([1.2, 1.0, 1.2, 0.1, 1.1, 0.9, 0.1, 0.1]), tokens, classes)
    assert scored["blame_auc"] == 0.75
    assert scored["credit_auc"] == 1
    assert scored["blame_auc_digits"] == 0.5  # one error token, one right digit, the same coefficient
    assert "credit_auc_digits" not in scored  # no error token there
    assert scored["mean_negative_error"] == pytest.approx(0.65)
    assert scored["mean_positive_right"] == pytest.approx(0.6)
    assert "mean_positive_error" not in scored
    constant = measure(torch.ones(8), tokens, classes)
    assert constant["blame_auc"] == constant["credit_auc"] == 0.5
    assert "explained" not in constant


def test_forks_and_digits_are_ranked_apart():
    """Each against the tokens that decide nothing, so that one pair of figures does not pull the other down."""
    classes = np.array([ERROR, WRONG_FORK, REST, RIGHT_FORK, RIGHT, REST])
    tokens = Rollout(
        hidden=torch.zeros(6, 2),
        log_probs=torch.full((6,), 0.5).log(),
        ids=torch.zeros(6, dtype=torch.int64),
        advantages=torch.tensor([-1.0, -1, -1, 1, 1, 1]),
        responses=torch.arange(6),
    )
    scored = measure(torch.tensor([1.1, 1.2, 1.0, 0.9, 1.1, 1.0]), tokens, classes)
    assert [scored[name] for name in ("blame_auc", "fork_blame_auc", "credit_auc", "fork_credit_auc")] == [1, 1, 1, 0]


def test_interval_is_students_over_batches_and_needs_two():
    values = [0.5, 0.6, 0.7]
    found = mean(values)
    assert found.value == pytest.approx(0.6)
    assert found.half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-5)
    assert mean([0.5]).half_width is None


# --- Token classes


LEDGER, PRECEDENCE = TOKEN_TASKS["ledger"], TOKEN_TASKS["precedence"]


def shown(text: str, finished: bool = True, task=LEDGER, question: str = "") -> dict[str, list[str]]:
    """The runs of characters of each class but the rest."""
    classes = character_classes(text, task, question, finished)
    result = {}
    for number, name in enumerate(CLASSES[:REST]):
        kept = "".join(c if k == number else " " for c, k in zip(text, classes, strict=True))
        if kept.split():
            result[name] = kept.split()
    return result


def test_a_true_sum_has_right_digits_and_the_box_none():
    text = "So we get 3+9=12. Hence 12+1=13. Thus $\\boxed{13}$"
    assert shown(text) == {"right": ["12", "13"], "phrasing": ["S", "H", "T", "u"]}


def test_a_false_sum_has_error_tokens_and_carrying_it_on_has_none():
    text = "Hence 3+9=22. Hence 22+1=23. Hence 23+2=-8. "
    assert shown(text)["error"] == ["22", "-8"]
    assert shown(text)["right"] == ["23"]


def test_wordings_choose_where_they_part():
    for step in LEDGER_STEPS:
        text = step.format(total=3, operand=4, sum="3+4=7")
        assert shown(text) == {"right": ["7"], "phrasing": [text[0]]}
    # Two closings begin with "The": T of T or I, e of e or u, and what follows
    assert shown("Therefore, the final answer is $")["phrasing"] == ["T", "er"]
    assert character_classes("The answer is $", LEDGER).tolist()[:4] == [PHRASING, REST, PHRASING, PHRASING]
    assert shown("In total we have $") == {"phrasing": ["I"]}


def test_a_result_at_the_end_of_a_truncated_completion_counts_for_nothing():
    assert shown("Hence 3+9=1", finished=False) == {"phrasing": ["H"]}
    assert shown("Hence 3+9=1", finished=True) == {"error": ["1"], "phrasing": ["H"]}
    assert shown("Hence 3+9=12. He", finished=False) == {"right": ["12"], "phrasing": ["H"]}


@pytest.mark.parametrize(
    "junk", ["", "+=", "1+=2", "3+5", "1+2+3=6", "1+2=3=3", "4*3+5=17", "1+2=3+4", "\0\0", "=9. "]
)
def test_junk_has_no_class(junk):
    assert shown(junk) == {}


@pytest.mark.parametrize(
    ("question", "text", "expected"),
    [
        ("3+5*2=?", "Hence 3+5=8. Hence 8*2=16. ", {"right": ["8", "16"], "wrong_fork": ["3"]}),
        ("3+5*2=?", "Hence 5*2=10. Hence 3+10=14. ", {"right": ["10"], "error": ["14"], "right_fork": ["5"]}),
        # The same digit: the operator decides
        ("3+3*2=?", "Hence 3+3=6. Hence 6*2=12. ", {"right": ["6", "12"], "wrong_fork": ["+"]}),
        ("3+3*2=?", "Hence 3*2=6. Hence 3+6=9. ", {"right": ["6", "9"], "right_fork": ["*"]}),
        # The order does not matter, or was not taken from the problem
        ("3*5+2=?", "Hence 3*5=15. Hence 15+2=17. ", {"right": ["15", "17"]}),
        ("3+5*2=?", "Hence 3*5=15. Hence 15+2=17. ", {"right": ["15", "17"]}),
        ("3+5*2=?", "Hence 3+5*2=13. ", {}),
    ],
)
def test_the_fork_is_where_the_two_orders_part(question, text, expected):
    found = shown(text, task=PRECEDENCE, question=question)
    assert found.pop("phrasing") == ["H"] * text.count("H")
    assert found == expected
    assert not {"right_fork", "wrong_fork"} & shown(text, task=PRECEDENCE).keys()  # only a problem has a fork


@pytest.mark.parametrize("left_to_right", [0.0, 1.0])
def test_written_solutions_of_precedence_have_the_classes_they_were_written_with(left_to_right):
    made, rng = TASKS["precedence"], random.Random(0)
    for problem in made.problems(200, 0):
        text = written_precedence(problem["question"], rng, 0.0, left_to_right)
        found = shown(text, task=PRECEDENCE, question=problem["question"])
        assert "error" not in found
        forks = ["wrong_fork" if left_to_right else "right_fork"] if problem["difficulty"] == 2 else []
        assert [name for name in found if "fork" in name] == forks


def test_special_tokens_keep_their_place():
    tokenizer = character_tokenizer()
    texts = ["Hence 3+4=7. Thus $\\boxed{7}$<eos>", "Hence 3+4=8<eos>", "Hence 3+4=8"]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    flat = torch.tensor([token for row in ids for token in row])
    responses = torch.cat([torch.full((len(row),), 2 * i) for i, row in enumerate(ids)])
    n = len(flat)
    tokens = Rollout(torch.zeros(n, 1), torch.zeros(n), flat, torch.zeros(n), responses)
    classes = token_classes(tokens, tokenizer, LEDGER, [""] * 5)
    found = [tokenizer.decode(flat[classes == kind]) for kind in (RIGHT, ERROR, PHRASING)]
    assert found == ["7", "8", "HTuHH"]


# --- Real rollout batches


SMALL = {"task": "precedence", "prompts": 4, "group": 32}
FEW = {**SMALL, "group": 4}  # where figures need not mean anything: some methods compare every token with every other
BATCHES = 3  # at most


@pytest.fixture(scope="module")
def precedence_model(tmp_path_factory):
    """It was trained on the few problems that the benchmark begins with, and asserts that it knows them."""
    folder = tmp_path_factory.mktemp("precedence")
    made = TASKS["precedence"]
    questions = [problem["question"] for problem in made.problems(made.n_problems, 0)[: BATCHES * SMALL["prompts"]]]
    warm_up(str(folder / "model"), questions, task="precedence", steps=100, error_rate=0.02)
    for record in score_methods(
        folder / "model", folder / "asked", *choose_methods(["random"]), batches=BATCHES, **SMALL
    ):
        known = {name: record[name] for name in ("batch", "reward", "right_fork", "wrong_fork")}
        assert 0.1 < record["reward"] < 0.9, f"too few or too many answers are right to compare them: {known}"
        assert min(record["right_fork"], record["wrong_fork"]) >= 5, f"a fork is hardly taken: {known}"
    return folder / "model"


@pytest.mark.slow
def test_every_method_is_scored_on_identical_tokens_of_the_same_policy(precedence_model, tmp_path):
    seen, log_ratios = [], []

    def looking(method):
        def with_a_look(rollout):
            seen.append({key: value.clone() for key, value in vars(rollout).items() if torch.is_tensor(value)})
            return method(rollout)

        return with_a_look

    def after_update(rollout):
        log_ratios.append(rollout.replay() - rollout.log_probs)
        return log_ratios[-1].exp()

    methods = {name: looking(method) for name, method in credit_methods().items()}
    records = score_methods(precedence_model, tmp_path, methods, {"ratio": after_update}, batches=2, **FEW)
    assert [record["batch"] for record in records] == [0, 1]
    assert list(records[0]["methods"]) == [*methods, "ratio"]
    for batch in (seen[: len(methods)], seen[len(methods) :]):
        assert len(batch) == len(methods)
        for other in batch[1:]:
            assert all(torch.equal(other[key], batch[0][key]) for key in other)
    # The update moved the policy, and was undone: the second batch comes from the first policy
    assert any(ratio.abs().max() > 1e-3 for ratio in log_ratios)
    (tmp_path / "again").mkdir()
    seen.clear()
    only = {"output_row": looking(methods["output_row"])}
    repeated = score_methods(precedence_model, tmp_path / "again", only, {}, batches=2, **FEW)
    for one, other in zip(records, repeated, strict=True):
        assert one["tokens"] == other["tokens"]
        assert one["methods"]["output_row"] == other["methods"]["output_row"]


@pytest.mark.slow
def test_precedence_has_figures_of_the_fork(precedence_model, tmp_path):
    methods = choose_methods(["output_row", "rlsd", "stare", "ar", "gtpo"])
    records = score_methods(precedence_model, tmp_path, *methods, batches=1, **SMALL)
    assert records[0]["right_fork"] > 0 < records[0]["wrong_fork"]
    text = write_scores(records, tmp_path)
    assert "fork blame" in text
    assert "A < 0: wrong_fork" in text
    with pytest.raises(ValueError, match='task: "precedence" in the file, now "ledger"'):
        score_methods(precedence_model, tmp_path, *methods, batches=1, **{**SMALL, "task": "ledger"})


@pytest.mark.slow
def test_an_interrupted_benchmark_continues_with_the_same_batches(precedence_model, tmp_path):
    methods = choose_methods(["output_row", "random"])
    whole = score_methods(precedence_model, tmp_path / "whole", *methods, batches=BATCHES, **FEW)
    score_methods(precedence_model, tmp_path / "parts", *methods, batches=1, **FEW)
    file = tmp_path / "parts" / "batches.jsonl"
    with file.open("a") as lines:
        lines.write('{"batch": 1, "rew')  # killed while writing
    assert score_methods(precedence_model, tmp_path / "parts", *methods, batches=BATCHES, **FEW) == whole
    assert len(file.read_text().splitlines()) == 4
    assert score_methods(precedence_model, tmp_path / "parts", *methods, batches=2, **FEW) == whole[:2]
    with pytest.raises(ValueError, match=r"seed: 0 in the file, now 1.*Choose another --folder"):
        score_methods(precedence_model, tmp_path / "parts", *methods, batches=3, seed=1, **FEW)

    text = write_scores(whole, tmp_path, tmp_path / "credit.json")
    assert "95% interval over rollout batches" in text
    assert "± " in (tmp_path / "credit.md").read_text()
    assert (tmp_path / "credit.png").stat().st_size > 10_000
    figures = json.loads((tmp_path / "credit.json").read_text())["methods"]["random"]
    assert figures["explained"]["batches"] == 3
    # A single batch: values, and no interval
    assert "± " not in tables(whole[:1])
    assert method_figures(whole[:1])["output_row"]["explained"].half_width is None


def test_a_model_that_writes_no_ledger_is_refused(tmp_path):
    tokenizer = character_tokenizer()
    tiny_model(tokenizer=tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    sizes = ["--prompts", 2, "--group", 2, "--batches", 1]
    done = run_script(
        "scripts/credit_benchmark.py", "--model", tmp_path / "model", "--folder", tmp_path / "out", *sizes
    )
    assert done.returncode != 0
    assert "Only 0% of the responses" in done.stderr
    assert "task='ledger'" in done.stderr


def test_unknown_methods_and_impossible_sizes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"There is no method fippo; there are .*output_row"):
        choose_methods(["output_row", "fippo"])
    assert [list(table) for table in choose_methods(None)] == [list(credit_methods()), list(AFTER_UPDATE)]
    with pytest.raises(ValueError, match="6561 problems in all"):
        score_methods("model", tmp_path, {}, {}, batches=1000)
    with pytest.raises(ValueError, match="two responses"):
        score_methods("model", tmp_path, {}, {}, group=1)
