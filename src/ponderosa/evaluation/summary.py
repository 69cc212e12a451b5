"""Graded attempts in, result rows and paired tests out. Pure: no engine, no files, no clock.

A row is one metric of one model on one slice of one suite (the results schema of `ponderosa evaluate --json`).
Problems are the unit of everything: values are computed per problem over all of its attempts, then averaged, so a
missing attempt is an error here and never a smaller denominator. An attempt without an answer counts as wrong,
whatever kept it from giving one.

Where a strategy settles on an answer, its problems have one attempt each, the chosen one, whose cost is that of all
that was written to find it. `settled_from` then says how many solutions that is at most.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from ponderosa.errors import WorkError
from ponderosa.identity import derive_seed
from ponderosa.metrics import (
    Interval,
    adjust_holm,
    bootstrap_problems,
    compute_majority_at_k,
    compute_mcnemar_p,
    compute_pass_at_k,
    compute_sign_flip_p,
    compute_wilson_interval,
)
from ponderosa.records import Cost, GradedAttempt, Problem

RESULTS_SCHEMA = 1
ALL = "all"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RowContext:
    """What every row of one evaluation shares. `train_flops` and `stage_s` are the evaluated stage's own cost.

    reward_model: what scored for the strategy, by the name of its stage or directory; None if nothing did. token_budget:
    the tokens after which the search for one problem's answer ended; None if there was no limit.
    """

    stage: str
    model: str
    model_id: str
    suite: str
    suite_hash: str
    strategy: str
    seed: int
    run: str = ""
    train_flops: float = 0.0
    stage_s: float = 0.0
    eval_s: float = 0.0
    reward_model: str | None = None
    token_budget: int | None = None


Graded = Sequence[GradedAttempt]
ByProblem = Mapping[str, Graded]


def group_by_problem(problems: Sequence[Problem], graded: Graded) -> dict[str, list[GradedAttempt]]:
    """Each problem's attempts in sample order, problems in suite order.

    Raises WorkError if some problem has fewer attempts than another: an average over what happens to be there
    would favour what was easy to finish.
    """
    groups: dict[str, list[GradedAttempt]] = {problem.id: [] for problem in problems}
    for item in graded:
        if item.attempt.problem_id in groups:
            groups[item.attempt.problem_id].append(item)
    sizes = {len(group) for group in groups.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise WorkError(
            f"problems have {sorted(sizes)} attempts each; every problem needs the same number, at least one"
        )
    for group in groups.values():
        group.sort(key=lambda item: item.attempt.sample)
    return groups


def name_slices(problems: Sequence[Problem], keys: Sequence[str]) -> dict[str, list[str]]:
    """Problem ids by slice: `all`, then `key=value` for each key of `meta`, values in natural order."""
    slices: dict[str, list[str]] = {ALL: [problem.id for problem in problems]}
    for key in keys:
        present = [(problem.meta[key], problem.id) for problem in problems if key in problem.meta]
        for value in sorted({value for value, _ in present}, key=_natural_order):
            slices[f"{key}={value}"] = [name for seen, name in present if seen == value]
    return slices


def summarise(
    context: RowContext,
    problems: Sequence[Problem],
    graded: Graded,
    slice_keys: Sequence[str] = (),
    settled_from: int | None = None,
) -> list[Row]:
    """Every metric on every slice, each with its interval, as result rows."""
    groups = group_by_problem(problems, graded)
    num_samples = settled_from or len(groups[problems[0].id])
    rows: list[Row] = []
    for slice_name, ids in name_slices(problems, slice_keys).items():
        members = [groups[name] for name in ids]
        costs = [item.attempt.cost for group in members for item in group]
        for metric, compute in list_metrics(num_samples, is_settled=settled_from is not None).items():
            values = [compute(group) for group in members]
            seed = derive_seed("interval", context.seed, context.suite_hash, slice_name, metric)
            interval = compute_interval(values, is_frac=metric not in UNBOUNDED, seed=seed)
            rows.append(build_row(context, slice_name, metric, values, interval, costs, num_samples))
    return rows


ACCURACY = "accuracy"
UNBOUNDED = frozenset({"mean_generated_tokens", "mean_computed_tokens", "mean_simulations"})

Compute = Callable[[Graded], float]


def list_metrics(num_samples: int, *, is_settled: bool = False) -> dict[str, Compute]:
    """The metrics M samples per problem allow, each a function of one problem's attempts.

    pass@k at powers of two up to M and at M; majority@k from k = 3, since two votes never outvote each other. The one
    answer that a strategy settles on has an accuracy, and the tokens that were computed to come to it.
    """
    metrics: dict[str, Compute]
    if is_settled:
        metrics = {
            ACCURACY: _pass_at(1),
            "mean_computed_tokens": _mean_of(lambda item: item.attempt.cost.computed_tokens),
        }
    else:
        ks = sorted({1 << i for i in range(num_samples.bit_length())} | {num_samples})
        metrics = {f"pass@{k}": _pass_at(k) for k in ks}
        metrics |= {f"majority@{k}": _majority_at(k) for k in ks if k > 2}
    metrics["mean_generated_tokens"] = _mean_of(lambda item: item.attempt.cost.generated_tokens)
    metrics["truncated_frac"] = _mean_of(lambda item: item.attempt.finish == "length")
    metrics["no_answer_frac"] = _mean_of(lambda item: item.attempt.answer is None)
    return metrics


def compute_interval(values_P: Sequence[float], *, is_frac: bool, seed: int) -> Interval:
    """Wilson where every value is 0 or 1, else the bootstrap by problem.

    Right-or-wrong values are one trial per problem. That also covers k samples which all agree on every problem:
    a resample of identical values has no width, and zero width is not what 0 of 20 problems show.
    """
    if is_frac and set(values_P) <= {0.0, 1.0}:
        return compute_wilson_interval(int(sum(values_P)), len(values_P))
    return bootstrap_problems(values_P, seed=seed)


def compare(
    problems: Sequence[Problem],
    a: tuple[str, Graded],
    b: tuple[str, Graded],
    *,
    suite: str,
    strategy: str,
    metric: str = "pass@1",
    slice_keys: Sequence[str] = (),
    is_settled: bool = False,
) -> list[Row]:
    """Exact paired tests of two models on the same problems, one row per slice.

    a, b: a model's name and its graded attempts. Right-or-wrong values get McNemar's test, means over samples the
    sign-flip test. only_a, only_b count the problems on which that model's value is the higher one; low and high
    bound value_b - value_a. `p_value` is uncorrected; `correct_family` adds Holm's correction.
    """
    groups_a, groups_b = group_by_problem(problems, a[1]), group_by_problem(problems, b[1])
    compute_a = _find_metric(metric, groups_a, a[0], is_settled)
    compute_b = _find_metric(metric, groups_b, b[0], is_settled)
    rows: list[Row] = []
    for slice_name, ids in name_slices(problems, slice_keys).items():
        values_a = [compute_a(groups_a[name]) for name in ids]
        values_b = [compute_b(groups_b[name]) for name in ids]
        seed = derive_seed("paired", suite, slice_name, metric, a[0], b[0])
        row = {"suite": suite, "slice": slice_name, "strategy": strategy, "metric": metric}
        rows.append({**row, "a": a[0], "b": b[0], **compare_values(values_a, values_b, seed=seed)})
    return rows


def compare_values(values_a_P: Sequence[float], values_b_P: Sequence[float], *, seed: int) -> Row:
    """The paired test of two models' values on the same problems, with the interval of their difference."""
    pairs = list(zip(values_a_P, values_b_P, strict=True))
    only_a, only_b = sum(x > y for x, y in pairs), sum(y > x for x, y in pairs)
    is_binary = {value for pair in pairs for value in pair} <= {0.0, 1.0}
    difference = bootstrap_problems([y - x for x, y in pairs], seed=derive_seed("difference", seed))
    return {
        "value_a": fmean(values_a_P),
        "value_b": fmean(values_b_P),
        "n": len(pairs),
        "only_a": only_a,
        "only_b": only_b,
        "low": difference.low,
        "high": difference.high,
        "test": "mcnemar" if is_binary else "sign_flip",
        "p_value": compute_mcnemar_p(only_a, only_b)
        if is_binary
        else compute_sign_flip_p(values_a_P, values_b_P, seed=seed),
    }


