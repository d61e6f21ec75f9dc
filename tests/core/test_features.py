import pytest
import torch
from support.models import build, config, misaligned, tiny_model
from support.reference import reference_coefficients

from delta_trl import DeltaGRPOTrainer, features, hidden_states
from delta_trl.features import (
    Policy,
    hidden_gradient,
    local_temperature_gradient,
    output_row,
    temperature_gradient,
)
from delta_trl.hidden_states import HiddenStates
from delta_trl.rollout import Rollout


pytestmark = pytest.mark.trained

# A bias, a soft cap and a factor on the logits, tied and untied
HEADS = ["qwen3", "qwen3_tied", "gemma2", "granite", "cohere", "llama"]


def head_case(architecture, n=30, seed=0, dtype=torch.float64):
    """A tiny model with random hidden states, sampled tokens, and float64 autograd through its real LM head."""
    model = tiny_model(architecture).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, 16, generator=generator, dtype=dtype)
    tokens = torch.randint(len(model.get_output_embeddings().weight), (n,), generator=generator)
    return model, hidden, tokens


def of(feature, model, hidden, ids, log_probs, temperature=1.0, top_k=0, **options):
    """A feature of tokens whose advantages and responses do not matter."""
    nothing = torch.zeros(len(ids))
    tokens = Rollout(hidden.detach(), log_probs.detach(), ids, nothing, nothing)
    with torch.no_grad():
        return feature(tokens, Policy(model, temperature, top_k), **options)


def real_logits(model, hidden, temperature):
    """The logits of the model's own forward pass, with its backbone replaced by given hidden states."""
    from transformers.modeling_outputs import MoeModelOutputWithPast

    backbone = model.base_model
    handle = backbone.register_forward_hook(
        lambda module, args, output: MoeModelOutputWithPast(last_hidden_state=hidden[None])
    )
    logits = model(input_ids=torch.zeros(1, len(hidden), dtype=torch.long)).logits[0]
    handle.remove()
    return logits / temperature


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("architecture", HEADS)
def test_hidden_gradient_is_autograd_through_the_real_head(architecture, temperature):
    model, hidden, tokens = head_case(architecture)
    leaf = hidden.clone().requires_grad_()
    log_pi = real_logits(model, leaf, temperature).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    (expected,) = torch.autograd.grad(log_pi.sum(), leaf)
    v, scale = of(hidden_gradient, model, hidden, tokens, log_pi, temperature)
    assert scale is None
    torch.testing.assert_close(v, expected, rtol=1e-6, atol=1e-8)  # heads that cast to float32 inside set the limit


def test_hidden_gradient_with_a_bias_on_the_head():
    model, hidden, tokens = head_case("qwen3")
    model.lm_head.bias = torch.nn.Parameter(torch.randn(len(model.lm_head.weight), dtype=torch.float64))
    leaf = hidden.clone().requires_grad_()
    log_pi = real_logits(model, leaf, 1.0).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    (expected,) = torch.autograd.grad(log_pi.sum(), leaf)
    v, _ = of(hidden_gradient, model, hidden, tokens, log_pi)
    torch.testing.assert_close(v, expected)


def gradient(model, hidden, tokens, top_k):
    with torch.no_grad():
        log_probs = real_logits(model, hidden, 1.0).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    return of(hidden_gradient, model, hidden, tokens, log_probs, top_k=top_k)[0]


@pytest.mark.parametrize("architecture", ["qwen3", "gemma2"])
def test_top_k_with_the_whole_vocabulary_is_exact(architecture):
    model, hidden, tokens = head_case(architecture)
    vocabulary = len(model.get_output_embeddings().weight)
    exact = gradient(model, hidden, tokens, 0)
    torch.testing.assert_close(gradient(model, hidden, tokens, vocabulary), exact)
    torch.testing.assert_close(gradient(model, hidden, tokens, 10 * vocabulary), exact)


def test_top_k_is_the_papers_formula():
    model, hidden, tokens = head_case("qwen3")
    weight = model.lm_head.weight.detach()
    v = gradient(model, hidden, tokens, 5)
    for i, (h, y) in enumerate(zip(hidden, tokens, strict=True)):
        logits, index = (weight @ h).topk(5)
        expected = weight[y] - logits.softmax(0) @ weight[index]
        torch.testing.assert_close(v[i], expected)


