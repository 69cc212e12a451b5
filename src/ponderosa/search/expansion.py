"""Candidate steps behind one prefix: sampled side by side, and each distinct one run and scored once."""

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple, TypeAlias

from ponderosa.engines.protocol import Scored
from ponderosa.records import Attempt, Cost, Finish
from ponderosa.search.draft import Draft
from ponderosa.search.requests import Gather, Reply, Request, Score
from ponderosa.search.solution import SearchContext, build_request, draw_step, price_score, run_step

Writing: TypeAlias = tuple[str, Finish | None]
"""What tells candidates apart: their exact text, and how the policy ended, if it did."""

FinishDraft: TypeAlias = Callable[[Draft], Attempt]
"""The record of a finished draft, whose answer is None if there is none or it may not be read."""


class Candidate(NamedTuple):
    """A distinct candidate step: the draft it leads to, whose cost is the step's alone, and what is known of it.

    attempt: of a draft that is finished. score: the reward model's; None if none was asked, or nothing can come of it.
    mean_logprob: of the step's sampled tokens, under the policy at temperature 1; 0.0 if it has none.
    """

    writing: Writing
    draft: Draft
    attempt: Attempt | None
    score: float | None
    multiplicity: int
    mean_logprob: float


class Expansion(NamedTuple):
    """Distinct candidates in the order they were first drawn, how often those were drawn that were known before, and
    the cost of all."""

    candidates: tuple[Candidate, ...]
    repeats: dict[Writing, int]
    cost: Cost


class _Settled(NamedTuple):
    """A drawn step after it has been run; the draft's cost is of running and scoring it."""

    draft: Draft
    attempt: Attempt | None
    score: float | None


def draw_candidates(
    context: SearchContext,
    draft: Draft,
    seeds: Sequence[int],
    finish: FinishDraft,
    known: Collection[Writing] = (),
) -> Generator[list[Request], list[Reply], Expansion]:
    """A candidate step for each seed from one open draft; those that are not known are run and scored."""
    start = replace(draft, cost=Cost())
    drawn: list[Draft]
    (drawn,) = yield [Gather([draw_step(context, start, seed) for seed in seeds])]
    groups: dict[Writing, list[Draft]] = {}
    for one in drawn:
        text = context.codec.decode(one.token_ids[len(draft.token_ids) :])
        groups.setdefault((text, one.finish), []).append(one)
    repeats = {writing: len(groups.pop(writing)) for writing in known if writing in groups}
    settled: list[_Settled] = []
    if groups:
        (settled,) = yield [Gather([_settle(context, group[0], finish) for group in groups.values()])]
    candidates = []
    cost = sum((one.cost for one in drawn), Cost())
    for (writing, group), (ready, attempt, score) in zip(groups.items(), settled, strict=True):
        cost += ready.cost
        ready = replace(ready, cost=group[0].cost + ready.cost)
        mean_logprob = fmean(group[0].model_logprobs[len(draft.token_ids) :] or (0.0,))
        candidates.append(Candidate(writing, ready, attempt, score, len(group), mean_logprob))
    return Expansion(tuple(candidates), repeats, cost)


def _settle(
    context: SearchContext, drawn: Draft, finish: FinishDraft
) -> Generator[list[Request], list[Reply], _Settled]:
    """Run a drawn step, and score it if it can go on or came to an answer."""
    draft = yield from run_step(context, replace(drawn, cost=Cost()))
    if draft.finish is None and build_request(context, draft, seed=0) is None:
        draft = replace(draft, finish="length")
    attempt = None if draft.finish is None else finish(draft)
    token_ids = (*draft.prompt_ids, *draft.token_ids)
    is_dead = attempt is not None and attempt.answer is None
    if context.scorer_id is None or is_dead or len(token_ids) > context.max_context:
        return _Settled(draft, attempt, None)
    scored: Scored
    (scored,) = yield [Score(token_ids)]
    draft = replace(draft, cost=draft.cost + price_score(context, scored))
    return _Settled(draft, attempt, scored.score)