def correct_family(tests: Sequence[Row]) -> list[Row]:
    """The tests with `p_holm`, corrected over all of them as one family."""
    adjusted = adjust_holm([test["p_value"] for test in tests])
    return [{**test, "p_holm": p_holm} for test, p_holm in zip(tests, adjusted, strict=True)]


def build_results(rows: Sequence[Row]) -> dict[str, Any]:
    """The results file: `summary.json`, `rows.json`, `ponderosa evaluate --json`."""
    return {"schema": RESULTS_SCHEMA, "rows": list(rows)}


def count_reasons(graded: Graded) -> dict[str, int]:
    """How many attempts ended with each verdict reason, most frequent first."""
    return dict(Counter(item.verdict.reason for item in graded).most_common())


def _find_metric(metric: str, groups: ByProblem, name: str, is_settled: bool) -> Compute:
    metrics = list_metrics(len(next(iter(groups.values()))), is_settled=is_settled)
    if metric not in metrics:
        raise ValueError(f"{name} has no {metric!r}; its samples allow: {', '.join(metrics)}")
    return metrics[metric]


def build_row(
    context: RowContext,
    slice_name: str,
    metric: str,
    values_P: Sequence[float],
    interval: Interval,
    costs: Sequence[Cost],
    num_samples: int,
) -> Row:
    """A result row: the mean of per-problem values with its interval, and what all their attempts cost."""
    shared = asdict(context)
    return {
        **{key: shared[key] for key in ("stage", "model", "model_id", "suite", "suite_hash")},
        "slice": slice_name,
        "strategy": context.strategy,
        "reward_model": context.reward_model,
        "token_budget": context.token_budget,
        "metric": metric,
        "value": fmean(values_P),
        "low": interval.low,
        "high": interval.high,
        "n": len(values_P),
        "samples": num_samples,
        "seed": context.seed,
        "prompt_tokens": sum(cost.prompt_tokens for cost in costs),
        "prefill_tokens": sum(cost.prefill_tokens for cost in costs),
        "generated_tokens": sum(cost.generated_tokens for cost in costs),
        "scored_tokens": sum(cost.scored_tokens for cost in costs),
        "train_flops": context.train_flops,
        "eval_flops": math.fsum(cost.flops for cost in costs),
        **{key: shared[key] for key in ("stage_s", "eval_s", "run")},
    }


def _pass_at(k: int) -> Compute:
    return lambda group: compute_pass_at_k(len(group), sum(item.verdict.correct for item in group), k)


def _majority_at(k: int) -> Compute:
    return lambda group: compute_majority_at_k(
        [item.attempt.answer_key for item in group], [item.verdict.correct for item in group], k
    )


def _mean_of(measure: Callable[[GradedAttempt], float]) -> Compute:
    return lambda group: fmean(measure(item) for item in group)


def _natural_order(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then words by spelling."""
    is_number = isinstance(value, int | float)
    return (not is_number, float(value) if is_number else 0.0, str(value))
