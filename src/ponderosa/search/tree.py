"""A search tree while it grows: every node is a solution as far as it has been written.

    tree = SearchTree(context, problem, strategy="mcts")
    (children,) = yield from tree.expand([tree.root], num_candidates=8)
    grown = yield from tree.expand([child for child in children if child.is_open], num_candidates=8)
    attempt = tree.read_attempt(tree.list_ended()[0])
    record = tree.build_record("budget")

An expansion samples n candidate steps side by side from one prefix. Candidates with exactly the same text become one
node that keeps their number. Each distinct one is run once, from the state its parent left, which no sibling shares,
and scored if the context has a reward model and the solution can go on or came to an answer. Several expansions are one
yield, and their nodes are added in the order they were asked for, so a tree does not depend on the order of replies.
A node that is expanded again draws further candidates; those it has already are only counted.

A solution that was killed by its errors, cut short or refused is dead: it has no answer, whatever it printed before.
The seed of a candidate is a function of the run's seed, the problem, the prefix and the candidate's number, so that
two rules of search that come to the same prefix draw the same candidates there, and more of them begin with the same.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ponderosa.identity import content_hash, derive_seed
from ponderosa.records import Attempt, Node, Step, Tree, TreeEnd
from ponderosa.search.draft import Draft, begin_draft, read_open
from ponderosa.search.expansion import Candidate, Expansion, Writing, draw_candidates
from ponderosa.search.requests import Gather, ProblemView, Reply, Request, Search
from ponderosa.search.selection import Prior, compute_priors
from ponderosa.search.solution import SearchContext, finish_attempt


@dataclass(slots=True, eq=False)
class SearchNode:
    """A step in a growing tree, and the solution up to it. The root is the question alone: no step, no place.

    place: in the tree's nodes. multiplicity, prior, score: as a `records.Node`'s. attempt: where the solution ended.
    writing, mean_logprob: as an `expansion.Candidate`'s.
    visits, total: how often something was backed up through here, and its sum (`backup`).
    """

    draft: Draft
    parent: "SearchNode | None" = None
    place: int | None = None
    multiplicity: int = 1
    prior: float = 1.0
    score: float | None = None
    attempt: Attempt | None = None
    writing: Writing = ("", None)
    mean_logprob: float = 0.0
    children: list["SearchNode"] = field(default_factory=list)
    visits: int = 0
    total: float = 0.0

    @property
    def value(self) -> float:
        """Q, the mean of what was backed up; 0.0 before anything was."""
        return self.total / self.visits if self.visits else 0.0

    @property
    def is_open(self) -> bool:
        """Can the solution go on?"""
        return self.draft.finish is None

    @property
    def answer(self) -> str | None:
        return self.attempt.answer if self.attempt else None

    @property
    def answer_key(self) -> str | None:
        return self.attempt.answer_key if self.attempt else None

    @property
    def is_dead(self) -> bool:
        """Did the solution end without an answer?"""
        return not self.is_open and self.answer is None

    @property
    def own(self) -> slice:
        """Where the step's own tokens are in its draft."""
        return slice(len(self.parent.draft.token_ids) if self.parent else 0, None)

    @property
    def lineage(self) -> list["SearchNode"]:
        """This node and all before it, up to the root."""
        nodes = [self]
        while (parent := nodes[-1].parent) is not None:
            nodes.append(parent)
        return nodes

    @property
    def path(self) -> list["SearchNode"]:
        """The steps from the first one to this, the root left out."""
        return self.lineage[-2::-1]


