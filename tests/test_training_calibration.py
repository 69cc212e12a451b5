"""The map from scores to success: monotone, nearest in squares, worked by hand, and honest on what it was not fitted to."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponderosa.errors import DataError
from ponderosa.training.calibration import (
    TILT,
    cross_fit,
    describe_calibration,
    fit_calibration,
    fit_isotonic,
)

VALUES = st.lists(
    st.tuples(st.integers(-3, 3), st.sampled_from([-1.0, -0.5, 0.0, 1.0])), min_size=1, max_size=7
)


def test_neighbours_that_fall_are_pooled_at_their_mean() -> None:
    """The textbook's 1, 3, 2, 4, 3.5, 5 (weights all one), scaled."""
    blocks = fit_isotonic(range(6), [0.1, 0.3, 0.2, 0.4, 0.35, 0.5])
    assert [(block.score, block.weight) for block in blocks] == [(0, 1), (1.5, 2), (3.5, 2), (5, 1)]
    assert [block.value for block in blocks] == pytest.approx([0.1, 0.25, 0.375, 0.5])


def test_pooling_goes_back_as_far_as_it_must() -> None:
    (block,) = fit_isotonic([1, 2, 3], [0.5, 0.4, 0.0])
    assert block == pytest.approx((2.0, 0.3, 3))


def test_equal_scores_get_one_value() -> None:
    assert fit_isotonic([2, 2, 2, 3], [-1, 1, 1, 1])[0] == pytest.approx((2.0, 1 / 3, 3))


@given(VALUES)
def test_no_monotone_map_is_nearer_in_squares(nodes: list[tuple[int, float]]) -> None:
    """Of all step functions: the best fit is constant, at the mean, on runs of scores, so every cut into runs is tried."""
    scores, values = zip(*nodes, strict=True)
    blocks = fit_isotonic(scores, values)
    found = fit_squares(nodes, [block.weight for block in blocks])
    distinct = sorted(set(scores))
    counts = [scores.count(score) for score in distinct]
    best = math.inf
    for cuts in itertools.product([False, True], repeat=len(distinct) - 1):
        runs = [counts[0]]
        for count, is_cut in zip(counts[1:], cuts, strict=True):
            if is_cut:
                runs.append(count)
            else:
                runs[-1] += count
        best = min(best, fit_squares(nodes, runs))
    assert found == pytest.approx(best)
    assert all(a.value < b.value and a.score < b.score for a, b in itertools.pairwise(blocks))


def fit_squares(nodes: list[tuple[int, float]], runs: list[float]) -> float:
    """Sum of squares around the means of runs of nodes in order of score; infinite if the means fall."""
    values = [value for _, value in sorted(nodes)]
    ends = [int(end) for end in np.cumsum([0, *runs])]
    parts = [values[a:b] for a, b in itertools.pairwise(ends)]
    means = [float(np.mean(part)) for part in parts]
    if any(a > b + 1e-12 for a, b in itertools.pairwise(means)):
        return math.inf
    return sum(float(np.sum((np.array(part) - mean) ** 2)) for part, mean in zip(parts, means, strict=True))


@given(VALUES)
def test_the_map_keeps_the_order_of_scores_and_stays_in_bounds(nodes: list[tuple[int, float]]) -> None:
    scores, values = zip(*nodes, strict=True)
    calibration = fit_calibration(scores, values)
    distinct = sorted(set(scores))
    mapped = calibration.apply(distinct)
    assert all(a < b for a, b in itertools.pairwise(mapped))
    assert all(-1 <= value <= 1 for value in mapped)
    assert calibration.apply([-99, 99]) == [mapped[0], mapped[-1]]


def test_between_blocks_the_map_is_linear_and_beyond_them_it_rises_a_little() -> None:
    calibration = fit_calibration([0, 1, 2, 3], [-1, -1, 1, 1])
    assert calibration.apply([0.5, 2.5]) == pytest.approx([-(1 - TILT), 1 - TILT])
    assert calibration.apply([1.5]) == pytest.approx([0.0])
    assert calibration.apply([0, 3]) == pytest.approx([-1.0, 1.0])


def test_success_that_follows_the_score_is_found_again() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=4000)
    outcomes = np.where(rng.random(4000) < 1 / (1 + np.exp(-2 * scores)), 1.0, -1.0)
    calibration = fit_calibration(scores.tolist(), outcomes.tolist())
    at = [-1.5, -0.5, 0.0, 0.5, 1.5]
    assert calibration.apply(at) == pytest.approx(np.tanh(at), abs=0.12)


def test_nodes_are_read_by_the_map_of_the_other_folds() -> None:
    scores, values = [0.0, 1.0, 0.0, 1.0], [-1.0, 1.0, 0.0, 0.0]
    predicted = cross_fit(scores, values, [0, 0, 1, 1])
    assert predicted == pytest.approx([0.0, 0.0, -0.99, 0.99], abs=0.011)
    with pytest.raises(DataError, match="hold out more problems"):
        cross_fit(scores, values, [1, 1, 1, 1])


def test_without_a_node_there_is_nothing_to_fit() -> None:
    with pytest.raises(DataError, match="hold out more problems"):
        fit_calibration([], [])


def test_the_curve_says_how_far_predicted_and_observed_success_lie_apart() -> None:
    predicted, values = [-0.5] * 4 + [0.5] * 4, [-1.0, -1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    curve = describe_calibration(predicted, values, [*"aabbccdd"], num_bins=2)
    low, high = curve["bins"]
    assert (low["predicted"], low["observed"], low["nodes"], low["problems"]) == (-0.5, -0.5, 4, 2)
    assert (low["low"], low["high"]) == (-1.0, 0.0)
    assert (high["predicted"], high["observed"], high["low"]) == (0.5, 1.0, 1.0)
    assert curve["error"] == pytest.approx(0.25)
    assert curve["squared_error"] == pytest.approx(0.25)
    assert curve["baseline"] == pytest.approx(np.var(values))
    assert (curve["nodes"], curve["problems"]) == (8, 4)
