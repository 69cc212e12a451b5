"""Sampled work over problems, committed unit by unit.

A unit is a fixed run of consecutive problems, known by its content: what was asked and how. What it samples depends
on the unit alone, so work that was killed continues to the same records; a unit that was not finished is done again
from its start.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ponderosa.artifacts import Journal
from ponderosa.identity import content_hash
from ponderosa.progress import SILENT, Progress, Task, track
from ponderosa.records import Attempt, Cost, GradedAttempt, Problem, Step, Verdict, to_record
from ponderosa.search.solution import SearchContext

UNIT_ATTEMPTS = 512
"""Attempts a unit holds: enough to keep an engine's slots busy, little enough to lose when killed."""

Record = Mapping[str, Any]
Solve = Callable[[Sequence[Problem], Progress], Sequence[Record]]
"""The records of one unit of problems; a function of the problems alone."""


def commit_units(
    problems: Sequence[Problem],
    solve: Solve,
    journal: Journal,
    *,
    setting: str,
    unit_size: int,
    label: str,
    progress: Progress = SILENT,
) -> list[Record]:
    """The records of every unit in order, solved and committed unless the journal has it already.

    setting: hash of what decides the records besides the problems (`describe_setting`). unit_size: problems each.
    """
    parts = [problems[start : start + unit_size] for start in range(0, len(problems), unit_size)]
    units = {content_hash([setting, [problem.id for problem in part]]): part for part in parts}
    num_done = sum(len(part) for name, part in units.items() if name in journal.units)
    with track(progress, label, len(problems), unit="problems", done=num_done) as task:
        for name, part in units.items():
            if name not in journal.units:
                journal.append(name, solve(part, _SharedBar(task, progress)))
    return [record for name in units for record in journal.units[name]]


def describe_setting(plan: Sequence[Any], context: SearchContext) -> str:
    """Hash of what decides attempts besides the problems. plan: how many are drawn, and until when."""
    return content_hash(
        [
            *plan,
            context.model_id,
            context.prompt_format.model_dump(mode="json"),
            asdict(context.sampling),
            asdict(context.limits),
            context.seed,
            context.scorer_id,
        ]
    )


def parse_attempt(record: Record) -> Attempt:
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


def record_graded(graded: GradedAttempt) -> Record:
    """An attempt and its verdict as plain values, for a journal."""
    return {"attempt": to_record(graded.attempt), "verdict": to_record(graded.verdict)}


def parse_graded(record: Record) -> GradedAttempt:
    """What `record_graded` wrote."""
    return GradedAttempt(parse_attempt(record["attempt"]), Verdict(**record["verdict"]))


class _SharedBar:
    """Lets each unit's searches advance the one bar of the whole work."""

    def __init__(self, task: Task, progress: Progress) -> None:
        self._task, self._progress = task, progress

    def start(self, label: str, total: float | None, unit: str, done: float) -> Task:
        return self._task

    def finish(self, task: Task, *, completed: bool = True) -> None:
        """The bar goes on with the next unit."""

    def say(self, line: str) -> None:
        self._progress.say(line)