class SearchTree:
    """The tree of one problem.

    strategy: what its record and its attempts are labelled with. cost: of everything so far, each token once.
    prior: see `selection.Prior`. seed: what all draws in it are derived from.
    """

    def __init__(
        self, context: SearchContext, problem: ProblemView, *, strategy: str, prior: Prior = "multiplicity"
    ) -> None:
        self.context = context
        self.problem = problem
        self.strategy = strategy
        self.seed = derive_seed("tree", context.seed, problem.id)
        self.root = SearchNode(begin_draft(context, problem.question))
        self.nodes: list[SearchNode] = []
        self.cost = self.root.draft.cost
        self._prior: Prior = prior

    def expand(
        self, nodes: Sequence[SearchNode], num_candidates: int
    ) -> Generator[list[Request], list[Reply], list[list[SearchNode]]]:
        """Grow `num_candidates` steps under each of these open nodes, all side by side; their new children, in order."""
        assert nodes, "nothing to expand"
        assert all(node.is_open for node in nodes), "a solution that ended cannot go on"
        if self.context.watch is not None:
            self.context.watch(partial(self.build_record, "budget"))
        (expansions,) = yield [Gather([self._draw(node, num_candidates) for node in nodes])]
        return [self._add(node, expansion) for node, expansion in zip(nodes, expansions, strict=True)]

    def has_spent(self, token_budget: int | None) -> bool:
        """Did it take so many tokens? No number is no limit."""
        return token_budget is not None and self.count_tokens() >= token_budget

    def count_tokens(self) -> int:
        """Tokens that have to be computed: the prompt and what continued steps showed, once; every sampled one; and the
        prompt and every step once more where steps are scored.

        What caches had to drop for others is in `cost` but not in here: a tree must not depend on what else runs.
        """
        num_prompt = len(self.root.draft.prompt_ids)
        shown = sum(node.draft.sampled[node.own].count(False) for node in self.nodes if node.children)
        scored = [len(node.draft.token_ids[node.own]) for node in self.nodes if node.score is not None]
        return num_prompt * (2 if scored else 1) + self.cost.generated_tokens + shown + sum(scored)

    def list_ended(self) -> list[SearchNode]:
        """Where solutions ended, in the order of the nodes."""
        return [node for node in self.nodes if not node.is_open]

    def read_attempt(self, node: SearchNode, sample: int = 0) -> Attempt:
        """The solution up to a node; if it could go on, as if it had been cut short there.

        Its cost is of its own steps, which it may share with other attempts: the cost of them all is the tree's.
        """
        attempt = node.attempt or self._finish(replace(node.draft, finish="length"))
        return replace(attempt, sample=sample)

    def build_record(self, end: TreeEnd, *, num_simulations: int = 0) -> Tree:
        """The tree as it is stored."""
        return Tree(
            problem_id=self.problem.id,
            prompt_ids=self.root.draft.prompt_ids,
            nodes=tuple(_build_node(self.context, node) for node in self.nodes),
            end=end,
            cost=self.cost,
            strategy=self.strategy,
            model_id=self.context.model_id,
            scorer_id=self.context.scorer_id,
            seed=self.seed,
            num_simulations=num_simulations,
        )

    def _draw(self, node: SearchNode, num_candidates: int) -> Search:
        prefix = content_hash(list(node.draft.token_ids))
        num_drawn = sum(child.multiplicity for child in node.children)
        numbers = range(num_drawn, num_drawn + num_candidates)
        seeds = [derive_seed("candidate", self.seed, prefix, number) for number in numbers]
        known = [child.writing for child in node.children]
        return draw_candidates(self.context, node.draft, seeds, self._finish, known)

    def _add(self, parent: SearchNode, expansion: Expansion) -> list[SearchNode]:
        for child in parent.children:
            child.multiplicity += expansion.repeats.get(child.writing, 0)
        new = [
            _join(parent, candidate, place)
            for place, candidate in enumerate(expansion.candidates, len(self.nodes))
        ]
        parent.children += new
        self.nodes += new
        priors = compute_priors(
            self._prior,
            [child.multiplicity for child in parent.children],
            [child.mean_logprob for child in parent.children],
        )
        for child, prior in zip(parent.children, priors, strict=True):
            child.prior = prior
        self.cost += expansion.cost
        return new

    def _finish(self, draft: Draft) -> Attempt:
        """The record of a finished draft, without an answer if it was killed by errors, cut short or refused.

        What ends a solution of its own accord stands behind the last closed step; errors end it right there.
        """
        attempt = finish_attempt(
            self.context, self.problem, draft, sample=0, strategy=self.strategy, seed=self.seed
        )
        may_answer = draft.finish == "stop" and draft.open_from < len(draft.token_ids)
        return attempt if may_answer else replace(attempt, answer=None, answer_key=None)


def _join(parent: SearchNode, candidate: Candidate, place: int) -> SearchNode:
    """A candidate as a child of the node it continues, which is to be told of it."""
    cost = parent.draft.cost + candidate.draft.cost
    return SearchNode(
        replace(candidate.draft, cost=cost),
        parent,
        place,
        candidate.multiplicity,
        score=candidate.score,
        attempt=candidate.attempt and replace(candidate.attempt, cost=cost),
        writing=candidate.writing,
        mean_logprob=candidate.mean_logprob,
    )


def _build_node(context: SearchContext, node: SearchNode) -> Node:
    assert node.parent is not None, "the root is no step"
    draft, own = node.draft, node.own
    is_closed = len(draft.steps) > len(node.parent.draft.steps)
    return Node(
        parent=node.parent.place,
        token_ids=draft.token_ids[own],
        sampled=draft.sampled[own],
        model_logprobs=draft.model_logprobs[own],
        sampling_logprobs=draft.sampling_logprobs[own],
        step=draft.steps[-1] if is_closed else Step(read_open(context, draft)),
        multiplicity=node.multiplicity,
        prior=node.prior,
        visits=node.visits,
        value=node.value,
        score=node.score,
        finish=draft.finish,
        answer=node.answer,
        answer_key=node.answer_key,
    )
