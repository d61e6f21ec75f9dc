"""Stability: disturbances do what they say, and the moving average is one."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from support.models import tiny_model

from delta_trl.coefficients import delta_coefficients
from delta_trl.features import FEATURES
from delta_trl.research.credit.methods import trained
from delta_trl.research.credit.tokens import REST
from delta_trl.research.pool import Pool, load_pool, save_pool
from delta_trl.research.sampling import problem_rows
from delta_trl.research.stability import (
    MOVING_AVERAGE,
    NO_CENTROIDS,
    OWN_METHODS,
    Centroids,
    advantages_of,
    examine,
    flip,
    keep,
    measure_stability,
    with_formatting,
)
from delta_trl.research.stability_report import draw_stability, stability_rows, stability_table
from delta_trl.research.tasks import character_tokenizer


pytestmark = pytest.mark.trained


def test_advantages_are_those_of_trl():
    rewards = torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 1])
    advantages = advantages_of(rewards, 4)
    assert advantages[0].item() == pytest.approx(0.75 / (0.5 + 1e-4))
    assert (advantages[4:] == 0).all()


def test_flips_and_missing_rewards_have_the_share_that_is_asked_for():
    rewards = (torch.arange(4000) % 2).float()
    assert torch.equal(flip(rewards, 0.0, 0), rewards)
    share = (flip(rewards, 0.3, 0) != rewards).double().mean()
    assert share.item() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(flip(rewards, 0.3, 0), flip(rewards, 0.3, 0))
    # What is flipped at a lower level is flipped at a higher one
    assert (flip(rewards, 0.4, 0) != rewards)[flip(rewards, 0.3, 0) != rewards].all()
    kept = keep(torch.ones(80), 8, 0.25, 0).view(10, 8)
    assert kept.sum(1).unique().tolist() == [0, 8]
    assert (kept.sum(1) > 0).sum() == 2
    assert keep(torch.ones(80), 8, 0.01, 0).sum() == 8


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_wording_gets_its_share_and_content_stays(share):
    rng = np.random.default_rng(0)
    responses = torch.arange(20).repeat_interleave(30)
    wording = torch.from_numpy(rng.random(600) < 0.7)
    chosen = with_formatting(wording, responses, share, seed=0)
    assert torch.equal(chosen[~wording[chosen]], (~wording).nonzero()[:, 0])  # each once, in order
    for response in range(20):
        of_response = chosen[responses[chosen] == response]
        assert wording[of_response].double().mean().item() == pytest.approx(share, abs=0.06)
    assert (responses[chosen].diff() >= 0).all()


def features(n: int = 240, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    advantages = torch.randn(n, generator=generator)
    return torch.randn(n, 6, generator=generator) + 0.3 * advantages.sign()[:, None], advantages


def test_without_momentum_it_is_the_published_method():
    method = Centroids()
    for seed in range(3):
        v, advantages = features(seed=seed)
        expected = delta_coefficients(v, advantages).values
        torch.testing.assert_close(method.coefficients(v, advantages), expected, rtol=1e-5, atol=0)


def test_a_moving_average_forgets_its_start_and_steadies():
    method = Centroids(0.9)
    v, advantages = features()
    for _ in range(3):  # of equal batches, the average is the batch
        expected = delta_coefficients(v, advantages).values
        torch.testing.assert_close(method.coefficients(v, advantages), expected, rtol=1e-4, atol=0)
    other, same = features(seed=1)
    after = method.coefficients(other, same)
    apart = (after - delta_coefficients(other, same).values).abs().max()
    assert apart > 0.01
    assert (Centroids(0.9).coefficients(other, same.abs()) == 1).all()  # no contrast


def pool(responses: int = 32, length: int = 12) -> Pool:
    generator = torch.Generator().manual_seed(0)
    n = responses * length
    rewards = (torch.rand(responses, generator=generator) < 0.5).float()
    number = torch.arange(responses).repeat_interleave(length)
    return Pool(
        features={"output_row": torch.randn(n, 4, generator=generator) + rewards[number][:, None]},
        hidden=torch.randn(n, 4, generator=generator),
        log_probs=-torch.rand(n, generator=generator),
        entropies=torch.rand(n, generator=generator),
        ids=torch.randint(3, (n,), generator=generator),
        responses=number,
        classes=np.full(n, REST),
        wording=torch.rand(n, generator=generator) < 0.6,
        rewards=rewards,
        group=4,
    )


class Planted:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_a_pool_is_kept_as_tensors_alone(tmp_path):
    """A file of responses is read without running what somebody may have put there."""
    save_pool(pool(), tmp_path / "pool.pt")
    kept = load_pool(tmp_path / "pool.pt")
    assert examine(kept, "flipped", 0.3, 16) == examine(pool(), "flipped", 0.3, 16)
    assert (kept.classes == pool().classes).all()
    mark = tmp_path / "ran"
    whole = (tmp_path / "pool.pt").read_bytes()
    for content in ({**vars(pool()), "ids": Planted(mark)}, pool(), [1], {"ids": torch.zeros(1)}):
        torch.save(content, tmp_path / "pool.pt")
        with pytest.raises(ValueError, match=r"pool\.pt holds no pool of responses"):
            load_pool(tmp_path / "pool.pt")
    for content in (b"", whole[: len(whole) // 2], pickle.dumps(Planted(mark))):
        (tmp_path / "pool.pt").write_bytes(content)
        with pytest.raises(ValueError, match="Delete it, and they are sampled again"):
            load_pool(tmp_path / "pool.pt")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("kind", "calm", "wild"),
    [("flipped", 0.0, 0.4), ("kept", 1.0, 0.1), ("responses", 32, 8), ("formatting", 0.6, 0.9)],
)
def test_undisturbed_batches_agree_with_themselves(kind, calm, wild):
    def agreement(level):
        found = [r for r in examine(pool(), kind, level, 16) if r["method"] == "published"]
        assert [r["batch"] for r in found] == list(range(32 // (level if kind == "responses" else 16)))
        return np.mean([r["rank_correlation_positive"] for r in found if "rank_correlation_positive" in r])

    if kind != "formatting":  # which has no level that leaves a batch as it is
        assert agreement(calm) == pytest.approx(1)
        assert agreement(wild) < 0.999
    assert agreement(wild) > 0
    methods = {r["method"] for r in examine(pool(), kind, wild, 16)}
    assert methods == {"published", MOVING_AVERAGE, NO_CENTROIDS}


@pytest.mark.parametrize("kind", ["flipped", "kept", "responses"])
def test_a_method_without_centroids_is_measured_as_it_is(kind):
    """Its λ of each cut batch is that of the same tokens as a rollout batch of their own."""
    calm = {"flipped": 0.0, "kept": 1.0, "responses": 16}[kind]
    found = [r for r in examine(pool(), kind, calm, 16) if r["feature"] == "hashed_agreement"]
    assert [r["batch"] for r in found] == [0, 1]
    credit, everyone = trained("hashed_agreement"), pool()
    for record in found:
        first = 16 * record["batch"]
        numbers = ((everyone.responses >= first) & (everyone.responses < first + 16)).nonzero()[:, 0]
        advantages = advantages_of(everyone.rewards, 4)[everyone.responses[numbers]]
        values = credit(everyone.rollout(numbers, advantages, first, 16))
        assert values.std() > 0.05
        assert record["mean_positive"] == pytest.approx(values[advantages > 0].mean().item(), rel=1e-6)
        if kind != "responses":  # which compares with the whole pool
            assert record["rank_correlation_positive"] == pytest.approx(1)


def test_what_is_measured_can_be_chosen():
    found = examine(pool(), "flipped", 0.3, 16, of=["hashed_agreement"])
    assert {r["feature"] for r in found} == {"hashed_agreement"}


@pytest.mark.slow
def test_a_measurement_continues_and_is_drawn(tmp_path, monkeypatch):
    tokenizer = character_tokenizer()
    tiny_model(tokenizer=tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(
        "delta_trl.research.sampling.math_reward",
        lambda completions, **kwargs: [float(any(c.isdigit() for c in text)) for text in completions],
    )
    sizes = {"responses": 32, "batch_size": 16, "group": 4, "max_completion_length": 6}
    measure = lambda **options: measure_stability(  # noqa: E731
        tmp_path / "model", problem_rows(), tmp_path / "out", **{**sizes, **options}
    )
    first = measure(kinds=["flipped"])
    everything = measure()
    assert everything[: len(first)] == first
    assert measure() == everything
    lines = (tmp_path / "out" / "levels.jsonl").read_text().splitlines()
    assert len(lines) == 1 + len(everything)
    assert {entry["feature"] for entry in json.loads(lines[1])["batches"]} == {*FEATURES, *OWN_METHODS}
    rows = stability_rows(everything)
    assert "| output_row | published | share of rewards flipped | 0.4 |" in stability_table(rows)
    assert draw_stability(rows, tmp_path / "stability.png", "tiny").stat().st_size > 20_000
    with pytest.raises(ValueError, match="group: 4 in the file, now 8"):
        measure(group=8)
    with pytest.raises(ValueError, match="Not measured of typo; there are output_row"):
        measure(of=["typo"])
    with pytest.raises(ValueError, match="responses=30 must be a multiple"):
        measure(responses=30)
