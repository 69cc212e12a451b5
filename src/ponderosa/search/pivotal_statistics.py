"""The statistics of pivotal tokens: values in, values out.

A prefix's chance of success p is estimated from rollouts that go on from it. A rollout cut short by the token limit
without being right is *truncated*. Counting it as a failure, as Phi-4 does, makes a long prefix look bad merely
because it is near the limit; leaving it out hides a token that sends the policy into endless text. Where it matters
both ways are computed, and a change counts only if it shows both ways.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

from ponderosa.metrics import Interval, compute_wilson_interval
from ponderosa.records import GradedAttempt


class Tally(NamedTuple):
    """How rollouts ended. num_truncated: cut short by the token limit, and not right."""

    num_samples: int
    num_correct: int
    num_truncated: int

    @property
    def num_finished(self) -> int:
        return self.num_samples - self.num_truncated

    @property
    def rate(self) -> float:
        """Estimate of p with truncation as failure."""
        return self.num_correct / self.num_samples

    @property
    def finished_rate(self) -> float | None:
        """Estimate of p among rollouts that were not truncated; None if all were."""
        return self.num_correct / self.num_finished if self.num_finished else None

    @property
    def truncated_frac(self) -> float:
        return self.num_truncated / self.num_samples

    @property
    def interval(self) -> Interval:
        """Of p with truncation as failure (Wilson)."""
        return compute_wilson_interval(self.num_correct, self.num_samples)


def tally_rollouts(rollouts: Sequence[GradedAttempt]) -> Tally:
    """Counts over rollouts from one prefix."""
    num_correct = sum(one.verdict.correct for one in rollouts)
    num_truncated = sum(one.attempt.finish == "length" and not one.verdict.correct for one in rollouts)
    return Tally(len(rollouts), num_correct, num_truncated)


def split_at_midpoint(logprobs: Sequence[float]) -> int:
    """Where to cut a segment of N > 1 tokens: the first part holds about half of its log-probability (1 .. N - 1).

    The nearest cut to the cumulative midpoint (Phi-4, arXiv 2412.08905, section 4.3); of equally near ones, such as
    on both sides of one unlikely token, the one that leaves the parts most equal in tokens.
    """
    assert len(logprobs) > 1, logprobs
    half = sum(logprobs) / 2
    cumulative, misses = 0.0, []
    for count, logprob in enumerate(logprobs[:-1], 1):
        cumulative += logprob
        misses.append((round(abs(cumulative - half), 9), abs(2 * count - len(logprobs)), count))
    return min(misses)[2]


def bound_change(logprobs: Sequence[float]) -> float:
    """Most that p can change over a segment whose tokens were drawn with these log-probabilities: 1 - exp(sum).

    p before is the mean of p over all continuations, so with P the chance of this one, |p after - p before| =
    (1 - P) |p after - p of the others| <= 1 - P. A confident policy's tokens need no rollouts to be ruled out.
    """
    return -math.expm1(sum(logprobs))


def compute_change_p(before: Tally, after: Tally, min_effect: float) -> float:
    """p-value of |p after - p before| <= min_effect; the larger of truncation as failure and truncation left out.

    Rejecting only if both tests do keeps the level of each (intersection-union test, Berger 1982). 1 if the two ways
    see the change go in opposite directions.
    """
    if before.finished_rate is None or after.finished_rate is None:
        return 1.0
    if (after.rate - before.rate) * (after.finished_rate - before.finished_rate) < 0:
        return 1.0
    (a, b) = ((one.num_correct, one.num_samples) for one in (before, after))
    (c, d) = ((one.num_correct, one.num_finished) for one in (before, after))
    return max(compute_difference_p(a, b, min_effect), compute_difference_p(c, d, min_effect))


def compute_difference_p(a: tuple[int, int], b: tuple[int, int], min_effect: float = 0.0) -> float:
    """p-value of |p_b - p_a| <= min_effect, from a = (successes, trials) and b = (successes, trials), independent.

    Score test at the nearer edge of the null: z = (|difference| - min_effect) / s, where s takes both rates at their
    likeliest values min_effect apart; p adds the tail beyond the other edge, so min_effect 0 gives the two-sided
    pooled z-test. Source: Farrington and Manning 1990 (test 3). Level and power rest on the normal approximation,
    good from some 30 trials each.
    """
    (num_a, trials_a), (num_b, trials_b) = a, b
    difference = num_b / trials_b - num_a / trials_a
    if difference < 0:
        return compute_difference_p(b, a, min_effect)
    rate_a = fit_shifted_rate(a, b, min_effect)
    rate_b = min(1.0, rate_a + min_effect)
    variance = rate_a * (1 - rate_a) / trials_a + rate_b * (1 - rate_b) / trials_b
    if variance <= 0:
        return 1.0 if difference <= min_effect else 0.0
    tail = NormalDist(sigma=math.sqrt(variance)).cdf
    return min(1.0, tail(min_effect - difference) + tail(-min_effect - difference))


def fit_shifted_rate(a: tuple[int, int], b: tuple[int, int], shift: float) -> float:
    """The likeliest rate of a if b's is exactly `shift` >= 0 higher: maximum likelihood, by bisection.

    The log-likelihood is concave in the rate, so its slope falls through 0 once in (0, 1 - shift) or has one sign.
    """
    (num_a, trials_a), (num_b, trials_b) = a, b

    def slope(rate: float) -> float:
        higher = rate + shift
        return (
            (num_a / rate if num_a else 0.0)
            - ((trials_a - num_a) / (1 - rate) if trials_a > num_a else 0.0)
            + (num_b / higher if num_b else 0.0)
            - ((trials_b - num_b) / (1 - higher) if trials_b > num_b else 0.0)
        )

    low, high = 0.0, 1.0 - shift
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return (low + high) / 2
