"""Joined agreement against loops in float64, on several processes, and where it falls back."""

import dataclasses
import math

import pytest
import torch
from support.agreement import (
    ROLLOUTS,
    literal_coefficients,
    literal_z,
    made,
    on_two_processes,
    over_mean_size,
)
from support.models import config

from delta_trl.coefficients import NO_CONTRAST, NON_FINITE
from delta_trl.methods.hashed_agreement import HashedAgreementGRPOConfig, agreements
from delta_trl.methods.joined_agreement import SHARE, JoinedAgreementGRPOConfig
from delta_trl.rollout import Rollout


def credit(rollout: Rollout):
    return JoinedAgreementGRPOConfig.credit(rollout, config("unused", JoinedAgreementGRPOConfig))


def literal_margins(rollout: Rollout) -> dict[int, float]:
    """m by the definition, token by token."""
    a, h = rollout.advantages.double().tolist(), rollout.hidden.double().tolist()
    c = (rollout.log_probs.double() + rollout.entropies.double()).tolist()
    v = [[c[i] * x for x in h[i]] for i in range(len(a))]

    def mean(side):
        total = sum(abs(a[i]) for i in side)
        return [sum(abs(a[i]) * v[i][k] for i in side) / total for k in range(len(h[0]))]

    plus, minus = mean([i for i, x in enumerate(a) if x > 0]), mean([i for i, x in enumerate(a) if x < 0])
    return {
        i: math.copysign(1, x) * sum(vk * (p - q) for vk, p, q in zip(v[i], plus, minus, strict=True))
        for i, x in enumerate(a)
        if x != 0
    }


@pytest.mark.parametrize("name", ROLLOUTS)
def test_coefficients_are_the_definition(name):
    rollout = made(**ROLLOUTS[name])
    z, m = over_mean_size(literal_z(rollout)), over_mean_size(literal_margins(rollout))
    expected = literal_coefficients({i: z[i] + SHARE * m[i] for i in z}, len(rollout.ids))
    torch.testing.assert_close(credit(rollout).values.tolist(), expected, rtol=1e-4, atol=1e-5)
    only_z = literal_coefficients(z, len(rollout.ids))
    assert max(abs(x - y) for x, y in zip(expected, only_z, strict=True)) > 0.05


@pytest.mark.parametrize("cut", [18, 72])
def test_two_processes_equal_one(cut):
    whole = made([[1.0, 0, 0, 1], [0, 0.2, 0, 1], [1, 1, 1, 1]])
    found = on_two_processes(lambda rollout: credit(rollout).values, whole, cut)
    torch.testing.assert_close(found, credit(whole).values, rtol=0, atol=1e-5)


def test_where_nobody_else_was_the_linear_model_decides():
    """Nearly every token has a place of its own."""
    rollout = made([[1.0, 0, 0, 1], [1, 0, 0, 1]], n_places=2)
    apart = torch.randn(rollout.hidden.shape, generator=torch.Generator().manual_seed(1)) * 5 + 1
    choice = torch.where(rollout.sides[0], 1.0, -1.0) * (torch.arange(len(apart)) % 3 != 0)  # likely is right
    lone = dataclasses.replace(
        rollout, hidden=apart + 3, log_probs=torch.full_like(choice, -1.0), entropies=1.0 + choice
    )
    alone = agreements(lone)[0] == 0
    assert alone.double().mean() > 0.8
    found = credit(lone).values
    chose, did_not = found[alone & (choice != 0)], found[alone & (choice == 0)]
    assert did_not.std() < 1e-6
    assert (chose > did_not.mean()).double().mean() > 0.95


def test_it_falls_back_as_hashed_agreement_does():
    for rewards, field, fallback in (([[1.0, 1, 1, 1]], None, NO_CONTRAST), ([[1.0, 0, 0, 1]], "hidden", NON_FINITE)):
        rollout = made(rewards)
        if field:
            getattr(rollout, field)[0] = math.nan
        found = credit(rollout)
        assert found.fallback == fallback
        assert (found.values == 1).all()
    with pytest.raises(ValueError, match="needs all of a response on one process"):
        credit(made([[1.0, 0, 0, 1]], reduce=lambda tensor: 2 * tensor))


def test_the_plan_knows_its_sums():
    sizes = []
    credit(
        made([[1.0, 0, 0, 1]], reduce=lambda tensor: sizes.append(tensor.numel() * tensor.element_size()) or tensor)
    )
    work = JoinedAgreementGRPOConfig.credit.work
    assert len(sizes) == work.sums == HashedAgreementGRPOConfig.credit.work.sums + 3
    assert max(sizes) == work.summed_bytes
