"""Results over training seeds and across arms, against enumeration, hand-worked cases and closed forms."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ponderosa.evaluation.joint import (
    Evaluation,
    Scores,
    compare_arms,
    compare_seeds,
    compare_stages,
    compute_joint_interval,
    compute_scores,
    summarise_evaluations,
    summarise_seeds,
)
from ponderosa.evaluation.summary import RowContext, compare, compare_values
from ponderosa.metrics import (
    adjust_holm,
    bootstrap_seeds_and_problems,
    compute_mcnemar_p,
    compute_wilson_interval,
)
from ponderosa.records import Cost, Problem
from test_evaluation import CONTEXT, grade, make_problems

COST = Cost(prompt_tokens=2, generated_tokens=10, flops=100.0)


def build_scores(
    problems: Sequence[Problem], values_SP: Sequence[Sequence[float]], model: str = "sft", suite: str = "toy"
) -> list[Scores]:
    """One model at seeds 0, 1, …, with these values of pass@1."""
    return [
        Scores(
            RowContext(
                model, model, f"{model}-{seed}", suite, f"hash-{suite}", "greedy", seed, "r", 1e9, 5.0, 2.0
            ),
            1,
            {"pass@1": {problem.id: value for problem, value in zip(problems, values, strict=True)}},
            {problem.id: COST for problem in problems},
        )
        for seed, values in enumerate(values_SP)
    ]


def draw_values(seed: int, shares: Sequence[float], num_problems: int = 60) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    return [[float(value) for value in rng.random(num_problems) < share] for share in shares]


# Scores


def test_scores_are_the_metrics_of_each_problem_and_what_its_attempts_cost() -> None:
    problems = make_problems(3)
    scores = compute_scores(CONTEXT, problems, grade(problems, ["rrww", "wwww", "rrrr"]))

    assert scores.num_samples == 4
    assert [scores.values["pass@1"][problem.id] for problem in problems] == [0.5, 0.0, 1.0]
    assert scores.values["pass@2"][problems[0].id] == pytest.approx(1 - 1 / 6)
    assert scores.costs[problems[0].id] == Cost(
        prompt_tokens=8, generated_tokens=10 + 11 + 12 + 13, flops=400.0
    )


# Rows over seeds


def test_a_joint_row_is_the_mean_over_seeds_and_counts_problems_once() -> None:
    problems = make_problems(6)
    scores = build_scores(problems, [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]])
    rows = summarise_seeds(problems, scores, ["operations"])

    assert [row["slice"] for row in rows] == ["all", "operations=1", "operations=2", "operations=3"]
    joint = rows[0]
    assert joint["value"] == pytest.approx(12 / 18)
    assert (joint["n"], joint["seed"], joint["seeds"]) == (6, None, [0, 1, 2])
    assert (joint["stage_s"], joint["train_flops"], joint["eval_s"]) == (15.0, 3e9, 6.0)
    assert (joint["generated_tokens"], joint["eval_flops"]) == (180, 1800.0)
    assert joint["model_id"] not in {scores[seed].context.model_id for seed in range(3)}
    assert rows[1]["value"] == pytest.approx((1 + 2 / 3) / 2)


def test_the_joint_interval_is_that_of_every_resample_of_seeds_and_problems() -> None:
    values_SP = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    means = [
        values_SP[np.ix_(seeds, problems)].mean()
        for seeds in itertools.product(range(2), repeat=2)
        for problems in itertools.product(range(3), repeat=3)
    ]
    interval = bootstrap_seeds_and_problems(values_SP, seed=0, resamples=60_000)
    drawn = bootstrap_seeds_and_problems(values_SP, seed=0, confidence=0.5, resamples=60_000)

    assert interval == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)
    assert drawn == pytest.approx(np.quantile(means, [0.25, 0.75]), abs=0.01)


def test_the_joint_interval_is_that_of_drawing_seeds_and_problems_one_by_one() -> None:
    values_SP = np.array(draw_values(0, [0.3, 0.6, 0.5], 200))
    rng = np.random.default_rng(1)
    plain = [values_SP[np.ix_(rng.integers(0, 3, 3), rng.integers(0, 200, 200))].mean() for _ in range(4_000)]
    interval = bootstrap_seeds_and_problems(values_SP, seed=2)

    assert interval == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.02)


def test_seeds_that_agree_on_every_problem_show_what_one_shows() -> None:
    assert compute_joint_interval([[1.0] * 20] * 3, is_frac=True, seed=0) == compute_wilson_interval(20, 20)
    assert compute_joint_interval([[1.0, 0.0]] * 2, is_frac=True, seed=0) == compute_wilson_interval(1, 2)


# Tests over seeds


def test_the_joint_test_flips_the_sign_of_each_problems_mean_over_seeds() -> None:
    problems = make_problems(4)
    a = build_scores(problems, [[0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]], "base")
    b = build_scores(problems, [[1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 1, 0]])
    differences = [3 / 3, 1 / 3, 1 / 3, -1 / 3]
    observed = abs(sum(differences))
    flipped = [
        abs(sum(sign * size for sign, size in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=4)
    ]

    [row] = compare_seeds(problems, a, b, names=("base", "sft"), metric="pass@1")

    assert row["test"] == "sign_flip"
    assert row["p_value"] == pytest.approx(sum(size >= observed - 1e-9 for size in flipped) / 16)
    assert (row["value_a"], row["value_b"]) == (pytest.approx(2 / 12), pytest.approx(6 / 12))
    assert (row["a"], row["b"], row["n"], row["seed"], row["seeds"]) == ("base", "sft", 4, None, [0, 1, 2])


def test_each_seed_has_its_own_test_beside_the_joint_one() -> None:
    problems = make_problems(8)
    a = build_scores(problems, [[0] * 8, [1, 0, 0, 0, 0, 0, 0, 0]], "base")
    b = build_scores(problems, [[1] * 8, [0, 1, 1, 1, 0, 0, 0, 0]])

    [row] = compare_seeds(problems, a, b, names=("base", "sft"), metric="pass@1")

    assert [one["seed"] for one in row["by_seed"]] == [0, 1]
    assert [one["p_value"] for one in row["by_seed"]] == [compute_mcnemar_p(0, 8), compute_mcnemar_p(1, 3)]


def test_one_seed_gives_the_test_of_one_seed() -> None:
    problems = make_problems(12)
    graded = {
        "base": grade(problems, "rrrwwwwwwwww"),
        "sft": grade(problems, "rrwrrrrrrrww"),
    }
    a, b = ([compute_scores(CONTEXT, problems, answers)] for answers in graded.values())

    rows = compare_seeds(problems, a, b, names=("base", "sft"), metric="pass@1", slice_keys=["operations"])

    expected = compare(problems, *graded.items(), suite="toy", strategy="greedy", slice_keys=["operations"])
    same = ("slice", "value_a", "value_b", "n", "only_a", "only_b", "low", "high", "test", "p_value")
    assert [[row[key] for key in same] for row in rows] == [[row[key] for key in same] for row in expected]
    assert "by_seed" not in rows[0]


def test_the_interval_of_the_difference_pairs_the_seeds() -> None:
    problems = make_problems(100)
    spread = [[float(i < right) for i in range(100)] for right in (20, 50, 80)]
    better = [[float(i < right + 5) for i in range(100)] for right in (20, 50, 80)]

    [row] = compare_seeds(
        problems,
        build_scores(problems, spread),
        build_scores(problems, better),
        names=("a", "b"),
        metric="pass@1",
    )

    assert 0 <= row["low"] < 0.05 < row["high"] < 0.15


def test_models_that_differ_on_few_seeds_widen_the_interval_but_not_the_test() -> None:
    """What the test leaves out: whether other seeds would show it again."""
    problems = make_problems(300)
    base = build_scores(problems, draw_values(0, [0.5, 0.5, 0.5], 300), "base")
    mixed = build_scores(problems, draw_values(1, [0.9, 0.9, 0.3], 300))

    [row] = compare_seeds(problems, base, mixed, names=("base", "sft"), metric="pass@1")

    assert row["p_value"] < 1e-6
    assert row["low"] < 0 < row["high"]


# Families


def build_evaluation(
    arm: str | None, stage: str, scores: list[Scores], problems: Sequence[Problem], *, is_end: bool = True
) -> Evaluation:
    compare_to = "evaluate-base" if stage == "evaluate-sft" else None
    return Evaluation(arm, stage, compare_to, "pass@1", is_end, problems, [], scores)


def test_consecutive_models_are_tested_within_their_arm() -> None:
    problems = make_problems(60)
    evaluations = []
    for number, arm in enumerate(("plain", "long")):
        values = {"base": draw_values(number, [0.2, 0.3]), "sft": draw_values(number + 9, [0.6, 0.7])}
        for model, own in values.items():
            scores = build_scores(problems, own, model)
            evaluations.append(build_evaluation(arm, f"evaluate-{model}", scores, problems))

    tests = compare_stages(evaluations)

    assert [(test["arm"], test["a"], test["b"]) for test in tests] == [
        ("plain", "base", "sft"),
        ("long", "base", "sft"),
    ]
    assert tests[0]["value_a"] != tests[1]["value_a"]
    assert [test["p_holm"] for test in tests] == [test["p_value"] for test in tests]


def test_all_arms_of_a_sweep_are_one_holm_family() -> None:
    problems = make_problems(60)
    shares = {"plain": [0.5, 0.5], "long": [0.6, 0.7], "wide": [0.8, 0.9]}
    evaluations = [
        build_evaluation(
            arm,
            "evaluate-sft",
            build_scores(problems, draw_values(n, share), f"sft-{arm}", suite),
            problems,
        )
        for n, (arm, share) in enumerate(shares.items())
        for suite in ("toy", "hard")
    ]

    tests = compare_arms(evaluations)

    assert [(test["suite"], test["a"], test["b"]) for test in tests] == [
        ("toy", "plain", "long"),
        ("hard", "plain", "long"),
        ("toy", "plain", "wide"),
        ("hard", "plain", "wide"),
    ]
    assert [test["p_holm"] for test in tests] == adjust_holm([test["p_value"] for test in tests])
    assert {test["slice"] for test in tests} == {"all"}


def test_an_arm_is_tested_against_those_it_names_in_the_family_of_all() -> None:
    problems = make_problems(60)
    shares = {"plain": [0.5], "long": [0.6], "wide": [0.8], "deep": [0.7]}
    against = {"wide": ("plain", "long"), "deep": ("wide",)}
    evaluations = [
        replace(
            build_evaluation(
                arm, "evaluate-sft", build_scores(problems, draw_values(n, share), f"sft-{arm}"), problems
            ),
            against=against.get(arm, ()),
        )
        for n, (arm, share) in enumerate(shares.items())
    ]

    tests = compare_arms(evaluations)

    assert [(test["a"], test["b"]) for test in tests] == [
        ("plain", "long"),
        ("plain", "wide"),
        ("long", "wide"),
        ("wide", "deep"),
    ]
    assert [test["p_holm"] for test in tests] == adjust_holm([test["p_value"] for test in tests])


def test_arms_that_share_a_model_answered_other_problems_or_pass_through_are_not_tested() -> None:
    problems = make_problems(60)
    plain = build_scores(problems, draw_values(0, [0.5, 0.5]))
    other = build_scores(problems, draw_values(1, [0.5, 0.5]), "other")
    elsewhere = [replace(one, context=replace(one.context, suite_hash="else")) for one in other]

    def test_against_plain(scores: list[Scores], *, is_end: bool = True) -> list[dict]:
        arms = (("plain", plain, True), ("new", scores, is_end))
        return compare_arms(
            [build_evaluation(arm, "evaluate-sft", own, problems, is_end=end) for arm, own, end in arms]
        )

    assert test_against_plain(plain) == []
    assert test_against_plain(elsewhere) == []
    assert test_against_plain(other, is_end=False) == []
    assert len(test_against_plain(other)) == 1


def test_arms_at_one_seed_are_tested_as_two_models_are() -> None:
    problems = make_problems(60)
    values = {"plain": draw_values(0, [0.4]), "long": draw_values(1, [0.7])}
    evaluations = [
        build_evaluation(arm, "evaluate-sft", build_scores(problems, own, f"sft-{arm}"), problems)
        for arm, own in values.items()
    ]

    [test] = compare_arms(evaluations)

    expected = compare_values(values["plain"][0], values["long"][0], seed=0)
    assert (test["test"], test["p_value"]) == ("mcnemar", expected["p_value"])
    assert "seeds" not in test


def test_an_evaluation_that_arms_share_has_the_same_rows_in_each() -> None:
    problems = make_problems(60)
    shared = build_scores(problems, draw_values(0, [0.4, 0.5]), "base")
    rows = summarise_evaluations(
        [build_evaluation(arm, "evaluate-base", shared, problems) for arm in ("plain", "long")]
    )

    assert [row.pop("arm") for row in rows] == ["plain", "long"]
    assert rows[0] == rows[1]
