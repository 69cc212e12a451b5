"""One evaluation: a suite is solved unit by unit, each finished unit is committed, then everything is graded.

Verdicts are not committed: grading again costs little, and a better grader then needs no new attempts. Searches see
questions only; gold answers are met here, after the last of them.
"""

from collections.abc import Sequence
from dataclasses import replace

from ponderosa.artifacts import Journal
from ponderosa.engines.protocol import Engine, Scorer
from ponderosa.errors import WorkError
from ponderosa.evaluation.suites import Suite
from ponderosa.evaluation.units import (
    UNIT_ATTEMPTS,
    Record,
    commit_units,
    describe_setting,
    parse_attempt,
)
from ponderosa.identity import derive_seed
from ponderosa.progress import SILENT, Progress
from ponderosa.records import Attempt, GradedAttempt, Problem, to_record
from ponderosa.search.driver import StepRunner, run_unit
from ponderosa.search.requests import SearchResult
from ponderosa.search.solution import SearchContext
from ponderosa.search.strategies import Strategy
from ponderosa.verify import Grader, verdict_for


def evaluate_model(
    engine: Engine,
    sandbox: StepRunner,
    grader: Grader,
    suite: Suite,
    strategy: Strategy,
    context: SearchContext,
    journal: Journal,
    *,
    scorer: Scorer | None = None,
    unit_attempts: int = UNIT_ATTEMPTS,
    label: str | None = None,
    progress: Progress = SILENT,
) -> list[GradedAttempt]:
    """Every attempt of a model at a suite, with its verdict, in suite order; of a strategy that settles on an answer,
    the chosen attempt alone, at the price of its search.

    context: how the model is asked and sampled (`search.driver.build_context`). Its seed becomes a sampling seed of
    the suite's purpose, so a reported number never shares its draws with a choice. label: what its progress goes by.
    Units found in the journal are reused if problems, models, strategy, format, sampling, limits and seed are equal.
    Raises WorkerLost.
    """
    context = replace(context, seed=derive_seed(suite.purpose, "sampling", context.seed))

    def solve(problems: Sequence[Problem], unit_progress: Progress) -> list[Record]:
        results: list[SearchResult] = run_unit(
            engine, sandbox, problems, strategy, context, scorer=scorer, progress=unit_progress
        )
        measured = [(one.settle(),) if strategy.settles else one.attempts for one in results]
        return [to_record(attempt) for attempts in measured for attempt in attempts]

    records = commit_units(
        suite.problems,
        solve,
        journal,
        setting=describe_setting([strategy.name, strategy.model_dump(mode="json")], context),
        unit_size=max(1, unit_attempts // strategy.num_parallel),
        label=label or f"evaluate {suite.name}",
        progress=progress,
    )
    return grade_attempts(suite.problems, [parse_attempt(record) for record in records], grader)


def grade_attempts(
    problems: Sequence[Problem], attempts: Sequence[Attempt], grader: Grader
) -> list[GradedAttempt]:
    """Each attempt with its verdict. Raises WorkError for an attempt at a problem that was not asked, WorkerLost."""
    by_id = {problem.id: problem for problem in problems}
    strangers = {attempt.problem_id for attempt in attempts} - set(by_id)
    if strangers:
        raise WorkError(f"attempts at problems that were not asked: {', '.join(sorted(strangers)[:3])}")
    return [
        GradedAttempt(attempt, verdict_for(by_id[attempt.problem_id], attempt, grader))
        for attempt in attempts
    ]
