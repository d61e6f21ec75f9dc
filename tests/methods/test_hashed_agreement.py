"""Hashed agreement against loops over pairs of tokens in float64, and what λ is in corners."""

import dataclasses
import math

import pytest
import torch
from support.agreement import HIDDEN, ROLLOUTS, literal_coefficients, literal_z, made, on_two_processes, over_mean_size
from support.models import build, config, losses_and_weights, misaligned
from trl import GRPOTrainer

from delta_trl.coefficients import NO_CONTRAST, NON_FINITE
from delta_trl.config import GRPOBaseConfig
from delta_trl.methods.hashed_agreement import (
    N_SLOTS,
    PLANES,
    TABLES,
    HashedAgreementGRPOConfig,
    HashedAgreementGRPOTrainer,
    places,
    slots,
)
from delta_trl.previous import coefficients_at
from delta_trl.rollout import Rollout


def λ(rollout: Rollout, **options) -> torch.Tensor:
    found = HashedAgreementGRPOConfig.credit(rollout, config("unused", HashedAgreementGRPOConfig, **options))
    assert found.fallback is None
    return found.values


def before_and_after(before: Rollout, after: Rollout, low=0.5, high=1.5) -> tuple[list[float], torch.Tensor]:
    """λ of one rollout batch with the tables of another: pair by pair, and with its statistics."""
    options = config("unused", HashedAgreementGRPOConfig, coef_centroids="previous")
    statistics = options.credit(before, options).statistics
    firsts, seconds = ([i for i, a in enumerate(r.advantages.tolist()) if a != 0] for r in (before, after))

    def parts(rollout):
        at = places(rollout.hidden, before.hidden[firsts].float().mean(0))
        slot = [[x.tolist() for x in slots(at[:, t].long(), rollout.ids, t)] for t in range(TABLES)]
        d = (1 - rollout.log_probs.double().exp()).tolist()
        return at.tolist(), slot, d, (rollout.log_probs.double() + rollout.entropies.double()).tolist()

    (at, slot, d, c), (at_2, slot_2, d_2, c_2) = parts(before), parts(after)
    a, a_2 = before.advantages.double().tolist(), after.advantages.double().tolist()
    mean_d, mean_c = sum(d[i] for i in firsts) / len(firsts), sum(c[i] ** 2 for i in firsts) / len(firsts)
    result = []
    for i in range(len(a_2)):
        if i not in seconds:
            result.append(low)
            continue
        n = total = 0.0
        for t in range(TABLES):
            here = [j for j in firsts if at[j][t] == at_2[i][t]]
            n += len(here)
            if here:
                same = [j for j in firsts if slot[t][0][j] == slot_2[t][0][i]]
                total += sum(
                    slot[t][1][j] * slot_2[t][1][i] * a[j] * math.sqrt(d[j] * d_2[i]) / mean_d for j in same
                ) + sum(c_2[i] * a[j] * c[j] / mean_c for j in here)
        z = math.copysign(1, a_2[i]) * total / (n + statistics["ridge"].item())
        result.append(low + (high - low) / (1 + math.exp(-z / statistics["sigma"].item())))
    mean = sum(result[i] for i in seconds) / len(seconds)
    return [value / mean for value in result], coefficients_at(statistics, after, options)


@pytest.mark.parametrize("name", ROLLOUTS)
def test_coefficients_are_the_definition(name):
    rollout = made(**ROLLOUTS[name])
    x = over_mean_size(literal_z(rollout))
    expected = literal_coefficients(x, len(rollout.ids))
    torch.testing.assert_close(λ(rollout).tolist(), expected, rtol=1e-4, atol=1e-5)
    expected = literal_coefficients(x, len(rollout.ids), 0.8, 1.2, credited=False)
    found = λ(rollout, coef_min=0.8, coef_max=1.2, coef_normalize="all")
    torch.testing.assert_close(found.tolist(), expected, rtol=1e-4, atol=1e-5)
    assert λ(rollout)[rollout.advantages != 0].std() > 0.05


