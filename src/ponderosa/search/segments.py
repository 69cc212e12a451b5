"""A graded attempt as a path over its sampled tokens, and segments of it, as bisections go through them.

Only sampled tokens are counted: what the interpreter showed belongs to the token before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ponderosa.records import GradedAttempt
from ponderosa.search.draft import Draft, Notation, cut_draft
from ponderosa.search.pivotal_statistics import Tally, split_at_midpoint, tally_rollouts

Tallies = dict[tuple[int, ...], Tally]
"""What is known of prefixes, by their token ids."""


@dataclass(frozen=True, eq=False)
class Path:
    """A graded attempt as a path over its N sampled tokens, which stand at `positions` of its token ids.

    Prefix number k ends before the k-th sampled token, behind what was shown to the policy by then; number N is the
    whole attempt.
    """

    graded: GradedAttempt
    positions: tuple[int, ...]

    @classmethod
    def follow(cls, graded: GradedAttempt) -> "Path":
        return cls(graded, tuple(place for place, drawn in enumerate(graded.attempt.sampled) if drawn))

    @property
    def num_tokens(self) -> int:
        return len(self.positions)

    def prefix(self, number: int) -> tuple[int, ...]:
        """Token ids of a prefix, without the question's."""
        return self.graded.attempt.token_ids[: (*self.positions, None)[number]]

    def cut(self, notation: Notation, number: int) -> Draft:
        return cut_draft(notation, self.graded.attempt, self.positions[number])

    def repeat(self, count: int) -> Tally:
        """Rollouts from the whole attempt, none of which can end otherwise."""
        return tally_rollouts([self.graded] * count)


class Segment(NamedTuple):
    """The tokens of a path from prefix number `start` to prefix number `end`."""

    path: Path
    start: int
    end: int

    @property
    def is_single(self) -> bool:
        return self.end == self.start + 1

    @property
    def before(self) -> tuple[int, ...]:
        """Token ids before it, without the question's."""
        return self.path.prefix(self.start)

    @property
    def after(self) -> tuple[int, ...]:
        """Token ids up to its end, and what was shown there."""
        return self.path.prefix(self.end)

    @property
    def position(self) -> int:
        return self.path.positions[self.start]

    @property
    def token_id(self) -> int:
        return self.path.graded.attempt.token_ids[self.position]

    def slice(self, values_T: Sequence[float]) -> list[float]:
        """Its tokens' values, out of those of the whole attempt."""
        return [values_T[position] for position in self.path.positions[self.start : self.end]]

    def halve(self) -> tuple["Segment", "Segment"]:
        """Its parts on both sides of the midpoint of its log-probability."""
        middle = self.start + split_at_midpoint(self.slice(self.path.graded.attempt.model_logprobs))
        return Segment(self.path, self.start, middle), Segment(self.path, middle, self.end)

    def get_tallies(self, known: Tallies) -> tuple[Tally, Tally]:
        return known[self.before], known[self.after]

    def compute_change(self, known: Tallies) -> float:
        """Estimated p at its end less that at its start."""
        before, after = self.get_tallies(known)
        return after.rate - before.rate
