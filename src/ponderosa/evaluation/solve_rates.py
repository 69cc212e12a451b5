"""How often a model solves a problem, from attempts whose number may depend on how they went.

Pure. Legend: K trials of a problem, c of them correct, r the target of a budget that stops at its r-th correct one,
M attempts drawn. Which number is for what:

    c / K               what PassUntil (arXiv 2310.03262) reports: the likeliest rate; ranks problems, biased upwards
    unbiased rate       for means over problems; a single problem's value says little (at r = 1 it is 0 or 1)
    posterior           one problem's rate with what is not known about it; used to choose problems
    coverage at k       share of problems solved within k attempts
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean
from typing import NamedTuple

from ponderosa.evaluation.summary import compute_interval
from ponderosa.identity import derive_seed
from ponderosa.metrics import CONFIDENCE, compute_pass_at_k
from ponderosa.search.budgets import count_trials

JEFFREYS = (0.5, 0.5)
"""The prior of a solve rate unless another is given: Beta(1/2, 1/2), whose central intervals cover a fixed rate
about as often as they say (Brown, Cai and DasGupta 2001)."""
_BISECTIONS = 50


class SolveRate(NamedTuple):
    """What is known of one problem's solve rate. num_trials: attempts up to the stopping point, of all drawn."""

    num_attempts: int
    num_trials: int
    num_correct: int
    rate: float
    unbiased_rate: float
    posterior_mean: float
    low: float
    high: float


class Posterior(NamedTuple):
    """Mean and central interval of a solve rate."""

    mean: float
    low: float
    high: float


def estimate_solve_rate(is_correct_M: Sequence[bool], target: int | None) -> SolveRate:
    """A problem's solve rate from its attempts in sample order; `target` is the budget's, None if it never stops.

    Raises ValueError if there are no attempts.
    """
    trials = count_trials(is_correct_M, target)
    # Why drawing stopped says nothing about the rate beyond the draws, so the posterior takes all of them.
    posterior = compute_posterior(len(is_correct_M), sum(is_correct_M))
    return SolveRate(
        num_attempts=len(is_correct_M),
        num_trials=trials.num_trials,
        num_correct=trials.num_correct,
        rate=trials.num_correct / trials.num_trials,
        unbiased_rate=compute_unbiased_rate(trials.num_trials, trials.num_correct, target),
        posterior_mean=posterior.mean,
        low=posterior.low,
        high=posterior.high,
    )


def compute_unbiased_rate(num_trials: int, num_correct: int, target: int | None) -> float:
    """Unbiased solve rate when trials stop at the `target`-th correct one or at a cap, whichever is first.

    Stopped at the target: (r - 1) / (K - 1), and 1 where K = 1. Stopped at the cap with fewer: c / K. It is the share
    of the ways to the stopping point that begin with a correct trial (Girshick, Mosteller and Savage 1946; without
    a cap, Haldane 1945). r / K is biased upwards because the last trial is always a correct one: by a factor of
    -ln p / (1 - p) at r = 1, where the only unbiased value is whether the first trial was correct.
    """
    if not 0 <= num_correct <= num_trials or num_trials < 1:
        raise ValueError(f"{num_correct} correct of {num_trials} trials; at least one trial is needed")
    if target is None or num_correct < target:
        return num_correct / num_trials
    return 1.0 if num_trials == 1 else (target - 1) / (num_trials - 1)


def compute_coverage_at_k(is_correct_M: Sequence[bool], k: int, target: int | None) -> float:
    """Unbiased chance that k attempts at a problem hold a correct one; the mean over problems is their coverage.

    All M attempts drawn whatever they were (target None): pass@k. Stopped early: whether one of the first k was
    correct, which is known for every k up to the cap, since nothing stops before a first correct attempt.
    """
    if target is None:
        return compute_pass_at_k(len(is_correct_M), sum(is_correct_M), k)
    return float(any(is_correct_M[:k]))


def summarise_solve_rates(
    is_correct_PM: Sequence[Sequence[bool]], *, max_attempts: int, target: int | None, seed: int
) -> dict[str, dict[str, float]]:
    """Means over problems with their intervals: the solve rate, and coverage at powers of two and at the cap."""
    ks = sorted({1 << i for i in range(max_attempts.bit_length())} | {max_attempts})
    values = {"solve_rate": [estimate_solve_rate(row, target).unbiased_rate for row in is_correct_PM]}
    for k in ks:
        values[f"coverage@{k}"] = [compute_coverage_at_k(row, k, target) for row in is_correct_PM]
    means: dict[str, dict[str, float]] = {}
    for name, values_P in values.items():
        interval = compute_interval(values_P, is_frac=True, seed=derive_seed("solve_rates", seed, name))
        means[name] = {"value": fmean(values_P), "low": interval.low, "high": interval.high}
    return means


@lru_cache(maxsize=65_536)
def compute_posterior(
    num_trials: int,
    num_correct: int,
    prior: tuple[float, float] = JEFFREYS,
    confidence: float = CONFIDENCE,
) -> Posterior:
    """The posterior of a solve rate: Beta(a + c, b + K - c) for a prior Beta(a, b).

    It does not depend on the rule by which trials stopped. Raises ValueError for more correct than trials.
    """
    if not 0 <= num_correct <= num_trials:
        raise ValueError(f"{num_correct} correct of {num_trials} trials; allowed: 0 to the number of trials")
    a, b = prior[0] + num_correct, prior[1] + num_trials - num_correct
    tail = (1 - confidence) / 2
    return Posterior(a / (a + b), compute_beta_quantile(tail, a, b), compute_beta_quantile(1 - tail, a, b))


def compute_beta_quantile(probability: float, a: float, b: float) -> float:
    """The x at which Beta(a, b) has this much probability below it, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if compute_beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def compute_beta_cdf(x: float, a: float, b: float) -> float:
    """Probability of Beta(a, b) below x: the regularised incomplete beta function I_x(a, b).

    By its continued fraction (DLMF 8.17.22), which converges in some sqrt(a + b) terms for x below the mean; above
    it, I_x(a, b) = 1 - I_{1-x}(b, a).
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - compute_beta_cdf(1 - x, b, a)
    fraction = 1.0
    for m in range(16 + 4 * math.isqrt(math.ceil(a + b)), 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        fraction = 1 + odd / (1 + even / fraction)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta) / (a * fraction)
