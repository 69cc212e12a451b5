"""Result rows, paired comparisons and shown samples, on attempts written by hand."""

from dataclasses import replace

import pytest

from ponderosa.errors import WorkError
from ponderosa.evaluation.samples import select_samples
from ponderosa.evaluation.summary import (
    RowContext,
    build_results,
    compare,
    correct_family,
    count_reasons,
    summarise,
)
from ponderosa.identity import canonical_json
from ponderosa.metrics import compute_mcnemar_p, compute_sign_flip_p, compute_wilson_interval
from ponderosa.records import Attempt, Cost, GradedAttempt, Problem, Step, Verdict

SCHEMA_KEYS = {
    *(
        "stage",
        "model",
        "model_id",
        "suite",
        "suite_hash",
        "slice",
        "strategy",
        "reward_model",
        "token_budget",
        "metric",
        "value",
        "low",
        "high",
    ),
    *("n", "samples", "seed", "prompt_tokens", "generated_tokens", "train_flops", "eval_flops", "stage_s"),
    *("prefill_tokens", "scored_tokens", "eval_s", "run"),
}
CONTEXT = RowContext("sft", "sft", "sft-1", "toy", "hash", "greedy", seed=3, run="r", stage_s=5.0, eval_s=2.0)


def make_problems(count: int) -> list[Problem]:
    return [Problem(f"What is {i} + 1?", str(i + 1), meta={"operations": 1 + i % 3}) for i in range(count)]


def make_attempt(problem: Problem, answer: str | None, sample: int = 0, finish: str = "stop") -> Attempt:
    return Attempt(
        problem_id=problem.id,
        sample=sample,
        prompt_ids=(1, 2),
        token_ids=(3, 4, 5),
        sampled=(True, True, False),
        model_logprobs=(-0.5, -0.25, 0.0),
        sampling_logprobs=(-0.5, -0.25, 0.0),
        finish=finish,
        text=f"print({answer})",
        steps=(Step(f"print({answer})", f"print({answer})", answer, "ok"),),
        answer=answer,
        answer_key=answer,
        cost=Cost(prompt_tokens=2, generated_tokens=10 + sample, flops=100.0),
        strategy="greedy",
        model_id="sft-1",
        seed=sample,
    )


def judge(problem: Problem, attempt: Attempt) -> Verdict:
    reason = "correct" if attempt.answer == problem.answer else "wrong_answer"
    return Verdict(reason == "correct", "no_answer" if attempt.answer is None else reason, "toy@1")


def grade(problems, answers) -> list[GradedAttempt]:
    """`answers`: for each problem a string with one letter a sample: r(ight), w(rong), x (another wrong), - (none)."""
    spelled = {"w": "-1", "x": "-2", "-": None}
    attempts = [
        (problem, make_attempt(problem, problem.answer if letter == "r" else spelled[letter], sample))
        for problem, letters in zip(problems, answers, strict=True)
        for sample, letter in enumerate(letters)
    ]
    return [GradedAttempt(attempt, judge(problem, attempt)) for problem, attempt in attempts]


def find(rows, metric, slice_name="all"):
    [row] = [row for row in rows if row["metric"] == metric and row["slice"] == slice_name]
    return row


def test_one_answer_per_problem_gives_wilson_rows_of_the_results_schema() -> None:
    problems = make_problems(12)
    rows = summarise(CONTEXT, problems, grade(problems, "rrrrrrrrww--"), ["operations"])
    assert all(set(row) == SCHEMA_KEYS for row in rows)
    row = find(rows, "pass@1")
    assert (row["value"], row["n"], row["samples"]) == (pytest.approx(8 / 12), 12, 1)
    assert (row["low"], row["high"]) == compute_wilson_interval(8, 12)
    assert (row["prompt_tokens"], row["generated_tokens"], row["eval_flops"]) == (24, 120, 1200.0)
    assert find(rows, "no_answer_frac")["value"] == pytest.approx(2 / 12)
    assert find(rows, "mean_generated_tokens")["value"] == 10.0
    assert {row["metric"] for row in rows} == {
        "pass@1",
        "mean_generated_tokens",
        "truncated_frac",
        "no_answer_frac",
    }
    assert canonical_json(build_results(rows)).startswith('{"rows":[')


