"""Monte Carlo tree search over steps (rStar-Math, arXiv 2501.04519, section 3). One simulation:

    descend from the root by the selection rule to a step that was not expanded
    sample candidates for the next step, run and score them; go on from one of them in the same way,
        until the candidates hold an answer or none of them can go on
    the value of every solution that ended is backed up as soon as it is known, wherever the descent goes on

Several simulations may be in flight. They advance in rounds: their expansions are one yield, backed up in the order
they were asked for; where the others are weighs as virtual losses. How deep a tree may grow is `Limits.max_steps`.

A policy that is sure of itself leaves little to expand: a tree is closed when every step leads to ends alone. `widen`
then draws further candidates, from the root downwards, until something new is found or the way ends.

In `MCTS` values come from a reward model, and no gold answer is in reach: a solution is worth its score and decides by
it. Without a reward model it is worth nothing, only where solutions fail is learnt, and a vote decides. The search
that knows right from wrong is in `labelling`.
"""

from collections import Counter
from collections.abc import Callable, Generator, Sequence, Set
from typing import ClassVar, TypeAlias

from pydantic import Field

from ponderosa.config import Config
from ponderosa.records import TreeEnd
from ponderosa.search.backup import back_up, close, start_value
from ponderosa.search.conclusion import ANSWER_BY, AnswerBy, conclude
from ponderosa.search.requests import ProblemView, Reply, Request, SearchResult
from ponderosa.search.selection import SelectionRule
from ponderosa.search.solution import SearchContext
from ponderosa.search.strategies import RewardModelUse, Strategy
from ponderosa.search.tree import SearchNode, SearchTree

FAILED = -1.0
"""The value of a solution that was killed by errors, cut short, or has no answer."""

Evaluate: TypeAlias = Callable[[Sequence[SearchNode]], Generator[list[Request], list[Reply], list[float]]]
"""The values in [-1, 1] of solutions that have just ended."""
FindEnd: TypeAlias = Callable[[int], TreeEnd | None]
"""Why to stop after this many simulations; None to go on."""


class Simulations(Config):
    """How trees are grown, whatever their solutions' values."""

    simulations: int = Field(16, ge=1, description="descents, each to where a solution ends (rollouts)")
    candidates: int = Field(8, ge=1, description="steps sampled when a node is expanded")
    selection: SelectionRule = SelectionRule()
    leaves: int = Field(1, ge=1, description="simulations in flight at once")
    max_visits: int | None = Field(
        None, ge=1, description="a step with so many visits is not visited again; null for no limit"
    )
    widen: bool = Field(
        False,
        description="where nothing is left to expand, go down once more and draw further candidates behind each step",
    )
    token_budget: int | None = Field(
        None,
        ge=1,
        description="tokens of a problem, prefilled, sampled and scored, after which the search ends; the first "
        "simulation is brought to its end, one candidate at a time; null for no limit",
    )
    count_failures: bool = Field(
        True,
        description="back up -1 from steps that failed or were cut short, as AlphaMath does; rStar-Math's code leaves "
        "them out",
    )

    def run(
        self, tree: SearchTree, evaluate: Evaluate, find_end: FindEnd, may_widen: Callable[[], bool]
    ) -> Generator[list[Request], list[Reply], tuple[TreeEnd, int]]:
        """Grow a tree; why it ended, and after how many simulations."""
        closed: set[SearchNode] = set()
        leaves: list[SearchNode] = []
        num_simulations = 0
        while (end := find_end(num_simulations)) is None:
            is_spent = tree.has_spent(self.token_budget)
            if is_spent and num_simulations:
                return "budget", num_simulations
            while len(leaves) < self.leaves and self._may_begin(num_simulations, len(leaves), find_end):
                leaf = select_leaf(tree.root, self.selection, closed, leaves)
                if leaf is None:
                    break
                leaves.append(leaf)
            if not leaves and not may_widen():
                return "closed", num_simulations
            leaves = (leaves or [tree.root])[: 1 if is_spent else None]
            grown = yield from tree.expand(leaves, 1 if is_spent else self.candidates)
            yield from self._take_up(leaves, grown, evaluate, closed)
            going_on: list[SearchNode] = []
            for leaf, new in zip(leaves, grown, strict=True):
                below = self._find_below(leaf, new, closed, going_on)
                going_on += [] if below is None else [below]
            num_simulations += len(leaves) - len(going_on)
            leaves = going_on
        return end, num_simulations

    def _may_begin(self, num_done: int, num_in_flight: int, find_end: FindEnd) -> bool:
        """May one more simulation begin? One beyond `simulations` waits until those have ended: they may bring what it
        would look for."""
        number = num_done + num_in_flight
        return find_end(number) is None and (number < self.simulations or num_done >= self.simulations)

    def _take_up(
        self,
        leaves: Sequence[SearchNode],
        grown: Sequence[Sequence[SearchNode]],
        evaluate: Evaluate,
        closed: set[SearchNode],
    ) -> Generator[list[Request], list[Reply], None]:
        """Value what expansions brought: the steps that can go on, and the solutions that ended, known ones that were
        written again among them."""
        new = [child for children in grown for child in children]
        ended = [child for child in new if not child.is_open]
        values = dict(zip(ended, (yield from evaluate(ended)), strict=True))
        for leaf, children in zip(leaves, grown, strict=True):
            if leaf in closed and any(child.is_open for child in children):
                closed.difference_update(leaf.lineage)
        for child in new:
            start_value(child)
        for node in (child for leaf in leaves for child in leaf.children if not child.is_open):
            close(node, closed)
            if self.count_failures or not node.is_dead:
                back_up(node, values.get(node, node.value))
        for step in (step for leaf in leaves for step in leaf.path if self._is_full(step)):
            close(step, closed)

    def _find_below(
        self,
        leaf: SearchNode,
        new: Sequence[SearchNode],
        closed: Set[SearchNode],
        in_flight: Sequence[SearchNode],
    ) -> SearchNode | None:
        """Where a simulation goes on from a node that it expanded; None if it has come to its end.

        Where a node was expanded before and nothing new can go on, that is a step whose candidates are known, too.
        """
        if any(child.answer is not None for child in new):
            return None
        below = select_leaf(leaf, self.selection, closed, in_flight)
        known = [child for child in leaf.children if child.is_open and not self._is_full(child)]
        if below is None and len(new) < len(leaf.children) and known:
            return _select_child(self.selection, leaf, known, Counter())
        return below

    def _is_full(self, step: SearchNode) -> bool:
        return self.max_visits is not None and step.visits >= self.max_visits


