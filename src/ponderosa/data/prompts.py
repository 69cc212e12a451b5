"""Which prompts are worth asking in reinforcement learning, from rollouts of the policy it begins with.

A group whose correct attempts differ widely in length gives unstable gradients, and one that is solved always or
never gives none: Phi-4-mini-reasoning (arXiv 2504.21233, section 3.3) keeps prompts with relatively uniform lengths.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field

from ponderosa.config import Config
from ponderosa.data.groups import compute_length_spread
from ponderosa.data.rollouts import ProblemRollouts
from ponderosa.records import Problem


class PromptRules(Config):
    """Which problems of a rollout stage are asked, by how they went."""

    rollouts: str = Field(
        description="rollout stage whose problems are asked, judged by its attempts at them"
    )
    min_solve_rate: float = Field(0.0, ge=0, le=1, description="problems solved less often are too hard")
    max_solve_rate: float = Field(1.0, ge=0, le=1, description="problems solved more often are too easy")
    max_length_spread: float | None = Field(
        None,
        gt=0,
        description="standard deviation of an answer's lengths over their mean, at most; unset takes any",
    )


class PromptSelection(NamedTuple):
    """The problems kept, in their order, and how many were left out for each reason."""

    problems: tuple[Problem, ...]
    dropped: dict[str, int]


def select_prompts(rollouts: Sequence[ProblemRollouts], rules: PromptRules) -> PromptSelection:
    """The problems that pass the rules."""
    faults = [_find_fault(one, rules) for one in rollouts]
    kept = tuple(one.problem for one, fault in zip(rollouts, faults, strict=True) if fault is None)
    return PromptSelection(kept, dict(Counter(fault for fault in faults if fault is not None)))


def _find_fault(asked: ProblemRollouts, rules: PromptRules) -> str | None:
    if not asked.graded:
        return "not_rolled_out"
    solve_rate = sum(one.verdict.correct for one in asked.graded) / len(asked.graded)
    if solve_rate < rules.min_solve_rate:
        return "too_hard"
    if solve_rate > rules.max_solve_rate:
        return "too_easy"
    spread = compute_length_spread([one.attempt for one in asked.graded])
    is_uneven = rules.max_length_spread is not None and spread > rules.max_length_spread
    return "uneven_lengths" if is_uneven else None
