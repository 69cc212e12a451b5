"""What a reward model said of labelled solutions, as result rows, as a table, and in paired tests. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ponderosa.errors import ConfigError
from ponderosa.evaluation.step_errors import (
    RULES,
    Rule,
    ScoredSteps,
    compute_signals,
    find_first_error,
    is_for_selection,
    is_found,
    measure,
)
from ponderosa.evaluation.summary import (
    ALL,
    Row,
    RowContext,
    build_row,
    compare_values,
    correct_family,
    name_slices,
)
from ponderosa.identity import derive_seed
from ponderosa.records import Cost, Problem
from ponderosa.tasks.step_labels import LabelledSolution

SLICE_KEYS = ("kind", "operations")

Table = Sequence[Mapping[str, Any]]
"""Rows of `describe_solution`."""


@dataclass(frozen=True, slots=True)
class ScoredSolution:
    """A solution and what the reward model said of it, at what cost."""

    labelled: LabelledSolution
    steps: ScoredSteps
    cost: Cost


def summarise(
    row_context: RowContext, scored: Sequence[ScoredSolution], thresholds: Mapping[Rule, float]
) -> list[Row]:
    """Every figure of every rule on the measured half and its slices, as result rows; a row's strategy is the rule."""
    measured = {one.steps.id: one for one in scored if not is_for_selection(one.steps)}
    tagged = [tag_problem(one.labelled) for one in measured.values()]
    rows: list[Row] = []
    for rule, threshold in thresholds.items():
        for slice_name, ids in name_slices(tagged, SLICE_KEYS).items():
            members = [measured[one] for one in ids]
            figures = measure([one.steps for one in members], rule, threshold)
            for metric, figure in figures.items():
                row = build_row(
                    replace(row_context, strategy=rule),
                    slice_name,
                    metric,
                    [figure.value] * figure.n,
                    figure.interval,
                    [one.cost for one in members],
                    1,
                )
                rows.append(row)
    return rows


def tag_problem(solution: LabelledSolution) -> Problem:
    """The solution's problem by the solution's id, with what slices go by in its `meta`."""
    kind = {"kind": solution.kind} if solution.kind else {}
    return replace(solution.problem, id=solution.id, meta={**solution.problem.meta, **kind})


def describe_solution(name: str, one: ScoredSolution, thresholds: Mapping[Rule, float]) -> dict[str, Any]:
    """A solution as a row of the table: its steps and scores, and by rule the step said to be wrong and whether that
    is the one."""
    row: dict[str, Any] = {
        "suite": name,
        "id": one.labelled.id,
        "question": one.labelled.problem.question,
        "steps": [step.text for step in one.labelled.steps],
        "kind": one.labelled.kind,
        "is_answer_right": one.labelled.is_answer_right,
        "first_error": one.labelled.first_error,
        "prompt_score": one.steps.scores[0],
        "step_scores": list(one.steps.scores[1:]),
        "is_for_selection": is_for_selection(one.steps),
    }
    for rule in RULES:
        row |= {f"said_{rule}": None, f"found_{rule}": None}
    for rule, threshold in thresholds.items():
        row[f"said_{rule}"] = find_first_error(compute_signals(one.steps, rule), threshold)
        row[f"found_{rule}"] = is_found(one.steps, rule, threshold)
    return row


def compare_found(a: tuple[str, Table], b: tuple[str, Table]) -> list[Row]:
    """Paired tests of two reward models (a name and its table each): which solutions of the measured half they classified
    rightly, one row for each set and rule. Raises ConfigError if they did not see the same solutions."""
    name_a, name_b = a[0], b[0]
    known, found = group_found(a[1]), group_found(b[1])
    tests: list[Row] = []
    for suite, rule in found:
        mine, theirs = found[suite, rule], known.get((suite, rule), {})
        if mine.keys() != theirs.keys():
            raise ConfigError(
                f"{name_a} and {name_b} were not measured on the same solutions of {suite!r}; give both stages the same "
                "`planted`, `sets` and `limit`, and reward models of one context"
            )
        test = {"suite": suite, "slice": ALL, "strategy": rule, "metric": "first_error_accuracy"}
        values_a, values_b = ([float(is_found[one]) for one in mine] for is_found in (theirs, mine))
        seed = derive_seed("paired", suite, rule, name_a, name_b)
        tests.append({**test, "a": name_a, "b": name_b, **compare_values(values_a, values_b, seed=seed)})
    return correct_family(tests)


def group_found(table: Table) -> dict[tuple[str, Rule], dict[str, bool]]:
    """By set and rule, whether each measured solution was classified rightly; sets without thresholds are left out."""
    groups: dict[tuple[str, Rule], dict[str, bool]] = {}
    for row in table:
        for rule in RULES:
            if row[f"found_{rule}"] is not None and not row["is_for_selection"]:
                groups.setdefault((row["suite"], rule), {})[row["id"]] = row[f"found_{rule}"]
    return groups
