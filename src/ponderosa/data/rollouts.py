"""Rejection sampling: which rollouts of a problem are trained on, and why the others are not.

Enters: a problem's graded attempts. Leaves: attempts to make rows of, and for every other one its reason: the
verdict's if it is wrong, else

    unended      its last token is no end of text (cut short, or cut off by a stop), so it would teach no end
    duplicate    the same tokens, or the same program, as one that was taken
    over_limit   its problem has given enough
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pydantic import Field

from ponderosa.config import Config
from ponderosa.data.programs import canonicalise_program
from ponderosa.identity import derive_seed
from ponderosa.records import Attempt, GradedAttempt, Problem


class ProblemRollouts(NamedTuple):
    """A problem and the graded attempts at it, in sample order."""

    problem: Problem
    graded: tuple[GradedAttempt, ...]

    @property
    def is_correct(self) -> list[bool]:
        """The verdict of each attempt."""
        return [one.verdict.correct for one in self.graded]


Distinct = Literal["tokens", "program"]
DISTINCT = (
    "what counts as the same: equal tokens, or equal code up to layout, comments and names (tokens where there is no "
    "code)"
)


class RolloutRules(Config):
    """Which correct rollouts are taken."""

    per_problem: int | None = Field(None, ge=1, description="most rollouts of one problem; unset takes all")
    order: Literal["first", "shortest", "random"] = Field(
        "first",
        description="which are taken before others: by sample number, by tokens the model wrote, or drawn",
    )
    distinct: Distinct = Field("program", description=DISTINCT)


@dataclass(frozen=True, slots=True)
class RolloutSelection:
    """What is trained on, in problem order, and what is not, each with its reason."""

    kept: tuple[Attempt, ...]
    rejected: tuple[tuple[Attempt, str], ...]


def select_rollouts(
    groups: Iterable[ProblemRollouts], rules: RolloutRules, *, eos_ids: frozenset[int], seed: int
) -> RolloutSelection:
    """The rollouts of every problem that the rules take. eos_ids: what ends a solution of the model that wrote them."""
    return join_selections(
        take_correct(_order(group.graded, rules, seed), rules.per_problem, rules.distinct, eos_ids=eos_ids)
        for group in groups
    )


def take_correct(
    ranked: Iterable[GradedAttempt], limit: int | None, distinct: Distinct, *, eos_ids: frozenset[int]
) -> RolloutSelection:
    """The first `limit` correct, ended and distinct ones of one problem's attempts, which are in order of preference."""
    taken: dict[object, Attempt] = {}
    rejected: list[tuple[Attempt, str]] = []
    for attempt, verdict in ranked:
        key = _identify(attempt, distinct)
        if not verdict.correct:
            rejected.append((attempt, verdict.reason))
        elif not eos_ids & set(attempt.token_ids[-1:]):
            rejected.append((attempt, "unended"))
        elif key in taken:
            rejected.append((attempt, "duplicate"))
        elif len(taken) == limit:
            rejected.append((attempt, "over_limit"))
        else:
            taken[key] = attempt
    return RolloutSelection(tuple(taken.values()), tuple(rejected))


def join_selections(selections: Iterable[RolloutSelection]) -> RolloutSelection:
    """The selections of several problems as one."""
    parts = list(selections)
    return RolloutSelection(
        tuple(attempt for part in parts for attempt in part.kept),
        tuple(item for part in parts for item in part.rejected),
    )


def _order(graded: Sequence[GradedAttempt], rules: RolloutRules, seed: int) -> list[GradedAttempt]:
    def rank(one: GradedAttempt) -> tuple[int, int]:
        attempt = one.attempt
        ranks = {
            "first": 0,
            "shortest": attempt.num_sampled,
            "random": derive_seed("rejection", seed, attempt.problem_id, attempt.sample),
        }
        return ranks[rules.order], attempt.sample

    return sorted(graded, key=rank)


def _identify(attempt: Attempt, distinct: Distinct) -> object:
    """What two attempts that count as the same have in common."""
    program = canonicalise_program(attempt.steps) if distinct == "program" else None
    return attempt.token_ids if program is None else program
