import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.places import DATA
from support.reference import reference_coefficients
from torch.utils._python_dispatch import TorchDispatchMode

from delta_trl import sweeps
from delta_trl.coefficients import delta_coefficients


GOLDEN = sorted((DATA / "golden").glob("*.npz"))


def make_batch(seed=0, n=200, h=16, dtype=torch.float32, zeros=0.1):
    """Features, advantages and scales with some structure: the sides differ along one direction."""
    generator = torch.Generator().manual_seed(seed)
    advantages = torch.randn(n, generator=generator)
    advantages[torch.rand(n, generator=generator) < zeros] = 0.0
    features = torch.randn(n, h, generator=generator) + advantages.sign()[:, None] * torch.linspace(-0.5, 0.5, h)
    return features.to(dtype), advantages, torch.rand(n, generator=generator)


class Processes:
    """Run one function on several simulated processes that sum their tensors in lockstep."""

    def __init__(self, n):
        self.calls = [0] * n
        self._barrier = threading.Barrier(n, timeout=60)
        self._parts = [None] * n

    def run(self, function):
        results = [None] * len(self.calls)

        def main(rank):
            def all_reduce(tensor):
                self.calls[rank] += 1
                self._parts[rank] = tensor
                self._barrier.wait()
                total = torch.stack(self._parts).sum(0)
                self._barrier.wait()
                return total

            try:
                results[rank] = function(rank, all_reduce)
            except BaseException:
                self._barrier.abort()
                raise

        threads = [threading.Thread(target=main, args=(rank,)) for rank in range(len(self.calls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


def split(tensors, owner, n):
    return [[t[owner == rank] for t in tensors] for rank in range(n)]


def run_split(tensors, owner, n, **options):
    """Coefficients of a batch whose token i lies on process owner[i], put together again."""
    parts, processes = split(tensors, owner, n), Processes(n)

    def on_process(rank, all_reduce):
        features, advantages, scale = parts[rank]
        return delta_coefficients(features, advantages, feature_scale=scale, all_reduce=all_reduce, **options)

    results = processes.run(on_process)
    values = torch.empty(len(owner))
    for rank, result in enumerate(results):
        values[owner == rank] = result.values
    assert len(set(processes.calls)) == 1, f"processes issued {processes.calls} collectives"
    return values, results


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_golden_vectors(path):
    data = np.load(path)
    result = delta_coefficients(
        torch.tensor(data["hidden_states"]),
        torch.tensor(data["advantages"]),
        feature_scale=-torch.expm1(torch.tensor(data["log_probs"])),
        coef_min=data["lambda_min"].item(),
        coef_max=data["lambda_max"].item(),
        refinement_steps=data["refinement_steps"].item(),
    )
    np.testing.assert_allclose(result.values.double().numpy(), data["coefficients"], rtol=0, atol=1e-5)


def test_golden_vectors_are_all_there():
    assert len(GOLDEN) == 13


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    steps=st.integers(0, 3),
    bounds=st.sampled_from([(0.8, 1.2), (0.5, 1.5), (0.1, 3.0)]),
    zeros=st.sampled_from([0.0, 0.5]),
)
def test_equals_the_reference_that_materialises_every_distance(seed, steps, bounds, zeros):
    features, advantages, scale = make_batch(seed, zeros=zeros)
    options = {"coef_min": bounds[0], "coef_max": bounds[1], "refinement_steps": steps}
    values = delta_coefficients(features, advantages, feature_scale=scale, **options).values
    torch.testing.assert_close(
        values.double(), reference_coefficients(features, advantages, scale, **options), rtol=0, atol=1e-5
    )


def test_temperatures_lag_behind_the_last_refinement():
    features, advantages, scale = make_batch()
    values = delta_coefficients(features, advantages, feature_scale=scale).values.double()
    refreshed = reference_coefficients(features, advantages, scale, lagged=False)
    assert (values - refreshed).abs().max() > 1e-2


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 4), steps=st.integers(0, 2))
def test_does_not_depend_on_the_spread_over_processes(seed, n, steps):
    tensors = make_batch(seed)
    owner = torch.randint(n + 1, (200,), generator=torch.Generator().manual_seed(seed))  # sizes differ
    owner = owner.clamp(max=n - 1)
    alone = delta_coefficients(tensors[0], tensors[1], feature_scale=tensors[2], refinement_steps=steps)
    values, results = run_split(tensors, owner, n, refinement_steps=steps)
    torch.testing.assert_close(values, alone.values, rtol=0, atol=1e-5)
    for result in results:
        assert result.temperature_positive == pytest.approx(alone.temperature_positive, rel=1e-4)
        assert result.cosine_after == pytest.approx(alone.cosine_after, rel=1e-4)


