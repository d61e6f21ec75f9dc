"""Statistics of evaluation: cases worked by hand, properties, and coverage by simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delta_trl.evaluation.benchmarks import BENCHMARKS, SUITES
from delta_trl.evaluation.statistics import (
    average,
    bootstrap_interval,
    compare,
    holm,
    majority_share,
    mann_whitney,
    pass_at_k,
    sign_flip_test,
)


PAPER_SIZES = [BENCHMARKS[name].size for name in SUITES["paper"]]

# Averages of the paper's tables, in points: DAPO, forking tokens, SAPO, FIPO, DelTA at 8B and 14B, then Olmo3-7B.
PUBLISHED_AVERAGES = [22.95, 24.80, 25.14, 23.89, 28.40, 35.09, 36.77, 35.94, 37.29, 39.91, 19.01, 22.80]


def rows(*counts: int, n: int = 4) -> np.ndarray:
    """Problems with so many correct of n samples."""
    return np.array([[i < count for i in range(n)] for count in counts])


def test_average_and_its_clustered_error_by_hand():
    # Problem means 0, 0.5, 1: mean 0.5, standard deviation 0.5, so an error of 0.5 / sqrt(3).
    estimate = average([rows(0, 2, 4)])
    assert estimate.value == 0.5
    assert estimate.standard_error == pytest.approx(0.5 / math.sqrt(3))


def test_samples_of_one_problem_do_not_count_as_independent():
    """Ten copies of every sample add no information, so the error must not shrink."""
    correct = rows(0, 1, 2, 4, 4)
    assert average([np.tile(correct, (1, 10))]).standard_error == pytest.approx(average([correct]).standard_error)


def test_a_single_problem_has_no_error():
    assert average([rows(3)]).standard_error is None


def test_the_average_weighs_problems_not_benchmarks():
    # 30 problems all right and 33 all wrong: 30/63, not 1/2.
    estimate = average([np.ones((30, 4), bool), np.zeros((33, 4), bool)])
    assert estimate.value == pytest.approx(30 / 63)
    assert estimate.standard_error == 0  # nothing varies within a benchmark, and benchmarks are not resampled


def test_error_of_the_average_combines_benchmarks_by_hand():
    # Variances of the problem means: 0.5 with P = 2 and 0 with P = 3. sqrt(2 * 0.5 + 0) / 5.
    assert average([rows(0, 4), rows(4, 4, 4)]).standard_error == pytest.approx(math.sqrt(2 * 0.5) / 5)


def test_the_papers_suite_has_213_problems():
    assert PAPER_SIZES == [30, 30, 30, 30, 30, 33, 30]
    assert sum(PAPER_SIZES) == 213


@pytest.mark.parametrize("published", PUBLISHED_AVERAGES)
def test_published_averages_are_averages_over_213_problems_of_16_samples(published):
    """Each published average is that of a whole number of correct samples, up to a rounding of its parts.

    The possible averages lie 0.029 points apart, so a suite of another size or weighting would miss by more than 0.01
    for a third of the figures.
    """
    total = sum(PAPER_SIZES) * 16
    count = round(published / 100 * total)
    flat = np.zeros(total, bool)
    flat[np.random.default_rng(0).permutation(total)[:count]] = True
    ends = np.cumsum(PAPER_SIZES)[:-1]
    strata = np.split(flat.reshape(-1, 16), ends)
    assert 100 * average(strata).value == pytest.approx(published, abs=0.01)
    # The same figure from the benchmarks' averages, as a reader of the table would check it.
    weighted = sum(size * average([stratum]).value for size, stratum in zip(PAPER_SIZES, strata, strict=True)) / 213
    assert 100 * weighted == pytest.approx(published, abs=0.01)


def test_pass_at_k_by_hand():
    # c = 1 of n = 4: pass@1 = 1/4, pass@2 = 1 - C(3,2)/C(4,2) = 1/2, pass@4 = 1.
    assert [pass_at_k([rows(1)], k).value for k in (1, 2, 4)] == pytest.approx([0.25, 0.5, 1.0])


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(samples, data):
    k = data.draw(st.integers(1, len(samples)))
    subsets = list(itertools.combinations(samples, k))
    assert pass_at_k([np.array([samples])], k).value == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_more_than_was_drawn_is_refused():
    with pytest.raises(ValueError, match=r"pass@5 needs 1 <= k <= 4"):
        pass_at_k([rows(1)], 5)


@pytest.mark.parametrize(
    ("groups", "correct", "expected"),
    [
        ([0, 0, 1], [True, True, False], 1.0),
        ([0, 1, 1], [True, False, False], 0.0),
        ([0, 1], [True, False], 0.5),  # a tie, broken at random
        ([0, 1, 2], [False, True, False], 1 / 3),
        ([None, None, 1], [False, False, True], 1.0),  # no answer, no vote
        ([None, None], [False, False], 0.0),
    ],
)
def test_majority(groups, correct, expected):
    assert majority_share(groups, correct) == pytest.approx(expected)


def test_sign_flips_by_hand():
    # Three problems, all better by 1: of the 8 patterns only +++ and --- are as extreme.
    assert sign_flip_test(np.array([1, 1, 1])) == (pytest.approx(2 / 8), True)
    # 2, 1 and -1: sums are 2, 0, 4, 2, -2, -4, 0, -2; |sum| >= 2 in six of eight.
    assert sign_flip_test(np.array([2, 1, -1])) == (pytest.approx(6 / 8), True)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=8))
def test_sign_flips_equal_enumeration(differences):
    observed = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    p, exact = sign_flip_test(np.array(differences))
    assert exact
    assert p == pytest.approx(sum(s >= observed for s in sums) / len(sums))


def test_sign_flips_over_many_problems_are_monte_carlo_and_near_the_normal_limit():
    # 100 problems, 60 better and 40 worse by 1: z = 20 / 10; with the correction for even steps p = 0.0569.
    p, exact = sign_flip_test(np.array([1] * 60 + [-1] * 40))
    assert not exact
    assert p == pytest.approx(0.0569, abs=0.003)


def test_problems_without_a_difference_leave_the_test_exact():
    differences = np.array([1, 1, 1] + [0] * 200)
    assert sign_flip_test(differences) == (pytest.approx(2 / 8), True)


def test_mann_whitney_by_hand():
    # Two scores each, both of B above both of A: 1 of C(4, 2) = 6 orders.
    a = np.array([[False, True], [False, False], [False, False]])
    b = np.array([[True, True], [True, True], [False, True]])
    assert mann_whitney([a], [b]) == pytest.approx(1 / 6)


def test_holm_by_hand():
    # 3 * 0.01, then 2 * 0.02, then 1 * 0.03 raised to the one before.
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_comparing_a_run_with_itself_finds_nothing():
    correct = rows(0, 1, 2, 3, 4)
    comparison = compare([correct], [correct])
    assert (comparison.difference, comparison.low, comparison.high) == (0, 0, 0)
    assert comparison.p_sign_flip == 1


def test_swapping_the_runs_swaps_the_difference():
    rng = np.random.default_rng(1)
    a, b = ([rng.random((30, 16)) < share, rng.random((33, 16)) < share] for share in (0.3, 0.4))
    there, back = compare(a, b), compare(b, a)
    assert there.difference == -back.difference > 0
    assert there.low == pytest.approx(-back.high, abs=0.01)
    assert there.p_sign_flip == pytest.approx(back.p_sign_flip, abs=0.01)


def test_unlike_numbers_of_samples_compare_on_one_scale():
    """2 of 4 and 4 of 8 are no difference; the sign-flip test must not see one in the counts."""
    assert compare([rows(2, 2, 4)], [rows(4, 4, 8, n=8)]).p_sign_flip == 1


def test_runs_with_unlike_problems_are_refused():
    with pytest.raises(ValueError, match=r"\[3\] and \[2\] problems"):
        compare([rows(1, 2, 3)], [rows(1, 2)])


def test_an_interval_over_one_problem_is_refused():
    with pytest.raises(ValueError, match="at least 2 problems"):
        bootstrap_interval([np.array([0.5])])


def test_more_samples_narrow_mann_whitney_but_not_the_interval():
    """Why the paired statistics come first: repeating the same samples makes only Mann-Whitney surer."""
    rng = np.random.default_rng(0)
    skill = rng.random((40, 1))
    a, b = rng.random((40, 8)) < skill, rng.random((40, 8)) < skill + 0.04
    once, repeated = compare([a], [b]), compare([np.tile(a, (1, 6))], [np.tile(b, (1, 6))])
    assert repeated.p_mann_whitney < once.p_mann_whitney
    assert repeated.high - repeated.low == pytest.approx(once.high - once.low)
    assert repeated.p_sign_flip == pytest.approx(once.p_sign_flip)


def _coverage(sizes: list[int], rounds: int) -> float:
    """How often the interval of a difference holds the true one: problems are drawn anew every time, then sampled."""
    rng = np.random.default_rng(7)
    gain, hits = 0.05, 0
    for round_number in range(rounds):
        strata = []
        for size in sizes:
            skill = rng.beta(0.5, 1.0, size)  # many problems never solved, as in competitions
            better = skill + gain * rng.exponential(1.0, size) * (1 - skill)
            a = rng.random((size, 16)) < skill[:, None]
            b = rng.random((size, 16)) < np.minimum(better, 1.0)[:, None]
            strata.append(b.mean(axis=1) - a.mean(axis=1))
        low, high = bootstrap_interval(strata, seed=round_number)
        hits += low <= _TRUE_GAIN <= high
    return hits / rounds


# E[min(skill + gain * e * (1 - skill), 1) - skill], with e exponential and skill Beta(0.5, 1), E[1 - skill] = 2/3:
# gain * (1 - exp(-1 / gain)) * 2/3.
_TRUE_GAIN = 0.05 * (1 - math.exp(-1 / 0.05)) * 2 / 3


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "rounds"), [([30], 2000), (PAPER_SIZES, 1000)], ids=["aime", "paper"])
def test_intervals_cover_the_truth_95_percent_of_the_time(sizes, rounds, monkeypatch):
    # Fewer resamples than in use, for time; the ends are noisier, which if anything loses coverage.
    monkeypatch.setattr("delta_trl.evaluation.statistics.BOOTSTRAP_RESAMPLES", 1_000)
    assert _coverage(sizes, rounds) == pytest.approx(0.95, abs=0.02)
