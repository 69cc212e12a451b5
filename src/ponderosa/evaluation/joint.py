"""What several trained models show together: over training seeds, from stage to stage, and across a sweep's arms.

Per-problem values in, result rows and paired tests out. Pure: no engine, no files, no clock. Models that are
compared answered the same problems; seed s of one is paired with seed s of the other.

Legend: S training seeds, P problems.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from ponderosa.evaluation.summary import (
    UNBOUNDED,
    Graded,
    Row,
    RowContext,
    build_row,
    compare_values,
    compute_interval,
    correct_family,
    group_by_problem,
    list_metrics,
    name_slices,
)
from ponderosa.identity import content_hash, derive_seed
from ponderosa.metrics import Interval, bootstrap_seeds_and_problems
from ponderosa.records import Cost, Problem


@dataclass(frozen=True, slots=True)
class Scores:
    """What one trained model scored on a suite.

    values: every metric's value for each problem, by problem id. costs: those of each problem's attempts, added up.
    """

    context: RowContext
    num_samples: int
    values: Mapping[str, Mapping[str, float]]
    costs: Mapping[str, Cost]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One suite of one evaluate stage of one arm, as the model of every training seed answered it; or one search stage.

    arm: None without a sweep. is_end: whether the arm runs until this stage. scores: in the order of the seeds (S).
    against: the arms it is tested against; none stands for the first.
    """

    arm: str | None
    stage: str
    compare_to: str | None
    metric: str
    is_end: bool
    problems: Sequence[Problem]
    slice_keys: Sequence[str]
    scores: Sequence[Scores]
    against: Sequence[str] = ()

    @property
    def context(self) -> RowContext:
        return self.scores[0].context


def compute_scores(
    context: RowContext, problems: Sequence[Problem], graded: Graded, settled_from: int | None = None
) -> Scores:
    """Every metric of every problem. settled_from: as of `summarise`. Raises WorkError if attempts are missing."""
    groups = group_by_problem(problems, graded)
    num_samples = settled_from or len(groups[problems[0].id])
    values = {
        metric: {name: compute(group) for name, group in groups.items()}
        for metric, compute in list_metrics(num_samples, is_settled=settled_from is not None).items()
    }
    costs = {name: sum((item.attempt.cost for item in group), Cost()) for name, group in groups.items()}
    return Scores(context, num_samples, values, costs)


def summarise_evaluations(evaluations: Sequence[Evaluation]) -> list[Row]:
    """The joint rows of every evaluation. One that several arms share is computed once and shown for each."""
    known: dict[tuple[RowContext, ...], list[Row]] = {}
    rows: list[Row] = []
    for one in evaluations:
        contexts = tuple(scores.context for scores in one.scores)
        if contexts not in known:
            known[contexts] = summarise_seeds(one.problems, one.scores, one.slice_keys)
        rows += [_name_arm(row, one) for row in known[contexts]]
    return rows


def compare_stages(evaluations: Sequence[Evaluation]) -> list[Row]:
    """Each evaluation tested against the one it is compared to in its arm; one evaluate stage is one Holm family."""
    families: dict[tuple[str | None, str], list[Row]] = {}
    for one in evaluations:
        other = _find(evaluations, one.arm, one.compare_to, one)
        if other is not None:
            family = families.setdefault((one.arm, one.stage), [])
            names = (other.context.model, one.context.model)
            tests = compare_seeds(
                one.problems,
                other.scores,
                one.scores,
                names=names,
                metric=one.metric,
                slice_keys=one.slice_keys,
            )
            family += [_name_arm(test, one) for test in tests]
    return [test for family in families.values() for test in correct_family(family)]


def compare_searches(searches: Sequence[Evaluation]) -> list[Row]:
    """Each search tested against the last before it of the same problems in its arm: in rounds, that of the round
    before. `a` and `b` name searches; each is a Holm family."""
    last: dict[tuple[str | None, str], Evaluation] = {}
    rows: list[Row] = []
    for one in searches:
        key = (one.arm, one.context.suite_hash)
        other, last[key] = last.get(key), one
        if other is not None:
            tests = compare_seeds(
                one.problems,
                other.scores,
                one.scores,
                names=(other.stage, one.stage),
                metric=one.metric,
                slice_keys=one.slice_keys,
            )
            rows += [_name_arm(test, one) for test in correct_family(tests)]
    return rows


def compare_arms(evaluations: Sequence[Evaluation]) -> list[Row]:
    """Every arm tested against the first or those it names, on each suite that both end in: one Holm family.

    `a` and `b` name arms, `stage` the model. Only whole suites are tested: a sweep asks one question of each arm, and
    every further test would cost the others power. Nothing is tested where two arms share a model, or answered other
    problems.
    """
    tests: list[Row] = []
    pairs = [(one, arm) for one in evaluations for arm in one.against or (evaluations[0].arm,)]
    for one, arm in pairs:
        other = _find(evaluations, arm, one.stage, one)
        if other is None or other.arm == one.arm or not (one.is_end and other.is_end):
            continue
        is_shared = [scores.context for scores in other.scores] == [scores.context for scores in one.scores]
        is_paired = other.context.suite_hash == one.context.suite_hash
        if is_shared or not is_paired or one.metric not in other.scores[0].values:
            continue
        names = (str(other.arm), str(one.arm))
        found = compare_seeds(one.problems, other.scores, one.scores, names=names, metric=one.metric)
        tests += [{"stage": one.context.stage, **test} for test in found]
    return correct_family(tests)


