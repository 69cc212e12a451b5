"""False positives: right answers that a wrong program came to by chance, found by asking it for other numbers.

A program is refuted if it fails or disagrees with the true one on any re-numbering of its problem, or on the problem
itself: the text may say what the program did not print. Only programs that print an answer can be asked, and only
problems of tasks that can re-number: `quantities`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ponderosa.records import Problem, Step
from ponderosa.search.requests import Execution
from ponderosa.tasks.quantities.task import QUANTITIES, renumber_problem
from ponderosa.tasks.quantities.wording import substitute_literals
from ponderosa.verify import answer_from_attempt, compare_answers

RENUMBERING = "renumbering@1"
"""What a verdict's `verifier` ends in where re-numbering had a say in it."""

RunPrograms = Callable[[Sequence[Sequence[str]]], Sequence[Sequence[Execution]]]
"""Runs programs, each step by step in a fresh namespace, up to the first step that fails."""


def can_renumber(problem: Problem) -> bool:
    """Whether the same problem can be had with other numbers."""
    return problem.source == QUANTITIES.name and "graph" in problem.meta


class _Trial(NamedTuple):
    """A program that was asked again: the problem with other numbers, and the steps with the same numbers in them."""

    problem: Problem
    program: list[str]

    def is_passed(self, executions: Sequence[Execution]) -> bool:
        return len(executions) == len(self.program) and _is_true(
            self.problem, _describe(self.program, executions)
        )


def find_refuted(
    solutions: Sequence[tuple[Problem, Sequence[Step]]], run_programs: RunPrograms, *, num_renumberings: int
) -> list[bool | None]:
    """Which solutions with the right answer are false positives? None where a program cannot be asked.

    The programs of all of them are run in one batch, each with at most `num_renumberings` sets of other numbers; a
    problem of few numberings has fewer.
    """
    trials = [_plan_trials(problem, steps, num_renumberings) for problem, steps in solutions]
    runs = iter(run_programs([trial.program for mine in trials for trial in mine]))
    passed = [[trial.is_passed(next(runs)) for trial in mine] for mine in trials]
    return [not all(mine) if mine else None for mine in passed]


def _plan_trials(problem: Problem, steps: Sequence[Step], num_renumberings: int) -> list[_Trial]:
    """How to ask the program of a solution for other numbers, or for the same ones if it printed something else than
    the solution says; nothing if it cannot be asked."""
    done = [step for step in steps if step.code is not None and step.outcome == "ok"]
    if not can_renumber(problem) or answer_from_attempt("", done) is None:
        return []
    if not _is_true(problem, done):
        return [_Trial(problem, [step.code or "" for step in done])]
    drawn = [renumber_problem(problem, number) for number in range(num_renumberings)]
    return [
        _Trial(other, [substitute_literals(step.code or "", mapping) for step in done])
        for other, mapping in (one for one in drawn if one is not None)
    ]


def _is_true(problem: Problem, steps: Sequence[Step]) -> bool:
    """Does what the program printed last, and it ended well, answer the problem?"""
    if problem.answer is None or any(step.outcome != "ok" for step in steps):
        return False
    answer = answer_from_attempt("", steps)
    return answer is not None and bool(compare_answers(problem.answer, answer))


def _describe(program: Sequence[str], executions: Sequence[Execution]) -> list[Step]:
    return [
        Step(code, code, execution.output, execution.outcome)
        for code, execution in zip(program, executions, strict=False)
    ]
