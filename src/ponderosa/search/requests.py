"""What a strategy may ask for, and what it gets back.

A strategy is a generator: it yields a list of requests and receives their replies, in the same order. It holds no
IO and never sees a gold answer or a reference solution.

    GenerateRequest -> Generation     the policy continues a sequence of token ids
    Execute         -> Execution      the interpreter runs one step
    Score           -> Scored         the reward model scores a partial solution
    Gather          -> what they returned     searches run side by side, none waiting for another
    Verify          -> Verdict        is an attempt right; only where solutions are labelled to train on
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from ponderosa.engines.protocol import GenerateRequest
from ponderosa.records import Attempt, Cost, Outcome, Problem, Tree, Verdict


class Execution(Protocol):
    """How a step ended: what it printed, and one line of error unless it ended ok."""

    @property
    def outcome(self) -> Outcome: ...
    @property
    def output(self) -> str: ...
    @property
    def error(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Execute:
    """Run `code` in the state that the earlier steps `prefix` leave, all of which ended ok."""

    prefix: tuple[str, ...]
    code: str


@dataclass(frozen=True, slots=True)
class Score:
    """Score a partial solution, the prompt's token ids included. Refused unless the driver was given a scorer."""

    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Gather:
    """Run several searches at once; the reply is the list of what they returned, in order."""

    searches: Sequence["Search"]


@dataclass(frozen=True, slots=True)
class Verify:
    """Grade an attempt. Refused unless the driver was given a judge: `evaluate` and `solve` never are."""

    attempt: Attempt


Judge: TypeAlias = Callable[[Sequence[tuple[Problem, Attempt]]], Sequence[Verdict]]
"""Compares attempts with what is known of their problems' answers; the verdicts, in the same order."""

Request: TypeAlias = GenerateRequest | Execute | Score | Gather | Verify
Reply: TypeAlias = Any
"""Generation, Execution, Scored, a list of returned values or a Verdict, by the kind of request."""

Search: TypeAlias = Generator[list[Request], list[Reply], Any]


@dataclass(frozen=True, slots=True)
class ProblemView:
    """What a strategy may know of a problem."""

    id: str
    question: str


def view_problem(problem: Problem) -> ProblemView:
    return ProblemView(problem.id, problem.question)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Every attempt at one problem, and the one whose answer the strategy settles on (None if it has none).

    tree: what a search that branches wrote; its attempts then share steps, and its cost is the tree's.
    """

    problem_id: str
    attempts: tuple[Attempt, ...]
    chosen: Attempt | None
    tree: Tree | None = None

    @property
    def answer(self) -> str | None:
        return self.chosen.answer if self.chosen else None

    @property
    def answer_key(self) -> str | None:
        return self.chosen.answer_key if self.chosen else None

    @property
    def cost(self) -> Cost:
        """Of the whole search, each token and each execution once."""
        return (
            sum((attempt.cost for attempt in self.attempts), Cost()) if self.tree is None else self.tree.cost
        )

    def settle(self) -> Attempt:
        """The chosen attempt, or the first if none has an answer, at the price of the whole search."""
        return replace(self.chosen or self.attempts[0], sample=0, cost=self.cost)
