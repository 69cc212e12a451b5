"""How many attempts a problem gets, where every attempt is graded as it is made: labelling mode.

Attempts are numbered from 0 and number n draws the same tokens under every budget, so a smaller budget's attempts
are the first ones of a larger budget's. One at a time is the default of a budget that may stop: it draws nothing that
it did not need, and the driver keeps other problems in the engine's other slots. A wave of several shares a prompt's
prefill and shortens the end of a unit, when only hard problems are left; what it draws behind the stopping point is
kept but is no trial (`count_trials`), because the estimators of a stopped count hold for the count as it was when
the rule was met.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ponderosa.records import GradedAttempt
from ponderosa.search.requests import Gather, ProblemView, Reply, Request, Verify
from ponderosa.search.solution import SearchContext, write_solution


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `max_attempts` at each problem, `wave` side by side, until `target` of them are correct.

    target: None never stops early.
    strategy: what the attempts are labelled with; how they are drawn is the context's sampling.
    """

    name: str
    max_attempts: int
    target: int | None = None
    wave: int = 1
    strategy: str = "sample"

    def search(
        self, context: SearchContext, problem: ProblemView
    ) -> Generator[list[Request], list[Reply], list[GradedAttempt]]:
        """The graded attempts at one problem, in the order of their numbers."""
        graded: list[GradedAttempt] = []
        while len(graded) < self.max_attempts and not self.is_met(graded):
            numbers = range(len(graded), min(len(graded) + self.wave, self.max_attempts))
            (wave,) = yield [Gather([self._grade_attempt(context, problem, number) for number in numbers])]
            graded += wave
        return graded

    def is_met(self, graded: Sequence[GradedAttempt]) -> bool:
        return self.target is not None and sum(item.verdict.correct for item in graded) >= self.target

    def _grade_attempt(
        self, context: SearchContext, problem: ProblemView, number: int
    ) -> Generator[list[Request], list[Reply], GradedAttempt]:
        attempt = yield from write_solution(context, problem, sample=number, strategy=self.strategy)
        (verdict,) = yield [Verify(attempt)]
        return GradedAttempt(attempt, verdict)


class Trials(NamedTuple):
    """The attempts that count, and how many of them are correct."""

    num_trials: int
    num_correct: int


def count_trials(is_correct_M: Sequence[bool], target: int | None) -> Trials:
    """Attempts up to the one that met the target, all M of them where none did. `is_correct_M` in sample order."""
    num_correct = 0
    for number, is_correct in enumerate(is_correct_M, 1):
        num_correct += is_correct
        if num_correct == target:
            return Trials(number, num_correct)
    return Trials(len(is_correct_M), num_correct)
