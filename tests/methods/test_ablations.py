"""Each variant against its definition, in float64 for one token after another, or by tests/support/reference.py."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from support.models import build, config, misaligned
from support.reference import reference_lambda

from delta_trl import DeltaGRPOTrainer as VariantGRPOTrainer
from delta_trl.coefficients import range_map
from delta_trl.methods import ablations
from delta_trl.methods.ablations import SELECTIONS, VariantGRPOConfig
from delta_trl.methods.own import SLOPE_RIDGE
from delta_trl.rollout import Rollout


pytestmark = pytest.mark.trained

GROUPS, G, LENGTH, H = 6, 4, 15, 8


@dataclasses.dataclass(frozen=True)
class Rollouts(Rollout):
    """With its options and given features, under the names of the tests below."""

    options: VariantGRPOConfig | None = None
    given: Callable | None = None

    @property
    def tokens(self) -> Rollout:
        return self

    def raw_features(self, name, out=None):
        return self.given(name)

    def features(self, name=None, unit=False):
        return super().features(name or self.options.coef_features, unit)

    def published_raw(self):
        return ablations.published_raw(self, self.options)

    def in_bounds(self, alpha):
        return range_map(alpha, self.sides.any(0), self.options.coef_min, self.options.coef_max)


@dataclasses.dataclass(frozen=True)
class Tried:
    """A variant, called with a rollout batch alone."""

    variant: ablations.Variant

    def __call__(self, r: Rollouts):
        return self.variant(r, r.options)

    def __getattr__(self, name):
        return getattr(self.variant, name)


VARIANTS = {name: Tried(variant) for name, variant in ablations.VARIANTS.items()}


def soft_assignments(r: Rollouts, v: torch.Tensor, **parts):
    return ablations.soft_assignments(r, r.options, v, **parts)


def rollouts(
    tmp_path,
    seed=0,
    keep=slice(None),
    reduce=lambda tensor: tensor,
    gather=lambda tensor: tensor,
    memory=None,
    **options,
) -> Rollouts:
    """Random tokens of `GROUPS` prompt groups, the last of which has no contrast, with DelTA's own coefficients."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randint(0, 2, (GROUPS, G), generator=generator).float()
    rewards[:-1, 0], rewards[:-1, 1], rewards[-1] = 0, 1, 1
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).flatten()
    responses = torch.arange(GROUPS * G).repeat_interleave(LENGTH)
    n = len(responses)
    tokens = {
        "hidden": torch.randn(n, H, generator=generator) + 1 + 0.3 * advantages[responses, None],
        "log_probs": -torch.rand(n, generator=generator).square() * 3 - 1e-3,
        "ids": torch.randint(0, 50, (n,), generator=generator),
        "advantages": advantages[responses],
        "responses": responses,
    }
    args = config(tmp_path, VariantGRPOConfig, num_generations=G, **{"variant": "mirror", **options})
    of_name = {
        "output_row": (tokens["hidden"], -torch.expm1(tokens["log_probs"])),
        "hidden_gradient": (tokens["hidden"].flip(1).square(), None),  # anything else
        "temperature_gradient": (torch.randn(n, 1, generator=generator), None),
    }
    of_name = {name: (v[keep], None if scale is None else scale[keep]) for name, (v, scale) in of_name.items()}
    return Rollouts(
        **{name: values[keep] for name, values in tokens.items()},
        given=of_name.__getitem__,
        options=args,
        group_size=G,
        n_groups=GROUPS,
        reduce=reduce,
        gather=gather,
        generator=torch.Generator().manual_seed(seed),
        memory={} if memory is None else memory,
    )


def mean_one(coefficients: torch.Tensor) -> torch.Tensor:
    return coefficients * len(coefficients) / coefficients.sum()


def close(actual, expected, tolerance=2e-5):
    torch.testing.assert_close(actual.double(), expected.double(), atol=tolerance, rtol=0)