def select_leaf(
    start: SearchNode, rule: SelectionRule, closed: Set[SearchNode], in_flight: Sequence[SearchNode]
) -> SearchNode | None:
    """The node to expand that the rule comes to from `start`; None if there is none. The tree is left as it is.

    Nodes in flight are not come to again, and weigh as virtual losses: a visit of value -1 to each node before them.
    """
    taken = set(closed)
    for leaf in in_flight:
        close(leaf, taken)
    losses = Counter(node for leaf in in_flight for node in leaf.lineage)
    node = start
    while node not in taken:
        if not node.children:
            return node
        children = [child for child in node.children if child not in taken]
        node = _select_child(rule, node, children, losses)
    return None


def _select_child(
    rule: SelectionRule, parent: SearchNode, children: Sequence[SearchNode], losses: Counter[SearchNode]
) -> SearchNode:
    """Of some children of a node the one with the highest score, of equals the one drawn first."""
    visits = [child.visits + losses[child] for child in children]
    totals = [child.total - losses[child] for child in children]
    scores = rule.compute_scores(
        parent.visits + losses[parent],
        visits,
        [total / count if count else 0.0 for total, count in zip(totals, visits, strict=True)],
        [child.prior for child in children],
    )
    return children[scores.index(max(scores))]


class MCTS(Simulations, Strategy):
    """The strategy: solutions by their scores, or by a vote."""

    name: ClassVar[str] = "mcts"
    reward_model: ClassVar[RewardModelUse] = "optional"
    grows_tree: ClassVar[bool] = True

    answer_by: AnswerBy = ANSWER_BY

    @property
    def num_attempts(self) -> int:
        return self.simulations * self.candidates

    def search(
        self, context: SearchContext, problem: ProblemView
    ) -> Generator[list[Request], list[Reply], SearchResult]:
        """The tree, its ended solutions as attempts, and the answer it settles on."""
        tree = SearchTree(context, problem, strategy=self.name, prior=self.selection.prior)
        end, num_simulations = yield from self.run(
            tree,
            _evaluate,
            lambda count: "budget" if count >= self.simulations else None,
            lambda: self.widen,
        )
        return conclude(tree, end, self.answer_by, num_simulations=num_simulations)


def _evaluate(ended: Sequence[SearchNode]) -> Generator[list[Request], list[Reply], list[float]]:
    """Test-time values: the reward model's; without one, 0 for whatever came to an answer."""
    yield from ()
    return [FAILED if node.is_dead else node.score or 0.0 for node in ended]
