"""Pivotal token search (Phi-4, arXiv 2412.08905, section 4.3), in token ids and with confirmation on fresh samples.

    ask the question n_question times; leave it out unless min_p <= p(success) <= max_p
    screen: halve attempts at the midpoint of their log-probability, level by level, while p changes by p_gap or more
        over a segment; p of a prefix is the share of right ones of n_screen rollouts, and is remembered
    confirm: single tokens over which p changes are candidates; n_confirm fresh rollouts before and after each

Only sampled tokens are counted, split at and found. What is drawn for the screening decides which tokens are
candidates, so none of it enters a candidate's test, estimates or alternatives: these come from rollouts of its own,
shared with no other candidate, so that the tests are independent.

A change that a later one takes back leaves no change over the segment that holds both, so the recursion passes over
them: next to each other or far apart, wherever p does not move in one direction. `max_nats` splits such segments too.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, NamedTuple

from pydantic import Field, model_validator

from ponderosa.config import Config
from ponderosa.errors import ConfigError
from ponderosa.records import Cost, GradedAttempt
from ponderosa.search.draft import begin_draft
from ponderosa.search.pivotal_statistics import Tally, bound_change, tally_rollouts
from ponderosa.search.requests import ProblemView, Reply, Request
from ponderosa.search.rollouts import RolloutSampler
from ponderosa.search.segments import Path, Segment, Tallies
from ponderosa.search.solution import SearchContext


class FirstToken(NamedTuple):
    """A token that fresh rollouts began with, and how they ended. logprob: of the model, temperature 1."""

    token_id: int
    logprob: float
    tally: Tally


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token over which p seemed to change, with what fresh rollouts say.

    position: in the attempt's token ids. order: among its sampled tokens. prefix_ids: all ids before it, question
    included. screened, confirmed: before and after the token. alternatives: what the fresh rollouts before it began
    with, the most frequent first; the token itself may be among them.
    """

    sample: int
    position: int
    order: int
    prefix_ids: tuple[int, ...]
    token_id: int
    logprob: float
    screened: tuple[Tally, Tally]
    confirmed: tuple[Tally, Tally]
    alternatives: tuple[FirstToken, ...]


@dataclass(frozen=True, slots=True)
class SearchedProblem:
    """What a search found. left_out: why the question was not searched, if so. attempts: those that were.

    num_rollouts, num_truncated: by phase (question, screen, confirm). num_unsplit: segments over which p changed and
    that were left whole, num_unconfirmed: single tokens left untested, both because the budget was spent.
    """

    problem_id: str
    question: Tally
    left_out: str | None
    attempts: tuple[GradedAttempt, ...]
    candidates: tuple[Candidate, ...]
    num_rollouts: dict[str, int]
    num_truncated: dict[str, int]
    num_unsplit: int
    num_unconfirmed: int
    cost: Cost


