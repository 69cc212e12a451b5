"""The statistics of pivotal tokens against numpy references, brute force and hand-worked cases."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponderosa.metrics import adjust_bh
from ponderosa.records import Attempt, Cost, GradedAttempt, Verdict
from ponderosa.search.pivotal_statistics import (
    Tally,
    bound_change,
    compute_change_p,
    compute_difference_p,
    fit_shifted_rate,
    split_at_midpoint,
    tally_rollouts,
)

logprobs = st.lists(st.floats(-8, 0), min_size=2, max_size=30)
counts = st.integers(1, 200).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials)))


def build_rollout(finish: str, is_right: bool) -> GradedAttempt:
    attempt = Attempt(
        "p",
        0,
        (),
        (),
        (),
        (),
        (),
        finish,
        "",
        (),
        None,
        None,
        Cost(),
        "pivotal",
        "m",
        0,  # type: ignore[arg-type]
    )
    return GradedAttempt(attempt, Verdict(is_right, "correct" if is_right else "wrong_answer", "v@1"))


def test_a_rollout_cut_short_counts_as_truncated_unless_it_was_right() -> None:
    rollouts = [build_rollout("stop", True), build_rollout("length", True), build_rollout("stop", False)]
    tally = tally_rollouts([*rollouts, build_rollout("length", False)])
    assert tally == Tally(num_samples=4, num_correct=2, num_truncated=1)
    assert (tally.rate, tally.finished_rate, tally.truncated_frac) == (1 / 2, 2 / 3, 1 / 4)
    assert Tally(3, 0, 3).finished_rate is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-1.0, -1.0], 1),
        ([-1.0, -1.0, -1.0, -1.0], 2),
        ([-3.0, -1.0, -1.0, -1.0], 1),
        ([0.0, 0.0, -5.0, 0.0, 0.0], 2),
        ([-5.0, 0.0, 0.0], 1),
        ([0.0, 0.0, 0.0, -5.0], 2),
        ([0.0, 0.0, 0.0, 0.0], 2),
    ],
)
def test_a_segment_is_split_at_the_midpoint_of_its_log_probability_not_of_its_tokens(
    values: list[float], expected: int
) -> None:
    assert split_at_midpoint(values) == expected


@given(logprobs)
def test_no_cut_is_nearer_to_the_cumulative_midpoint(values: list[float]) -> None:
    misses = np.abs(np.cumsum(values)[:-1] - np.sum(values) / 2)
    assert misses[split_at_midpoint(values) - 1] == pytest.approx(misses.min(), abs=1e-6)


@given(st.floats(0.001, 1), st.floats(0, 1), st.floats(0, 1))
def test_success_cannot_change_by_more_than_the_chance_of_writing_something_else(
    chance: float, p_after: float, p_otherwise: float
) -> None:
    p_before = chance * p_after + (1 - chance) * p_otherwise
    assert abs(p_after - p_before) <= bound_change([math.log(chance) / 2] * 2) + 1e-12


def compute_log_likelihood(
    a: tuple[int, int], b: tuple[int, int], rate: np.ndarray, shift: float
) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [
            count * np.log(value) if count else np.zeros_like(rate)
            for count, value in (
                (a[0], rate),
                (a[1] - a[0], 1 - rate),
                (b[0], rate + shift),
                (b[1] - b[0], 1 - rate - shift),
            )
        ]
    return np.sum(terms, axis=0)


@given(counts, counts, st.sampled_from([0.0, 0.05, 0.2]))
def test_rates_a_margin_apart_are_fitted_by_maximum_likelihood(
    a: tuple[int, int], b: tuple[int, int], shift: float
) -> None:
    grid = np.linspace(0, 1 - shift, 2001)[1:-1]
    best = grid[np.argmax(compute_log_likelihood(a, b, grid, shift))]
    assert fit_shifted_rate(a, b, shift) == pytest.approx(best, abs=1e-3)


@given(counts, counts)
def test_without_a_margin_the_test_is_the_pooled_two_sided_z_test(
    a: tuple[int, int], b: tuple[int, int]
) -> None:
    pooled = (a[0] + b[0]) / (a[1] + b[1])
    variance = pooled * (1 - pooled) * (1 / a[1] + 1 / b[1])
    z = abs(a[0] / a[1] - b[0] / b[1]) / math.sqrt(variance) if variance else 0.0
    assert compute_difference_p(a, b) == pytest.approx(math.erfc(z / math.sqrt(2)), abs=1e-6)
    assert compute_difference_p(a, b) == compute_difference_p(b, a)


@pytest.mark.parametrize("trials", [48, 128])
@pytest.mark.parametrize("min_effect", [0.0, 0.05, 0.1])
def test_an_effect_at_the_margin_is_called_larger_about_as_often_as_the_level_says(
    trials: int, min_effect: float
) -> None:
    """Exactly, over every pair of outcomes, for rates throughout the range of questions that are searched."""
    level = 0.05
    successes = np.arange(trials + 1)
    rejected = np.array(
        [
            [compute_difference_p((int(a), trials), (int(b), trials), min_effect) <= level for b in successes]
            for a in successes
        ]
    )
    chances = np.array([math.comb(trials, int(k)) for k in successes], dtype=float)
    for rate in (0.05, 0.2, 0.35, 0.5, 0.7, 0.9 - min_effect):
        pmf_a = chances * rate**successes * (1 - rate) ** (trials - successes)
        other = rate + min_effect
        pmf_b = chances * other**successes * (1 - other) ** (trials - successes)
        assert pmf_a @ rejected @ pmf_b <= 1.35 * level


def test_a_larger_margin_needs_more_evidence() -> None:
    p_values = [compute_difference_p((40, 128), (80, 128), margin) for margin in (0.0, 0.05, 0.1, 0.2, 0.4)]
    assert p_values == sorted(p_values)
    assert p_values[0] < 1e-5 < 0.4 < p_values[-1]
    assert compute_difference_p((0, 50), (0, 50)) == 1.0
    assert compute_difference_p((0, 50), (50, 50), 0.1) < 1e-9


def test_a_change_that_is_all_truncation_is_no_evidence() -> None:
    before, after = Tally(100, 60, 0), Tally(100, 30, 50)
    assert compute_difference_p((60, 100), (30, 100)) < 1e-4
    assert compute_change_p(before, after, 0.0) == pytest.approx(compute_difference_p((60, 100), (30, 50)))
    assert compute_change_p(before, after, 0.0) > 0.9
    assert compute_change_p(before, Tally(100, 0, 100), 0.0) == 1.0


def test_a_change_whose_direction_depends_on_truncation_is_no_evidence() -> None:
    before, after = Tally(200, 120, 0), Tally(200, 80, 118)
    assert compute_difference_p((120, 200), (80, 200)) < 1e-3
    assert compute_difference_p((120, 200), (80, 82)) < 1e-3
    assert compute_change_p(before, after, 0.0) == 1.0


def test_without_truncation_both_ways_are_one() -> None:
    expected = compute_difference_p((60, 100), (30, 100), 0.05)
    assert compute_change_p(Tally(100, 60, 0), Tally(100, 30, 0), 0.05) == expected


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0.01, 0.99))
def test_benjamini_and_hochberg_reject_up_to_the_last_p_value_below_its_line(
    p_values: list[float], q: float
) -> None:
    ranked = np.sort(np.array(p_values))
    below = np.flatnonzero(ranked <= q * np.arange(1, len(ranked) + 1) / max(1, len(ranked)))
    num_rejected = below[-1] + 1 if len(below) else 0
    expected = p_values and num_rejected and ranked[num_rejected - 1]
    adjusted = adjust_bh(p_values)
    for p_value, one in zip(p_values, adjusted, strict=True):
        if abs(one - q) > 1e-9:
            assert (one <= q) == (bool(num_rejected) and p_value <= expected)


def test_adjusted_p_values_of_a_worked_case() -> None:
    assert adjust_bh([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert adjust_bh([]) == []