def test_chunks_of_logits_change_nothing(monkeypatch):
    model, hidden, tokens = head_case("gemma2")
    whole = gradient(model, hidden, tokens, 0)
    monkeypatch.setattr(features, "LOGIT_CHUNK_ELEMENTS", 7 * 94)
    torch.testing.assert_close(gradient(model, hidden, tokens, 0), whole)


@pytest.mark.parametrize("feature", features.FEATURES.values())
def test_tokens_are_overwritten_only_where_asked(feature):
    model, hidden, ids = head_case("qwen3")
    log_probs = real_logits(model, hidden, 1.0).log_softmax(-1).gather(1, ids[:, None])[:, 0]
    given = hidden.clone()
    rows, scale = of(feature, model, given, ids, log_probs)
    assert torch.equal(given, hidden)
    same_rows, same_scale = of(feature, model, given, ids, log_probs, out=given)
    assert torch.equal(same_rows, rows)
    assert scale is None or torch.equal(same_scale, scale)
    # The memory that was given, or a single column: no second tensor of shape (N, H)
    assert same_rows.shape[1] == 1 or same_rows.data_ptr() == given.data_ptr()


def test_a_head_that_is_read_wrongly_is_refused():
    model, hidden, tokens = head_case("granite")
    log_probs = real_logits(model, hidden, 1.0).log_softmax(-1).gather(1, tokens[:, None])[:, 0].detach()
    model.config.logits_scaling = 1.0  # as if the factor were kept under a name not known here
    with pytest.raises(RuntimeError, match=r"differ from TRL's by .* use coef_features='output_row'"):
        of(hidden_gradient, model, hidden, tokens, log_probs)


def test_output_row_is_the_gradient_with_respect_to_the_tokens_row():
    model, hidden, tokens = head_case("qwen3")
    weight = model.lm_head.weight.detach().clone().requires_grad_()
    log_pi = (hidden @ weight.T).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    rows, scale = of(output_row, model, hidden, tokens, log_pi)
    for i, y in enumerate(tokens):
        (gradient,) = torch.autograd.grad(log_pi[i], weight, retain_graph=True)
        torch.testing.assert_close(rows[i] * scale[i], gradient[y])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("architecture", HEADS)
def test_temperature_gradient_is_autograd_through_the_real_head(architecture, temperature, monkeypatch):
    model, hidden, tokens = head_case(architecture)
    log_beta = torch.zeros(len(hidden), 1, dtype=torch.float64, requires_grad=True)
    logits = real_logits(model, hidden, temperature).detach()
    log_pi = (log_beta.exp() * logits).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    (expected,) = torch.autograd.grad(log_pi.sum(), log_beta)
    monkeypatch.setattr(features, "LOGIT_CHUNK_ELEMENTS", 7 * 94)  # several chunks
    v, scale = of(temperature_gradient, model, hidden, tokens, log_pi, temperature)
    assert scale is None
    torch.testing.assert_close(v.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["qwen3", "gemma2", "granite"])
def test_local_temperature_gradient_is_autograd_through_a_head_that_sets_the_temperature(architecture):
    model, hidden, tokens = head_case(architecture)
    logits = real_logits(model, hidden, 0.7).detach()
    w = torch.zeros_like(hidden, requires_grad=True)  # one for each token, so that gradients stay apart
    log_beta = (hidden * w).sum(1, keepdim=True)
    log_pi = (log_beta.exp() * logits).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    (expected,) = torch.autograd.grad(log_pi.sum(), w)
    v, scale = of(local_temperature_gradient, model, hidden, tokens, log_pi, 0.7)
    torch.testing.assert_close(v * scale[:, None], expected, rtol=1e-5, atol=1e-5)


def test_temperature_gradient_of_impossible_tokens_is_finite():
    """Logits so far apart that probabilities vanish in float32."""
    model, hidden, tokens = head_case("qwen3", dtype=torch.float32)
    hidden = hidden * 1e4
    log_probs = (hidden @ model.lm_head.weight.T).log_softmax(-1).gather(1, tokens[:, None])[:, 0].detach()
    v, _ = of(temperature_gradient, model, hidden, tokens, log_probs)
    assert v.isfinite().all()