def test_slices_part_the_suite_in_natural_order() -> None:
    problems = [Problem(f"q{i}", "1", meta={"operations": n}) for i, n in enumerate([10, 2, 2, 1])]
    rows = summarise(CONTEXT, problems, grade(problems, "rrww"), ["operations", "absent"])
    slices = [row["slice"] for row in rows if row["metric"] == "pass@1"]
    assert slices == ["all", "operations=1", "operations=2", "operations=10"]
    assert find(rows, "pass@1", "operations=2")["value"] == 0.5
    assert find(rows, "pass@1", "operations=2")["n"] == 2


def test_several_samples_give_unbiased_pass_and_majority_with_problem_clusters() -> None:
    problems = make_problems(4)
    rows = summarise(CONTEXT, problems, grade(problems, ["rrrr", "rwww", "rwx-", "----"]))
    assert find(rows, "pass@1")["value"] == pytest.approx((1 + 0.25 + 0.25 + 0) / 4)
    assert find(rows, "pass@2")["value"] == pytest.approx((1 + 0.5 + 0.5 + 0) / 4)
    assert find(rows, "pass@4")["value"] == pytest.approx(3 / 4)
    assert find(rows, "majority@4")["value"] == pytest.approx((1 + 0 + 1 / 3 + 0) / 4)
    assert "majority@2" not in {row["metric"] for row in rows}
    row = find(rows, "pass@1")
    assert 0.0 <= row["low"] < row["value"] < row["high"] <= 1.0
    assert (row["samples"], row["n"]) == (4, 4)
    assert find(rows, "mean_generated_tokens")["value"] == pytest.approx(11.5)


def test_the_one_answer_a_strategy_settles_on_has_an_accuracy_and_the_cost_of_its_search() -> None:
    problems = make_problems(4)
    cost = Cost(prompt_tokens=2, prefill_tokens=5, generated_tokens=30, scored_tokens=7, flops=9.0)
    graded = [
        GradedAttempt(replace(item.attempt, cost=cost), item.verdict) for item in grade(problems, "rrrw")
    ]
    rows = summarise(replace(CONTEXT, reward_model="ppm"), problems, graded, settled_from=8)
    assert [row["metric"] for row in rows] == [
        "accuracy",
        "mean_computed_tokens",
        "mean_generated_tokens",
        "truncated_frac",
        "no_answer_frac",
    ]
    row = find(rows, "accuracy")
    assert (row["value"], row["n"], row["samples"], row["reward_model"]) == (0.75, 4, 8, "ppm")
    assert (row["prefill_tokens"], row["generated_tokens"], row["scored_tokens"]) == (20, 120, 28)
    assert row["eval_flops"] == 36.0
    assert find(rows, "mean_computed_tokens")["value"] == 42.0


def test_samples_that_all_agree_still_get_an_interval_with_width() -> None:
    problems = make_problems(20)
    row = find(summarise(CONTEXT, problems, grade(problems, ["wwww"] * 20)), "pass@1")
    assert (row["low"], row["high"]) == compute_wilson_interval(0, 20)


def test_a_missing_attempt_is_an_error_and_not_a_smaller_denominator() -> None:
    problems = make_problems(3)
    with pytest.raises(WorkError, match=r"\[1, 2\] attempts"):
        summarise(CONTEXT, problems, grade(problems, ["rr", "rr", "r"]))
    with pytest.raises(WorkError, match=r"\[0, 1\] attempts"):
        summarise(CONTEXT, problems, grade(problems[:2], "rr"))


