"""What trained margins owe to length."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from statistics import StatisticsError, correlation, fmean
from typing import Any

from ponderosa.identity import derive_seed
from ponderosa.metrics import bootstrap_problems


def summarise_margins(
    margins_P: Sequence[float],
    length_differences_P: Sequence[int],
    problem_ids_P: Sequence[str],
    *,
    num_bins: int = 8,
    seed: int = 0,
) -> dict[str, Any]:
    """How the margins of P pairs (implicit reward, chosen less rejected) go with their length differences (tokens,
    chosen less rejected).

    A model that learned to prefer a length shows margins that follow the difference: a high `length_correlation`
    (Pearson's; None where it is not defined), and an accuracy that falls off on one side. Bins hold about equally
    many pairs, and equal differences are never parted; a bin's margin is the mean of its problems' means, with its
    bootstrap interval over problems.
    """
    triples = list(zip(length_differences_P, margins_P, problem_ids_P, strict=True))
    return {
        "pairs": len(triples),
        "margin": fmean(margins_P) if triples else None,
        "accuracy": fmean(margin > 0 for margin in margins_P) if triples else None,
        "length_correlation": _correlate(length_differences_P, margins_P),
        "bins": [_summarise_bin(members, seed) for members in _cut_bins(triples, num_bins)],
    }


_Triple = tuple[int, float, str]


def _cut_bins(triples: Sequence[_Triple], num_bins: int) -> Iterator[list[_Triple]]:
    members: list[_Triple] = []
    num_binned = num_closed = 0
    for _, same in groupby(sorted(triples), key=lambda triple: triple[0]):
        members += same
        if num_binned + len(members) >= (num_closed + 1) * len(triples) / num_bins:
            num_binned += len(members)
            num_closed = num_binned * num_bins // len(triples)
            yield members
            members = []


def _summarise_bin(members: Sequence[_Triple], seed: int) -> dict[str, Any]:
    by_problem: dict[str, list[float]] = {}
    for _, margin, problem_id in members:
        by_problem.setdefault(problem_id, []).append(margin)
    means = [fmean(margins) for margins in by_problem.values()]
    interval = bootstrap_problems(means, seed=derive_seed("margins", seed, members[0][0]))
    return {
        "shortest": members[0][0],
        "longest": members[-1][0],
        "length_difference": fmean(difference for difference, _, _ in members),
        "pairs": len(members),
        "problems": len(means),
        "margin": fmean(means),
        "low": interval.low,
        "high": interval.high,
        "accuracy": fmean(margin > 0 for _, margin, _ in members),
    }


def _correlate(differences: Sequence[int], margins: Sequence[float]) -> float | None:
    try:
        return correlation(differences, margins)
    except StatisticsError:
        return None