class PivotalSearch(Config):
    """How pivotal tokens are searched."""

    n_question: int = Field(
        64, ge=2, description="rollouts of a question, to see whether it is worth searching"
    )
    n_screen: int = Field(64, ge=2, description="rollouts from each prefix that is screened")
    n_confirm: int = Field(128, ge=2, description="fresh rollouts before, and as many after, each candidate")
    p_gap: float = Field(
        0.15,
        gt=0,
        le=1,
        description="change of p over a segment that is followed up; set it below the change looked for, since with "
        "64 rollouts an estimated change is off by 0.09 or so",
    )
    max_nats: float | None = Field(
        2.0,
        gt=0,
        description="segments of more surprise (-log probability of their tokens) are split though p is the same at "
        "both ends; null leaves it at Phi-4's recursion, which passes over changes that are taken back",
    )
    min_p: float = Field(0.2, ge=0, le=1, description="questions answered rightly less often are left out")
    max_p: float = Field(0.8, ge=0, le=1, description="questions answered rightly more often are left out")
    num_attempts: int = Field(2, ge=1, description="attempts searched per question, right and wrong by turns")
    max_prefixes: int = Field(
        64, ge=1, description="most prefixes screened per question, largest changes first"
    )
    max_candidates: int = Field(
        16, ge=1, description="most tokens confirmed per question, largest changes first"
    )

    name: ClassVar[str] = "pivotal"

    @model_validator(mode="after")
    def _check_range(self) -> "PivotalSearch":
        if self.min_p > self.max_p:
            raise ConfigError(
                f"min_p {self.min_p} is above max_p {self.max_p}: no question would be searched"
            )
        return self

    @property
    def max_rollouts(self) -> int:
        """Most rollouts of one question."""
        return self.n_question + self.max_prefixes * self.n_screen + 2 * self.max_candidates * self.n_confirm

    def search(
        self, context: SearchContext, problem: ProblemView
    ) -> Generator[list[Request], list[Reply], SearchedProblem]:
        """The candidates of one problem, tested on fresh rollouts. The context must sample, the driver have a judge."""
        sampler = RolloutSampler(context, problem, self.name)
        draft = begin_draft(context, problem.question)
        (rollouts,) = yield from sampler.draw("question", [draft], self.n_question)
        question = tally_rollouts(rollouts)
        left_out = self._find_refusal(question, rollouts)
        attempts = [] if left_out else select_attempts(rollouts, self.num_attempts)
        found = _Screening([], 0)
        if attempts:
            found = yield from self._screen(sampler, [Path.follow(one) for one in attempts], question)
        candidates = yield from self._confirm(sampler, found.singles[: self.max_candidates])
        return SearchedProblem(
            problem_id=problem.id,
            question=question,
            left_out=left_out,
            attempts=tuple(attempts),
            candidates=tuple(candidates),
            num_rollouts=dict(sampler.num_rollouts),
            num_truncated=dict(sampler.num_truncated),
            num_unsplit=found.num_unsplit,
            num_unconfirmed=max(0, len(found.singles) - self.max_candidates),
            cost=sampler.cost,
        )

    def _find_refusal(self, question: Tally, rollouts: Sequence[GradedAttempt]) -> str | None:
        """Why a question is not searched; None if it is."""
        if any(one.attempt.finish == "error" for one in rollouts):
            return "refused_by_engine"
        if question.rate > self.max_p:
            return "too_easy"
        if question.rate < self.min_p:
            is_cut_short = (question.finished_rate or 0.0) >= self.min_p
            return "too_often_truncated" if is_cut_short else "too_hard"
        return None if any(one.attempt.finish == "stop" for one in rollouts) else "too_often_truncated"

    def _screen(
        self, sampler: RolloutSampler, paths: Sequence[Path], question: Tally
    ) -> Generator[list[Request], list[Reply], "_Screening"]:
        """Halve the paths down to the single tokens over which p seems to change, the largest changes first."""
        known = {path.prefix(0): question for path in paths}
        known |= {path.prefix(path.num_tokens): path.repeat(self.n_screen) for path in paths}
        segments = [Segment(path, 0, path.num_tokens) for path in paths]
        singles: dict[tuple[int, ...], _Single] = {}
        num_left, num_unsplit = self.max_prefixes, 0
        while segments:
            suspects = [one for one in segments if self._is_suspect(one, known)]
            suspects.sort(key=lambda one: -abs(one.compute_change(known)))
            singles |= {one.after: _Single(one, *one.get_tallies(known)) for one in suspects if one.is_single}
            halves = [one.halve() for one in suspects if not one.is_single]
            unknown = {left.after: left for left, _ in halves if left.after not in known}
            affordable = dict(islice(unknown.items(), num_left))
            drafts = [left.path.cut(sampler.context, left.end) for left in affordable.values()]
            drawn = yield from sampler.draw("screen", drafts, self.n_screen)
            known |= dict(zip(affordable, map(tally_rollouts, drawn), strict=True))
            num_left -= len(affordable)
            split = [pair for pair in halves if pair[0].after in known]
            num_unsplit += len(halves) - len(split)
            segments = [half for pair in split for half in pair]
        ordered = sorted(singles.values(), key=lambda one: -abs(one.after.rate - one.before.rate))
        return _Screening(ordered, num_unsplit)

    def _is_suspect(self, segment: Segment, known: Tallies) -> bool:
        """Could a token of it be pivotal: had the policy a choice, and does p change, or may changes hide?"""
        logprobs = segment.slice(segment.path.graded.attempt.sampling_logprobs)
        if bound_change(logprobs) < self.p_gap:
            return False
        may_hide = not segment.is_single and self.max_nats is not None and -sum(logprobs) > self.max_nats
        return may_hide or abs(segment.compute_change(known)) >= self.p_gap

    def _confirm(
        self, sampler: RolloutSampler, singles: Sequence["_Single"]
    ) -> Generator[list[Request], list[Reply], list[Candidate]]:
        """Fresh rollouts before and after each single token; nobody else's."""
        tokens = [one.segment for one in singles]
        followed = [one for one in tokens if one.end < one.path.num_tokens]
        drafts = [one.path.cut(sampler.context, one.start) for one in tokens]
        drafts += [one.path.cut(sampler.context, one.end) for one in followed]
        tags = [f"before {one.token_id}" for one in tokens] + ["after"] * len(followed)
        drawn = yield from sampler.draw("confirm", drafts, self.n_confirm, tags)
        after = dict(zip(followed, map(tally_rollouts, drawn[len(tokens) :]), strict=True))
        return [
            _build_candidate(single, rollouts, after.get(token) or token.path.repeat(self.n_confirm))
            for single, token, rollouts in zip(singles, tokens, drawn, strict=False)
        ]


