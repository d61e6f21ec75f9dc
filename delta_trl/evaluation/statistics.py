"""From correct and wrong samples to figures that say how far they can be trusted.

Symbols: P problems, n samples a problem. `correct` is a (P, n) bool array; a sample that was never drawn is False in
it, so that every requested sample counts. All figures are shares in [0, 1]; tables multiply by 100.

Samples of one problem are alike, so P·n samples are not P·n independent observations. The problem is the unit
throughout: standard errors are clustered by problem, intervals resample problems, tests permute problems. Several
benchmarks are strata: each has a fixed number of problems, so problems are resampled within their benchmark, and an
average over benchmarks weighs every problem the same (the paper's 213).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


CONFIDENCE = 0.95
# Enough that the Monte Carlo error of an interval's end is about 2% of its width.
BOOTSTRAP_RESAMPLES = 10_000
# The sign-flip test is exact for up to 16 problems that differ (2^16 patterns), and Monte Carlo beyond. A Monte Carlo
# p-value is never below 1 / (SIGN_FLIPS + 1).
SIGN_FLIPS = 99_999


@dataclass(frozen=True)
class Estimate:
    """A share in [0, 1] and its standard error; None where a single problem leaves it undefined."""

    value: float
    standard_error: float | None


@dataclass(frozen=True)
class Comparison:
    """Run B against run A on the same problems.

    Args:
        difference: avg@n of B minus that of A, weighted by problems, in [-1, 1].
        low, high: Ends of the 95% bootstrap interval of the difference.
        p_sign_flip: Two-sided p-value of the sign-flip test over problems.
        exact: Whether that test enumerated every sign pattern.
        p_mann_whitney: One-sided p-value (B greater) of the Mann-Whitney U test over the n whole-suite scores.
        problems: P.
    """

    difference: float
    low: float
    high: float
    p_sign_flip: float
    exact: bool
    p_mann_whitney: float
    problems: int


def average(strata: Sequence[np.ndarray]) -> Estimate:
    """avg@n over the problems of one or several benchmarks, each problem weighing the same.

    The standard error is clustered by problem: it comes from the spread of the problems' means within each benchmark.

    Args:
        strata: One (P_b, n) bool array of correct samples a benchmark.
    """
    return _stratified_mean([correct.mean(axis=1) for correct in strata])


def pass_at_k(strata: Sequence[np.ndarray], k: int) -> Estimate:
    """pass@k: the probability that at least one of k samples is correct, by the unbiased estimator.

    For c correct of n samples, 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374).

    Raises:
        ValueError: k is not in 1..n.
    """
    per_problem = []
    for correct in strata:
        n = correct.shape[1]
        if not 1 <= k <= n:
            raise ValueError(f"pass@{k} needs 1 <= k <= {n}, the samples drawn a problem. Draw more, or lower k.")
        counts = correct.sum(axis=1)
        per_problem.append(np.array([1 - math.comb(n - int(c), k) / math.comb(n, k) for c in counts]))
    return _stratified_mean(per_problem)


def majority_share(groups: Sequence[int | None], correct: Sequence[bool]) -> float:
    """majority@n of one problem: the probability that the most frequent answer is correct.

    Samples without an answer do not vote. Ties are broken at random, of which this is the expected value: the share of
    correct samples among those in the largest groups. With t answers equally frequent and one of them correct it is
    1/t, and the order of the samples does not matter.

    Args:
        groups: (n,) the group of equal answers that each sample belongs to, None for no answer.
        correct: (n,) whether each sample is correct.
    """
    votes = Counter(group for group in groups if group is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    return float(np.mean([c for group, c in zip(groups, correct, strict=True) if votes[group] == most]))


def majority_at_n(groups: Sequence[Sequence[Sequence[int | None]]], strata: Sequence[np.ndarray]) -> Estimate:
    """majority@n over benchmarks: the mean of `majority_share` over all problems.

    Args:
        groups: For each benchmark and problem, the (n,) answer groups.
        strata: For each benchmark, the (P_b, n) correct samples.
    """
    return _stratified_mean(
        [
            np.array([majority_share(*pair) for pair in zip(problem_groups, correct, strict=True)])
            for problem_groups, correct in zip(groups, strata, strict=True)
        ]
    )


def bootstrap_interval(strata: Sequence[np.ndarray], seed: int = 0) -> tuple[float, float]:
    """95% interval of a mean over problems: problems are resampled with replacement, within their benchmark.

    It is the expanded percentile interval (Hesterberg 2015, arXiv 1411.5279): the plain one is too narrow for 30
    problems, by sqrt((P - 1) / P) and by using the normal's quantile for Student's, and covers 93% instead of 95%.

    Args:
        strata: One (P_b,) array of per-problem values a benchmark, such as differences of avg@n between two runs.
        seed: Makes the interval reproducible.

    Raises:
        ValueError: Fewer than two problems in a benchmark: nothing to resample.
    """
    sizes = np.array([len(values) for values in strata])
    if sizes.min(initial=2) < 2:
        raise ValueError(f"An interval needs at least 2 problems a benchmark, got {sizes.tolist()}.")
    unbiased, plugin = (_stratified_error(strata, ddof) for ddof in (1, 0))
    centre = float(np.concatenate(strata).mean())
    if unbiased == 0:
        return centre, centre
    freedom = int((sizes - 1).sum())
    wider = stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * unbiased / plugin
    result = stats.bootstrap(
        tuple(strata),
        lambda *resampled, axis: sum(values.sum(axis=axis) for values in resampled) / sizes.sum(),
        n_resamples=BOOTSTRAP_RESAMPLES,
        batch=1_000,
        confidence_level=2 * stats.norm.cdf(wider) - 1,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def sign_flip_test(differences: np.ndarray, seed: int = 0) -> tuple[float, bool]:
    """Two-sided test that two runs are exchangeable on every problem: flips signs of the per-problem differences.

    Args:
        differences: (P,) per-problem differences, preferably integers, which keep equal sums equal.
        seed: Of the Monte Carlo patterns.

    Returns:
        The p-value, and whether every pattern was enumerated. Problems without a difference change nothing and are
        left out, so that more cases are exact.
    """
    differing = differences[differences != 0]
    if not len(differing):
        return 1.0, True
    exact = 2 ** len(differing) <= SIGN_FLIPS
    if len(differing) == 1:
        return 1.0, True  # scipy needs two observations; either sign of one is as extreme as the other
    result = stats.permutation_test(
        (differing,),
        lambda values, axis: values.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=SIGN_FLIPS,
        batch=10_000,
        alternative="two-sided",
        rng=np.random.default_rng(seed),
    )
    return float(min(1.0, result.pvalue)), exact


def mann_whitney(strata_a: Sequence[np.ndarray], strata_b: Sequence[np.ndarray]) -> float:
    """The paper's test (appendix K): one-sided Mann-Whitney U, B greater than A, over whole-suite scores.

    Sample i of every problem together makes the i-th whole-suite score, so n samples give n scores a run.

    For comparability only. It drops the pairing by problem, and it takes the problems as given: it asks whether the
    same checkpoint would score higher on the same problems if sampled again, and gets arbitrarily sure of it as n
    grows. The bootstrap and the sign-flip test ask whether it would be higher on other problems of the kind.
    """
    scores_a, scores_b = (np.concatenate(strata).mean(axis=0) for strata in (strata_a, strata_b))
    return float(stats.mannwhitneyu(scores_b, scores_a, alternative="greater").pvalue)


def compare(strata_a: Sequence[np.ndarray], strata_b: Sequence[np.ndarray], seed: int = 0) -> Comparison:
    """Compares run B with run A on the same problems.

    Args:
        strata_a, strata_b: One bool array of correct samples a benchmark, (P_b, n_a) and (P_b, n_b), whose rows are
            the same problems.
        seed: Of the bootstrap and of the Monte Carlo test.

    Raises:
        ValueError: The two do not have the same benchmarks and problems.
    """
    shapes = [[len(correct) for correct in strata] for strata in (strata_a, strata_b)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"The runs have {shapes[0]} and {shapes[1]} problems in their benchmarks: a paired comparison needs the "
            "same problems in both. Compare on the benchmarks that both have."
        )
    differences = [b.mean(axis=1) - a.mean(axis=1) for a, b in zip(strata_a, strata_b, strict=True)]
    low, high = bootstrap_interval(differences, seed)
    # As integers over the common denominator, equal sums are equal, whatever the order of summation.
    unit = math.lcm(*(correct.shape[1] for correct in (*strata_a, *strata_b)))
    counts = [
        b.sum(axis=1) * (unit // b.shape[1]) - a.sum(axis=1) * (unit // a.shape[1])
        for a, b in zip(strata_a, strata_b, strict=True)
    ]
    p_sign_flip, exact = sign_flip_test(np.concatenate(counts), seed)
    return Comparison(
        difference=float(np.concatenate(differences).mean()),
        low=low,
        high=high,
        p_sign_flip=p_sign_flip,
        exact=exact,
        p_mann_whitney=mann_whitney(strata_a, strata_b),
        problems=sum(shapes[0]),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p-values, in the order given, that bound the family-wise error rate."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def _stratified_mean(strata: Sequence[np.ndarray]) -> Estimate:
    error = None if min(len(values) for values in strata) < 2 else _stratified_error(strata, ddof=1)
    return Estimate(float(np.concatenate(strata).mean()), error)


def _stratified_error(strata: Sequence[np.ndarray], ddof: int) -> float:
    total = sum(len(values) for values in strata)
    return math.sqrt(sum(len(values) * float(np.var(values, ddof=ddof)) for values in strata)) / total
