"""DelTA on the full gradient, against literal per-token gradients. In float64, but Qwen3 norms in float32."""

import dataclasses

import pytest
import torch
from support.models import tiny_model

from delta_trl.coefficients import delta_coefficients
from delta_trl.features import Policy
from delta_trl.research.full_gradient import PARTS, full_gradient_coefficients
from delta_trl.rollout import Rollout


pytestmark = pytest.mark.trained

PROMPT, LENGTH, GROUP = 3, 6, 3


def rollouts(model, n_prompts: int = 4, temperature: float = 1.0) -> Rollout:
    """Random responses of unlike lengths to left-padded prompts; one prompt's responses all have A = 0."""
    generator = torch.Generator().manual_seed(0)
    n = n_prompts * GROUP
    attention = torch.ones(n, PROMPT + LENGTH, dtype=torch.int64)
    attention[::2, 0] = 0
    lengths = torch.randint(2, LENGTH + 1, (n,), generator=generator)
    attention[:, PROMPT:] = torch.arange(LENGTH) < lengths[:, None]
    advantages = torch.randn(n, generator=generator)
    advantages[-GROUP:] = 0
    ids = torch.randint(4, model.config.vocab_size, (n, PROMPT + LENGTH), generator=generator)
    responses = torch.arange(n).repeat_interleave(lengths)
    return Rollout(
        hidden=torch.empty(len(responses), 0),
        log_probs=torch.empty(len(responses)),
        ids=ids[:, PROMPT:][attention[:, PROMPT:].bool()],
        advantages=advantages[responses],
        responses=responses,
        group_size=GROUP,
        policy=Policy(model, temperature),
        batch={
            "prompt_ids": ids[:, :PROMPT],
            "prompt_mask": attention[:, :PROMPT],
            "completion_ids": ids[:, PROMPT:],
            "completion_mask": attention[:, PROMPT:],
            "advantages": advantages,
        },
    )


def with_advantages(rollout: Rollout, advantages: torch.Tensor) -> Rollout:
    batch = {**rollout.batch, "advantages": advantages}
    return dataclasses.replace(rollout, advantages=advantages[rollout.responses], batch=batch)


def token_gradients(model, rollout: Rollout, parameters: list) -> torch.Tensor:
    """Shape (N, P): a backward pass for each token."""
    rows, batch = [], rollout.batch
    input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention_mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    for ids, attention in zip(input_ids, attention_mask, strict=True):
        logits = model(input_ids=ids[None], attention_mask=attention[None]).logits[0] / rollout.policy.temperature
        log_probs = logits.log_softmax(-1)
        for t in attention[PROMPT:].nonzero()[:, 0].tolist():
            value = log_probs[PROMPT + t - 1, ids[PROMPT + t]]
            gradient = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
            rows.append(torch.cat([g.flatten() for g in gradient]))
    return torch.stack(rows)


def parameters_by_name(model, part: str) -> list:
    """The parts written out for this architecture."""
    return [
        p
        for name, p in model.named_parameters()
        if {
            "full": True,
            "body": "embed_tokens" not in name and "lm_head" not in name,
            "last_layer": name.startswith("model.layers.1."),
            "head": name.startswith("lm_head") or (model.config.tie_word_embeddings and "embed_tokens" in name),
        }[part]
    ]


@pytest.mark.parametrize("architecture", ["qwen3", "qwen3_tied"])
@pytest.mark.parametrize("part", PARTS)
def test_equals_delta_on_a_gradient_for_each_token(architecture, part):
    model = tiny_model(architecture).double()
    rollout = rollouts(model, temperature=0.7)
    v = token_gradients(model, rollout, parameters_by_name(model, part))
    for refinement_steps in (0, 1, 2):
        expected = delta_coefficients(v, rollout.advantages, refinement_steps=refinement_steps)
        found = full_gradient_coefficients(
            rollout,
            part=part,
            refinement_steps=refinement_steps,
            rows=5,
        )
        assert expected.values.std() > 0.05
        torch.testing.assert_close(found.values, expected.values, rtol=1e-5, atol=0)
        assert found.mean == pytest.approx(expected.mean, rel=1e-5)
        assert found.temperature_negative == pytest.approx(expected.temperature_negative, rel=1e-5)


def test_cross_fitted_margins_are_taken_at_the_centroids_of_other_prompts():
    model = tiny_model().double()
    rollout = rollouts(model, n_prompts=6)
    v = token_gradients(model, rollout, list(model.parameters()))
    a = rollout.advantages.double()
    fold = rollout.groups % 3

    def margins(w):
        m = torch.zeros(len(v), dtype=torch.float64)
        for n in range(len(v)):
            others = fold != fold[n]
            mu = [(w * others * s) @ v / (w * others * s).sum() for s in (a > 0, a < 0)]
            far = [(v[n] - c).square().sum() for c in mu]
            m[n] = far[1] - far[0] if a[n] > 0 else far[0] - far[1]
        return m

    def gamma(m):
        return torch.where(a > 0, m[a > 0].std(unbiased=False), m[a < 0].std(unbiased=False))

    m = margins(a.abs())
    first = gamma(m)
    last = margins(a.abs() * torch.sigmoid(m / first))
    expected = torch.where(a == 0, 0.8, 0.8 + 0.4 * torch.sigmoid(last / first))
    found = full_gradient_coefficients(rollout, folds=3)
    torch.testing.assert_close(found.values * found.mean, expected.float(), rtol=1e-5, atol=0)
    plain = full_gradient_coefficients(rollout)
    assert (plain.values - found.values).abs().max() > 0.05


def test_in_bfloat16_coefficients_stay_close():
    rollout = rollouts(tiny_model())
    plain, rounded = (full_gradient_coefficients(rollout, bf16=bf16).values for bf16 in (False, True))
    assert not torch.equal(plain, rounded)
    assert (plain - rounded).abs().mean() < plain.std() / 10


def test_the_model_stays_as_it_was():
    model = tiny_model().train()
    model.lm_head.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    values = full_gradient_coefficients(rollouts(model)).values
    assert values.std() > 0.05
    assert values.double().mean().item() == pytest.approx(1, abs=1e-6)
    assert model.training
    assert not model.lm_head.weight.requires_grad
    assert all(p.requires_grad and p.grad is None for p in model.model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_batch_without_contrast_gets_ones_and_impossible_options_are_refused():
    model = tiny_model()
    rollout = rollouts(model)
    advantages = rollout.batch["advantages"].abs()
    found = full_gradient_coefficients(with_advantages(rollout, advantages))
    assert found.fallback == "no contrast"
    assert (found.values == 1).all()
    with pytest.raises(ValueError, match="part must be one of full, body, last_layer, head; got 'tail'"):
        full_gradient_coefficients(rollout, part="tail")
    lonely = advantages.clone()
    lonely[0] = -1.0
    with pytest.raises(ValueError, match="Use fewer folds"):
        full_gradient_coefficients(with_advantages(rollout, lonely), folds=2)