def v_and_a(r: Rollouts):
    return (r.tokens.hidden * r.uncertainty[:, None]).double(), r.tokens.advantages.double()


def published_raw(r: Rollouts, **options) -> torch.Tensor:
    return reference_lambda(*v_and_a(r), **options)


def sides(r: Rollouts):
    return [(r.tokens.advantages > 0), (r.tokens.advantages < 0)]


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_nothing_replaced_is_the_published_method(tmp_path, steps):
    r = rollouts(tmp_path, coef_refinement_steps=steps)
    alpha, _ = soft_assignments(r, r.features())
    close(r.in_bounds(alpha), published_raw(r, refinement_steps=steps))


def test_published_coefficients_carry_their_mean(tmp_path):
    r = rollouts(tmp_path)
    close(r.published_raw(), published_raw(r))


def test_within_side_knows_no_other_side(tmp_path):
    r = rollouts(tmp_path)
    v, a = v_and_a(r)
    alpha = torch.ones_like(a)
    gamma = None
    for final in (False, False, True):  # temperatures, refinement, coefficients
        m = torch.zeros_like(a)
        for side in sides(r):
            w = (a.abs() * alpha)[side]
            mu = (w[:, None] * v[side]).sum(0) / w.sum()
            m[side] = -((v[side] - mu) ** 2).sum(1)
        if gamma is None:
            gamma = torch.ones_like(a)
            for side in sides(r):
                gamma[side] = m[side].std(correction=0)
            continue
        if not final:
            alpha = torch.sigmoid(m / gamma)
    expected = torch.where(a != 0, 0.8 + 0.4 * torch.sigmoid(m / gamma), 0.8)
    close(VARIANTS["within_side"](r).values, mean_one(expected))


def test_hard_gate_takes_one_bound_or_the_other(tmp_path):
    r = rollouts(tmp_path)
    v, a = v_and_a(r)
    alpha = torch.ones_like(a)
    for _ in range(2):
        mu = [((a.abs() * alpha)[s, None] * v[s]).sum(0) / (a.abs() * alpha)[s].sum() for s in sides(r)]
        to_positive, to_negative = (((v - m) ** 2).sum(1) for m in mu)
        alpha = torch.where(a > 0, to_negative > to_positive, to_positive > to_negative).double()
    expected = torch.where(a != 0, 0.8 + 0.4 * alpha, 0.8)
    assert 0.2 < alpha[a != 0].mean() < 0.95
    close(VARIANTS["hard_gate"](r).values, mean_one(expected))


def test_fixed_temperatures_are_those_of_the_first_rollout_batch(tmp_path):
    memory = {}
    first = rollouts(tmp_path, seed=0, memory=memory)
    close(VARIANTS["fixed_temperature"](first).values, mean_one(published_raw(first)))
    second = rollouts(tmp_path, seed=1, memory=memory)
    second = dataclasses.replace(
        second, given=lambda name: (3 * second.tokens.hidden, second.uncertainty)
    )  # another scale: the temperatures would follow it
    v, a = v_and_a(second)
    gamma = torch.where(a < 0, *memory["temperatures"].double().flip(0))
    alpha = torch.ones_like(a)
    for _ in range(2):
        w = a.abs() * alpha
        mu = [(w[s, None] * 3 * v[s]).sum(0) / w[s].sum() for s in sides(second)]
        to_positive, to_negative = (((3 * v - m) ** 2).sum(1) for m in mu)
        m = torch.where(a < 0, to_positive - to_negative, to_negative - to_positive)
        alpha = torch.sigmoid(m / gamma)
    close(VARIANTS["fixed_temperature"](second).values, mean_one(torch.where(a != 0, 0.8 + 0.4 * alpha, 0.8)), 1e-4)


def test_no_range_map_is_alpha(tmp_path):
    r = rollouts(tmp_path)
    a = r.tokens.advantages
    alpha = (published_raw(r) - 0.8) / 0.4
    close(VARIANTS["no_range_map"](r).values, mean_one(torch.where(a != 0, alpha, 0)), 2e-4)


