"""From the candidates of all problems to pivotal tokens and single-token pairs: one family of tests, pure rules."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, permutations
from typing import NamedTuple

from ponderosa.metrics import adjust_bh
from ponderosa.search.pivotal import Candidate, FirstToken, SearchedProblem
from ponderosa.search.pivotal_statistics import Tally, compute_change_p, compute_difference_p


@dataclass(frozen=True, slots=True)
class Finding:
    """A candidate with its test.

    p_value: of a change of p of at most the minimum effect, both with truncation as failure and without truncated
    rollouts; adjusted_p: over all candidates. is_pivotal: adjusted_p is within the false-discovery rate.
    by_truncation: it would be pivotal if truncation were failure, and is not pivotal.
    cancels_neighbour: the sampled token next to it is pivotal too, and takes so much of the change back that less
    than p_gap is left.
    """

    problem_id: str
    candidate: Candidate
    p_value: float
    adjusted_p: float
    is_pivotal: bool
    by_truncation: bool
    cancels_neighbour: bool = False

    @property
    def change(self) -> float:
        """Of p over the token, on fresh rollouts, truncation as failure."""
        before, after = self.candidate.confirmed
        return after.rate - before.rate


class TokenPair(NamedTuple):
    """Two tokens that may follow one prefix, the first raising p, the second lowering it."""

    chosen: FirstToken
    rejected: FirstToken


def judge_candidates(
    searched: Sequence[SearchedProblem], *, min_effect: float, fdr: float, p_gap: float
) -> list[Finding]:
    """Every candidate with its test, corrected over all of them as one family (Benjamini and Hochberg).

    Their rollouts are fresh and shared with no other test, as the correction asks for.
    """
    candidates = [(problem.problem_id, one) for problem in searched for one in problem.candidates]
    p_values = [compute_change_p(*one.confirmed, min_effect) for _, one in candidates]
    as_failure = [_compute_p_as_failure(one, min_effect) for _, one in candidates]
    findings = [
        Finding(problem_id, one, p_value, adjusted, adjusted <= fdr, adjusted > fdr >= adjusted_as_failure)
        for (problem_id, one), p_value, adjusted, adjusted_as_failure in zip(
            candidates, p_values, adjust_bh(p_values), adjust_bh(as_failure), strict=True
        )
    ]
    return mark_cancelling(findings, p_gap)


def mark_cancelling(findings: Sequence[Finding], p_gap: float) -> list[Finding]:
    """The findings, those marked that cancel a neighbour: what a search from segment ends passes over elsewhere."""
    pivotal: defaultdict[str, list[int]] = defaultdict(list)
    for place, one in enumerate(findings):
        if one.is_pivotal:
            pivotal[one.problem_id].append(place)
    cancelling: set[int] = set()
    for i, j in chain.from_iterable(permutations(places, 2) for places in pivotal.values()):
        first, second = findings[i], findings[j]
        is_reversed = first.change * second.change < 0 and abs(first.change + second.change) < p_gap
        if is_reversed and _follows(second.candidate, first.candidate):
            cancelling |= {i, j}
    return [replace(one, cancels_neighbour=place in cancelling) for place, one in enumerate(findings)]


def _follows(second: Candidate, first: Candidate) -> bool:
    """Is the second the sampled token right behind the first, on one path?"""
    through = (*first.prefix_ids, first.token_id)
    return second.order == first.order + 1 and second.prefix_ids[: len(through)] == through


def choose_pair(finding: Finding, *, min_count: int) -> TokenPair | None:
    """The token against one that moved p the other way, both drawn by fresh rollouts at this prefix; None if none did.

    The other one is the most frequent of those that at least `min_count` rollouts began with and whose own share of
    right ones lies beyond p before, with truncation as failure and without truncated rollouts.
    """
    candidate = finding.candidate
    before, after = candidate.confirmed
    others = [
        one
        for one in candidate.alternatives
        if one.token_id != candidate.token_id
        and one.tally.num_samples >= min_count
        and _is_beyond(one.tally, before, upwards=finding.change < 0)
    ]
    if not others:
        return None
    found = FirstToken(candidate.token_id, candidate.logprob, after)
    return TokenPair(found, others[0]) if finding.change > 0 else TokenPair(others[0], found)


def _is_beyond(tally: Tally, before: Tally, *, upwards: bool) -> bool:
    if tally.finished_rate is None or before.finished_rate is None:
        return False
    changes = (tally.rate - before.rate, tally.finished_rate - before.finished_rate)
    return min(changes) > 0 if upwards else max(changes) < 0


def _compute_p_as_failure(candidate: Candidate, min_effect: float) -> float:
    (before, after) = ((one.num_correct, one.num_samples) for one in candidate.confirmed)
    return compute_difference_p(before, after, min_effect)
