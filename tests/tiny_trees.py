"""Search trees written down by hand: a line for each node."""

from collections.abc import Sequence
from typing import NamedTuple

from ponderosa.records import Cost, GradedTree, Node, Reason, Step, Tree, TreeEnd, Verdict


class Line(NamedTuple):
    """A node: what it continues, what was written, its Q, and how the solution ended with it, if it did."""

    parent: int | None
    text: str
    value: float
    reason: Reason | None = None
    multiplicity: int = 1


PROMPT = "Q:"


def spell(text: str) -> tuple[int, ...]:
    """A token a character."""
    return tuple(map(ord, text))


def build_tree(lines: Sequence[Line], problem_id: str = "p", end: TreeEnd = "budget") -> GradedTree:
    """The tree of these nodes; each shows a `!` that nobody wrote."""
    nodes = [
        Node(
            parent=line.parent,
            token_ids=spell(f"{line.text}!"),
            sampled=(*[True] * len(line.text), False),
            model_logprobs=(0.0,) * (len(line.text) + 1),
            sampling_logprobs=(0.0,) * (len(line.text) + 1),
            step=Step(line.text),
            multiplicity=line.multiplicity,
            prior=0.0,
            visits=1,
            value=line.value,
            score=None,
            finish=line.reason and "stop",
            answer=None,
            answer_key=None,
        )
        for line in lines
    ]
    tree = Tree(problem_id, spell(PROMPT), tuple(nodes), end, Cost(), "mcts", "m", None, 0)
    verdicts = {
        place: Verdict(line.reason == "correct", line.reason, "answer@1")
        for place, line in enumerate(lines)
        if line.reason is not None
    }
    return GradedTree(tree, verdicts)
