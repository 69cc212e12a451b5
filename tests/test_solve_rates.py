"""Solve rates against every way the trials can go, and the posterior against mpmath."""

import itertools
import math
from collections.abc import Callable, Sequence

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponderosa.evaluation.solve_rates import (
    compute_beta_cdf,
    compute_beta_quantile,
    compute_coverage_at_k,
    compute_posterior,
    compute_unbiased_rate,
    estimate_solve_rate,
    summarise_solve_rates,
)

TARGETS = (None, 1, 2, 3)
CAP = 6
rates = st.floats(0.01, 0.99)
unhurried = settings(deadline=None)


def expect(value: Callable[[list[bool]], float], rate: float, target: int | None) -> float:
    """The expectation of a value of the attempts drawn, over every sequence of CAP trials and where it stops."""
    total = 0.0
    for sequence in itertools.product([True, False], repeat=CAP):
        chance = math.prod(rate if right else 1 - rate for right in sequence)
        total += chance * value(cut_at_target(sequence, target))
    return total


def cut_at_target(sequence: Sequence[bool], target: int | None) -> list[bool]:
    drawn: list[bool] = []
    for right in sequence:
        drawn.append(right)
        if sum(drawn) == target:
            break
    return drawn


@pytest.mark.parametrize("target", TARGETS)
@unhurried
@given(rate=rates)
def test_the_unbiased_rate_is_right_on_average_whether_the_target_or_the_cap_ends_it(
    target: int | None, rate: float
) -> None:
    average = expect(lambda drawn: estimate_solve_rate(drawn, target).unbiased_rate, rate, target)
    assert average == pytest.approx(rate, abs=1e-12)


@unhurried
@given(rate=rates)
def test_correct_over_trials_is_biased_upwards_when_a_correct_trial_ends_it(rate: float) -> None:
    assert expect(lambda drawn: estimate_solve_rate(drawn, 1).rate, rate, 1) > rate
    assert expect(lambda drawn: estimate_solve_rate(drawn, None).rate, rate, None) == pytest.approx(rate)


@pytest.mark.parametrize("target", TARGETS)
@unhurried
@given(rate=rates, k=st.integers(1, CAP))
def test_coverage_is_the_chance_of_a_correct_one_among_k_under_every_budget(
    target: int | None, rate: float, k: int
) -> None:
    average = expect(lambda drawn: compute_coverage_at_k(drawn, k, target), rate, target)
    assert average == pytest.approx(1 - (1 - rate) ** k, abs=1e-12)


@pytest.mark.parametrize(
    ("trials", "correct", "target", "expected"),
    [
        (5, 2, 2, 1 / 4),
        (1, 1, 1, 1.0),
        (7, 1, 1, 0.0),
        (8, 0, 1, 0.0),
        (8, 1, 2, 1 / 8),
        (8, 3, None, 3 / 8),
        (3, 3, 3, 1.0),
    ],
)
def test_the_unbiased_rate_on_hand_worked_stops(
    trials: int, correct: int, target: int | None, expected: float
) -> None:
    assert compute_unbiased_rate(trials, correct, target) == expected


def test_attempts_drawn_behind_the_stop_enter_the_posterior_alone() -> None:
    rate = estimate_solve_rate([False, True, True, False], target=1)
    assert (rate.num_attempts, rate.num_trials, rate.num_correct) == (4, 2, 1)
    assert (rate.rate, rate.unbiased_rate) == (0.5, 0.0)
    assert rate.posterior_mean == compute_posterior(4, 2).mean == 0.5


def test_counts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one trial"):
        compute_unbiased_rate(0, 0, None)
    with pytest.raises(ValueError, match="3 correct of 2"):
        compute_posterior(2, 3)


@unhurried
@given(st.floats(1e-6, 1 - 1e-6), st.floats(0.5, 200), st.floats(0.5, 200))
def test_the_beta_distribution_is_that_of_mpmath(x: float, a: float, b: float) -> None:
    expected = float(mpmath.betainc(a, b, 0, x, regularized=True))
    assert compute_beta_cdf(x, a, b) == pytest.approx(expected, abs=1e-11)


@unhurried
@given(st.floats(0.001, 0.999), st.integers(1, 60), st.integers(1, 60))
def test_the_beta_distribution_of_whole_parameters_is_a_binomial_tail(x: float, a: int, b: int) -> None:
    n = a + b - 1
    tail = math.fsum(math.comb(n, i) * x**i * (1 - x) ** (n - i) for i in range(a, n + 1))
    assert compute_beta_cdf(x, a, b) == pytest.approx(tail, abs=1e-12)


@unhurried
@given(st.floats(0.001, 0.999), st.floats(0.5, 50), st.floats(0.5, 50))
def test_a_quantile_has_its_probability_below_it(probability: float, a: float, b: float) -> None:
    assert compute_beta_cdf(compute_beta_quantile(probability, a, b), a, b) == pytest.approx(
        probability, abs=1e-6
    )


def test_without_trials_the_posterior_is_the_prior() -> None:
    assert compute_posterior(0, 0, (1.0, 1.0)) == pytest.approx((0.5, 0.025, 0.975))


@unhurried
@given(st.integers(1, 100), st.data())
def test_the_posterior_of_right_and_wrong_mirror_each_other(num_trials: int, data: st.DataObject) -> None:
    num_correct = data.draw(st.integers(0, num_trials))
    right = compute_posterior(num_trials, num_correct)
    wrong = compute_posterior(num_trials, num_trials - num_correct)
    assert right == pytest.approx((1 - wrong.mean, 1 - wrong.high, 1 - wrong.low))
    assert 0 < right.low < right.mean < right.high < 1


def test_means_over_problems_take_the_estimators_that_fit_the_budget() -> None:
    rows = [[False, True], [True], [False, False, False]]
    means = summarise_solve_rates(rows, max_attempts=3, target=1, seed=0)
    assert {name: mean["value"] for name, mean in means.items()} == pytest.approx(
        {"solve_rate": 1 / 3, "coverage@1": 1 / 3, "coverage@2": 2 / 3, "coverage@3": 2 / 3}
    )
    fixed = summarise_solve_rates([[True, False], [False, False]], max_attempts=2, target=None, seed=0)
    assert {name: mean["value"] for name, mean in fixed.items()} == {
        "solve_rate": 0.25,
        "coverage@1": 0.25,
        "coverage@2": 0.5,
    }
    assert all(mean["low"] <= mean["value"] <= mean["high"] for mean in (means | fixed).values())
