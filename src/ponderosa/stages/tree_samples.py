"""Which trees are shown to a reader: by hash, so that nobody picks them, and the largest."""

from collections.abc import Iterable, Iterator, Mapping

from ponderosa.data.trajectories import list_trajectories
from ponderosa.identity import derive_seed
from ponderosa.records import GradedTree, Problem
from ponderosa.shown_trees import ShownTree

MIXED, UNSOLVED, LARGEST = LABELS = ("right and wrong endings", "no right ending", "most steps")
"""Why a tree is shown."""


def select_trees(problems: Mapping[str, Problem], trees: Iterable[GradedTree]) -> list[ShownTree]:
    """At most one tree for each label, in the order of labels; none is shown twice. problems: by id."""
    first: dict[str, tuple[tuple[int, ...], GradedTree]] = {}
    for graded in trees:
        for label, rank in _list_ranks(graded):
            if label not in first or rank < first[label][0]:
                first[label] = (rank, graded)
    chosen: dict[int, ShownTree] = {}
    for label in LABELS:
        if label in first:
            _, graded = first[label]
            problem = problems[graded.tree.problem_id]
            chosen.setdefault(id(graded), show_graded(problem, graded, label))
    return list(chosen.values())


def show_graded(problem: Problem, graded: GradedTree, label: str = "") -> ShownTree:
    """A graded tree as a reader is shown it; its chosen solution is the one that the policy would learn from first."""
    right = [one for one in list_trajectories(graded) if one.graded.verdict.correct]
    best = max(right, key=lambda one: (not one.is_faulty, one.rank), default=None)
    chosen = None if best is None else best.graded.attempt.sample
    return ShownTree(problem.question, graded.tree, label, problem.answer, dict(graded.verdicts), chosen)


def _list_ranks(graded: GradedTree) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The labels that a tree qualifies for, with its rank among those that do; the lowest is shown."""
    drawn = derive_seed("shown", graded.tree.problem_id)
    verdicts = {verdict.correct for verdict in graded.verdicts.values()}
    if verdicts == {True, False}:
        yield MIXED, (drawn,)
    if verdicts == {False}:
        yield UNSOLVED, (drawn,)
    yield LARGEST, (-len(graded.tree.nodes), drawn)
