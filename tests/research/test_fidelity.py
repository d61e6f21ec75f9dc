"""Proxy fidelity: the measure on known cases, and the command on a model it has never seen."""

import json

import pytest
import torch
from support.commands import run_script
from support.models import tiny_model

from delta_trl.features import FEATURES
from delta_trl.research.fidelity import CROSS_FITTED, PROXY_PARTS, agreement, fidelity_table, measure_fidelity
from delta_trl.research.sampling import make_sampler, problem_rows
from delta_trl.research.stability import advantages_of
from delta_trl.research.tasks import character_tokenizer


pytestmark = pytest.mark.trained


def test_agreement_of_known_cases():
    advantages = torch.tensor([1.0, 2, 1, 1, -1, -1, -1, 0])
    reference = torch.tensor([0.8, 0.9, 1.0, 1.2, 0.8, 0.9, 1.2, 9])
    same = agreement(reference, reference, advantages)
    assert same["positive"] == {"rank_correlation": pytest.approx(1), "same_sign": 1, "chance": 0.5}
    reverse = agreement(-reference, reference, advantages)
    assert reverse["negative"]["rank_correlation"] == pytest.approx(-1)
    assert reverse["negative"]["same_sign"] == 0
    # One of three above the mean, two of three above it: 1/3 · 2/3 + 2/3 · 1/3
    assert reverse["negative"]["chance"] == pytest.approx(4 / 9)
    # A token with A = 0 says nothing, and constants have no rank correlation
    assert agreement(reference.index_fill(0, torch.tensor([7]), -9.0), reference, advantages) == same
    assert "rank_correlation" not in agreement(torch.ones(8), reference, advantages)["positive"]


@pytest.fixture
def model(tmp_path):
    """Knows nothing; its answers are wrong but for a gold answer that it cannot miss."""
    tokenizer = character_tokenizer()
    tiny_model(tokenizer=tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_without_a_format_the_prompt_is_the_question_and_a_new_line(tmp_path):
    data = tmp_path / "problems.jsonl"
    data.write_text(json.dumps({"question": "2+3=", "final_answer": "5"}) + "\n")
    assert problem_rows(data) == [{"prompt": "2+3=\n", "solution": "5"}]
    assert all(row["prompt"].endswith("\n") for row in problem_rows())


def digits(completions, **kwargs) -> list[float]:
    return [float(any(c.isdigit() for c in text)) for text in completions]


def test_batches_are_measured_once_and_continue(model, tmp_path, monkeypatch):
    monkeypatch.setattr("delta_trl.research.sampling.math_reward", digits)
    rows = problem_rows()[:12]
    options = {"prompts": 4, "group": 6, "max_completion_length": 6, "folds": 2}
    whole = measure_fidelity(model, rows, tmp_path / "whole", batches=3, **options)
    assert set(whole[0]["proxies"]) == {*FEATURES, *PROXY_PARTS, CROSS_FITTED}
    assert [record["batch"] for record in whole] == [0, 1, 2]
    measure_fidelity(model, rows, tmp_path / "parts", batches=1, **options)
    assert measure_fidelity(model, rows, tmp_path / "parts", batches=3, **options) == whole
    text = fidelity_table(whole)
    assert all(f"| {name} | " in text for name in whole[0]["proxies"])
    assert "3 rollout batches" in text
    with pytest.raises(ValueError, match="folds: 2 in the file, now 4"):
        measure_fidelity(model, rows, tmp_path / "parts", batches=3, **{**options, "folds": 4})
    with pytest.raises(ValueError, match=r"in 2 folds were asked for\. There are 12 problems"):
        measure_fidelity(model, rows, tmp_path / "parts", batches=4, **options)


def test_a_sampled_batch_repeats_and_knows_its_prompts(model, tmp_path, monkeypatch):
    monkeypatch.setattr("delta_trl.research.sampling.math_reward", digits)
    rows = problem_rows()[:4]
    sampler = make_sampler(model, rows, prompts=4, group=4, max_completion_length=8, output_dir=tmp_path / "out")
    before = {name: tensor.clone() for name, tensor in sampler.model.state_dict().items()}
    (one, rewards), (other, _) = sampler.sample(rows, (0, 1)), sampler.sample(rows, (0, 1))
    assert torch.equal(one.ids, other.ids)
    assert not torch.equal(one.ids, sampler.sample(rows, (0, 2))[0].ids)
    assert [row["prompt"] for row in one.inputs] == [row["prompt"] for row in rows for _ in range(4)]
    assert one.groups.unique().tolist() == [0, 1, 2, 3]
    mask = one.batch["completion_mask"].bool()
    assert torch.equal(one.batch["completion_ids"][mask], one.ids)
    assert torch.equal(one.advantages, one.batch["advantages"][one.responses])
    texts = sampler.trainer.processing_class.batch_decode(one.batch["completion_ids"], skip_special_tokens=True)
    assert rewards.tolist() == digits(texts)
    torch.testing.assert_close(advantages_of(rewards, 4), one.batch["advantages"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in sampler.model.state_dict().items())
    with pytest.raises(ValueError, match="two responses"):
        make_sampler(model, rows, prompts=4, group=1, max_completion_length=8, output_dir=tmp_path)


@pytest.mark.slow
def test_the_command_writes_a_table(model, tmp_path):
    data = tmp_path / "problems.jsonl"
    data.write_text("".join(json.dumps({"question": f"{i}+1=?", "final_answer": str(i + 1)}) + "\n" for i in range(4)))
    small = ["--batches", "1", "--prompts", "4", "--group", "2", "--max_completion_length", "4", "--folds", "2"]
    done = run_script("scripts/proxy_fidelity.py", "--model", model, "--data", data, "--folder", tmp_path, *small)
    assert done.returncode == 0, done.stderr
    # A random model solves nothing: there is no contrast, and the table says so
    assert "1 without both advantage sides, left out" in done.stdout
    assert "left out" in (tmp_path / "fidelity.md").read_text()
