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

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from ponderosa.identity import content_hash, derive_seed
from ponderosa.records import Cost, GradedAttempt
from ponderosa.search.draft import Draft, begin_draft
from ponderosa.search.pivotal_statistics import Tally, bound_change, tally_rollouts
from ponderosa.search.requests import Gather, ProblemView, Reply, Request, Search, Verify
from ponderosa.search.segments import Path, Segment, Tallies
from ponderosa.search.solution import SearchContext, continue_solution


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


@dataclass(frozen=True, slots=True)
class PivotalSearch:
    """How pivotal tokens are searched; `search` needs a context that samples, and a judge.

    max_nats: segments of a larger surprise (-log p of their tokens) are split even if p is the same at both ends;
        None leaves it at Phi-4's recursion.
    num_attempts: attempts that are searched, right and wrong ones by turns, of those at the question.
    max_prefixes: prefixes screened, max_candidates: tokens confirmed, for each question; the largest changes first.
    """

    n_question: int = 64
    n_screen: int = 64
    n_confirm: int = 128
    p_gap: float = 0.15
    max_nats: float | None = 2.0
    min_p: float = 0.2
    max_p: float = 0.8
    num_attempts: int = 2
    max_prefixes: int = 64
    max_candidates: int = 16
    name = "pivotal"

    @property
    def max_rollouts(self) -> int:
        """Most rollouts of one question."""
        return self.n_question + self.max_prefixes * self.n_screen + 2 * self.max_candidates * self.n_confirm

    def search(
        self, context: SearchContext, problem: ProblemView
    ) -> Generator[list[Request], list[Reply], SearchedProblem]:
        """The candidates of one problem, tested on fresh rollouts."""
        sampler = _Sampler(context, problem)
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
        self, sampler: "_Sampler", paths: Sequence[Path], question: Tally
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
        self, sampler: "_Sampler", singles: Sequence["_Single"]
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


@dataclass(slots=True)
class _Sampler:
    """Draws and grades rollouts from drafts, and keeps the account by phase."""

    context: SearchContext
    problem: ProblemView
    cost: Cost = field(default_factory=Cost)
    num_rollouts: Counter[str] = field(default_factory=Counter)
    num_truncated: Counter[str] = field(default_factory=Counter)

    def draw(
        self, phase: str, drafts: Sequence[Draft], count: int, tags: Sequence[str] | None = None
    ) -> Generator[list[Request], list[Reply], list[list[GradedAttempt]]]:
        """`count` rollouts from each draft, all side by side; seeds depend on phase, draft and tag."""
        if not drafts:
            return []
        drawn = yield [
            Gather(self._roll_out(draft, count, f"{phase} {tag}"))
            for draft, tag in zip(drafts, tags or [""] * len(drafts), strict=True)
        ]
        for rollouts in drawn:
            self.num_rollouts[phase] += len(rollouts)
            self.num_truncated[phase] += tally_rollouts(rollouts).num_truncated
            for one in rollouts:
                self.cost += one.attempt.cost
        return drawn

    def _roll_out(self, draft: Draft, count: int, purpose: str) -> list[Search]:
        prefix = content_hash(list(draft.token_ids))
        seed = derive_seed("pivotal", self.context.seed, self.problem.id, purpose, prefix)
        return [
            self._roll_out_once(draft, number, derive_seed("rollout", seed, number))
            for number in range(count)
        ]

    def _roll_out_once(
        self, draft: Draft, number: int, seed: int
    ) -> Generator[list[Request], list[Reply], GradedAttempt]:
        attempt = yield from continue_solution(
            self.context, self.problem, draft, sample=number, strategy=PivotalSearch.name, seed=seed
        )
        (verdict,) = yield [Verify(attempt)]
        return GradedAttempt(attempt, verdict)
