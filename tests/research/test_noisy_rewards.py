"""Flipped rewards: the share that was asked for, always the same, and studies that can be run."""

import pytest
from support.places import ROOT

from delta_trl.research.noisy_rewards import flipped, flipped_10_percent, flipped_30_percent
from delta_trl.research.study.runner import check_runs
from delta_trl.research.study.settings import load_study
from delta_trl.rewards import math_reward


STUDIES = ROOT / "configs/study"
PROMPTS = [f"{i}+1=?\n" for i in range(2000)]
COMPLETIONS = [f"So it is $\\boxed{{{i + 1 + i % 2}}}$" for i in range(2000)]
GOLDS = [str(i + 1) for i in range(2000)]


def test_the_asked_share_of_verdicts_is_turned_round():
    true = math_reward(COMPLETIONS, GOLDS)
    assert sum(true) == 1000
    for reward, share in ((flipped_10_percent, 0.1), (flipped_30_percent, 0.3)):
        noisy = reward(COMPLETIONS, prompts=PROMPTS, solution=GOLDS, trainer_state=None)
        for kind in (0.0, 1.0):  # right and wrong ones alike
            changed = [n != t for n, t in zip(noisy, true, strict=True) if t == kind]
            assert sum(changed) / len(changed) == pytest.approx(share, abs=0.04)
        assert set(noisy) == {0.0, 1.0}
        # By prompt and completion, not by place in the batch
        assert reward(COMPLETIONS[::-1], prompts=PROMPTS[::-1], solution=GOLDS[::-1]) == noisy[::-1]
    assert flipped(0.0, COMPLETIONS, PROMPTS, GOLDS) == true
    assert flipped(0.5, ["no box"], ["?"], [None]) == [None]


def test_conversations_are_read_too():
    messages = [[{"role": "assistant", "content": text}] for text in COMPLETIONS[:50]]
    prompts = [[{"role": "user", "content": text}] for text in PROMPTS[:50]]
    assert set(flipped(1.0, messages, prompts, GOLDS[:50])) == {0.0, 1.0}


@pytest.mark.parametrize("share", [10, 30])
def test_the_studies_can_be_parsed_and_evaluate_by_the_true_reward(share):
    study = load_study(STUDIES / f"noise_{share}.yaml")
    check_runs(study)
    assert study.settings["reward_funcs"] == [
        "math_reward",
        f"delta_trl.research.noisy_rewards.flipped_{share}_percent",
    ]
    assert study.settings["reward_weights"] == [0.0, 1.0]
    assert study.seeds == (1, 2, 3, 4, 5)
