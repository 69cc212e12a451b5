"""Tree search that knows right from wrong, for trees to learn from: every solution in a tree is graded as it ends.

Values are terminal-guided (rStar-Math, arXiv 2501.04519, section 3.2): a right solution is worth 1, any other -1. With a
reward model in the context each new step begins with the model's score besides: PPM-augmented.

    solved       as many right solutions as were looked for
    hopeless     none right after so many simulations: what is left unsolved mostly has a wrong gold answer
    suspicious   none right at the end, and many solutions agree on one wrong answer; the gold answer may be wrong

`suspicious` is a label for those who take examples from trees; it stops nothing. Solutions that agree because the
policy always makes the same mistake get it too. A refuted solution has the gold answer, and speaks for it.
"""

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from ponderosa.records import GradedTree, TreeEnd, Verdict
from ponderosa.search.mcts import FAILED, Simulations
from ponderosa.search.requests import ProblemView, Reply, Request, Verify
from ponderosa.search.solution import SearchContext
from ponderosa.search.tree import SearchNode, SearchTree


class TreeSearch(Simulations):
    """How trees are grown where answers are known: each solution is graded as it ends."""

    name: ClassVar[str] = "tree_search"

    widen: bool = Field(
        True,
        description="while no solution is right and nothing is left to expand, go down once more and draw further "
        "candidates behind each step",
    )
    extra_simulations: int = Field(0, ge=0, description="more of them while no solution is right")
    target: int | None = Field(
        None, ge=1, description="right solutions that are enough; null never stops early"
    )
    hopeless_after: int | None = Field(
        None, ge=1, description="simulations without a right solution after which a problem is given up"
    )
    suspicious_solutions: int | None = Field(
        None,
        ge=2,
        description="solutions with one wrong answer that make a gold answer suspicious; null: never",
    )
    suspicious_frac: float = Field(
        0.5, gt=0, le=1, description="share of all solutions with an answer that must have it, too"
    )

    def search(
        self, context: SearchContext, problem: ProblemView
    ) -> Generator[list[Request], list[Reply], GradedTree]:
        """The tree of one problem, with the verdict on each of its ended solutions. The driver must have a judge."""
        tree = SearchTree(context, problem, strategy=self.name, prior=self.selection.prior)
        verdicts: dict[SearchNode, Verdict] = {}

        def evaluate(ended: Sequence[SearchNode]) -> Generator[list[Request], list[Reply], list[float]]:
            if not ended:
                return []
            given: list[Verdict] = yield [Verify(tree.read_attempt(node)) for node in ended]
            verdicts.update(zip(ended, given, strict=True))
            return [1.0 if verdict.correct else FAILED for verdict in given]

        def count_right() -> int:
            return sum(verdict.correct for verdict in verdicts.values())

        end, num_simulations = yield from self.run(
            tree,
            evaluate,
            lambda count: self._find_end(count_right(), count),
            lambda: self.widen and not count_right(),
        )
        if self._is_suspicious(tree, verdicts):
            end = "suspicious"
        places = {place: verdicts[node] for place, node in enumerate(tree.nodes) if node in verdicts}
        return GradedTree(tree.build_record(end, num_simulations=num_simulations), places)

    def _find_end(self, num_right: int, num_simulations: int) -> TreeEnd | None:
        if self.target is not None and num_right >= self.target:
            return "solved"
        if not num_right and self.hopeless_after is not None and num_simulations >= self.hopeless_after:
            return "hopeless"
        most = self.simulations + (0 if num_right else self.extra_simulations)
        return "budget" if num_simulations >= most else None

    def _is_suspicious(self, tree: SearchTree, verdicts: Mapping[SearchNode, Verdict]) -> bool:
        """No solution is right, and enough of those with an answer have the same wrong one."""
        if self.suspicious_solutions is None or any(verdict.correct for verdict in verdicts.values()):
            return False
        answered = [node for node in tree.list_ended() if node.answer_key is not None]
        against = Counter(node.answer_key for node in answered if verdicts[node].reason != "refuted")
        most = max(against.values(), default=0)
        return most >= max(self.suspicious_solutions, self.suspicious_frac * len(answered))
