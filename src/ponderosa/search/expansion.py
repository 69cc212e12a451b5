"""Candidate steps behind one prefix: sampled side by side, and each distinct one run and judged once."""

from collections.abc import Collection, Generator, Sequence
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple, TypeAlias

from ponderosa.engines.protocol import Scored
from ponderosa.records import Cost, Finish
from ponderosa.search.draft import Draft
from ponderosa.search.requests import Gather, Reply, Request, Score
from ponderosa.search.solution import SearchContext, build_request, draw_step, price_score, run_step

Writing: TypeAlias = tuple[str, Finish | None]
"""What tells candidates apart: their exact text, and how the policy ended, if it did."""


class Candidate(NamedTuple):
    """A distinct candidate step: the draft it leads to, whose cost is the step's alone, and what is known of it.

    mean_logprob: of the step's sampled tokens, under the policy at temperature 1; 0.0 if it has none.
    """

    writing: Writing
    draft: Draft
    multiplicity: int
    mean_logprob: float
    score: float | None


class Expansion(NamedTuple):
    """Distinct candidates in the order they were first drawn, how often those were drawn that were known before, and
    the cost of all."""

    candidates: tuple[Candidate, ...]
    repeats: dict[Writing, int]
    cost: Cost


def draw_candidates(
    context: SearchContext, draft: Draft, seeds: Sequence[int], known: Collection[Writing] = ()
) -> Generator[list[Request], list[Reply], Expansion]:
    """A candidate step for each seed from one open draft; those that are not known are run and judged."""
    start = replace(draft, cost=Cost())
    drawn: list[Draft]
    (drawn,) = yield [Gather([draw_step(context, start, seed) for seed in seeds])]
    groups: dict[Writing, list[Draft]] = {}
    for one in drawn:
        text = context.codec.decode(one.token_ids[len(draft.token_ids) :])
        groups.setdefault((text, one.finish), []).append(one)
    repeats = {writing: len(groups.pop(writing)) for writing in known if writing in groups}
    settled: list[tuple[Draft, float | None]] = []
    if groups:
        (settled,) = yield [Gather([_settle(context, group[0]) for group in groups.values()])]
    candidates = []
    cost = sum((one.cost for one in drawn), Cost())
    for (writing, group), (ready, score) in zip(groups.items(), settled, strict=True):
        cost += ready.cost
        ready = replace(ready, cost=group[0].cost + ready.cost)
        mean_logprob = fmean(group[0].model_logprobs[len(draft.token_ids) :] or (0.0,))
        candidates.append(Candidate(writing, ready, len(group), mean_logprob, score))
    return Expansion(tuple(candidates), repeats, cost)


def _settle(
    context: SearchContext, drawn: Draft
) -> Generator[list[Request], list[Reply], tuple[Draft, float | None]]:
    """A drawn step after it has been run, with what the reward model says of it; its cost is of these alone."""
    draft = yield from run_step(context, replace(drawn, cost=Cost()))
    if draft.finish is None and build_request(context, draft, seed=0) is None:
        draft = replace(draft, finish="length")
    token_ids = (*draft.prompt_ids, *draft.token_ids)
    is_of_use = draft.finish is None or has_answer(draft)
    if context.scorer_id is None or not is_of_use or len(token_ids) > context.max_context:
        return draft, None
    scored: Scored
    (scored,) = yield [Score(token_ids)]
    return replace(draft, cost=draft.cost + price_score(context, scored)), scored.score


def has_answer(draft: Draft) -> bool:
    """May the answer of a finished draft be read? Not if it was killed by errors, cut short or refused.

    What ends a solution of its own accord stands behind the last closed step; errors end it right there.
    """
    return draft.finish == "stop" and draft.open_from < len(draft.token_ids)