@pytest.mark.parametrize("top_k", [0, 8])
@pytest.mark.parametrize("schedule", [{}, misaligned()], ids=["aligned", "misaligned"])
@pytest.mark.parametrize("architecture", ["qwen3", "gemma2", "granite"])
def test_training_with_hidden_gradients(tmp_path, collected, monkeypatch, architecture, schedule, top_k):
    """Through the trainer, against autograd at the very states that were recorded."""
    args = config(
        tmp_path, coef_features="hidden_gradient", coef_top_k=top_k, temperature=0.8, **{**schedule, "max_steps": 1}
    )
    recorded = []
    original = features.FEATURES["hidden_gradient"]

    def keep(tokens, policy, *, out):
        assert out is tokens.hidden  # nobody else needs it, and memory is short
        weights = {k: v.clone() for k, v in policy.model.state_dict().items()}
        recorded.append((tokens.hidden.clone(), tokens.ids, weights))
        return original(tokens, policy, out=out)

    monkeypatch.setitem(features.FEATURES, "hidden_gradient", keep)
    trainer = build(DeltaGRPOTrainer, args, tiny_model(architecture))
    trainer.train()
    (hidden, tokens, weights), (v, advantages, scale) = recorded[0], collected["features"][0]
    assert scale is None
    if top_k == 0:
        policy = tiny_model(architecture).double()
        policy.load_state_dict(weights)
        leaf = hidden.double().requires_grad_()
        log_pi = real_logits(policy, leaf, 0.8).log_softmax(-1).gather(1, tokens[:, None])
        (expected,) = torch.autograd.grad(log_pi.sum(), leaf)
        torch.testing.assert_close(v.double(), expected, rtol=1e-4, atol=1e-4)
    batch = collected["batches"][0]
    applied = batch["token_coefficients"][batch["completion_mask"].bool()].double()
    torch.testing.assert_close(applied, reference_coefficients(v, advantages), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("offload", "free", "device"),
    [
        ("never", 1, "meta"),
        ("always", 10**9, "cpu"),
        ("auto", 1, "cpu"),
        ("auto", 10**9, "meta"),
        ("auto", None, "meta"),
    ],
)
def test_states_go_to_host_memory_where_the_option_says_so(monkeypatch, offload, free, device):
    """With torch's device without storage in place of a GPU."""
    monkeypatch.setattr(hidden_states, "free_memory", lambda device: free)
    recorder = HiddenStates(torch.ones(6, 5, dtype=torch.bool), offload)
    buffer = recorder._allocate(torch.empty(10, 4, dtype=torch.bfloat16, device="meta"))
    assert buffer.device.type == device
    assert (buffer.shape, buffer.dtype) == ((30, 4), torch.bfloat16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: on a CPU there is one memory")
@pytest.mark.parametrize("coef_features", features.FEATURES)
def test_offloading_changes_nothing(tmp_path, collected, coef_features):
    for offload in ("never", "always"):
        args = config(tmp_path, coef_offload=offload, coef_features=coef_features, max_steps=1, use_cpu=False)
        build(DeltaGRPOTrainer, args).train()
    never, always = (batch["token_coefficients"] for batch in collected["batches"])
    assert [f.device.type for f, *_ in collected["features"]] == ["cuda", "cpu"]
    assert torch.equal(never, always)


def test_packed_states_are_one_buffer_of_valid_tokens_in_their_dtype():
    mask = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    states = torch.randn(6, 9, 4, dtype=torch.bfloat16)
    recorder = HiddenStates(mask)
    recorder.append(states[:4])
    buffer = recorder.packed.data_ptr()
    recorder.append(states[4:])
    assert recorder.packed.data_ptr() == buffer
    assert recorder.packed.dtype == torch.bfloat16
    assert torch.equal(recorder.packed, states[:, 3:8][mask])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"coef_features": "attention"},
            r"coef_features must be one of \['hidden_gradient', 'local_temperature_gradient', 'output_row', 'temp",
        ),
        ({"coef_top_k": 5}, "only coef_features='hidden_gradient' reads it; got 5"),
        ({"coef_top_k": -1, "coef_features": "hidden_gradient"}, "at least 0"),
        ({"coef_offload": "yes"}, "'auto', 'never' or 'always'; got 'yes'"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **options)