def test_rows_do_not_depend_on_the_order_attempts_arrive_in() -> None:
    problems = make_problems(6)
    graded = grade(problems, ["rrwx", "wwww", "r---", "rrrr", "xxwr", "rwrw"])
    assert summarise(CONTEXT, problems, graded) == summarise(CONTEXT, problems, graded[::-1])


def test_comparing_two_models_is_the_exact_test_on_the_problems_they_disagree_on() -> None:
    problems = make_problems(12)
    a, b = grade(problems, "rrrwwwwwwwww"), grade(problems, "rrwrrrrrrrww")
    [row] = compare(problems, ("base", a), ("sft", b), suite="toy", strategy="greedy")
    assert (row["a"], row["b"], row["only_a"], row["only_b"], row["n"]) == ("base", "sft", 1, 7, 12)
    assert (row["test"], row["p_value"]) == ("mcnemar", compute_mcnemar_p(1, 7))
    assert (row["value_a"], row["value_b"]) == (pytest.approx(3 / 12), pytest.approx(9 / 12))
    assert row["low"] < 0.5 < row["high"]


def test_answers_that_were_settled_on_are_compared_by_accuracy() -> None:
    problems = make_problems(4)
    a, b = grade(problems, "rrww"), grade(problems, "rrrr")
    options = {"suite": "toy", "strategy": "mcts", "is_settled": True}
    [row] = compare(problems, ("base", a), ("sft", b), metric="accuracy", **options)
    assert (row["metric"], row["only_a"], row["only_b"], row["test"]) == ("accuracy", 0, 2, "mcnemar")


def test_comparing_sample_means_flips_whole_problems_and_follows_the_slices() -> None:
    problems = make_problems(6)
    a = grade(problems, ["rwww", "rrww", "wwww", "rwww", "wwww", "rrrr"])
    b = grade(problems, ["rrrw", "rrrr", "rwww", "rrww", "wwww", "rrrw"])
    rows = compare(
        problems, ("base", a), ("sft", b), suite="toy", strategy="greedy", slice_keys=["operations"]
    )
    assert [row["slice"] for row in rows] == ["all", "operations=1", "operations=2", "operations=3"]
    assert rows[0]["test"] == "sign_flip"
    assert rows[0]["p_value"] == compute_sign_flip_p(
        [0.25, 0.5, 0, 0.25, 0, 1], [0.75, 1, 0.25, 0.5, 0, 0.75]
    )
    corrected = correct_family(rows)
    assert all(row["p_holm"] >= row["p_value"] for row in corrected)


def test_comparing_by_a_metric_the_samples_do_not_allow_names_those_they_do() -> None:
    problems = make_problems(2)
    graded = grade(problems, "rw")
    with pytest.raises(ValueError, match=r"no 'pass@8'; its samples allow: pass@1"):
        compare(problems, ("a", graded), ("b", graded), suite="toy", strategy="greedy", metric="pass@8")


def test_shown_samples_are_chosen_by_problem_and_not_by_model() -> None:
    problems = make_problems(40)
    graded = grade(problems, "rw" * 20)
    shown = select_samples(problems, graded, slice_keys=["operations"], num_right=3, num_wrong=2)
    assert [sample["verdict"]["correct"] for sample in shown] == [True] * 3 + [False] * 2
    again = select_samples(problems, graded[::-1], num_right=3, num_wrong=2)
    assert [sample["problem_id"] for sample in again] == [sample["problem_id"] for sample in shown]
    assert shown[0]["slice"].startswith("operations=")
    assert shown[0]["steps"][0]["outcome"] == "ok"


def test_reasons_are_counted_most_frequent_first() -> None:
    problems = make_problems(5)
    counts = count_reasons(grade(problems, "rrr-w"))
    assert next(iter(counts.items())) == ("correct", 3)
    assert counts == {"correct": 3, "no_answer": 1, "wrong_answer": 1}
