"""False positives: right answers that a wrong program came to by chance, found by asking it for other numbers.

A program is refuted if it fails or disagrees with the true one on any re-numbering of its problem. Only programs that
print the answer can be asked, and only problems of tasks that can re-number: `quantities`.
"""

from collections.abc import Callable, Sequence

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


def is_refuted(
    problem: Problem, steps: Sequence[Step], run_programs: RunPrograms, *, num_renumberings: int
) -> bool | None:
    """Is a solution with the right answer a false positive? None if its program cannot be asked.

    num_renumberings: at most so many; a problem of few numberings has fewer.
    """
    done = [step for step in steps if step.code is not None and step.outcome == "ok"]
    if not can_renumber(problem) or not _is_true(problem, done):
        return None
    drawn = [renumber_problem(problem, number) for number in range(num_renumberings)]
    others = [one for one in drawn if one is not None]
    if not others:
        return None
    programs = [[substitute_literals(step.code or "", mapping) for step in done] for _, mapping in others]
    runs = run_programs(programs)
    return not all(
        _is_true(other, _describe(program, executions)) and len(executions) == len(program)
        for (other, _), program, executions in zip(others, programs, runs, strict=True)
    )


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
