"""Worked solutions: what a task knows about how its problems are solved.

A task that has a method `work_out(problem)` gives a reference solution: code steps that have not been run yet and
the same reasoning in prose, or the reason there is none.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ponderosa.records import Problem, Step
from ponderosa.tasks.registry import Task


@dataclass(frozen=True, slots=True)
class WorkedSolution:
    """A reference solution twice: in code steps, and in prose that ends in `#### answer`."""

    steps: tuple[Step, ...]
    prose: str


@dataclass(frozen=True, slots=True)
class Unsolved:
    """Why a problem has no reference solution."""

    reason: str


@runtime_checkable
class WorkedTask(Task, Protocol):
    """A task that can work its problems out."""

    def work_out(self, problem: Problem) -> WorkedSolution | Unsolved: ...
