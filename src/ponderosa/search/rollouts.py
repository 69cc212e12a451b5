"""Rollouts from drafts: solutions continued to their ends and graded, in labelling mode."""

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from ponderosa.identity import content_hash, derive_seed
from ponderosa.records import Cost, GradedAttempt
from ponderosa.search.draft import Draft
from ponderosa.search.pivotal_statistics import tally_rollouts
from ponderosa.search.requests import Gather, ProblemView, Reply, Request, Search, Verify
from ponderosa.search.solution import SearchContext, continue_solution


@dataclass(slots=True)
class RolloutSampler:
    """Draws and grades rollouts of one problem from drafts, and keeps the account by phase.

    strategy: what the attempts are labelled with; part of their seeds.
    """

    context: SearchContext
    problem: ProblemView
    strategy: str
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
        seed = derive_seed(self.strategy, self.context.seed, self.problem.id, purpose, prefix)
        return [
            self._roll_out_once(draft, number, derive_seed("rollout", seed, number))
            for number in range(count)
        ]

    def _roll_out_once(
        self, draft: Draft, number: int, seed: int
    ) -> Generator[list[Request], list[Reply], GradedAttempt]:
        attempt = yield from continue_solution(
            self.context, self.problem, draft, sample=number, strategy=self.strategy, seed=seed
        )
        (verdict,) = yield [Verify(attempt)]
        return GradedAttempt(attempt, verdict)
