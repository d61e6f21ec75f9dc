"""GMTS against a sorted list of scores."""

import math

import pytest
import torch
from support.models import config
from support.rollouts import made_rollout

from delta_trl.methods.gmts import GMTSConfig


@pytest.mark.parametrize("share", [0.2, 0.5, 0.13])
def test_the_highest_scores_weigh_alike_and_the_others_nothing(tmp_path, share):
    rollout = made_rollout()
    scores = [h * abs(a) for h, a in zip(rollout.entropies.tolist(), rollout.advantages.tolist(), strict=True)]
    threshold = sorted(scores, reverse=True)[math.ceil(share * 50) - 1]
    kept = [score >= threshold for score in scores]
    expected = torch.tensor([50 / sum(kept) if k else 0.0 for k in kept])
    found = GMTSConfig.credit(rollout, config(tmp_path, GMTSConfig, gmts_share=share)).values
    torch.testing.assert_close(found, expected)
    assert (found[rollout.advantages == 0] == 0).all()


def test_the_threshold_is_that_of_all_processes(tmp_path):
    options, other = config(tmp_path, GMTSConfig), torch.full((50,), 10.0)
    found = made_rollout(gather=lambda scores: torch.cat([scores, other]), reduce=lambda sums: sums + 50)
    assert (GMTSConfig.credit.compute(found, options).values == 0).all()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_bad_options_are_refused(tmp_path, share):
    with pytest.raises(ValueError, match=f"gmts_share must lie between 0 and 1; got {share}"):
        config(tmp_path, GMTSConfig, gmts_share=share)
