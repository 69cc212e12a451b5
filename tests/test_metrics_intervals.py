"""Intervals against their closed forms, against full enumeration, and by how often they cover the truth."""

import itertools
import math

import numpy as np
import pytest

from ponderosa.metrics import bootstrap_problems, bootstrap_seeds_and_problems, compute_wilson_interval

Z = 1.959963984540054


@pytest.mark.parametrize(("correct", "n"), [(1, 10), (5, 10), (83, 1319), (990, 1000)])
def test_wilson_ends_are_where_the_score_test_is_at_its_critical_value(correct, n) -> None:
    for end in compute_wilson_interval(correct, n):
        assert abs(correct / n - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(Z, abs=1e-9)


def test_wilson_has_width_at_both_extremes_and_never_leaves_the_unit_interval() -> None:
    none, every = compute_wilson_interval(0, 20), compute_wilson_interval(20, 20)
    assert none.low == 0.0
    assert none.high == pytest.approx(Z * Z / (20 + Z * Z))
    assert every.high == 1.0
    assert every.low == pytest.approx(1 - none.high)


def test_wilson_of_no_problems_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        compute_wilson_interval(0, 0)


def test_bootstrap_matches_the_enumeration_of_every_resample() -> None:
    values = [0.0, 0.25, 0.5, 0.5, 1.0]
    means = [sum(sample) / 5 for sample in itertools.product(values, repeat=5)]
    low, high = np.quantile(means, [0.025, 0.975])
    interval = bootstrap_problems(values, seed=1, resamples=40_000)
    assert interval.low == pytest.approx(low, abs=0.051)
    assert interval.high == pytest.approx(high, abs=0.051)


def test_bootstrap_depends_on_the_seed_alone() -> None:
    values = np.linspace(0, 1, 40)
    assert bootstrap_problems(values, seed=5) == bootstrap_problems(list(values), seed=5)
    assert bootstrap_problems(values, seed=5) != bootstrap_problems(values, seed=6)


def test_clustered_samples_widen_the_interval_beyond_pretending_they_are_independent() -> None:
    per_problem = [0.0, 1.0] * 50
    clustered = bootstrap_problems(per_problem, seed=0)
    pretended = compute_wilson_interval(400, 800)
    assert clustered.high - clustered.low > 2.5 * (pretended.high - pretended.low)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        chance = rng.beta(0.6, 0.9, size=80)
        values = rng.binomial(4, chance) / 4
        interval = bootstrap_problems(values, seed=trial, resamples=1_000)
        covered += interval.low <= 0.4 <= interval.high
    assert 180 <= covered <= 199


def test_seeds_and_problems_together_are_wider_than_problems_alone_when_seeds_differ() -> None:
    rng = np.random.default_rng(1)
    values = (rng.random((5, 200)) < np.array([0.2, 0.35, 0.5, 0.65, 0.8])[:, None]).astype(float)
    joint = bootstrap_seeds_and_problems(values, seed=0)
    problems_alone = bootstrap_problems(values.mean(axis=0), seed=0)
    assert joint.low < problems_alone.low
    assert joint.high > problems_alone.high
    assert joint.high - joint.low > 2 * (problems_alone.high - problems_alone.low)


def test_one_seed_resampled_jointly_is_the_bootstrap_by_problem() -> None:
    values = np.linspace(0, 1, 60)
    joint = bootstrap_seeds_and_problems([values], seed=2)
    alone = bootstrap_problems(values, seed=3)
    assert joint == pytest.approx(alone, abs=0.01)


def test_values_of_the_wrong_shape_are_refused_with_the_shape_seen() -> None:
    with pytest.raises(ValueError, match=r"shape \(0,\)"):
        bootstrap_problems([], seed=0)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        bootstrap_seeds_and_problems([1.0, 0.0, 1.0], seed=0)
