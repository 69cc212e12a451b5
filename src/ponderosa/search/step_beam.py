"""Step-level beam search (AlphaMath, arXiv 2405.03553, section 3.4), a round:

    share `samples` candidate steps out evenly among the partial solutions of the beam; the first round starts from the
    question alone
    keep the best `width` of all that can go on or came to an answer, those that ended earlier among them

Best is what the reward model scores highest. Without one it is the highest mean log-probability of a sampled token
(temperature 1), of equals what more candidates of its expansion were written like; that knows nothing of right or
wrong, so the search then ends in a vote.
"""

import math
from collections.abc import Generator, Iterable
from itertools import compress
from statistics import fmean
from typing import ClassVar

from pydantic import Field, model_validator

from ponderosa.errors import ConfigError
from ponderosa.search.conclusion import ANSWER_BY, AnswerBy, conclude
from ponderosa.search.requests import ProblemView, Reply, Request, SearchResult
from ponderosa.search.solution import SearchContext
from ponderosa.search.strategies import RewardModelUse, Strategy
from ponderosa.search.tree import SearchNode, SearchTree


class StepBeam(Strategy):
    """The best partial solutions go on, step by step."""

    name: ClassVar[str] = "beam"
    reward_model: ClassVar[RewardModelUse] = "optional"
    grows_tree: ClassVar[bool] = True

    samples: int = Field(8, ge=1, description="candidate steps of a round, over the whole beam")
    width: int = Field(4, ge=1, description="partial solutions kept")
    answer_by: AnswerBy = ANSWER_BY
    token_budget: int | None = Field(
        None,
        ge=1,
        description="tokens of a problem after which the search ends; if it has no answer yet, the best partial solution "
        "goes on, one candidate at a time",
    )

    @model_validator(mode="after")
    def _check(self) -> "StepBeam":
        if self.width > self.samples:
            raise ConfigError(
                f"a beam of width {self.width} needs as many candidates in a round; samples is {self.samples}"
            )
        return self

    @property
    def num_attempts(self) -> int:
        return self.samples

    def search(
        self, context: SearchContext, problem: ProblemView
    ) -> Generator[list[Request], list[Reply], SearchResult]:
        """The tree of all that was tried, and the answer it settles on."""
        tree = SearchTree(context, problem, strategy=self.name)
        beam = [tree.root]
        while going := [node for node in beam if node.is_open]:
            is_spent = tree.has_spent(self.token_budget)
            if is_spent and has_solution(tree):
                return conclude(tree, "budget", self.answer_by)
            going = going[: 1 if is_spent else None]
            kept = [node for node in beam if node not in going]
            families = yield from tree.expand(going, 1 if is_spent else self.samples // len(going))
            beam = rank_nodes(node for family in [kept, *families] for node in family)[: self.width]
        return conclude(tree, "closed", self.answer_by)


def rank_nodes(nodes: Iterable[SearchNode]) -> list[SearchNode]:
    """The nodes that are not dead, best first; equals in the order given. Where nodes are scored, one that could not be,
    because it does not fit the reward model's context, comes last."""
    alive = [node for node in nodes if not node.is_dead]
    if any(node.score is not None for node in alive):
        return sorted(alive, key=lambda node: -math.inf if node.score is None else node.score, reverse=True)
    return sorted(alive, key=lambda node: (compute_mean_logprob(node), node.multiplicity), reverse=True)


def compute_mean_logprob(node: SearchNode) -> float:
    """Of a sampled token of the solution up to here, under the policy at temperature 1."""
    return fmean(list(compress(node.draft.model_logprobs, node.draft.sampled)) or [0.0])


def has_solution(tree: SearchTree) -> bool:
    """Has any solution come to an answer?"""
    return any(node.answer_key is not None for node in tree.list_ended())
