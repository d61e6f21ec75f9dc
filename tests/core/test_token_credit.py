"""The trainer and its method: what they ask of each other."""

import dataclasses

import pytest
import torch
from support.models import build, config, misaligned

from delta_trl.coefficients import Coefficients
from delta_trl.config import GRPOBaseConfig, TokenCreditConfig
from delta_trl.credit import Credit
from delta_trl.token_credit import TokenCreditTrainer


def trained(tmp_path, compute, needs=(), **options):
    """A trainer after one rollout batch with this method, and its config class."""

    @dataclasses.dataclass
    class OwnConfig(TokenCreditConfig):
        credit = Credit("Own", compute, needs=frozenset(needs))

    trainer = build(TokenCreditTrainer, config(tmp_path, OwnConfig, **{"max_steps": 1, **options}))
    trainer.train()
    return trainer


def ones(rollout, options):
    return Coefficients(torch.ones_like(rollout.log_probs))


def test_a_method_sees_what_it_asks_for_and_its_options(tmp_path):
    seen = []
    compute = lambda *found: seen.append(found) or ones(*found)  # noqa: E731
    trained(tmp_path, compute)
    trainer = trained(tmp_path, compute, ["hidden", "entropies"])
    (bare, _), (full, options) = seen
    assert bare.entropies is None
    assert bare.hidden.shape == (len(bare.ids), 0)
    assert full.hidden.shape == (len(full.ids), 16)
    assert (full.entropies > 0).all()
    assert options is trainer.args
    assert (full.group_size, full.n_groups) == (4, 2)
    assert full.responses.unique().tolist() == list(range(8))
    assert full.groups.unique().tolist() == [0, 1]
    assert [row["prompt"] for row in full.inputs] == [full.inputs[i // 4 * 4]["prompt"] for i in range(8)]
    assert torch.equal(full.of_response(full.batch["advantages"]), full.advantages)
    assert not full.resumed


def test_a_replay_is_the_policy_as_it_is_by_then(tmp_path):
    seen = []
    trainer = trained(
        tmp_path, lambda rollout, options: seen.append(rollout) or ones(rollout, options), **misaligned()
    )
    first, *_ = seen
    assert (first.replay() - first.log_probs).abs().max() > 1e-3  # some updates later
    torch.testing.assert_close(first.replay(), first.replay())
    assert not trainer._metrics["train"]  # a replay logs nothing of its own


def test_memory_lives_as_long_as_the_run(tmp_path):
    def counted(rollout, options):
        rollout.memory["batches"] = rollout.memory.get("batches", 0) + 1
        return ones(rollout, options)

    assert trained(tmp_path, counted, max_steps=3)._memory == {"batches": 3}


def test_coefficients_of_another_shape_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"Own gave coefficients of shape \(3,\) for \d+ tokens\. It takes one for each"
    ):
        trained(tmp_path, lambda rollout, options: Coefficients(torch.ones(3)))


def test_an_unknown_need_is_refused():
    with pytest.raises(ValueError, match="A method can need hidden, entropies, teacher; got logits"):
        Credit("Own", ones, needs=frozenset({"logits"}))


def test_a_config_without_a_method_is_refused(tmp_path):
    with pytest.raises(ValueError, match="TokenCreditConfig points to no method of token credit"):
        build(TokenCreditTrainer, config(tmp_path, TokenCreditConfig))
    with pytest.raises(ValueError, match="TokenCreditConfig points to no method of token credit"):
        build(TokenCreditTrainer, None)
    with pytest.raises(ValueError, match="TokenCreditTrainer needs a TokenCreditConfig as args; got GRPOBaseConfig"):
        build(TokenCreditTrainer, config(tmp_path, GRPOBaseConfig))
