"""Finding the first wrong step: rules, the choice of a threshold, and ProcessBench's figures."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponderosa.errors import RequestError
from ponderosa.evaluation.step_errors import (
    RULES,
    Rule,
    ScoredSteps,
    choose_threshold,
    compute_f1,
    compute_share,
    compute_signals,
    find_first_error,
    is_for_selection,
    is_found,
)
from ponderosa.metrics import compute_wilson_interval

STEADY = ScoredSteps("steady", (0.5, 0.6, 0.4, 0.7), None)
FALLING = ScoredSteps("falling", (0.9, 0.8, 0.1, 0.2), 1)
DOOMED = ScoredSteps("doomed", (-0.2, -0.3, -0.2, -0.8), 2)


def test_the_score_rule_reads_each_step_and_the_drop_rule_what_each_step_changed() -> None:
    assert compute_signals(FALLING, "score") == [0.8, 0.1, 0.2]
    assert compute_signals(FALLING, "drop") == pytest.approx([-0.1, -0.7, 0.1])


def test_the_first_step_below_the_threshold_is_the_one() -> None:
    assert find_first_error([0.8, 0.1, 0.0], 0.2) == 1
    assert find_first_error([0.8, 0.2], 0.2) is None
    assert is_found(FALLING, "score", 0.3)
    assert not is_found(FALLING, "score", 0.9)
    assert is_found(STEADY, "score", 0.3)
    assert not is_found(STEADY, "score", 0.5)


def test_a_hard_problem_is_judged_by_the_drop_and_not_by_the_level() -> None:
    threshold = choose_threshold([STEADY, FALLING, DOOMED], "drop")
    assert all(is_found(one, "drop", threshold) for one in (STEADY, FALLING, DOOMED))
    level = choose_threshold([STEADY, FALLING, DOOMED], "score")
    assert not all(is_found(one, "score", level) for one in (STEADY, FALLING, DOOMED))


def compute_f1_at(solutions: list[ScoredSteps], rule: Rule, threshold: float) -> float:
    found: dict[bool, list[bool]] = {True: [], False: []}
    for one in solutions:
        found[one.first_error is None].append(is_found(one, rule, threshold))
    return compute_f1(found[False], found[True]).value


scores = st.lists(st.integers(-5, 5).map(lambda n: n / 4), min_size=2, max_size=6)


@st.composite
def labelled(draw: st.DrawFn) -> ScoredSteps:
    values = tuple(draw(scores))
    return ScoredSteps("x", values, draw(st.none() | st.integers(0, len(values) - 2)))


@settings(max_examples=60, deadline=None)
@given(st.lists(labelled(), min_size=2, max_size=12), st.sampled_from(RULES))
def test_no_threshold_is_better_than_the_chosen_one(solutions: list[ScoredSteps], rule: Rule) -> None:
    if {one.first_error is None for one in solutions} != {True, False}:
        with pytest.raises(RequestError, match="give more of both"):
            choose_threshold(solutions, rule)
        return
    best = compute_f1_at(solutions, rule, choose_threshold(solutions, rule))
    grid = [(n + 0.5) / 8 for n in range(-40, 40)]
    assert best == max(compute_f1_at(solutions, rule, threshold) for threshold in grid)


def test_f1_is_the_harmonic_mean_of_both_accuracies() -> None:
    figure = compute_f1([True] * 3 + [False] * 7, [True] * 6 + [False] * 4)
    assert figure.value == pytest.approx(2 * 0.3 * 0.6 / 0.9)
    assert figure.n == 20
    low, high = compute_wilson_interval(3, 10, 0.975), compute_wilson_interval(6, 10, 0.975)
    assert figure.interval.low == pytest.approx(2 * low.low * high.low / (low.low + high.low))
    assert figure.interval.low < figure.value < figure.interval.high


def test_a_model_that_calls_nothing_wrong_has_no_f1_but_an_interval() -> None:
    figure = compute_f1([False] * 30, [True] * 30)
    assert (figure.value, figure.interval.low) == (0.0, 0.0)
    assert 0.1 < figure.interval.high < 0.4


def test_shares_have_wilson_intervals() -> None:
    assert compute_share([True, False, True, True]) == (0.75, compute_wilson_interval(3, 4), 4)


def test_the_halves_depend_on_the_solution_alone() -> None:
    halves = [is_for_selection(ScoredSteps(str(n), (float(n), 0.0), None)) for n in range(400)]
    assert halves == [is_for_selection(ScoredSteps(str(n), (0.0, 0.0), 0)) for n in range(400)]
    assert 160 < sum(halves) < 240