def test_no_norm_leaves_lambda_as_it_is(tmp_path):
    r = rollouts(tmp_path)
    coefficients = VARIANTS["no_norm"](r).values
    close(coefficients, published_raw(r))
    assert abs(coefficients.mean() - 1) > 1e-3


def test_random_coefficients_are_uniform_in_the_bounds_and_repeatable(tmp_path):
    r = rollouts(tmp_path)
    coefficients = VARIANTS["random"](r).values
    credited = r.tokens.advantages != 0
    raw = coefficients * (0.8 / coefficients[~credited][0])
    assert 0.8 <= raw[credited].min() < 0.81
    assert 1.19 < raw[credited].max() <= 1.2 + 1e-6
    assert raw[credited].std() == pytest.approx(0.4 / 12**0.5, rel=0.1)
    assert torch.equal(coefficients, VARIANTS["random"](rollouts(tmp_path)).values)
    assert not torch.equal(coefficients, VARIANTS["random"](r).values)  # the generator went on


@pytest.mark.parametrize("share", [0.5, 0.2])
@pytest.mark.parametrize("name", SELECTIONS)
def test_selections_keep_their_share_at_equal_weight(tmp_path, name, share):
    r = rollouts(tmp_path, variant=name, variant_share=share)
    coefficients = VARIANTS[name](r).values
    kept = coefficients > 0
    # Tokens without advantage all have λ_min, and stand or fall together
    ties = (r.tokens.advantages == 0).sum() if name == "bottom_tokens" else 1
    assert abs(kept.sum() - share * len(kept)) <= ties
    close(coefficients, mean_one(kept.double()))
    raw = published_raw(r)
    if name == "top_tokens":
        assert raw[kept].min() >= raw[~kept].max() - 1e-6
    elif name == "bottom_tokens":
        assert raw[kept].max() <= raw[~kept].min() + 1e-6
    else:
        assert abs(raw[kept].mean() - raw.mean()) < 0.03


def test_unit_length(tmp_path):
    r = rollouts(tmp_path)
    v, a = v_and_a(r)
    expected = reference_lambda(v / v.norm(dim=1, keepdim=True), a)
    close(VARIANTS["unit_length"](r).values, mean_one(expected))


def test_length_only(tmp_path):
    r = rollouts(tmp_path)
    expected = reference_lambda(r.uncertainty[:, None], r.tokens.advantages)
    close(VARIANTS["length_only"](r).values, mean_one(expected))


def test_uncertainty_gate_is_the_mean_of_side_and_tenth(tmp_path):
    r = rollouts(tmp_path)
    coefficients, values = VARIANTS["uncertainty_gate"](r).values, mean_one(published_raw(r))
    for side in (*sides(r), r.tokens.advantages == 0):
        for tenth in range(10):
            cell = side & (r.uncertainty >= tenth / 10) & (r.uncertainty < (tenth + 1) / 10)
            if cell.any():
                close(coefficients[cell], values[cell].mean().expand(int(cell.sum())))
    assert coefficients.mean() == pytest.approx(1, abs=1e-6)


def test_side_constant_is_the_mean_of_the_side(tmp_path):
    r = rollouts(tmp_path)
    coefficients, values = VARIANTS["side_constant"](r).values, mean_one(published_raw(r))
    means = [values[side].mean().item() for side in sides(r)]
    assert abs(means[0] - means[1]) > 0.01
    for side, mean in zip(sides(r), means, strict=True):
        close(coefficients[side], torch.full((int(side.sum()),), mean))


def test_per_side_norm_keeps_the_ranking_and_the_balance(tmp_path):
    r = rollouts(tmp_path)
    coefficients, values = VARIANTS["per_side_norm"](r).values, mean_one(published_raw(r))
    for side in sides(r):
        close(coefficients[side], values[side] / values[side].mean())


