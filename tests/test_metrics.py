"""Estimators and paired tests against brute force: every subset, every sign pattern, hand-worked cases."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponderosa.metrics import (
    adjust_holm,
    compute_diversity_at_k,
    compute_majority_at_k,
    compute_mcnemar_p,
    compute_pass_at_k,
    compute_sign_flip_p,
)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def score_vote(votes: Sequence[str | None], correct: dict[str, float]) -> float:
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    return mean([correct[vote] for vote, count in counts.items() if count == most])


samples = st.lists(
    st.tuples(st.sampled_from(["3", "4", "5", "6", None]), st.booleans()), min_size=1, max_size=8
)


@given(samples, st.data())
def test_pass_at_k_is_the_mean_over_every_subset(graded, data) -> None:
    right = [is_correct for _, is_correct in graded]
    k = data.draw(st.integers(1, len(right)))
    expected = mean([float(any(subset)) for subset in itertools.combinations(right, k)])
    assert compute_pass_at_k(len(right), sum(right), k) == pytest.approx(expected, abs=1e-12)


@given(samples, st.data())
def test_diversity_at_k_is_the_mean_number_of_distinct_correct_solutions_over_every_subset(
    graded, data
) -> None:
    k = data.draw(st.integers(1, len(graded)))
    expected = mean(
        [
            float(len({name for name, right in subset if right}))
            for subset in itertools.combinations(graded, k)
        ]
    )
    counts = Counter(name for name, right in graded if right)
    assert compute_diversity_at_k(len(graded), list(counts.values()), k) == pytest.approx(expected, abs=1e-12)


@given(samples, st.data())
@settings(max_examples=150)
def test_majority_at_k_is_the_mean_vote_over_every_subset_with_ties_scoring_their_expectation(
    graded, data
) -> None:
    votes = [vote for vote, _ in graded]
    right = [is_correct for _, is_correct in graded]
    k = data.draw(st.integers(1, len(votes)))
    shares = {
        vote: mean([float(is_correct) for name, is_correct in graded if name == vote])
        for vote in set(votes)
        if vote is not None
    }
    expected = mean([score_vote(subset, shares) for subset in itertools.combinations(votes, k)])
    assert compute_majority_at_k(votes, right, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("votes", "right", "k", "expected"),
    [
        (["7", "7", "8"], [True, True, False], 3, 1.0),
        (["7", "8"], [True, False], 2, 0.5),
        (["7", "8", "9"], [True, False, False], 3, 1 / 3),
        (["7", None, None], [True, False, False], 3, 1.0),
        ([None, None], [False, False], 2, 0.0),
        # Subsets of two: {7,7} wins, {7,8} twice a tie.
        (["7", "7", "8"], [True, True, False], 2, (1 + 0.5 + 0.5) / 3),
    ],
)
def test_majority_at_k_on_hand_worked_votes(votes, right, k, expected) -> None:
    assert compute_majority_at_k(votes, right, k) == pytest.approx(expected, abs=1e-15)


@given(samples)
def test_majority_at_one_is_pass_at_one_of_the_answers_that_vote(graded) -> None:
    voting_right = sum(right for vote, right in graded if vote is not None)
    votes = [vote for vote, _ in graded]
    value = compute_majority_at_k(votes, [right for _, right in graded], 1)
    assert value == pytest.approx(voting_right / len(graded), abs=1e-12)


def test_majority_at_k_stays_exact_where_subsets_cannot_be_enumerated() -> None:
    votes = ["right"] * 24 + [f"wrong{i % 10}" for i in range(40)]
    value = compute_majority_at_k(votes, [vote == "right" for vote in votes], 32)
    assert value == pytest.approx(1.0, abs=1e-4)
    assert value < 1.0


@pytest.mark.parametrize("k", [0, 3])
def test_spending_more_samples_than_there_are_is_refused_with_the_allowed_range(k) -> None:
    with pytest.raises(ValueError, match="1 to the 2 samples"):
        compute_pass_at_k(2, 1, k)
    with pytest.raises(ValueError, match="1 to the 2 samples"):
        compute_majority_at_k(["1", "2"], [True, False], k)


@pytest.mark.parametrize(
    ("only_a", "only_b", "expected"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 2**5),
        (1, 9, 2 * (1 + 10) / 2**10),
        (6, 6, 1.0),
    ],
)
def test_mcnemar_on_hand_worked_tables(only_a, only_b, expected) -> None:
    assert compute_mcnemar_p(only_a, only_b) == pytest.approx(expected, abs=1e-15)
    assert compute_mcnemar_p(only_b, only_a) == compute_mcnemar_p(only_a, only_b)


def test_mcnemar_keeps_tiny_p_values_instead_of_rounding_them_to_zero() -> None:
    assert compute_mcnemar_p(700, 20) == pytest.approx(
        2 * sum(math.comb(720, i) for i in range(21)) / 2**720, rel=1e-12
    )
    assert 0 < compute_mcnemar_p(700, 20) < 1e-150


counts_of_eight = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=8)


@given(counts_of_eight)
def test_sign_flip_p_is_the_share_of_all_sign_patterns_at_least_as_extreme(counts) -> None:
    differences = [a - b for a, b in counts]
    observed = abs(sum(differences))
    patterns = list(itertools.product((-1, 1), repeat=len(differences)))
    extreme = sum(
        abs(sum(sign * d for sign, d in zip(signs, differences, strict=True))) >= observed
        for signs in patterns
    )
    p_value = compute_sign_flip_p([a / 8 for a, _ in counts], [b / 8 for _, b in counts])
    assert p_value == pytest.approx(extreme / len(patterns), abs=1e-12)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_sign_flip_on_right_or_wrong_answers_is_the_mcnemar_test(pairs) -> None:
    only_a = sum(a and not b for a, b in pairs)
    only_b = sum(b and not a for a, b in pairs)
    p_value = compute_sign_flip_p([float(a) for a, _ in pairs], [float(b) for _, b in pairs])
    assert p_value == pytest.approx(compute_mcnemar_p(only_a, only_b), rel=1e-9)


def test_sign_flip_beyond_the_exact_grid_draws_patterns_and_agrees_with_itself() -> None:
    # Denominators 997 and 991 put the sums on a grid too fine to convolve.
    a = [(i * 37 % 997) / 997 for i in range(400)]
    b = [(i * 53 % 991) / 991 for i in range(400)]
    p_value = compute_sign_flip_p(a, b, seed=3, resamples=4_000)
    assert p_value == compute_sign_flip_p(a, b, seed=3, resamples=4_000)
    differences = [x - y for x, y in zip(a, b, strict=True)]
    z = abs(sum(differences)) / math.sqrt(sum(d * d for d in differences))
    assert p_value == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.04)


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([], []),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_steps_down_and_never_reorders(p_values, expected) -> None:
    assert adjust_holm(p_values) == pytest.approx(expected)
