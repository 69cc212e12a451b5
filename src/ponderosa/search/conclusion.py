"""How a search that branches settles on an answer: from its tree to the result."""

from collections.abc import Sequence
from math import prod
from typing import Literal

from pydantic import Field

from ponderosa.records import TreeEnd
from ponderosa.search.requests import SearchResult
from ponderosa.search.tree import SearchNode, SearchTree
from ponderosa.search.voting import compute_vote_weight, elect, select_best

AnswerBy = Literal["score", "vote", "weighted_vote"]
ANSWER_BY: AnswerBy = Field(
    "score",
    description="`score`: the solution with the highest score; `vote`: the answer of most solutions; `weighted_vote`: "
    "the answer with the largest sum of (1 + score) / 2. Without a reward model, `vote`, or else weighted by how often "
    "the policy goes each solution's way",
)
"""The field of a strategy's configuration."""


def conclude(
    tree: SearchTree, end: TreeEnd, answer_by: AnswerBy, *, num_simulations: int = 0
) -> SearchResult:
    """The result of a grown tree. Its attempts are the solutions that ended, or what was written last if none did."""
    ended = tree.list_ended() or tree.nodes[-1:]
    attempts = tuple(tree.read_attempt(node, sample) for sample, node in enumerate(ended))
    index = choose_solution(ended, answer_by)
    return SearchResult(
        problem_id=tree.problem.id,
        attempts=attempts,
        chosen=None if index is None else attempts[index],
        tree=tree.build_record(end, num_simulations=num_simulations),
    )


def choose_solution(ended_M: Sequence[SearchNode], answer_by: AnswerBy) -> int | None:
    """Which of the solutions that ended decides; None if none has an answer."""
    scores_M = [node.score for node in ended_M]
    if answer_by == "score" and any(score is not None for score in scores_M):
        return select_best(scores_M)
    return elect([node.answer_key for node in ended_M], weigh_votes(ended_M, answer_by))


def weigh_votes(ended_M: Sequence[SearchNode], answer_by: AnswerBy) -> list[float]:
    """What the votes of the solutions weigh, in [0, 1]; all of a tree's in one unit.

    by `vote`                    1, so votes are numbers of solutions
    where solutions have scores  the probability of being right that the score stands for; 0 for a solution without one
    else                         the probability that the policy goes the solution's way
    """
    if answer_by == "vote":
        return [1.0] * len(ended_M)
    if any(node.score is not None for node in ended_M):
        return [0.0 if node.score is None else compute_vote_weight(node.score) for node in ended_M]
    return [compute_share(node) for node in ended_M]


def compute_share(node: SearchNode) -> float:
    """How often the policy would come this way, estimated by the candidates of each expansion before it."""
    return prod(
        step.multiplicity / sum(sibling.multiplicity for sibling in step.parent.children)
        for step in node.path
        if step.parent is not None
    )
