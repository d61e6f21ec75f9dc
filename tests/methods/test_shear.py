"""SHEAR against loops over single spans and tokens, and its transport against an exact solver."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from support.models import config

from delta_trl.methods.shear import EPSILON, STEPS, SHEARConfig, shear, wasserstein, windows
from delta_trl.rollout import Rollout


def made_rollout(seed=0, lengths=(7, 12, 3, 9, 5, 8, 6, 4)):
    """Two groups of four; the first response of each is right, another has A = 0, and the second group lacks a wrong one."""
    generator = torch.Generator().manual_seed(seed)
    responses = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    advantages = torch.tensor([1.5, -0.5, 0.0, -0.7, 0.5, 0.0, 0.7, 0.2])[responses]
    hidden = torch.randn(len(responses), 6, generator=generator) + responses[:, None] / 4
    ids = torch.zeros(len(responses), dtype=torch.int64)
    return Rollout(hidden, -torch.rand(len(responses)), ids, advantages, responses, group_size=4, n_groups=2)


def literal_transport(x: np.ndarray, y: np.ndarray) -> float:
    """Sinkhorn's iteration on scaling factors, for two sets of points."""
    cost = np.array([[math.dist(a, b) for b in y] for a in x])
    kernel = np.exp(-cost / (EPSILON * cost.mean()))
    u, v = np.ones(len(x)), np.ones(len(y))
    for _ in range(STEPS):
        u = 1 / len(x) / (kernel @ v)
        v = 1 / len(y) / (kernel.T @ u)
    return float((u[:, None] * kernel * v * cost).sum())


def literal_shear(rollout: Rollout, span: int, stride: int) -> list[float]:
    tokens = {n: rollout.hidden[rollout.responses == n].double().numpy() for n in range(8)}
    advantage = {n: rollout.advantages[rollout.responses == n][0].item() for n in range(8)}

    def spans_of(n):
        length = len(tokens[n])
        starts = [s for s in range(0, length, stride) if s + span < length] + [max(0, length - span)]
        return [range(s, min(s + span, length)) for s in starts]

    weights = []
    for n in range(8):
        group = [m for m in range(8) if m // 4 == n // 4]
        norm = np.mean([np.linalg.norm(h) for m in group for h in tokens[m]])
        opposite = [m for m in group if advantage[m] * advantage[n] < 0]
        for t in range(len(tokens[n])):
            distances = [
                min(literal_transport(tokens[n][own], tokens[m][its]) for m in opposite for its in spans_of(m))
                for own in spans_of(n)
                if t in own and opposite
            ]
            weights.append(max(distances) / norm if distances else 1.0)
    return weights


@pytest.mark.parametrize(("span", "stride"), [(4, 2), (5, 5), (100, 25), (1, 1)])
def test_weights_are_the_definition(tmp_path, span, stride):
    rollout = made_rollout()
    options = config(tmp_path, SHEARConfig, shear_span=span, shear_stride=stride)
    found = SHEARConfig.credit(rollout, options).values
    torch.testing.assert_close(found.tolist(), literal_shear(rollout, span, stride), rtol=1e-4, atol=1e-5)
    assert (found[rollout.advantages > 0][12:] == 1).all()  # nobody in the second group was wrong
    assert found[rollout.advantages < 0].std() > 0.01 or span == 100


def test_transport_is_near_the_exact_distance():
    generator = torch.Generator().manual_seed(0)
    for n, m in ((5, 5), (4, 7), (1, 3)):
        x, y = torch.randn(n, 3, generator=generator), torch.randn(m, 3, generator=generator) + 1
        cost = torch.cdist(x, y).double().numpy()
        rows = np.kron(np.eye(n), np.ones(m))
        columns = np.kron(np.ones(n), np.eye(m))
        masses = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
        exact = linprog(cost.flatten(), A_eq=np.concatenate([rows, columns]), b_eq=masses).fun
        assert exact <= wasserstein(torch.from_numpy(cost)).item() + 1e-3
        assert wasserstein(torch.from_numpy(cost)).item() == pytest.approx(exact, rel=0.1)
    assert wasserstein(torch.zeros(3, 3)).item() == 0


def test_every_token_has_a_span():
    for length in range(1, 40):
        found = windows(length, 10, 4)
        assert found.unique().tolist() == list(range(length))
        assert found.shape[1] == min(10, length)


def test_a_group_on_two_processes_is_one_group(tmp_path):
    """Each process has half of the tokens, and the others' by `gather`."""
    whole, options = made_rollout(), config(tmp_path, SHEARConfig, shear_span=4, shear_stride=2)
    for half in (whole.responses < 3, whole.responses >= 3):
        fields = ("hidden", "log_probs", "ids", "advantages", "responses")
        everyone = [whole.hidden.flatten(), whole.responses, whole.advantages.sign()]
        part = dataclasses.replace(
            whole,
            **{name: getattr(whole, name)[half] for name in fields},
            gather=lambda values, left=everyone: left.pop(0),
        )
        torch.testing.assert_close(shear(part, options).values, shear(whole, options).values[half])


@pytest.mark.parametrize("option", ["shear_span", "shear_stride"])
def test_bad_options_are_refused(tmp_path, option):
    with pytest.raises(ValueError, match=rf"Both must be at least 1: got .*{option}=0"):
        config(tmp_path, SHEARConfig, **{option: 0})
