"""How a reward model fares on trees it did not learn from: which of a pair scores higher, and what scores are worth."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ponderosa.data.reward_rows import build_comparison_row, build_node_rows, list_readings
from ponderosa.data.step_pairs import LEVELS, Comparison, Level, StepPairRules, select_step_pairs
from ponderosa.data.tree_outcomes import compute_success, list_scored
from ponderosa.evaluation.summary import compute_interval
from ponderosa.identity import derive_seed
from ponderosa.progress import Progress
from ponderosa.records import GradedTree, Row
from ponderosa.stages.scoring import score_rows
from ponderosa.training.calibration import cross_fit, describe_calibration
from ponderosa.training.gradients import GradientComputer


@dataclass(frozen=True, slots=True)
class ScoredTrees:
    """Held-out trees as the trained model scores them. rows: all that were scored. readings: of each comparison the
    chosen and then the rejected scores. Of N nodes: problem, score, success."""

    rows: list[Row]
    comparisons: tuple[Comparison, ...]
    readings: list[list[float]]
    problem_ids_N: list[str]
    scores_N: list[float]
    success_N: list[float]


def score_trees(
    scorer: GradientComputer,
    trees: Sequence[GradedTree],
    rules: StepPairRules,
    max_length: int,
    progress: Progress,
) -> ScoredTrees:
    """Every pair that the rules find in the trees, and every node that a search would ask about."""
    comparisons = select_step_pairs(trees, rules, max_length=max_length).comparisons
    node_rows: list[Row] = []
    problem_ids: list[str] = []
    success_N: list[float] = []
    for one in trees:
        success = compute_success(one)
        targets = {place: success[place] for place in list_scored(one) if place in success}
        for row, places in build_node_rows(one.tree, targets, max_length=max_length):
            node_rows.append(row)
            success_N += [targets[place] for place in places]
            problem_ids += [one.tree.problem_id] * len(places)

    def read(rows: Sequence[Row], label: str) -> list[list[float]]:
        scores = score_rows(scorer, rows, label=label, progress=progress)
        return [list_readings(row, row_scores) for row, row_scores in zip(rows, scores, strict=True)]

    pair_rows = [build_comparison_row(one) for one in comparisons]
    readings = read(pair_rows, "score held-out pairs")
    scores_N = [score for row_readings in read(node_rows, "score held-out nodes") for score in row_readings]
    return ScoredTrees([*pair_rows, *node_rows], comparisons, readings, problem_ids, scores_N, success_N)


def describe_held_out(scored: ScoredTrees, *, seed: int) -> dict[str, Any]:
    """Accuracy on pairs (of steps, of solutions, of all) and the calibration curve."""
    ranks = {problem_id: rank for rank, problem_id in enumerate(sorted(set(scored.problem_ids_N)))}
    predicted_N = cross_fit(
        scored.scores_N, scored.success_N, [ranks[problem_id] % 2 for problem_id in scored.problem_ids_N]
    )
    ranking = {level: describe_ranking(scored, {level}, seed=seed) for level in LEVELS}
    return {
        "pairs": {**ranking, "all": describe_ranking(scored, set(LEVELS), seed=seed)},
        "calibration": describe_calibration(predicted_N, scored.success_N, scored.problem_ids_N, seed=seed),
    }


def describe_ranking(scored: ScoredTrees, levels: Set[Level], *, seed: int) -> dict[str, Any]:
    """How often the preferred one of a pair scores higher: the mean over problems of their pairs' share, with its
    interval over problems (Wilson's where all or none of each problem's are right, else bootstrapped); None without a pair."""
    by_problem: dict[str, list[bool]] = {}
    for comparison, scores in zip(scored.comparisons, scored.readings, strict=True):
        if comparison.level in levels:
            chosen, rejected = scores[: len(comparison.chosen)], scores[len(comparison.chosen) :]
            by_problem.setdefault(comparison.problem_id, []).extend(a > b for a in chosen for b in rejected)
    shares = [fmean(group) for group in by_problem.values()]
    interval = compute_interval(shares, is_frac=True, seed=derive_seed("pairs", seed)) if shares else None
    return {
        "pairs": sum(map(len, by_problem.values())),
        "problems": len(by_problem),
        "accuracy": fmean(shares) if shares else None,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
    }
