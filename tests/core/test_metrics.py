"""How far side and uncertainty explain coefficients, against numpy's own correlation and variance."""

import numpy as np
import pytest
import torch

from delta_trl.metrics import explained_by_uncertainty


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(0)
    advantages = torch.randint(-1, 2, (5000,), generator=generator) * torch.rand(5000, generator=generator)
    uncertainty = torch.rand(5000, generator=generator).square()
    coefficients = 1 + 0.1 * advantages.sign() * uncertainty + 0.03 * torch.randn(5000, generator=generator)
    return coefficients, advantages, uncertainty


def test_equals_a_literal_computation(tokens):
    coefficients, advantages, uncertainty = (t.double().numpy() for t in tokens)
    result = explained_by_uncertainty(*tokens)
    for name, side in (("positive", advantages > 0), ("negative", advantages < 0)):
        expected = np.corrcoef(coefficients[side], uncertainty[side])[0, 1]
        assert result[f"correlation_{name}"] == pytest.approx(expected, abs=1e-6)
    predicted = np.full(len(coefficients), np.nan)
    for side in (advantages > 0, advantages < 0):
        for i in range(10):
            cell = side & (uncertainty >= i / 10) & (uncertainty < (i + 1) / 10)
            predicted[cell] = coefficients[cell].mean()
    kept = advantages != 0
    expected = predicted[kept].var() / coefficients[kept].var()
    assert 0.1 < expected < 0.9
    assert result["explained"] == pytest.approx(expected, abs=1e-6)


def test_a_function_of_side_and_bin_is_explained_wholly(tokens):
    _, advantages, uncertainty = tokens
    coefficients = torch.where(advantages > 0, 1.1, 0.9) + 0.01 * (uncertainty * 10).floor()
    assert explained_by_uncertainty(coefficients, advantages, uncertainty)["explained"] == pytest.approx(1, abs=1e-6)


def test_noise_is_not_explained(tokens):
    _, advantages, uncertainty = tokens
    noise = 1 + 0.1 * torch.randn(5000, generator=torch.Generator().manual_seed(1))
    result = explained_by_uncertainty(noise, advantages, uncertainty)
    assert result["explained"] < 0.02
    assert abs(result["correlation_positive"]) < 0.06


def test_constant_coefficients_have_no_correlation(tokens):
    _, advantages, uncertainty = tokens
    assert explained_by_uncertainty(torch.ones(5000), advantages, uncertainty) == {}


@pytest.mark.parametrize("returns", [True, False])
def test_is_the_same_spread_over_processes(tokens, returns):
    """Two processes, one after the other: the second one's sums are known to the first through the reduction."""
    first, second = ([t[part] for t in tokens] for part in (slice(0, 1000), slice(1000, None)))
    seen = []
    explained_by_uncertainty(*second, all_reduce=lambda sums: seen.append(sums.clone()))

    def all_reduce(sums):
        if returns:
            return sums + seen[0]
        sums += seen[0]
        return None

    together = explained_by_uncertainty(*first, all_reduce=all_reduce)
    assert together == pytest.approx(explained_by_uncertainty(*tokens), abs=1e-9)
