"""Preference pairs from graded attempts.

Enters: attempts with their verdicts. Leaves: pairs of a correct and a wrong attempt at one prompt (rollout DPO of
Phi-4-mini-reasoning, arXiv 2504.21233), and a counted reason for every attempt and problem that gave none. Tokens
the model did not write weigh 0 in a pair and count neither as length nor as a difference. The order of the attempts
does not matter.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, product
from typing import Literal, NamedTuple

from pydantic import Field

from ponderosa.config import Config
from ponderosa.data.edit_distance import compute_edit_distance
from ponderosa.identity import content_hash, derive_seed
from ponderosa.records import Attempt, GradedAttempt, Pair, Verdict


class PairRules(Config):
    """Which attempts are set against which."""

    pairs_per_problem: int = Field(4, ge=1, description="most pairs of one problem")
    limit: int | None = Field(None, ge=1, description="use this many pairs, drawn at random; unset uses all")
    rejected: Literal["near", "random"] = Field(
        "near", description="near takes the wrong answers that differ in the fewest tokens; random takes any"
    )
    max_length_difference: float | None = Field(
        None,
        ge=0,
        le=1,
        description="lengths, in tokens the model wrote, may differ by this share of the longer; unset takes any",
    )
    max_length: int | None = Field(
        None,
        ge=2,
        description="most tokens of prompt and attempt together; longer attempts are left out; unset: the reference's "
        "context",
    )
    allow_truncated: bool = Field(
        False, description="let attempts cut at the token limit be rejected; they are never chosen"
    )


@dataclass(frozen=True, slots=True)
class PairSelection:
    """Pairs, and what gave none.

    unused: attempts in no pair, by reason. Of the attempt itself: error (refused by the engine), undecided (by the
        grader), empty, truncated, longer_than_context, longer_than_max_length, duplicate, contradictory (one text,
        correct once and wrong once). Of its problem: all_correct, all_wrong, no_counterpart (what could have been one has a reason of its
        own), no_match_in_length, surplus (there are enough pairs without it). Of all: over_limit.
    unpaired: problems without a pair, by the problem's reason.
    """

    pairs: tuple[Pair, ...]
    unused: Mapping[str, int]
    unpaired: Mapping[str, int]


class _Candidate(NamedTuple):
    """An attempt as pairing sees it; `written` are the tokens the model wrote."""

    key: str
    written: tuple[int, ...]
    attempt: Attempt


_Match = tuple[_Candidate, _Candidate]


def select_pairs(
    graded: Iterable[GradedAttempt], rules: PairRules, *, seed: int, max_length: int | None = None
) -> PairSelection:
    """The pairs of every problem, problems in the order in which they are first met.

    max_length: of prompt and attempt together, in tokens: the reference's context, whatever the rules allow. Attempts
    at one problem under different prompts are kept apart, as if the problem were several.
    """
    groups: dict[tuple[str, tuple[int, ...]], list[GradedAttempt]] = {}
    for item in graded:
        groups.setdefault((item.attempt.problem_id, item.attempt.prompt_ids), []).append(item)
    selections = [pair_attempts(group, rules, seed=seed, max_length=max_length) for group in groups.values()]
    whole = PairSelection(
        pairs=tuple(pair for selection in selections for pair in selection.pairs),
        unused=sum((Counter(selection.unused) for selection in selections), Counter()),
        unpaired=sum((Counter(selection.unpaired) for selection in selections), Counter()),
    )
    return whole if rules.limit is None else _limit(whole, rules.limit, seed)


def count_attempts(pairs: Iterable[Pair]) -> int:
    """How many attempts the pairs are made of."""
    return len(
        {
            (pair.problem_id, pair.prompt_ids, token_ids)
            for pair in pairs
            for token_ids in (pair.chosen_ids, pair.rejected_ids)
        }
    )


def _limit(selection: PairSelection, limit: int, seed: int) -> PairSelection:
    """At most so many of the pairs, drawn whatever their order."""
    if len(selection.pairs) <= limit:
        return selection

    def order(pair: Pair) -> int:
        texts = content_hash([pair.prompt_ids, pair.chosen_ids, pair.rejected_ids])
        return derive_seed("limit pairs", seed, pair.problem_id, texts)

    drawn = set(sorted(selection.pairs, key=order)[:limit])
    kept = tuple(pair for pair in selection.pairs if pair in drawn)
    problems_before, problems_after = (
        len({(pair.problem_id, pair.prompt_ids) for pair in pairs}) for pairs in (selection.pairs, kept)
    )
    lost = Counter(over_limit=count_attempts(selection.pairs) - count_attempts(kept))
    lost_problems = Counter(over_limit=problems_before - problems_after)
    return PairSelection(kept, Counter(selection.unused) + lost, Counter(selection.unpaired) + lost_problems)


def pair_attempts(
    group: Sequence[GradedAttempt], rules: PairRules, *, seed: int, max_length: int | None = None
) -> PairSelection:
    """The pairs of one prompt's attempts, in the order in which they were picked."""
    right, wrong, unused = _screen(group, rules, max_length)
    matches = [match for match in product(right, wrong) if _is_length_matched(match, rules)]
    if not matches:
        reason = "no_match_in_length" if right and wrong else _explain_missing_side(group)
        unused[reason] += len(right) + len(wrong)
        return PairSelection((), unused, {reason: 1})
    picked = _pick(matches, rules, seed)
    used = {candidate.key for match in picked for candidate in match}
    matched = {candidate.key for match in matches for candidate in match}
    for candidate in (*right, *wrong):
        if candidate.key not in used:
            unused["surplus" if candidate.key in matched else "no_match_in_length"] += 1
    return PairSelection(tuple(_build_pair(*match) for match in picked), unused, {})


