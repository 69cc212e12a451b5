"""What a search over many problems came to: how many it solved, where it gave up, and what its solutions are worth.

Pure. Problems are the unit of every share and every interval; the trees of a problem count together.
"""

from collections import Counter
from collections.abc import Sequence, Set
from statistics import fmean
from typing import Any, NamedTuple, get_args

from ponderosa.evaluation.renumbering import RENUMBERING
from ponderosa.evaluation.summary import (
    ALL,
    UNBOUNDED,
    Row,
    RowContext,
    build_row,
    compare_values,
    compute_interval,
    correct_family,
    name_slices,
)
from ponderosa.identity import derive_seed
from ponderosa.metrics import Interval
from ponderosa.records import Cost, GradedTree, Problem, TreeEnd, Verdict

SLICE_KEYS = ("operations", "level")
COVERAGE = "coverage"

Values = dict[str, float]
"""A metric's value of each problem, by problem id; problems that it says nothing of are left out."""


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
    trees: Sequence[SearchedTree], rows: Sequence[Row], *, simulations: int
) -> dict[str, Any]:
    """The facts of a search whose rows are those of `build_tree_rows`, from which the estimates are taken.

    simulations: those that every tree may have. Trees that went over them had extra ones, because nothing was right
    by then; `coverage_without_extra` leaves those trees out.
    """

    def list_slices(metric: str) -> dict[str, dict[str, float]]:
        return {
            row["slice"]: {key: row[key] for key in ("value", "low", "high", "n")}
            for row in rows
            if row["metric"] == metric
        }

    false_positives = list_slices("false_positive_frac").get(ALL)
    if false_positives is not None:
        false_positives["solutions"] = len(_list_asked(trees))
    return {
        "problems": len({tree.problem_id for tree in trees}),
        "trees": len(trees),
        "nodes": sum(tree.num_nodes for tree in trees),
        "simulations": sum(tree.num_simulations for tree in trees),
        "extra_simulations": sum(max(0, tree.num_simulations - simulations) for tree in trees),
        "ends": dict(Counter(tree.end for tree in trees).most_common()),
        "reasons": dict(Counter(verdict.reason for tree in trees for verdict in tree.verdicts).most_common()),
        **{metric: list_slices(metric) for metric in (COVERAGE, "coverage_without_extra")},
        "false_positives": false_positives,
    }


def build_tree_rows(
    context: RowContext,
    problems: Sequence[Problem],
    trees: Sequence[SearchedTree],
    *,
    simulations: int,
    occupancy: float,
    seed: int,
) -> list[Row]:
    """A search as result rows: what `compute_values` gives on every slice, and the engine's occupancy, which has no
    interval. simulations: those that every tree may have. seed: of the intervals."""
    values = compute_values(problems, trees, simulations)
    num_trees = max(Counter(tree.problem_id for tree in trees).values())
    rows: list[Row] = []
    for name, ids in name_slices(problems, SLICE_KEYS).items():
        present = set(ids)
        costs = [tree.cost for tree in trees if tree.problem_id in present]
        for metric, by_problem in values.items():
            if members := _select(by_problem, ids):
                interval = _bound(members, metric, name, seed)
                rows.append(build_row(context, name, metric, members, interval, costs, num_trees))
    return [*rows, {**rows[0], "metric": "occupancy", "value": occupancy, "low": None, "high": None}]


def compare_coverage(
    problems: Sequence[Problem], a: tuple[str, Set[str]], b: tuple[str, Set[str]], *, strategy: str
) -> list[Row]:
    """Paired tests of two searches of the same problems, one row for each slice, all of them one Holm family.

    a, b: a search's name and the ids of the problems that it solved. strategy: of `b`.
    """
    tests: list[Row] = []
    for name, ids in name_slices(problems, SLICE_KEYS).items():
        values_a, values_b = ([float(id in solved) for id in ids] for _, solved in (a, b))
        test = {"suite": b[0], "slice": name, "strategy": strategy, "metric": COVERAGE, "a": a[0], "b": b[0]}
        seed = derive_seed("paired", name, COVERAGE, a[0], b[0])
        tests.append({**test, **compare_values(values_a, values_b, seed=seed)})
    return correct_family(tests)


def compute_values(
    problems: Sequence[Problem], trees: Sequence[SearchedTree], simulations: int
) -> dict[str, Values]:
    """Every metric of each problem, by the metric's name.

    coverage                 has a right solution; `coverage_without_extra` without the trees that had extra simulations
    false_positive_frac      of its right answers the share that came from a refuted program; of those asked again
    mean_computed_tokens     prefilled, generated or scored, in all of its trees
    mean_simulations         in one of its trees
    ended_REASON_frac        of its trees those that stopped for that reason
    """
    searched: dict[str, list[SearchedTree]] = {problem.id: [] for problem in problems}
    for tree in trees:
        searched[tree.problem_id].append(tree)
    plain = {
        id: [tree for tree in mine if tree.num_simulations <= simulations] for id, mine in searched.items()
    }
    asked = {id: _list_asked(mine) for id, mine in searched.items()}
    values = {
        COVERAGE: {id: float(any(tree.is_solved for tree in mine)) for id, mine in searched.items()},
        "coverage_without_extra": {
            id: float(any(tree.is_solved for tree in mine)) for id, mine in plain.items()
        },
        "false_positive_frac": {
            id: fmean(not verdict.correct for verdict in verdicts)
            for id, verdicts in asked.items()
            if verdicts
        },
        "mean_computed_tokens": {
            id: float(sum(tree.cost.computed_tokens for tree in mine)) for id, mine in searched.items()
        },
        "mean_simulations": {
            id: fmean(tree.num_simulations for tree in mine) for id, mine in searched.items() if mine
        },
    }
    for end in get_args(TreeEnd):
        ended = {id: fmean(tree.end == end for tree in mine) for id, mine in searched.items() if mine}
        values[f"ended_{end}_frac"] = ended
    return values


def _list_asked(trees: Sequence[SearchedTree]) -> list[Verdict]:
    """The verdicts on right answers whose programs were asked for other numbers."""
    return [verdict for tree in trees for verdict in tree.verdicts if verdict.verifier.endswith(RENUMBERING)]


def _select(values: Values, ids: Sequence[str]) -> list[float]:
    return [values[id] for id in ids if id in values]


def _bound(values_P: Sequence[float], metric: str, slice_name: str, seed: int) -> Interval:
    seed = derive_seed("trees", seed, f"{metric} {slice_name}")
    return compute_interval(values_P, is_frac=metric not in UNBOUNDED, seed=seed)
