"""How the solutions in a search tree ended, seen from each of its nodes. Nodes are named by their place in the tree."""

from typing import Literal, NamedTuple

from ponderosa.identity import split_bucket
from ponderosa.records import GradedTree, Reason, Tree

Failures = Literal["answered", "any"]
"""Which solutions count as wrong: those that gave a wrong answer, or also those that gave none (cut short, killed by
an error). What the engine refused or the grader could not decide counts as nothing."""

ANSWERED_WRONGLY: frozenset[Reason] = frozenset({"wrong_answer", "refuted"})
"""Of solutions that gave an answer."""


class Tally(NamedTuple):
    """Solutions through a node."""

    right: int
    wrong: int


def is_held_out(problem_id: str, held_out_frac: float) -> bool:
    """Is a problem of the share that reward models are measured on? Whatever the seed."""
    return split_bucket(["reward model", problem_id]) < held_out_frac


def judge_ends(graded: GradedTree, failures: Failures) -> dict[int, bool]:
    """Of each node that ends a solution whether it is right; without those that are neither right nor wrong."""
    tree, verdicts = graded
    return {
        place: verdict.correct
        for place, verdict in verdicts.items()
        if tree.nodes[place].finish != "error"
        and verdict.reason != "undecided"
        and (verdict.correct or failures == "any" or verdict.reason in ANSWERED_WRONGLY)
    }


def tally_nodes(tree: Tree, ends: dict[int, bool]) -> list[Tally]:
    """For each node the different solutions through it (a node that ends one is on it)."""
    right, wrong = ([0] * len(tree.nodes) for _ in range(2))
    for place in reversed(range(len(tree.nodes))):
        if place in ends:
            (right if ends[place] else wrong)[place] += 1
        if (parent := tree.nodes[place].parent) is not None:
            right[parent] += right[place]
            wrong[parent] += wrong[place]
    return [Tally(*counts) for counts in zip(right, wrong, strict=True)]


def compute_success(graded: GradedTree) -> dict[int, float]:
    """Success in [-1, 1] of every node that a solution goes through: 1 where all end right, -1 where none does.

    A node's success is the mean over its children, each counted as often as the policy wrote it. Visits would count
    what the search liked: its Q values (`Node.value`) lean towards the steps it came back to, and towards the reward
    model that led it there. A solution without an answer is none that ended right.
    """
    tree, ends = graded.tree, judge_ends(graded, "any")
    sums, weights = ([0.0] * len(tree.nodes) for _ in range(2))
    success: dict[int, float] = {}
    for place in reversed(range(len(tree.nodes))):
        node = tree.nodes[place]
        if place in ends:
            success[place] = 1.0 if ends[place] else -1.0
        elif weights[place]:
            success[place] = sums[place] / weights[place]
        if place in success and node.parent is not None:
            sums[node.parent] += node.multiplicity * success[place]
            weights[node.parent] += node.multiplicity
    return success


def list_scored(graded: GradedTree) -> list[int]:
    """The nodes that a search asks a reward model about: steps that could go on, and solutions that gave an answer."""
    answered = judge_ends(graded, "answered")
    return [place for place, node in enumerate(graded.tree.nodes) if node.finish is None or place in answered]