@pytest.mark.parametrize("seed", [1, 2])
def test_with_the_tables_of_another_rollout_batch_all_its_responses_are_others(seed):
    """And nothing is subtracted for a response of the same number."""
    rewards = [[1.0, 0, 0, 1], [1, 1, 1, 1], [0, 0.2, 0, 1]]
    expected, found = before_and_after(made(rewards), made(rewards, lengths=[7] * 12, seed=seed))
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=2e-5)
    assert found.std() > 0.1


@pytest.mark.parametrize("name", ["hidden", "log_probs", "entropies", "advantages"])
def test_a_broken_value_is_noticed_with_the_tables_of_another_rollout_batch(name):
    before, after = made([[1.0, 0, 0, 1]]), made([[1.0, 0, 0, 1]], seed=1)
    values = getattr(after, name).clone()
    values[3] = math.nan
    _, found = before_and_after(before, dataclasses.replace(after, **{name: values}))
    assert (found == 1).all()


def test_two_states_share_a_place_as_often_as_their_angle_says():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.nn.functional.normalize(torch.randn(2, 4000, HIDDEN, generator=generator), dim=2)
    other = torch.nn.functional.normalize(other - (other * one).sum(1, keepdim=True) * one, dim=1)
    centre = torch.full((HIDDEN,), 3.0)
    for degrees in (5, 15, 30):
        angle = math.radians(degrees)
        turned = math.cos(angle) * one + math.sin(angle) * other
        same = (places(one + centre, centre) == places(turned + centre, centre)).float().mean().item()
        assert same == pytest.approx((1 - angle / math.pi) ** PLANES, abs=0.03)


def test_slots_are_spread_evenly_however_large_the_vocabulary():
    ids, place = torch.arange(151_936), torch.full((151_936,), 2**PLANES - 1)
    expected = N_SLOTS * (1 - math.exp(-len(ids) / N_SLOTS))  # of random slots, so many have a pair
    for table in (0, 7):
        slot, sign = slots(place, ids, table)
        assert 0 <= slot.min() <= slot.max() < N_SLOTS
        assert len(slot.unique()) == pytest.approx(expected, rel=0.01)
        assert abs(sign.mean()) < 0.01
        assert abs((sign[1:] * sign[:-1]).mean()) < 0.01
    one, other = (slots(place, ids, table)[0] for table in (0, 7))
    assert (one == other).float().mean() < 1e-3


@pytest.mark.parametrize("cut", [18, 45, 72])
def test_two_processes_equal_one(cut):
    """With the last cut, one process has no advantage."""
    whole = made([[1.0, 0, 0, 1], [0, 0.2, 0, 1], [1, 1, 1, 1]])
    torch.testing.assert_close(on_two_processes(λ, whole, cut), λ(whole), rtol=0, atol=1e-5)


def test_sums_over_processes_are_few():
    sizes = []
    λ(made([[1.0, 0, 0, 1]], reduce=lambda tensor: sizes.append(tensor.numel() * tensor.element_size()) or tensor))
    work = HashedAgreementGRPOConfig.credit.work
    assert len(sizes) == work.sums
    assert max(sizes) == work.summed_bytes
    assert sum(sizes) < 1.01 * work.summed_bytes


# --- Corners


def test_a_long_common_prefix_weighs_below_the_places_where_the_choice_decides():
    """In a prefix that all responses share, the other ones' advantages add up to minus the own: λ is below the middle, and
    the same at all of its tokens. After it, right responses have one token and wrong ones another."""
    rollout = made([[1.0, 0, 1, 0]], lengths=[50] * 4)
    position = torch.arange(50).repeat(4)
    hidden = torch.randn(50, 64, generator=torch.Generator().manual_seed(4))[
        position
    ]  # no two share a place by chance
    ids = torch.where(position < 40, position, 100 + (rollout.advantages > 0).long())
    certain = torch.full((200,), -0.5)
    rollout = dataclasses.replace(rollout, hidden=hidden, ids=ids, log_probs=certain, entropies=-2 * certain)
    found = λ(rollout).view(4, 50)
    # √d and c are the same everywhere, so that their products, over the means, are 1. In the prefix both sums are −|A|, and
    # z = −2 |A| / (3 + ridge). At the end the sum over the same token is |A|, and that over choices still −|A|: z = 0.
    torch.testing.assert_close(found[:, :40], found[:1, :1].expand(4, 40), rtol=0, atol=1e-4)
    torch.testing.assert_close(found[:, 40:], found[:1, 40:41].expand(4, 10), rtol=0, atol=1e-4)
    sigma = 40 * 2 / 50  # in units of |A| / (3 + ridge)
    prefix, end = (0.5 + 1 / (1 + math.exp(-z / sigma)) for z in (-2, 0))
    assert (found[0, 40] / found[0, 0]).item() == pytest.approx(end / prefix, rel=1e-3)