@pytest.mark.parametrize(
    "assign",
    [
        pytest.param(lambda a: torch.ones(len(a), dtype=torch.long), id="a process without a token"),
        pytest.param(lambda a: (a < 0).long(), id="one side each"),
        pytest.param(lambda a: (a == 0).long(), id="a process with zero advantages only"),
    ],
)
def test_a_process_may_hold_anything(assign):
    tensors = make_batch()
    alone = delta_coefficients(tensors[0], tensors[1], feature_scale=tensors[2]).values
    values, results = run_split(tensors, assign(tensors[1]), 2)
    torch.testing.assert_close(values, alone, rtol=0, atol=1e-5)
    assert all(result.fallback is None for result in results)


def test_without_the_reduction_processes_disagree():
    features, advantages, scale = make_batch()
    together = delta_coefficients(features, advantages, feature_scale=scale).values
    half = delta_coefficients(features[:100], advantages[:100], feature_scale=scale[:100]).values
    assert (together[:100] - half).abs().max() > 1e-2


def test_an_in_place_reduction_is_accepted():
    features, advantages, _ = make_batch()

    def doubled_in_place(tensor):
        tensor *= 2  # two processes with the same tokens

    result = delta_coefficients(features, advantages, all_reduce=doubled_in_place)
    torch.testing.assert_close(result.values, delta_coefficients(features, advantages).values)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), factor=st.sampled_from([0.25, 3.0, 100.0]))
def test_symmetries(seed, factor):
    features, advantages, scale = make_batch(seed)
    values = delta_coefficients(features, advantages, feature_scale=scale).values

    def same(other, of=values):
        torch.testing.assert_close(other.values, of, rtol=0, atol=1e-5)

    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    same(delta_coefficients(features[order], advantages[order], feature_scale=scale[order]), values[order])
    same(delta_coefficients(features * factor, advantages, feature_scale=scale))  # 1/temperature, say
    same(delta_coefficients(features, advantages * factor, feature_scale=scale))
    same(delta_coefficients(features, -advantages, feature_scale=scale))  # the sides are treated alike
    same(delta_coefficients(features * scale[:, None], advantages))


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), bounds=st.sampled_from([(0.8, 1.2), (0.5, 1.5)]))
def test_mean_is_one_within_bounds_and_zero_advantage_gets_the_least(seed, bounds):
    features, advantages, scale = make_batch(seed)
    values = delta_coefficients(
        features, advantages, feature_scale=scale, coef_min=bounds[0], coef_max=bounds[1]
    ).values.double()
    assert values.mean().item() == pytest.approx(1, abs=1e-6)
    assert values.max() / values.min() <= bounds[1] / bounds[0] * (1 + 1e-6)
    zero = values[advantages == 0]
    torch.testing.assert_close(zero, values.min().expand_as(zero), rtol=1e-6, atol=0)


@pytest.mark.parametrize("n", [1, 2])
def test_credited_normalisation_leaves_tokens_without_advantage_out_of_the_mean(n):
    tensors = make_batch(zeros=0.4)
    credited = tensors[1] != 0
    published = delta_coefficients(tensors[0], tensors[1], feature_scale=tensors[2]).values.double()
    owner = torch.arange(200) % n
    values, (result, *_) = run_split(tensors, owner, n, normalize="credited")
    torch.testing.assert_close(values.double(), published / published[credited].mean(), rtol=0, atol=1e-5)
    raw = values * result.mean
    assert raw[credited].mean() == pytest.approx(result.mean, abs=1e-5)
    torch.testing.assert_close(raw[~credited], torch.full_like(raw[~credited], 0.8))


def test_own_side_is_credited_more():
    features, advantages, _ = make_batch(zeros=0.0)
    values = delta_coefficients(features, advantages).values
    direction = torch.linspace(-0.5, 0.5, 16) * advantages.sign()[:, None]
    belongs = (features * direction).sum(1)  # how far the token lies on its own side
    assert torch.corrcoef(torch.stack([belongs, values]))[0, 1] > 0.9


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
def test_no_contrast_without_both_sides(advantage):
    features, _, scale = make_batch()
    result = delta_coefficients(features, torch.full((200,), advantage), feature_scale=scale)
    assert result.fallback == "no contrast"
    assert (result.values == 1).all()