def _screen(
    group: Sequence[GradedAttempt], rules: PairRules, max_length: int | None
) -> tuple[list[_Candidate], list[_Candidate], Counter[str]]:
    """Correct and wrong attempts that may enter a pair, and the others by reason."""
    sides: dict[bool, dict[str, _Candidate]] = {True: {}, False: {}}
    unused: Counter[str] = Counter()
    for attempt, verdict in sorted(group, key=lambda item: (item.attempt.token_ids, item.attempt.finish)):
        written = tuple(compress(attempt.token_ids, attempt.sampled))
        candidate = _Candidate(content_hash(written), written, attempt)
        side = sides[verdict.correct]
        if fault := _find_fault(candidate, verdict, rules, max_length):
            unused[fault] += 1
        elif candidate.key in side:
            unused["duplicate"] += 1
        else:
            side[candidate.key] = candidate
    for key in sides[True].keys() & sides[False].keys():
        del sides[True][key], sides[False][key]
        unused["contradictory"] += 2
    return list(sides[True].values()), list(sides[False].values()), unused


def _find_fault(
    candidate: _Candidate, verdict: Verdict, rules: PairRules, max_length: int | None
) -> str | None:
    """Why an attempt can be in no pair; None if it can."""
    attempt = candidate.attempt
    if attempt.finish == "error" or verdict.reason == "undecided":
        return "error" if attempt.finish == "error" else "undecided"
    if not candidate.written:
        return "empty"
    if attempt.finish == "length" and (verdict.correct or not rules.allow_truncated):
        return "truncated"
    length = len(attempt.prompt_ids) + len(attempt.token_ids)
    if max_length is not None and length > max_length:
        return "longer_than_context"
    return "longer_than_max_length" if length > (rules.max_length or length) else None


def _explain_missing_side(group: Sequence[GradedAttempt]) -> str:
    verdicts = {verdict.correct for _, verdict in group}
    if len(verdicts) == 2:
        return "no_counterpart"
    return "all_correct" if verdicts == {True} else "all_wrong"


def _is_length_matched(match: _Match, rules: PairRules) -> bool:
    if rules.max_length_difference is None:
        return True
    lengths = [len(candidate.written) for candidate in match]
    return max(lengths) - min(lengths) <= rules.max_length_difference * max(lengths)


def _pick(matches: Sequence[_Match], rules: PairRules, seed: int) -> list[_Match]:
    """Of the matches whose members are used least so far, the nearest, again and again; ties by seed."""
    ranked = []
    for right, wrong in matches:
        distance = compute_edit_distance(right.written, wrong.written) if rules.rejected == "near" else 0
        tie = derive_seed("pairs", seed, right.attempt.problem_id, right.key, wrong.key)
        ranked.append((distance, tie, (right, wrong)))
    ranked.sort(key=lambda item: item[:2])
    picked: list[_Match] = []
    num_uses: Counter[str] = Counter()
    while ranked and len(picked) < rules.pairs_per_problem:
        best = min(ranked, key=lambda item: sum(num_uses[candidate.key] for candidate in item[2]))
        ranked.remove(best)
        picked.append(best[2])
        num_uses.update(candidate.key for candidate in best[2])
    return picked


def _build_pair(chosen: _Candidate, rejected: _Candidate) -> Pair:
    return Pair(
        problem_id=chosen.attempt.problem_id,
        prompt_ids=chosen.attempt.prompt_ids,
        chosen_ids=chosen.attempt.token_ids,
        rejected_ids=rejected.attempt.token_ids,
        chosen_weights=tuple(map(float, chosen.attempt.sampled)),
        rejected_weights=tuple(map(float, rejected.attempt.sampled)),
    )