def test_where_all_responses_differ_in_one_token_that_token_weighs_most():
    rollout = made([[1.0, 0, 1, 0]], lengths=[12] * 4)
    position = torch.arange(12).repeat(4)
    hidden = torch.randn(12, 64, generator=torch.Generator().manual_seed(1))[position]
    right = rollout.advantages > 0
    ids = torch.where(position == 5, 100 + right.long(), position)
    # The right token is the favourite, and elsewhere there is hardly a choice
    log_probs = torch.where(position == 5, torch.where(right, -0.3, -1.4), -0.01)
    entropies = torch.where(position == 5, 0.6, 0.02)
    found = λ(dataclasses.replace(rollout, hidden=hidden, ids=ids, log_probs=log_probs, entropies=entropies)).view(
        4, 12
    )
    at = torch.arange(12) == 5
    assert found[:, at].min() > 1.2
    assert found[:, ~at].max() < 1


def test_places_with_a_single_visitor_are_neither_credited_nor_blamed():
    """α = ½ there, also where another pair has the same slot; and everywhere, if no two responses meet."""
    rollout = made([[1.0, 0, 0, 1], [0, 0, 0, 1]])
    alone = torch.zeros(len(rollout.ids), dtype=torch.bool)
    alone[[3, 40]] = True
    far = torch.randn(2, HIDDEN, generator=torch.Generator().manual_seed(5))
    hidden = rollout.hidden.clone()
    hidden[alone] = 50 * far
    # Token 20, of another response and at another place, has the slot of token 3 in the first table
    at, tried = places(hidden, hidden.mean(0))[:, 0].long(), torch.arange(2**21)
    wanted = slots(at[3:4], rollout.ids[3:4], 0)[0]
    ids = rollout.ids.clone()
    ids[20] = tried[slots(at[20].expand_as(tried), tried, 0)[0] == wanted][0]
    found = λ(dataclasses.replace(rollout, hidden=hidden, ids=ids))
    half = found[alone]
    assert half[0] == half[1]
    raw = found / half[0]  # λ over that of α = ½, 1
    assert raw.min() >= 0.5 - 1e-5
    assert raw.max() <= 1.5 + 1e-5
    assert (raw - 1).abs().mean() > 0.05
    nobody = torch.randn(len(rollout.ids), 256, generator=torch.Generator().manual_seed(2))
    one = dataclasses.replace(rollout, hidden=nobody, responses=rollout.responses)
    met = (places(nobody, nobody.mean(0))[:, None] == places(nobody, nobody.mean(0))[None]).any(2).float().sum(1) > 1
    torch.testing.assert_close(λ(one)[~met].unique(), λ(one)[~met][:1])
    assert met.float().mean() < 0.2


@pytest.mark.parametrize("rewards", [[[1.0, 1, 1, 1]], [[1.0]], [[0.0]]])
def test_without_both_sides_every_coefficient_is_one(rewards):
    rollout = made(rewards, n_places=2)
    if len(rewards[0]) == 1:  # a single response, as with another baseline of the advantages
        rollout = dataclasses.replace(rollout, advantages=torch.full_like(rollout.log_probs, 2 * rewards[0][0] - 1))
    found = HashedAgreementGRPOConfig.credit(rollout, config("unused", HashedAgreementGRPOConfig))
    assert found.fallback == NO_CONTRAST
    assert (found.values == 1).all()


