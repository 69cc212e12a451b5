"""Finding the first wrong step of a solution from a reward model's scores of its steps. Pure: values in, values out.

Each step gives a signal, and the first step whose signal lies below a threshold is said to be wrong; if none does, the
solution is said to be right. Two rules make signals of scores:

    score   the step's own score: how likely the solution still is to end right
    drop    the step's score less that of what stood before it: what this step changed

The threshold is chosen on one half of the solutions and the figures are those of the other half. As ProcessBench has it
(Zheng et al. 2024, arXiv 2412.06559, section 3): accuracy on erroneous solutions is the share whose first wrong step is
found exactly, accuracy on correct ones the share in which none is said to be wrong, and F1 their harmonic mean.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from ponderosa.errors import RequestError
from ponderosa.identity import split_bucket
from ponderosa.metrics import CONFIDENCE, Interval, compute_wilson_interval

Rule = Literal["score", "drop"]
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True, slots=True)
class ScoredSteps:
    """A solution as its reward model saw it.

    scores: of the bare prompt, then at the end of each step (steps + 1). first_error: place of the first wrong step,
    from 0; None if there is none.
    """

    id: str
    scores: tuple[float, ...]
    first_error: int | None


class Figure(NamedTuple):
    """An estimate with its interval, from so many solutions."""

    value: float
    interval: Interval
    n: int


def compute_signals(solution: ScoredSteps, rule: Rule) -> list[float]:
    """One signal a step; the lower, the likelier it is the first wrong one."""
    if rule == "score":
        return list(solution.scores[1:])
    return [after - before for before, after in pairwise(solution.scores)]


def find_first_error(signals: Sequence[float], threshold: float) -> int | None:
    """The first step whose signal lies below the threshold."""
    return next((place for place, signal in enumerate(signals) if signal < threshold), None)


def is_for_selection(solution: ScoredSteps) -> bool:
    """Whether a solution helps choose the threshold; the others are measured. Depends on its id alone."""
    return split_bucket(["step errors", solution.id]) < 0.5


def choose_threshold(solutions: Iterable[ScoredSteps], rule: Rule) -> float:
    """The threshold with the highest F1 on these solutions; of several, the lowest, which calls fewest steps wrong.

    A solution is classified rightly by the thresholds in one interval (low, high]: all signals before its first wrong step
    reach the threshold, that step's does not. So the best one is found among the gaps between the intervals' ends.
    Raises RequestError unless there are both correct and erroneous solutions.
    """
    ranges: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for solution in solutions:
        signals = compute_signals(solution, rule)
        error = solution.first_error
        low = -np.inf if error is None else signals[error]
        ranges[error is None].append((low, min(signals[:error], default=np.inf)))
    if not all(ranges.values()):
        raise RequestError(
            f"a threshold cannot be chosen: of the solutions it is chosen on, {len(ranges[True])} are correct and "
            f"{len(ranges[False])} erroneous; give more of both"
        )
    ends = np.unique([end for pairs in ranges.values() for pair in pairs for end in pair if np.isfinite(end)])
    thresholds = np.concatenate([ends[:1] - 1, (ends[:-1] + ends[1:]) / 2, ends[-1:] + 1])
    correct, erroneous = (_compute_shares(np.array(ranges[key]), thresholds) for key in (True, False))
    best = np.argmax(2 * correct * erroneous / np.maximum(correct + erroneous, 1e-300))
    return float(thresholds[best])


def _compute_shares(ranges_N2: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each threshold, the share of the ranges (low, high] that hold it."""
    proper = ranges_N2[ranges_N2[:, 0] < ranges_N2[:, 1]]
    begun = np.searchsorted(np.sort(proper[:, 0]), thresholds, side="left")
    over = np.searchsorted(np.sort(proper[:, 1]), thresholds, side="left")
    shares: NDArray[np.float64] = (begun - over) / len(ranges_N2)
    return shares


def is_found(solution: ScoredSteps, rule: Rule, threshold: float) -> bool:
    """Is the solution classified rightly: its first wrong step found exactly, or none said to be wrong where none is?"""
    return find_first_error(compute_signals(solution, rule), threshold) == solution.first_error


def measure(solutions: Iterable[ScoredSteps], rule: Rule, threshold: float) -> dict[str, Figure]:
    """The figures by their names, those that the solutions allow: `correct_accuracy` takes correct ones,
    `erroneous_accuracy` erroneous ones, `first_error_f1` both; `first_error_accuracy` is over all of them."""
    found: dict[bool, list[bool]] = {True: [], False: []}
    for solution in solutions:
        found[solution.first_error is None].append(is_found(solution, rule, threshold))
    correct, erroneous = found[True], found[False]
    figures = {"first_error_accuracy": compute_share(erroneous + correct)}
    if erroneous and correct:
        figures["first_error_f1"] = compute_f1(erroneous, correct)
    if erroneous:
        figures["erroneous_accuracy"] = compute_share(erroneous)
    if correct:
        figures["correct_accuracy"] = compute_share(correct)
    return figures


def compute_share(outcomes: Sequence[bool]) -> Figure:
    """A share of right-or-wrong outcomes with its Wilson interval."""
    return Figure(
        sum(outcomes) / len(outcomes), compute_wilson_interval(sum(outcomes), len(outcomes)), len(outcomes)
    )


def compute_f1(found_erroneous: Sequence[bool], found_correct: Sequence[bool]) -> Figure:
    """The harmonic mean of the two accuracies.

    It rises with both, so it lies between the means of both lower and of both upper ends of their Wilson intervals
    wherever both accuracies lie in theirs; each is taken at 1 - (1 - confidence) / 2 so that both do (Bonferroni).
    """
    sides = [
        (sum(found) / len(found), compute_wilson_interval(sum(found), len(found), 1 - (1 - CONFIDENCE) / 2))
        for found in (found_erroneous, found_correct)
    ]
    (a, interval_a), (b, interval_b) = sides
    interval = Interval(
        _compute_harmonic_mean(interval_a.low, interval_b.low),
        _compute_harmonic_mean(interval_a.high, interval_b.high),
    )
    return Figure(_compute_harmonic_mean(a, b), interval, len(found_erroneous) + len(found_correct))


def _compute_harmonic_mean(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a and b else 0.0
