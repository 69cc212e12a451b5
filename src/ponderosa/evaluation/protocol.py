"""One evaluation: a suite is solved unit by unit, each finished unit is committed, then everything is graded.

A unit is a fixed run of consecutive problems; what it samples depends on the unit alone, so an evaluation that was
killed continues to the same attempts. Verdicts are not committed: grading again costs little, and a better grader
then needs no new attempts. Searches see questions only; gold answers are met here, after the last of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from ponderosa.artifacts import Journal
from ponderosa.engines.protocol import Engine
from ponderosa.errors import WorkError
from ponderosa.evaluation.suites import Suite
from ponderosa.evaluation.summary import GradedAttempt
from ponderosa.identity import content_hash, derive_seed
from ponderosa.progress import SILENT, Progress, Task, track
from ponderosa.records import Attempt, Cost, Problem, Step, to_record
from ponderosa.search.driver import StepRunner, run_unit
from ponderosa.search.solution import SearchContext
from ponderosa.search.strategies import Strategy
from ponderosa.verify import Grader, verdict_for

UNIT_ATTEMPTS = 512
"""Attempts a unit holds: enough to keep an engine's slots busy, little enough to lose when killed."""

Solve = Callable[[Sequence[Problem], Progress], list[Attempt]]
"""Attempts at a unit of problems, the same number for each; a function of the problems alone."""


def evaluate_model(
    engine: Engine,
    sandbox: StepRunner,
    grader: Grader,
    suite: Suite,
    strategy: Strategy,
    context: SearchContext,
    journal: Journal,
    *,
    unit_attempts: int = UNIT_ATTEMPTS,
    progress: Progress = SILENT,
) -> list[GradedAttempt]:
    """Every attempt of a model at a suite, with its verdict, in suite order.

    context: how the model is asked and sampled (`search.driver.build_context`). Its seed becomes a sampling seed of
    the suite's purpose, so a reported number never shares its draws with a choice.
    Units found in the journal are reused if problems, model, strategy, format, sampling, limits and seed are equal.
    Raises WorkerLost.
    """
    context = replace(context, seed=derive_seed(suite.purpose, "sampling", context.seed))

    def solve(problems: Sequence[Problem], unit_progress: Progress) -> list[Attempt]:
        results = run_unit(engine, sandbox, problems, strategy, context, progress=unit_progress)
        return [attempt for result in results for attempt in result.attempts]

    attempts = commit_attempts(
        suite,
        solve,
        journal,
        setting=describe_setting(strategy, context),
        unit_size=max(1, unit_attempts // strategy.num_attempts),
        progress=progress,
    )
    return grade_attempts(suite.problems, attempts, grader)


def describe_setting(strategy: Strategy, context: SearchContext) -> str:
    """Hash of what decides attempts besides the problems."""
    return content_hash(
        [
            strategy.name,
            strategy.num_attempts,
            context.model_id,
            context.prompt_format.model_dump(mode="json"),
            asdict(context.sampling),
            asdict(context.limits),
            context.seed,
        ]
    )


def commit_attempts(
    suite: Suite,
    solve: Solve,
    journal: Journal,
    *,
    setting: str,
    unit_size: int,
    progress: Progress = SILENT,
) -> list[Attempt]:
    """The attempts of every unit, solved and committed unless the journal has it already."""
    units = {
        content_hash([setting, [problem.id for problem in problems]]): problems
        for problems in _split_units(suite.problems, unit_size)
    }
    num_done = sum(len(problems) for name, problems in units.items() if name in journal.units)
    label = f"evaluate {suite.name}"
    with track(progress, label, len(suite.problems), unit="problems", done=num_done) as task:
        for name, problems in units.items():
            if name not in journal.units:
                attempts = solve(problems, _SharedBar(task, progress))
                journal.append(name, [to_record(attempt) for attempt in attempts])
    return [parse_attempt(record) for name in units for record in journal.units[name]]


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


def parse_attempt(record: Mapping[str, Any]) -> Attempt:
    """The attempt `to_record` wrote."""
    sequences = ("prompt_ids", "token_ids", "sampled", "model_logprobs", "sampling_logprobs")
    return Attempt(
        **{
            **record,
            **{name: tuple(record[name]) for name in sequences},
            "steps": tuple(Step(**step) for step in record["steps"]),
            "cost": Cost(**record["cost"]),
        }
    )


def _split_units(problems: Sequence[Problem], unit_size: int) -> Iterator[Sequence[Problem]]:
    for start in range(0, len(problems), unit_size):
        yield problems[start : start + unit_size]


class _SharedBar:
    """Lets each unit's searches advance the one bar of the whole evaluation."""

    def __init__(self, task: Task, progress: Progress) -> None:
        self._task, self._progress = task, progress

    def start(self, label: str, total: float | None, unit: str, done: float) -> Task:
        return self._task

    def finish(self, task: Task) -> None:
        """The bar goes on with the next unit."""

    def say(self, line: str) -> None:
        self._progress.say(line)
