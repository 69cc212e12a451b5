"""What a search over many problems came to: how many it solved, where it gave up, and what its solutions are worth.

Pure. Problems are the unit of every share and every interval; the trees of a problem count together.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from ponderosa.evaluation.renumbering import RENUMBERING
from ponderosa.evaluation.summary import compute_interval, name_slices
from ponderosa.identity import derive_seed
from ponderosa.records import Cost, GradedTree, Problem, TreeEnd, Verdict

SLICE_KEYS = ("operations", "level")


class SearchedTree(NamedTuple):
    """A graded tree without its nodes."""

    problem_id: str
    end: TreeEnd
    num_nodes: int
    num_simulations: int
    cost: Cost
    verdicts: tuple[Verdict, ...]

    @property
    def is_solved(self) -> bool:
        return any(verdict.correct for verdict in self.verdicts)


def strip_nodes(graded: GradedTree) -> SearchedTree:
    """What is counted of a tree."""
    tree = graded.tree
    verdicts = tuple(graded.verdicts.values())
    return SearchedTree(tree.problem_id, tree.end, len(tree.nodes), tree.num_simulations, tree.cost, verdicts)


def summarise_trees(
    problems: Sequence[Problem], trees: Sequence[SearchedTree], *, simulations: int, seed: int
) -> dict[str, Any]:
    """The facts of a search.

    simulations: those that every tree may have. Trees that went over them had extra ones, because nothing was right
    by then; `coverage_without_extra` leaves those trees out.
    """
    plain = [tree for tree in trees if tree.num_simulations <= simulations]
    return {
        "problems": len(problems),
        "trees": len(trees),
        "nodes": sum(tree.num_nodes for tree in trees),
        "simulations": sum(tree.num_simulations for tree in trees),
        "extra_simulations": sum(max(0, tree.num_simulations - simulations) for tree in trees),
        "ends": dict(Counter(tree.end for tree in trees).most_common()),
        "reasons": dict(Counter(verdict.reason for tree in trees for verdict in tree.verdicts).most_common()),
        "coverage": _compute_coverage(problems, trees, seed),
        "coverage_without_extra": _compute_coverage(problems, plain, seed),
        "false_positives": _compute_false_positives(trees, seed),
    }


def _compute_coverage(
    problems: Sequence[Problem], trees: Sequence[SearchedTree], seed: int
) -> dict[str, dict[str, float]]:
    """Share of problems with a right solution, by slice."""
    solved = {tree.problem_id for tree in trees if tree.is_solved}
    return {
        name: _estimate([float(id in solved) for id in ids], seed, f"coverage {name}")
        for name, ids in name_slices(problems, SLICE_KEYS).items()
    }


def _compute_false_positives(trees: Sequence[SearchedTree], seed: int) -> dict[str, float] | None:
    """Of a problem's right answers the share that came from a refuted program; the mean over problems with any.

    None if no program could be asked for other numbers.
    """
    refuted: defaultdict[str, list[float]] = defaultdict(list)
    for tree in trees:
        for verdict in tree.verdicts:
            if verdict.verifier.endswith(RENUMBERING):
                refuted[tree.problem_id].append(float(not verdict.correct))
    if not refuted:
        return None
    shares = [fmean(values) for values in refuted.values()]
    solutions = sum(len(values) for values in refuted.values())
    return {**_estimate(shares, seed, "false positives"), "solutions": solutions}


def _estimate(values_P: Sequence[float], seed: int, name: str) -> dict[str, float]:
    interval = compute_interval(values_P, is_frac=True, seed=derive_seed("trees", seed, name))
    return {"value": fmean(values_P), "low": interval.low, "high": interval.high, "n": len(values_P)}