def summarise_seeds(
    problems: Sequence[Problem], scores_S: Sequence[Scores], slice_keys: Sequence[str] = ()
) -> list[Row]:
    """Rows over all training seeds, seeds and problems resampled together.

    They have `seed` None and name their `seeds`; `model_id` is a hash of the models'; costs are summed over seeds.
    """
    first = scores_S[0].context
    contexts = [scores.context for scores in scores_S]
    sums = {
        key: math.fsum(getattr(one, key) for one in contexts) for key in ("train_flops", "stage_s", "eval_s")
    }
    model_id = content_hash([one.model_id for one in contexts])
    shared = {"model_id": model_id, "seed": None, "seeds": [one.seed for one in contexts], **sums}
    rows: list[Row] = []
    for slice_name, ids in name_slices(problems, slice_keys).items():
        costs = [scores.costs[name] for scores in scores_S for name in ids]
        for metric in scores_S[0].values:
            values_SP = _select(scores_S, metric, ids)
            seed = derive_seed("interval", first.suite_hash, slice_name, metric)
            interval = compute_joint_interval(values_SP, is_frac=metric not in UNBOUNDED, seed=seed)
            means = _average(values_SP)
            row = build_row(first, slice_name, metric, means, interval, costs, scores_S[0].num_samples)
            rows.append({**row, **shared})
    return rows


def compute_joint_interval(values_SP: Sequence[Sequence[float]], *, is_frac: bool, seed: int) -> Interval:
    """Seeds and problems resampled together; where all seeds agree on every problem, the interval of one of them,
    which has width even if every answer is right."""
    if all(list(values) == list(values_SP[0]) for values in values_SP):
        return compute_interval(values_SP[0], is_frac=is_frac, seed=seed)
    return bootstrap_seeds_and_problems(values_SP, seed=seed)


def compare_seeds(
    problems: Sequence[Problem],
    a_S: Sequence[Scores],
    b_S: Sequence[Scores],
    *,
    names: tuple[str, str],
    metric: str,
    slice_keys: Sequence[str] = (),
) -> list[Row]:
    """Paired tests of two models, each trained from the same S seeds, one row per slice.

    Null hypothesis of `p_value`: on no problem would it matter if the S models of `a` and the S models of `b`
    exchanged places; what is exchanged is the value averaged over seeds. Problems are its unit of randomness, so a
    small p says that *these trained models* differ on problems like these, not that the recipe would again make
    different ones from other seeds. About that, `low` and `high` bound the difference with seeds and problems
    resampled together, and `by_seed` holds each seed's own test (uncorrected). No test has seeds as its unit: of S of
    them the smallest two-sided p is 2^(1 - S), 0.25 for three.

    With one seed it is the test of `summary.compare_values`.
    """
    context = b_S[0].context
    rows: list[Row] = []
    for slice_name, ids in name_slices(problems, slice_keys).items():
        a_SP, b_SP = _select(a_S, metric, ids), _select(b_S, metric, ids)
        seed = derive_seed("paired", context.suite, slice_name, metric, *names)
        test = compare_values(_average(a_SP), _average(b_SP), seed=seed)
        row: Row = {
            "suite": context.suite,
            "slice": slice_name,
            "strategy": context.strategy,
            "metric": metric,
        }
        row |= {"a": names[0], "b": names[1], **test}
        if len(b_S) > 1:
            seeds = [scores.context.seed for scores in b_S]
            row |= {"seed": None, "seeds": seeds, **_bound_difference(a_SP, b_SP, seed)}
            row["by_seed"] = [
                {"seed": own, **compare_values(a, b, seed=derive_seed("paired", seed, own))}
                for own, a, b in zip(seeds, a_SP, b_SP, strict=True)
            ]
        rows.append(row)
    return rows


def _bound_difference(a_SP: Sequence[Sequence[float]], b_SP: Sequence[Sequence[float]], seed: int) -> Row:
    difference_SP = np.asarray(b_SP) - np.asarray(a_SP)
    interval = bootstrap_seeds_and_problems(difference_SP, seed=derive_seed("difference", seed))
    return {"low": interval.low, "high": interval.high}


def _select(scores_S: Sequence[Scores], metric: str, ids: Sequence[str]) -> list[list[float]]:
    return [[scores.values[metric][name] for name in ids] for scores in scores_S]


def _average(values_SP: Sequence[Sequence[float]]) -> list[float]:
    """Mean over seeds of each problem's value (P)."""
    return [fmean(values_S) for values_S in zip(*values_SP, strict=True)]


def _find(
    evaluations: Sequence[Evaluation], arm: str | None, stage: str | None, like: Evaluation
) -> Evaluation | None:
    """The evaluation of that arm and stage on the same suite by the same strategy."""
    suite = (like.context.suite, like.context.strategy)
    for one in evaluations:
        if (one.arm, one.stage) == (arm, stage) and (one.context.suite, one.context.strategy) == suite:
            return one
    return None


def _name_arm(row: Row, evaluation: Evaluation) -> Row:
    return row if evaluation.arm is None else {**row, "arm": evaluation.arm}
