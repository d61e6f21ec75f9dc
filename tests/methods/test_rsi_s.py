"""RSI-S token by token."""

import pytest
import torch
from support.models import config
from support.rollouts import made_rollout

from delta_trl.methods.rsi_s import RSISConfig, relative_surprisal


@pytest.mark.parametrize(("low", "high"), [(0.5, 2.0), (0.0, 1.0), (1.0, 50.0)])
def test_tokens_in_the_band_weigh_alike_and_the_others_nothing(tmp_path, low, high):
    rollout = made_rollout()
    rollout.entropies[:5], rollout.log_probs[:5] = 0.0, 0.0  # no choice
    kept = []
    for log_p, h in zip(rollout.log_probs.tolist(), rollout.entropies.tolist(), strict=True):
        index = -log_p / h if h > 0 else 0.0
        kept.append(low <= index <= high)
    assert 0 < sum(kept) < 50
    expected = torch.tensor([50 / sum(kept) if k else 0.0 for k in kept])
    found = RSISConfig.credit(rollout, config(tmp_path, RSISConfig, rsi_s_min=low, rsi_s_max=high)).values
    torch.testing.assert_close(found, expected)


def test_a_sampled_token_has_index_1_on_average():
    log_pi = torch.randn(7, 20, dtype=torch.float64).log_softmax(1)
    entropies = -(log_pi.exp() * log_pi).sum(1, keepdim=True).expand(7, 20)
    index = relative_surprisal(log_pi, entropies)
    torch.testing.assert_close((log_pi.exp() * index).sum(1), torch.ones(7, dtype=torch.float64))


def test_without_a_token_in_the_band_all_weigh_1(tmp_path):
    found = RSISConfig.credit(made_rollout(), config(tmp_path, RSISConfig, rsi_s_min=1e3, rsi_s_max=1e4))
    assert found.fallback == "non-finite"
    assert (found.values == 1).all()


@pytest.mark.parametrize("band", [(2.0, 2.0), (-1.0, 1.0), (0.5, float("inf"))])
def test_an_empty_band_is_refused(tmp_path, band):
    with pytest.raises(ValueError, match="It takes 0 <= rsi_s_min < rsi_s_max"):
        config(tmp_path, RSISConfig, rsi_s_min=band[0], rsi_s_max=band[1])
