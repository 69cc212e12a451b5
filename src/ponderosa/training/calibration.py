"""From raw scores to success in [-1, 1]: one monotone map, fitted on held-out trees, and how well it holds.

Pure: values in, values out. Legend: N nodes, K knots. A node's success is the share of solutions through it that end
right, scaled to [-1, 1] (`data.tree_outcomes`), so a calibrated score means the same as the value of a terminal.
"""

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from ponderosa.errors import DataError
from ponderosa.identity import derive_seed
from ponderosa.metrics import bootstrap_problems
from ponderosa.reward_model_directory import Calibration

TILT = 0.01
"""Beyond the outermost knots the map still rises by this much, so that the best of scores there stay apart."""


class Block(NamedTuple):
    """Neighbouring scores that share one value. score: their mean. weight: how many there are."""

    score: float
    value: float
    weight: float


def fit_isotonic(scores_N: Sequence[float], values_N: Sequence[float]) -> list[Block]:
    """The monotone step function nearest to the values in squares, as blocks of rising value.

    Pool adjacent violators (Ayer et al. 1955; Barlow et al. 1972): equal scores are one block to begin with, and a
    block whose value is not above that of the one before is merged with it.
    """
    scores, inverse, counts = np.unique(np.asarray(scores_N, float), return_inverse=True, return_counts=True)
    means = np.bincount(inverse, weights=np.asarray(values_N, float)) / counts
    blocks: list[Block] = []
    for new in zip(scores.tolist(), means.tolist(), counts.tolist(), strict=True):
        block = Block(*new)
        while blocks and blocks[-1].value >= block.value:
            block = _merge(blocks.pop(), block)
        blocks.append(block)
    return blocks


def _merge(first: Block, second: Block) -> Block:
    weight = first.weight + second.weight
    score, value = ((first[i] * first.weight + second[i] * second.weight) / weight for i in range(2))
    return Block(score, value, weight)


def fit_calibration(scores_N: Sequence[float], values_N: Sequence[float]) -> Calibration:
    """The map from scores to success.

    Centred isotonic regression (Oron and Flournoy, arXiv 1701.05964): a block stands at the mean of its scores and the
    map is linear between blocks, so it rises throughout and keeps the order of scores, which a step function would
    lose. At the lowest and the highest score it is `TILT` beyond its outermost block. Raises DataError without nodes.
    """
    if not len(scores_N):
        raise DataError("there is no node to fit a calibration on; hold out more problems")
    blocks = fit_isotonic(scores_N, values_N)
    low, high = min(scores_N), max(scores_N)
    knots = [(block.score, (1 - TILT) * block.value) for block in blocks]
    if low < knots[0][0]:
        knots.insert(0, (low, knots[0][1] - TILT))
    if high > knots[-1][0]:
        knots.append((high, knots[-1][1] + TILT))
    return Calibration(
        scores=tuple(score for score, _ in knots),
        values=tuple(max(-1.0, min(1.0, value)) for _, value in knots),
    )


def cross_fit(scores_N: Sequence[float], values_N: Sequence[float], folds_N: Sequence[int]) -> list[float]:
    """What each node's score is read as by the map of the other folds. Raises DataError if there are none.

    A fold should hold whole problems: nodes of one tree have much in common.
    """
    predicted = [0.0] * len(scores_N)
    for fold in set(folds_N):
        others = [n for n, other in enumerate(folds_N) if other != fold]
        calibration = fit_calibration([scores_N[n] for n in others], [values_N[n] for n in others])
        own = [n for n, other in enumerate(folds_N) if other == fold]
        for n, value in zip(own, calibration.apply([scores_N[n] for n in own]), strict=True):
            predicted[n] = value
    return predicted


def describe_calibration(
    predicted_N: Sequence[float],
    values_N: Sequence[float],
    problem_ids_N: Sequence[str],
    *,
    num_bins: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """The calibration curve: nodes in bins of about equal size by predicted success, with what came of them.

    squared_error: mean of (predicted - success)²; baseline: the same if the overall mean were predicted everywhere.
    error: the gap between predicted and observed of a bin, averaged over nodes (expected calibration error). A bin's
    two are means over problems of the problems' own means, and its interval a bootstrap over problems.
    """
    nodes = sorted(zip(predicted_N, values_N, problem_ids_N, strict=True), key=lambda node: node[0])
    cuts = [len(nodes) * number // num_bins for number in range(num_bins + 1)]
    bins = [_describe_bin(nodes[a:b], seed) for a, b in pairwise(cuts) if a < b]
    mean = fmean(values_N)
    return {
        "nodes": len(nodes),
        "problems": len(set(problem_ids_N)),
        "error": sum(one["nodes"] * abs(one["predicted"] - one["observed"]) for one in bins) / len(nodes),
        "squared_error": fmean((predicted - value) ** 2 for predicted, value, _ in nodes),
        "baseline": fmean((value - mean) ** 2 for value in values_N),
        "bins": bins,
    }


def _describe_bin(nodes: Sequence[tuple[float, float, str]], seed: int) -> dict[str, Any]:
    by_problem: dict[str, list[tuple[float, float]]] = {}
    for predicted, value, problem_id in nodes:
        by_problem.setdefault(problem_id, []).append((predicted, value))
    means = [[fmean(column) for column in zip(*group, strict=True)] for group in by_problem.values()]
    observed = [value for _, value in means]
    interval = bootstrap_problems(observed, seed=derive_seed("calibration", seed, len(nodes)))
    return {
        "predicted": fmean(predicted for predicted, _ in means),
        "observed": fmean(observed),
        "low": interval.low,
        "high": interval.high,
        "nodes": len(nodes),
        "problems": len(means),
    }
