"""Diverse verifier tree search (DVTS; Beeching, Tunstall and Rush, Scaling test-time compute with open models, 2024).

    write `samples` first steps and deal them out to `subtrees` independent sub-trees, which start from their best
    in each, write samples / subtrees candidates and go on from the best, until its solution ends

Sub-trees never compete, so one high score early on cannot take the whole search, as it can in a beam. The first steps
are written together, so that those written twice are run and scored once.
"""

from collections.abc import Generator
from typing import ClassVar

from pydantic import Field, model_validator

from ponderosa.errors import ConfigError
from ponderosa.search.conclusion import ANSWER_BY, AnswerBy, conclude
from ponderosa.search.requests import ProblemView, Reply, Request, SearchResult
from ponderosa.search.solution import SearchContext
from ponderosa.search.step_beam import has_solution, rank_nodes
from ponderosa.search.strategies import RewardModelUse, Strategy
from ponderosa.search.tree import SearchTree


class DiverseBeam(Strategy):
    """Independent sub-trees, each followed greedily by the reward model's scores."""

    name: ClassVar[str] = "dvts"
    reward_model: ClassVar[RewardModelUse] = "required"
    grows_tree: ClassVar[bool] = True

    samples: int = Field(8, ge=1, description="candidate steps of a round, over all sub-trees")
    subtrees: int = Field(4, ge=1, description="independent sub-trees")
    answer_by: AnswerBy = ANSWER_BY
    token_budget: int | None = Field(
        None,
        ge=1,
        description="tokens of a problem after which the search ends; if it has no answer yet, the best sub-tree goes on, "
        "one candidate at a time",
    )

    @model_validator(mode="after")
    def _check(self) -> "DiverseBeam":
        if self.subtrees > self.samples:
            raise ConfigError(
                f"{self.subtrees} sub-trees need as many candidates in a round; samples is {self.samples}"
            )
        return self

    @property
    def num_attempts(self) -> int:
        return self.samples

    def search(
        self, context: SearchContext, problem: ProblemView
    ) -> Generator[list[Request], list[Reply], SearchResult]:
        """The tree of all sub-trees, and the answer it settles on."""
        tree = SearchTree(context, problem, strategy=self.name)
        num_first = 1 if tree.has_spent(self.token_budget) else self.samples
        (first,) = yield from tree.expand([tree.root], num_first)
        families = [first[number :: self.subtrees] for number in range(self.subtrees)]
        while heads := [best for family in families for best in rank_nodes(family)[:1] if best.is_open]:
            is_spent = tree.has_spent(self.token_budget)
            if is_spent and has_solution(tree):
                return conclude(tree, "budget", self.answer_by)
            going = rank_nodes(heads)[: 1 if is_spent else None]
            kept = [[node] for node in heads if node not in going]
            families = yield from tree.expand(going, 1 if is_spent else self.samples // self.subtrees)
            families += kept
        return conclude(tree, "closed", self.answer_by)
