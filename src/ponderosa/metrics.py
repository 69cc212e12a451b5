"""Unbiased estimators, intervals and paired tests for answers that are right or wrong.

Values in, values out; every random draw comes from a seed that is an argument. Legend: P problems, S training
seeds, M samples per problem, k the number of samples a metric spends.

One answer per problem is a proportion: Wilson interval, McNemar test. Several samples per problem are clustered
(samples of one problem are not independent), so intervals resample problems, never samples, and the paired test
flips the sign of a problem's difference as a whole. What a metric averages over is always stated: no estimator
here is conditioned on the samples having finished, parsed or agreed.
"""

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 10_000
_EXACT_CELLS = 2**28
_CHUNK = 1_000


class Interval(NamedTuple):
    """A two-sided interval, both ends included."""

    low: float
    high: float


# Estimators -----------------------------------------------------------------------------------------------


def compute_pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased chance that at least one of k samples is correct: 1 - C(M - c, k) / C(M, k).

    Source: Chen et al. 2021 (arXiv 2107.03374), section 2.1. The plug-in 1 - (1 - c / M)^k is biased upwards
    for c / M small against 1 / k. At k = 1 it is c / M. Raises ValueError unless 1 <= k <= M and 0 <= c <= M.
    """
    _check_subset_size(num_samples, k)
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"num_correct={num_correct}; allowed: 0 to num_samples={num_samples}")
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def compute_diversity_at_k(num_samples: int, solution_counts: Sequence[int], k: int) -> float:
    """Unbiased expected number of different correct solutions among k samples.

    sum over solutions u of 1 - C(M - m_u, k) / C(M, k), m_u = how many of the M samples are solution u.
    Which solutions count as the same is the caller's rule. The quantity is that of "Smaller, Weaker, Yet Better"
    (arXiv 2408.16737); the estimator is pass@k applied to each solution. With one solution it is pass@k.
    """
    if sum(solution_counts) > num_samples:
        raise ValueError(f"solution_counts add up to {sum(solution_counts)} of num_samples={num_samples}")
    return sum((compute_pass_at_k(num_samples, count, k) for count in solution_counts), 0.0)


def compute_majority_at_k(votes: Sequence[str | None], is_correct: Sequence[bool], k: int) -> float:
    """Expected score of a plurality vote among k of the M samples, over all C(M, k) subsets, exactly.

    votes: canonical answers (`answer_key`); None abstains (M).
    is_correct: the verdict of each sample (M).

    A tie scores its expectation under a uniform draw among the leaders; a vote in which all abstain scores 0. An
    answer whose samples have mixed verdicts (one was truncated after saying it) scores its share of correct ones.

    No subset is enumerated: the number of subsets in which an answer leads with v votes is a coefficient of a
    product of binomial polynomials, so the cost is polynomial in k and the result exact for every M.
    """
    _check_subset_size(len(votes), k)
    assert len(votes) == len(is_correct), (len(votes), len(is_correct))
    counts = Counter(vote for vote in votes if vote is not None)
    correct = Counter(
        vote for vote, right in zip(votes, is_correct, strict=True) if right and vote is not None
    )
    abstentions = len(votes) - counts.total()
    expected = Fraction(0)
    for answer, num_correct in correct.items():
        others = counts - Counter({answer: counts[answer]})
        win = _compute_win_probability(counts[answer], tuple(sorted(others.values())), abstentions, k)
        expected += win * Fraction(num_correct, counts[answer])
    return float(expected)


@lru_cache(maxsize=65_536)
def _compute_win_probability(count: int, others: tuple[int, ...], abstentions: int, k: int) -> Fraction:
    """Chance that an answer held by `count` samples wins a vote among k, against answers held by `others`."""
    weight = Fraction(0)
    for votes in range(1, min(count, k) + 1):
        ways = math.comb(count, votes)
        for ties, subsets in _count_losing_subsets(others, abstentions, k - votes, votes).items():
            weight += Fraction(ways * subsets, ties + 1)
    return weight / math.comb(count + sum(others) + abstentions, k)


def _count_losing_subsets(others: Sequence[int], abstentions: int, size: int, most: int) -> dict[int, int]:
    """Subsets of the other samples, of one size, in which nobody has more than `most` votes, by number of ties."""
    subsets = {(taken, 0): math.comb(abstentions, taken) for taken in range(min(abstentions, size) + 1)}
    for count in others:
        grown: dict[tuple[int, int], int] = {}
        for (taken, ties), ways in subsets.items():
            for votes in range(min(count, most, size - taken) + 1):
                key = (taken + votes, ties + (votes == most))
                grown[key] = grown.get(key, 0) + ways * math.comb(count, votes)
        subsets = grown
    return {ties: ways for (taken, ties), ways in subsets.items() if taken == size}


# Intervals ------------------------------------------------------------------------------------------------


def compute_wilson_interval(num_correct: int, num_problems: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson score interval of a proportion p = c / n, one answer per problem.

    (p + z² / 2n ± z sqrt(p (1 - p) / n + z² / 4n²)) / (1 + z² / n). Source: Wilson 1927; Brown, Cai and DasGupta
    2001 recommend it over the normal interval, which has zero width at p = 0 and p = 1.
    Raises ValueError if there are no problems.
    """
    if num_problems < 1 or not 0 <= num_correct <= num_problems:
        raise ValueError(f"{num_correct} correct of {num_problems}; at least one problem is needed")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    n, p = num_problems, num_correct / num_problems
    centre = p + z * z / (2 * n)
    reach = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if num_correct == 0 else (centre - reach) / scale
    high = 1.0 if num_correct == num_problems else (centre + reach) / scale
    return Interval(low, high)