@pytest.mark.parametrize("unit", [False, True])
def test_centroids_of_each_prompt_group(tmp_path, unit):
    """With K = 0 the margins are a plain loop over groups; only the temperature is the whole batch's."""
    r = rollouts(tmp_path, coef_refinement_steps=0)
    v, a = v_and_a(r)
    if unit:
        v = v / v.norm(dim=1, keepdim=True)
    m = torch.zeros_like(a)
    group = torch.arange(GROUPS).repeat_interleave(G * LENGTH)
    for g in range(GROUPS - 1):
        own = group == g
        mu = [(a.abs()[own & s, None] * v[own & s]).sum(0) / a.abs()[own & s].sum() for s in sides(r)]
        to_positive, to_negative = (((v[own] - centroid) ** 2).sum(1) for centroid in mu)
        m[own] = torch.where(a[own] < 0, to_positive - to_negative, to_negative - to_positive)
    gamma = torch.ones_like(a)
    for s in sides(r):
        gamma[s] = m[s].std(correction=0)
    expected = torch.where(a != 0, 0.8 + 0.4 * torch.sigmoid(m / gamma), 0.8)
    close(VARIANTS["unit_per_group" if unit else "per_group"](r).values, mean_one(expected))


def test_one_group_alone_is_the_published_method(tmp_path):
    first = slice(0, G * LENGTH)
    r = rollouts(tmp_path, keep=first)
    close(VARIANTS["per_group"](r).values, mean_one(published_raw(r)))


def test_a_group_without_contrast_is_left_in_the_middle(tmp_path):
    """One prompt, all of whose responses have the same sign, as a custom advantage may give."""
    r = rollouts(tmp_path)
    advantages = r.tokens.advantages.clone()
    advantages[-G * LENGTH :] = 0.5
    r = dataclasses.replace(r, advantages=advantages)
    alpha, _ = soft_assignments(r, r.features(), per_group=True)
    assert (alpha[-G * LENGTH :] == 0.5).all()


def test_mirror_weighs_a_place_by_its_closeness_to_the_negative_centroid(tmp_path):
    r = rollouts(tmp_path)
    raw = published_raw(r)
    close(VARIANTS["mirror"](r).values, mean_one(torch.where(r.tokens.advantages > 0, 2 - raw, raw)))
    # The same v on both sides gets the same λ, up to the sides' temperatures: α₊ + α₋ = 1 in the published form
    alpha = {}
    for sign in (1, -1):
        a = r.tokens.advantages.clone()
        probe, _ = soft_assignments(dataclasses.replace(r, advantages=a), r.features(), temperatures=torch.ones(2))
        alpha[sign] = probe
    assert torch.equal(alpha[1], alpha[-1])


def slopes_and_choices(r: Rollouts):
    """The minimiser of Σ (A − (w·h + b c) v)² + ridge |(w, b)|², c the root mean square length of h."""
    choice, _ = r.raw_features("temperature_gradient")
    v, h = choice[:, 0].double(), r.tokens.hidden.double()
    h = torch.cat([h, h.square().sum(1).mean().sqrt().expand(len(h), 1)], dim=1)
    x = h * v[:, None]
    ridge = SLOPE_RIDGE * torch.linalg.matrix_norm(x, 2) ** 2
    penalty = ridge.sqrt() * torch.eye(x.shape[1], dtype=torch.float64)
    target = torch.cat([r.tokens.advantages.double(), torch.zeros(x.shape[1], dtype=torch.float64)])
    w = torch.linalg.lstsq(torch.cat([x, penalty]), target[:, None]).solution[:, 0]
    return h @ w, v


def test_token_advantage_is_slope_times_choice(tmp_path):
    r = rollouts(tmp_path)
    slope, v = slopes_and_choices(r)
    a = r.tokens.advantages.double()
    z = torch.sign(a) * slope * v
    alpha = 1 / (1 + torch.exp(-z / (z**2).mean().sqrt()))
    close(VARIANTS["token_advantage"](r).values, mean_one(torch.where(a != 0, 0.8 + 0.4 * alpha, 0.8)))


