"""One evaluation: a suite is solved unit by unit, each finished unit is committed, then everything is graded.

A unit is a fixed run of consecutive problems; what it samples depends on the unit alone, so an evaluation that was
killed continues to the same attempts. Verdicts are not committed: grading again costs little, and a better grader
then needs no new attempts. Nothing here knows how attempts are made: `solve` does.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from ponderosa.artifacts import Journal
from ponderosa.errors import WorkError
from ponderosa.evaluation.suites import Suite
from ponderosa.evaluation.summary import GradedAttempt
from ponderosa.identity import content_hash, derive_seed
from ponderosa.progress import SILENT, Progress, track
from ponderosa.records import Attempt, Cost, Problem, Step, Verdict, to_record

UNIT_SIZE = 64


class Solve(Protocol):
    """Attempts at a unit of problems: the same number for each, a function of (problems, seed) alone."""

    def __call__(self, problems: Sequence[Problem], seed: int) -> list[Attempt]: ...


Judge = Callable[[Problem, Attempt], Verdict]


def evaluate_model(
    suite: Suite,
    solve: Solve,
    judge: Judge,
    journal: Journal,
    *,
    seed: int,
    setting: str,
    unit_size: int = UNIT_SIZE,
    progress: Progress = SILENT,
) -> list[GradedAttempt]:
    """Every attempt of a model at a suite, with its verdict, in suite order.

    setting: what decides the attempts besides problems and seed (model, strategy, samples, limits); units of
        another setting found in the journal are not reused.
    Sampling seeds are derived from the suite's purpose, so a reported number never shares its draws with a choice.
    """
    sampling_seed = derive_seed(suite.purpose, "sampling", seed)
    attempts: list[Attempt] = []
    with track(progress, f"evaluate {suite.name}", len(suite.problems), unit="problems") as task:
        for problems in _split_units(suite.problems, unit_size):
            name = content_hash([setting, sampling_seed, [problem.id for problem in problems]])
            if name not in journal.units:
                journal.append(name, [to_record(attempt) for attempt in solve(problems, sampling_seed)])
            attempts += [parse_attempt(record) for record in journal.units[name]]
            task.advance(len(problems))
    return grade_attempts(suite.problems, attempts, judge)


def grade_attempts(
    problems: Sequence[Problem], attempts: Sequence[Attempt], judge: Judge
) -> list[GradedAttempt]:
    """Each attempt with its verdict. Raises WorkError for an attempt at a problem that was not asked."""
    by_id = {problem.id: problem for problem in problems}
    strangers = {attempt.problem_id for attempt in attempts} - set(by_id)
    if strangers:
        raise WorkError(f"attempts at problems that were not asked: {', '.join(sorted(strangers)[:3])}")
    return [GradedAttempt(attempt, judge(by_id[attempt.problem_id], attempt)) for attempt in attempts]


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