def bootstrap_problems(
    values_P: ArrayLike, *, seed: int, confidence: float = CONFIDENCE, resamples: int = RESAMPLES
) -> Interval:
    """Percentile interval of the mean of per-problem values, resampling problems with replacement.

    A problem's value is computed from all of its samples (a pass@k estimate, a mean length), so this is the cluster
    bootstrap with problems as clusters (Field and Welsh 2007). It shows problem and sampling noise, not training
    noise. If every problem has the same value, so does every resample, and the interval has no width.
    """
    values = np.asarray(values_P, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(
            f"values_P has shape {values.shape}; allowed: one value for each of at least one problem"
        )
    means = _resample_means(values, resamples, np.random.default_rng(seed))
    return _percentiles(means, confidence)


def bootstrap_seeds_and_problems(
    values_SP: ArrayLike, *, seed: int, confidence: float = CONFIDENCE, resamples: int = RESAMPLES
) -> Interval:
    """Percentile interval of the grand mean when S training seeds answered the same P problems.

    Seeds (rows) and problems (columns) are resampled independently of each other and together: the pigeonhole
    bootstrap for crossed factors (Owen 2007, arXiv 0712.1111), slightly conservative. With few seeds (S < 5) the
    spread between seeds is itself poorly known: print every seed beside the interval.
    """
    values = np.asarray(values_SP, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"values_SP has shape {values.shape}; allowed: one row a seed, one column a problem")
    num_seeds = len(values)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=resamples)
    # Once its seeds are drawn, a resample is one by problem of the mean over those seeds.
    weights, times = np.unique(drawn, axis=0, return_counts=True)
    means = [
        _resample_means(weight @ values / num_seeds, int(count), rng)
        for weight, count in zip(weights, times, strict=True)
    ]
    return _percentiles(np.concatenate(means), confidence)


