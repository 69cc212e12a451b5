"""What a strategy is, and those that need neither a tree nor a reward model: greedy, sample and majority.

A strategy takes the shared context and a view of the problem, and searches. They differ in what they write, how it is
drawn, and which answer they settle on.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import ClassVar, Literal, Protocol

from pydantic import Field

from ponderosa.config import Config
from ponderosa.engines.protocol import GREEDY
from ponderosa.records import Attempt
from ponderosa.search.requests import ProblemView, Reply, Request, Search, SearchResult
from ponderosa.search.samples import write_samples
from ponderosa.search.solution import SearchContext, write_solution
from ponderosa.search.voting import elect

RewardModelUse = Literal["none", "optional", "required"]


class Searcher(Protocol):
    """Whatever the driver can run on a problem; what `search` returns is its own business."""

    @property
    def name(self) -> str: ...
    def search(self, context: SearchContext, problem: ProblemView) -> Search: ...


class Strategy(Config):
    """How to look for a solution. `name` is what users write; the fields are its parameters."""

    name: ClassVar[str]
    reward_model: ClassVar[RewardModelUse] = "none"
    grows_tree: ClassVar[bool] = False

    @property
    def num_attempts(self) -> int:
        """Solutions that its work comes to at most; of candidate steps as many as are written side by side."""
        return 1

    @property
    def num_parallel(self) -> int:
        """Solutions it writes side by side at one problem; 1 if it goes on in rounds."""
        return 1

    @property
    def settles(self) -> bool:
        """Is it measured by the answer it settles on, and not by each of its attempts?"""
        return True

    def search(
        self, context: SearchContext, problem: ProblemView
    ) -> Generator[list[Request], list[Reply], SearchResult]:
        """What it writes, and the answer it settles on."""
        raise NotImplementedError


class Greedy(Strategy):
    """One attempt, always the likeliest token."""

    name: ClassVar[str] = "greedy"

    @property
    def settles(self) -> bool:
        return False

    def search(
        self, context: SearchContext, problem: ProblemView
    ) -> Generator[list[Request], list[Reply], SearchResult]:
        greedy = replace(context, sampling=GREEDY)
        attempt = yield from write_solution(greedy, problem, sample=0, strategy=self.name)
        return SearchResult(problem.id, (attempt,), attempt)


class Sample(Strategy):
    """k independent attempts; settles on the first one's answer."""

    name: ClassVar[str] = "sample"

    samples: int = Field(8, ge=1, description="attempts at each problem")

    @property
    def num_attempts(self) -> int:
        return self.samples

    @property
    def num_parallel(self) -> int:
        return self.samples

    @property
    def settles(self) -> bool:
        return False

    def search(
        self, context: SearchContext, problem: ProblemView
    ) -> Generator[list[Request], list[Reply], SearchResult]:
        drawn = yield from write_samples(context, problem, self.samples, strategy=self.name)
        return SearchResult(problem.id, tuple(one.attempt for one in drawn), drawn[0].attempt)


class SelectingStrategy(Strategy):
    """Independent attempts, of which one gives the answer."""

    samples: int = Field(8, ge=1, description="attempts at each problem, at most")
    token_budget: int | None = Field(
        None, ge=1, description="tokens of a problem after which no attempt is begun"
    )

    @property
    def num_attempts(self) -> int:
        return self.samples

    @property
    def num_parallel(self) -> int:
        return self.samples if self.token_budget is None else 1

    def search(
        self, context: SearchContext, problem: ProblemView
    ) -> Generator[list[Request], list[Reply], SearchResult]:
        drawn = yield from write_samples(
            context,
            problem,
            self.samples,
            strategy=self.name,
            token_budget=self.token_budget,
            is_scored=self.reward_model == "required",
        )
        attempts = tuple(one.attempt for one in drawn)
        index = self.select(attempts, [one.score for one in drawn])
        return SearchResult(problem.id, attempts, None if index is None else attempts[index])

    def select(self, attempts_M: Sequence[Attempt], scores_M: Sequence[float | None]) -> int | None:
        """Which attempt gives the answer; None if none has one. Those without an answer have no score."""
        raise NotImplementedError


class Majority(SelectingStrategy):
    """k independent attempts; settles on the answer most of them reach (self-consistency, arXiv 2203.11171)."""

    name: ClassVar[str] = "majority"

    @property
    def settles(self) -> bool:
        """With a budget problems have different numbers of attempts, so that majority@k is not to be had."""
        return self.token_budget is not None

    def select(self, attempts_M: Sequence[Attempt], scores_M: Sequence[float | None]) -> int | None:
        return elect([attempt.answer_key for attempt in attempts_M], [1.0] * len(attempts_M))
