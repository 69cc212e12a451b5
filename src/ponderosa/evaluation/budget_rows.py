"""Strategies at equal budget: graded answers in, result rows and paired tests out. Pure.

Rows and tests are those of `summary`, of whole suites only: a comparison asks one question of each strategy, and every
further test would cost the others power. The share of right answers goes by a name of its own, since it is read over
budgets and not from model to model.
"""

from collections.abc import Sequence

from ponderosa.evaluation.summary import ACCURACY, ALL, Graded, Row, RowContext, compare, summarise
from ponderosa.records import Problem

ACCURACY_AT_BUDGET = "accuracy_at_budget"


def summarise_answers(
    context: RowContext, problems: Sequence[Problem], graded: Graded, settled_from: int
) -> list[Row]:
    """The rows of a strategy with one reward model, or none, under one budget."""
    return [_name_metric(row) for row in summarise(context, problems, graded, settled_from=settled_from)]


def compare_answers(
    problems: Sequence[Problem], a: tuple[str, Graded], b: tuple[str, Graded], context: RowContext
) -> Row:
    """The paired test of two strategies under one budget. context: that of the rows of `b`."""
    (test,) = compare(
        problems, a, b, suite=context.suite, strategy=context.strategy, metric=ACCURACY, is_settled=True
    )
    assert test["slice"] == ALL
    return _name_metric({**test, "reward_model": context.reward_model, "token_budget": context.token_budget})


def _name_metric(row: Row) -> Row:
    return {**row, "metric": ACCURACY_AT_BUDGET} if row["metric"] == ACCURACY else row
