"""The strategies without a reward model: greedy, sample and majority.

A strategy takes the shared context and a view of the problem, and searches. They differ in how many attempts
they write, how those are drawn, and which answer they settle on.
"""

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ponderosa.config import suggest
from ponderosa.engines.protocol import GREEDY
from ponderosa.errors import ConfigError
from ponderosa.records import Attempt
from ponderosa.search.requests import Gather, ProblemView, Reply, Request, Search, SearchResult
from ponderosa.search.solution import SearchContext, write_solution


class Searcher(Protocol):
    """Whatever the driver can run on a problem; what `search` returns is its own business."""

    @property
    def name(self) -> str: ...
    def search(self, context: SearchContext, problem: ProblemView) -> Search: ...


class Strategy(Searcher, Protocol):
    """How to look for a solution. `name` is what users write; `num_attempts` are made at each problem."""

    @property
    def num_attempts(self) -> int: ...
    def search(
        self, context: SearchContext, problem: ProblemView
    ) -> Generator[list[Request], list[Reply], SearchResult]: ...


@dataclass(frozen=True, slots=True)
class Greedy:
    """One attempt, always the likeliest token."""

    name = "greedy"
    num_attempts = 1

    def search(
        self, context: SearchContext, problem: ProblemView
    ) -> Generator[list[Request], list[Reply], SearchResult]:
        greedy = replace(context, sampling=GREEDY)
        attempt = yield from write_solution(greedy, problem, sample=0, strategy=self.name)
        return SearchResult(problem.id, (attempt,), attempt.answer, attempt.answer_key)


@dataclass(frozen=True, slots=True)
class Sample:
    """k independent attempts; settles on the first one's answer."""

    num_attempts: int = 1
    name = "sample"

    def search(
        self, context: SearchContext, problem: ProblemView
    ) -> Generator[list[Request], list[Reply], SearchResult]:
        attempts = yield from write_samples(context, problem, self.num_attempts, strategy=self.name)
        return SearchResult(problem.id, attempts, attempts[0].answer, attempts[0].answer_key)


@dataclass(frozen=True, slots=True)
class Majority:
    """k independent attempts; settles on the answer most of them reach (self-consistency, arXiv 2203.11171)."""

    num_attempts: int = 8
    name = "majority"

    def search(
        self, context: SearchContext, problem: ProblemView
    ) -> Generator[list[Request], list[Reply], SearchResult]:
        attempts = yield from write_samples(context, problem, self.num_attempts, strategy=self.name)
        chosen = select_majority(attempts)
        if chosen is None:
            return SearchResult(problem.id, attempts, None, None)
        return SearchResult(problem.id, attempts, chosen.answer, chosen.answer_key)


def write_samples(
    context: SearchContext, problem: ProblemView, num_attempts: int, *, strategy: str
) -> Generator[list[Request], list[Reply], tuple[Attempt, ...]]:
    """Independent attempts side by side."""
    searches = [
        write_solution(context, problem, sample=sample, strategy=strategy) for sample in range(num_attempts)
    ]
    (attempts,) = yield [Gather(searches)]
    return tuple(attempts)


def select_majority(attempts: Sequence[Attempt]) -> Attempt | None:
    """The first attempt with the most frequent answer key; None if no attempt has an answer.

    Of answers with equally many votes the one that was reached first, by sample number, wins.
    """
    votes = Counter(attempt.answer_key for attempt in attempts if attempt.answer_key is not None)
    if not votes:
        return None
    winner, _ = max(votes.items(), key=lambda item: item[1])
    return next(attempt for attempt in attempts if attempt.answer_key == winner)


STRATEGIES = {
    "greedy": "one attempt, always the likeliest token",
    "sample": "k independent attempts; the first one's answer",
    "majority": "k independent attempts; the answer most of them reach",
}


def get_strategy(name: str, num_attempts: int = 8) -> Strategy:
    """A strategy by name; `num_attempts` is for those that draw several. Raises ConfigError for another name."""
    if name not in STRATEGIES:
        raise ConfigError(f"unknown strategy {name!r}{suggest(name, STRATEGIES)}")
    if num_attempts < 1:
        raise ConfigError(f"samples is {num_attempts}; at least 1 is needed")
    if name == "greedy":
        return Greedy()
    return Sample(num_attempts) if name == "sample" else Majority(num_attempts)