def select_attempts(rollouts: Sequence[GradedAttempt], count: int) -> list[GradedAttempt]:
    """Up to `count` different ones of the rollouts that came to an end, right and wrong by turns."""
    ended = list({one.attempt.token_ids: one for one in rollouts if one.attempt.finish == "stop"}.values())
    same = [one for one in ended if one.verdict.correct == ended[0].verdict.correct]
    other = [one for one in ended if one.verdict.correct != ended[0].verdict.correct]
    turns = [one for pair in zip(same, other, strict=False) for one in pair]
    return [*turns, *same[len(other) :], *other[len(same) :]][:count]


def count_first_tokens(rollouts: Sequence[GradedAttempt], position: int) -> tuple[FirstToken, ...]:
    """What rollouts from one prefix of `position` tokens began with, the most frequent first."""
    groups: dict[int, list[GradedAttempt]] = {}
    for one in rollouts:
        groups.setdefault(one.attempt.token_ids[position], []).append(one)
    tokens = [
        FirstToken(token_id, group[0].attempt.model_logprobs[position], tally_rollouts(group))
        for token_id, group in groups.items()
    ]
    return tuple(sorted(tokens, key=lambda one: (-one.tally.num_samples, one.token_id)))


def _build_candidate(
    single: "_Single", fresh_before: Sequence[GradedAttempt], fresh_after: Tally
) -> Candidate:
    segment, attempt = single.segment, single.segment.path.graded.attempt
    return Candidate(
        sample=attempt.sample,
        position=segment.position,
        order=segment.start,
        prefix_ids=attempt.prompt_ids + attempt.token_ids[: segment.position],
        token_id=segment.token_id,
        logprob=attempt.model_logprobs[segment.position],
        screened=(single.before, single.after),
        confirmed=(tally_rollouts(fresh_before), fresh_after),
        alternatives=count_first_tokens(fresh_before, segment.position),
    )


class _Single(NamedTuple):
    """One token over which p seems to change, with its screening."""

    segment: Segment
    before: Tally
    after: Tally


class _Screening(NamedTuple):
    """Single tokens, the largest change first, and how many segments were left whole for want of budget."""

    singles: list[_Single]
    num_unsplit: int