def test_no_token_at_all():
    result = delta_coefficients(torch.empty(0, 8), torch.empty(0))
    assert result.fallback == "no contrast"
    assert result.values.shape == (0,)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["feature", "scale", "advantage", "feature of a token without advantage"])
def test_a_non_finite_input_on_one_process_gives_ones_on_all(where, bad):
    features, advantages, scale = make_batch()
    advantages[0] = 0.0
    if where == "feature":
        features[7, 3] = bad
    elif where == "scale":
        scale[7] = bad
    elif where == "advantage":
        advantages[7] = bad
    else:
        features[0, 0] = bad
    owner = (torch.arange(200) >= 100).long()
    values, results = run_split((features, advantages, scale), owner, 2)
    assert [result.fallback for result in results] == ["non-finite"] * 2
    assert (values == 1).all()


def test_overflow_falls_back_too():
    features, advantages, _ = make_batch()
    assert delta_coefficients(features * 1e30, advantages).fallback == "non-finite"


def test_equal_bounds_give_exactly_one():
    features, advantages, _ = make_batch()
    assert (delta_coefficients(features, advantages, coef_min=1.3, coef_max=1.3).values == 1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_floating_dtype(dtype):
    features, advantages, scale = make_batch(dtype=dtype)
    result = delta_coefficients(features, advantages, feature_scale=scale.to(dtype))
    assert result.values.dtype == torch.float32
    expected = reference_coefficients(features, advantages, scale.to(dtype))
    torch.testing.assert_close(result.values.double(), expected, rtol=0, atol=1e-5)


def test_carries_no_gradient():
    features, advantages, scale = make_batch()
    tensors = [t.requires_grad_() for t in (features, advantages, scale)]
    values = delta_coefficients(tensors[0], tensors[1], feature_scale=tensors[2]).values
    assert not values.requires_grad


def test_chunks_change_nothing_and_bound_the_memory(monkeypatch):
    features, advantages, scale = make_batch(n=1000, dtype=torch.bfloat16)
    whole = delta_coefficients(features, advantages, feature_scale=scale).values
    monkeypatch.setattr(sweeps, "CPU_CHUNK_ELEMENTS", 16 * 32)

    class LargestResult(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.data_ptr() != features.data_ptr():
                self.elements = max(self.elements, result.numel())
            return result

    with LargestResult() as largest:
        chunked = delta_coefficients(features, advantages, feature_scale=scale).values
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-6)
    assert largest.elements <= 3 * len(features)  # three rows of weights; (N, H) would be 16 times N


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(4)}, r"shape \(N, H\)"),
        ({"features": torch.zeros(4, 3, dtype=torch.long)}, "floating-point"),
        ({"advantages": torch.zeros(5)}, r"advantages must have shape \(4,\)"),
        ({"advantages": torch.zeros(4, 1)}, r"advantages must have shape \(4,\)"),
        ({"feature_scale": torch.zeros(3)}, r"feature_scale must have shape \(4,\)"),
        ({"coef_min": 0.0}, "coef_min=0.0"),
        ({"coef_min": -1.0}, "coef_min=-1.0"),
        ({"coef_min": 1.3}, "coef_min=1.3 and coef_max=1.2"),
        ({"coef_min": "0.8"}, "coef_min must be a number; got '0.8'"),
        ({"coef_max": None}, "coef_max must be a number; got None"),
        ({"refinement_steps": "one"}, "refinement_steps must be a number; got 'one'"),
        ({"coef_max": float("nan")}, "coef_max=nan"),
        ({"coef_max": float("inf")}, "coef_max=inf"),
        ({"refinement_steps": -1}, "got -1"),
        ({"refinement_steps": 0.5}, r"got 0\.5"),
        ({"normalize": "sides"}, "got 'sides'"),
    ],
)
def test_refuses_what_the_method_does_not_define(change, message):
    arguments = {"features": torch.zeros(4, 3), "advantages": torch.zeros(4), **change}
    with pytest.raises(ValueError, match=message):
        delta_coefficients(arguments.pop("features"), arguments.pop("advantages"), **arguments)


def test_the_core_imports_without_trl_or_transformers():
    program = (
        "import sys, delta_trl; delta_trl.delta_coefficients; "
        "print([m for m in ('trl', 'transformers', 'accelerate', 'datasets') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