def test_stake_and_choice(tmp_path):
    r = rollouts(tmp_path)
    slope, v = slopes_and_choices(r)
    a = r.tokens.advantages.double()
    assert (slope > 0).any()
    assert (slope < 0).any()
    z = torch.where(slope > 0, slope, 0.0) * (1 + torch.sign(a) * torch.tanh(v) / 2)
    alpha = 1 / (1 + torch.exp(-(z - z.mean()) / z.std(correction=0)))
    close(VARIANTS["stake_and_choice"](r).values, mean_one(torch.where(a != 0, 0.8 + 0.4 * alpha, 0.8)))


def test_group_agreement_compares_a_token_with_the_other_responses_of_its_group(tmp_path):
    r = rollouts(tmp_path, coef_features="hidden_gradient")
    v, a = r.features().double(), r.tokens.advantages.double()
    size = r.options.num_generations
    z = torch.zeros(len(a), dtype=torch.float64)
    for i in range(len(a)):
        for j in range(len(a)):
            one, other = r.tokens.responses[i].item(), r.tokens.responses[j].item()
            if one != other and one // size == other // size:
                z[i] += torch.sign(a[i]) * a[j] * (v[i] @ v[j])
    alpha = 1 / (1 + torch.exp(-z / (z**2).mean().sqrt()))
    close(VARIANTS["group_agreement"](r).values, mean_one(torch.where(a != 0, 0.8 + 0.4 * alpha, 0.8)))


def test_place_agreement_compares_a_token_with_other_responses_at_similar_places(tmp_path):
    r = rollouts(tmp_path)
    used = (r.tokens.advantages != 0).nonzero().flatten().tolist()
    a, h = r.tokens.advantages.double(), r.tokens.hidden.double()
    parts = [r.features(name).double() for name in ("hidden_gradient", "temperature_gradient")]
    v = torch.cat([part / (part[used] ** 2).sum(1).mean().sqrt() for part in parts], dim=1)
    h = h - h[used].mean(0)
    agreement, mass = torch.zeros_like(a), torch.zeros_like(a)
    for i in used:
        for j in used:
            if r.tokens.responses[i] != r.tokens.responses[j]:
                k = torch.exp((h[i] @ h[j] / h[i].norm() / h[j].norm() - 1) / 0.05)
                agreement[i] += k * a[j] * (v[i] @ v[j])
                mass[i] += k
    z = torch.sign(a) * agreement / (mass + 0.1 * mass[used].mean())
    alpha = 1 / (1 + torch.exp(-z / (z**2).mean().sqrt()))
    close(VARIANTS["place_agreement"](r).values, mean_one(torch.where(a != 0, 0.8 + 0.4 * alpha, 0.8)))


def test_slopes_tell_the_places_where_the_choice_decides(tmp_path):
    """Two kinds of places: at one the favourite is right, at the other it does not matter."""
    r = rollouts(tmp_path)
    decides = torch.arange(len(r.tokens.ids)) % 2 == 0
    v = torch.where(r.tokens.advantages >= 0, 1.0, -1.0)
    v[~decides] = torch.tensor([1.0, -1.0]).repeat_interleave(2).repeat(len(v))[: int((~decides).sum())]
    hidden = torch.stack([decides.float(), (~decides).float()], dim=1)
    r = dataclasses.replace(r, hidden=hidden, given=lambda name: (v[:, None], None))
    values = VARIANTS["token_advantage"](r).values
    counted = r.tokens.advantages != 0
    assert values[decides & counted].min() > values[~decides & counted].max()