def _resample_means(values_P: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Means of resamples with replacement. They depend only on how often each distinct value is drawn, which is far
    fewer numbers than P."""
    distinct, counts = np.unique(values_P, return_counts=True)
    means = [
        rng.multinomial(values_P.size, counts / values_P.size, size=size) @ distinct / values_P.size
        for size in _chunk_sizes(resamples)
    ]
    return np.concatenate(means)


# Paired tests ---------------------------------------------------------------------------------------------


def compute_mcnemar_p(only_a: int, only_b: int) -> float:
    """Two-sided exact McNemar test: do two models that answered the same problems differ?

    only_a, only_b: problems that only the first, only the second answered correctly. Under the null a discordant
    problem falls on either side with chance 1/2, so p = min(1, 2 · P[Binomial(a + b, 1/2) <= min(a, b)]).
    No discordant problem gives p = 1. Source: McNemar 1947, in its exact binomial form.
    """
    if only_a < 0 or only_b < 0:
        raise ValueError(f"only_a={only_a}, only_b={only_b}; allowed: counts from 0")
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / (1 << discordant))


def compute_sign_flip_p(
    values_a_P: Sequence[float], values_b_P: Sequence[float], *, seed: int = 0, resamples: int = 100_000
) -> float:
    """Two-sided paired permutation test on per-problem values of two models, such as means over k samples.

    Under the null, exchanging the two models on any problem changes nothing, so each difference d_i keeps its size
    and takes either sign: p = P[|Σ ± d_i| >= |Σ d_i|] over all 2^P sign patterns (Fisher 1935; Good 2005). Means
    over samples are rationals with one small denominator, so the sums lie on an integer grid and their whole
    distribution comes from P convolutions. Only when that grid is too large (beyond 2^28 cells of work) are
    `resamples` patterns drawn from `seed`; then p = (1 + hits) / (1 + resamples), never 0.
    On right-or-wrong values this equals `compute_mcnemar_p`.
    """
    differences = [_as_fraction(a) - _as_fraction(b) for a, b in zip(values_a_P, values_b_P, strict=True)]
    grid = math.lcm(*(difference.denominator for difference in differences))
    integers = [int(difference * grid) for difference in differences if difference]
    unit = math.gcd(*integers) or 1
    sizes = [abs(value) // unit for value in integers]
    observed = abs(sum(integers)) // unit
    if len(sizes) * (2 * sum(sizes) + 1) <= _EXACT_CELLS:
        return _compute_flip_tail(sizes, observed)
    return _sample_flip_tail(sizes, observed, seed=seed, resamples=resamples)


def _compute_flip_tail(sizes: Sequence[int], observed: int) -> float:
    """P[|sum of randomly signed sizes| >= observed], by convolving one two-point distribution at a time."""
    reach = sum(sizes)
    probability = np.zeros(2 * reach + 1)
    probability[reach] = 1.0
    for size in sizes:
        flipped = np.zeros_like(probability)
        flipped[size:] = probability[:-size]
        flipped[:-size] += probability[size:]
        probability = flipped / 2
    sums = np.abs(np.arange(-reach, reach + 1))
    return min(1.0, float(probability[sums >= observed].sum()))


def _sample_flip_tail(sizes: Sequence[int], observed: int, *, seed: int, resamples: int) -> float:
    rng = np.random.default_rng(seed)
    weights = np.asarray(sizes, dtype=np.int64)
    hits = 0
    for size in _chunk_sizes(resamples):
        signs = rng.integers(0, 2, size=(size, weights.size), dtype=np.int8) * 2 - 1
        hits += int(np.count_nonzero(np.abs(signs @ weights) >= observed))
    return (1 + hits) / (1 + resamples)


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values to compare with the family-wise level, in the order given.

    Sorted ascending, p'(i) = max over j <= i of (m - j + 1) p(j), capped at 1. Source: Holm 1979.
    """
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, running)
    return adjusted


def _check_subset_size(num_samples: int, k: int) -> None:
    if not 1 <= k <= num_samples:
        raise ValueError(f"k={k}; allowed: 1 to the {num_samples} samples there are")


def _as_fraction(value: float) -> Fraction:
    """The small-denominator rational a mean over samples is; doubles tell all denominators to 10^6 apart."""
    return Fraction(value).limit_denominator(1_000_000)


def _chunk_sizes(resamples: int) -> list[int]:
    """Sizes of the batches draws are made in, so that memory does not grow with `resamples`."""
    full, rest = divmod(resamples, _CHUNK)
    return [_CHUNK] * full + [rest] * bool(rest)


def _percentiles(means: Floats, confidence: float) -> Interval:
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def adjust_bh(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's step-up correction: p-values to compare with a false-discovery rate, in the order given.

    Sorted ascending, p'(i) = min over j >= i of m p(j) / j, capped at 1: of those at or below q, an expected share of
    at most q are false. Holds for independent tests. Source: Benjamini and Hochberg 1995.
    """
    adjusted = [0.0] * len(p_values)
    running = 1.0
    ranked = sorted(range(len(p_values)), key=lambda i: p_values[i], reverse=True)
    for num_later, index in enumerate(ranked):
        running = min(running, len(p_values) * p_values[index] / (len(p_values) - num_later))
        adjusted[index] = running
    return adjusted