@pytest.mark.parametrize("name", ["hidden", "log_probs", "entropies", "advantages"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("token", [0, -1])  # with an advantage, and without
def test_a_value_that_is_not_finite_makes_every_coefficient_one(name, value, token):
    rollout = made([[1.0, 0, 0, 1], [1, 1, 1, 1]])
    getattr(rollout, name)[token] = value
    found = HashedAgreementGRPOConfig.credit(rollout, config("unused", HashedAgreementGRPOConfig))
    assert found.fallback == NON_FINITE
    assert (found.values == 1).all()


@pytest.mark.parametrize("log_probs", [0.0, 1e-7])  # sure of every token, and a rounding above it
def test_a_policy_that_is_sure_of_its_tokens_breaks_nothing(log_probs):
    rollout = made([[1.0, 0, 0, 1], [0, 1, 0, 1]])
    sure = dataclasses.replace(
        rollout,
        log_probs=torch.full_like(rollout.log_probs, log_probs),
        entropies=torch.zeros_like(rollout.entropies),
    )
    one = dataclasses.replace(rollout, log_probs=rollout.log_probs.clone())
    one.log_probs[0] = log_probs
    for case in (sure, one):
        found = HashedAgreementGRPOConfig.credit(case, config("unused", HashedAgreementGRPOConfig))
        assert found.fallback is None
        assert found.values.isfinite().all()
        assert found.values.min() > 0


def test_a_response_on_two_processes_is_refused():
    rollout = made([[1.0, 0, 0, 1]], reduce=lambda tensor: 2 * tensor)  # the other process has the same responses
    with pytest.raises(ValueError, match=r"Response 0 .* has tokens on 2 processes.* needs all of a response on one"):
        λ(rollout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_states_of_half_precision_mean_what_they_mean_in_float32(dtype):
    rollout = made(**ROLLOUTS["three prompts"])
    half = rollout.hidden.to(dtype)
    found = λ(dataclasses.replace(rollout, hidden=half))
    assert torch.equal(found, λ(dataclasses.replace(rollout, hidden=half.float())))
    assert torch.corrcoef(torch.stack([found, λ(rollout)]))[0, 1] > 0.95
    assert half.dtype == dtype


# --- The trainer


@pytest.mark.trained
@pytest.mark.parametrize("schedule", [{}, misaligned()], ids=["aligned", "misaligned"])
def test_it_trains_with_real_rollouts_and_records_them(tmp_path, schedule):
    args = config(tmp_path, HashedAgreementGRPOConfig, log_completions=True, num_completions_to_print=0, **schedule)
    trainer = build(HashedAgreementGRPOTrainer, args)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "delta/coef/std" in entry]
    assert entries
    for entry in entries:
        assert entry["delta/coef/mean"] == pytest.approx(1, abs=1e-5)
        assert entry["delta/coef/std"] > 0.01
        assert entry["delta/extra_forward_passes"] == float(not schedule)
    assert list(tmp_path.glob("completions/coefficients_*.parquet"))
    assert "hashed agreement" in (trainer._tag_names, trainer._name)


@pytest.mark.trained
@pytest.mark.parametrize("offload", ["never", "always"])
def test_offloaded_states_and_a_head_that_nobody_reads(tmp_path, offload, monkeypatch):
    """The same run with hidden states in host memory, and no second pass of the LM head in either."""

    def refuse(*arguments):
        raise AssertionError("the LM head was read")

    monkeypatch.setattr("delta_trl.features.gathered_lm_head", refuse)
    build(HashedAgreementGRPOTrainer, config(tmp_path, HashedAgreementGRPOConfig, coef_offload=offload)).train()


@pytest.mark.trained
def test_equal_bounds_are_trls_training(tmp_path):
    ours = config(tmp_path / "ours", HashedAgreementGRPOConfig, coef_min=1.0, coef_max=1.0)
    one = losses_and_weights(HashedAgreementGRPOTrainer, ours)
    other = losses_and_weights(GRPOTrainer, config(tmp_path / "trl", GRPOBaseConfig))
    assert one[0] == other[0]
    assert all(torch.equal(one[1][name], weights) for name, weights in other[1].items())


@pytest.mark.parametrize(
    "option",
    [
        {"coef_features": "hidden_gradient"},
        {"coef_features": "no feature"},
        {"coef_refinement_steps": 2},
        {"coef_refinement_steps": 0},
        {"coef_top_k": 5},
    ],
)
def test_options_that_mean_nothing_here_are_refused(tmp_path, option):
    (name,) = option
    with pytest.raises(ValueError, match=f"Hashed agreement does not read {name}: leave it out"):
        config(tmp_path, HashedAgreementGRPOConfig, **option)