@pytest.mark.parametrize("name", VARIANTS)
def test_is_the_same_spread_over_two_processes(tmp_path, name):
    """Two threads in place of processes: `reduce` waits for both and sums."""
    import threading

    barrier, slots = threading.Barrier(2, timeout=60), [None, None]
    results = [None, None]
    cut = 7 * LENGTH  # within a prompt group

    def process(rank):
        def reduce(tensor):
            slots[rank] = tensor
            barrier.wait()
            total = slots[0] + slots[1]
            barrier.wait()
            return total

        def gather(tensor):
            slots[rank] = tensor
            barrier.wait()
            both = torch.cat(slots)
            barrier.wait()
            return both

        keep = slice(0, cut) if rank == 0 else slice(cut, None)
        r = rollouts(tmp_path, keep=keep, reduce=reduce, gather=gather, variant=name)
        if "random" in name:  # the two halves of one stream
            ahead = torch.Generator().manual_seed(0)
            torch.rand(cut * rank, generator=ahead)
            r = dataclasses.replace(r, generator=ahead)
        results[rank] = VARIANTS[name](r).values

    threads = [threading.Thread(target=process, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    alone = VARIANTS[name](rollouts(tmp_path, variant=name)).values
    close(torch.cat(results), alone, 1e-5)
    assert alone.std() > 1e-3


@pytest.mark.parametrize("schedule", [{}, misaligned()], ids=["aligned", "misaligned"])
@pytest.mark.parametrize("name", ["mirror", "unit_per_group", "top_tokens", "fixed_temperature"])
def test_trains_with_real_rollouts(tmp_path, name, schedule, collected):
    options = {"coef_features": "hidden_gradient"} if name == "unit_per_group" else {}
    trainer = build(VariantGRPOTrainer, config(tmp_path, VariantGRPOConfig, variant=name, **options, **schedule))
    trainer.train()
    assert len(collected["losses"]) > 2
    for batch in collected["batches"]:
        mask = batch["completion_mask"].bool()
        assert batch["token_coefficients"][mask].mean() == pytest.approx(1, abs=1e-5)
        assert batch["token_coefficients"][mask].std() > 1e-3
    for inputs in collected["losses"]:
        weight = inputs["token_coefficients"]
        response = inputs["advantages"].sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1e-9)
        close(inputs["advantages"], weight * response, 1e-5)
    steps = [entry for entry in trainer.state.log_history if "delta/coef/std" in entry]
    assert steps
    assert all("delta/temperature/positive" not in entry for entry in steps)


def test_fixed_temperature_refuses_to_be_resumed(tmp_path):
    options = {"variant": "fixed_temperature", "save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    build(VariantGRPOTrainer, config(tmp_path, VariantGRPOConfig, **options)).train()
    again = build(VariantGRPOTrainer, config(tmp_path, VariantGRPOConfig, **{**options, "max_steps": 3}))
    with pytest.raises(RuntimeError, match="cannot be resumed"):
        again.train(resume_from_checkpoint=True)


NOT_DEFAULT = {
    "coef_features": "hidden_gradient",
    "coef_refinement_steps": 2,
    "coef_min": 0.5,
    "coef_max": 1.5,
    "coef_normalize": "credited",
}


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name, v in VARIANTS.items() for option in NOT_DEFAULT if option not in v.ignores],
)
def test_an_option_that_is_accepted_changes_the_coefficients(tmp_path, name, option):
    plain = rollouts(tmp_path, variant=name)
    changed = rollouts(tmp_path, variant=name, **{option: NOT_DEFAULT[option]})
    assert (VARIANTS[name](plain).values - VARIANTS[name](changed).values).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "variant must be one of within_side"),
        ({"variant": "best"}, "got 'best'"),
        ({"variant": "mirror", "coef_min": 1.0, "coef_max": 1.0}, "needs coef_min < coef_max"),
        ({"variant": "top_tokens", "variant_share": 1.0}, "between 0 and 1"),
        ({"variant": "mirror", "variant_share": 0.2}, "does not read variant_share"),
        *(
            ({"variant": name, option: value}, f"variant='{name}' does not read {option}")
            for name, variant in VARIANTS.items()
            for option, value in NOT_DEFAULT.items()
            if option in variant.ignores
        ),
    ],
)
def test_config_refuses(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, VariantGRPOConfig, **options)
