"""Groups of attempts at one problem, as policy-gradient training reads them.

Enters: graded attempts with their rewards. Leaves: the groups worth learning from, and rows whose columns carry
what the loss needs for each token the policy wrote. Questions and interpreter output have weight 0 in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from random import Random
from statistics import fmean, pstdev

from ponderosa.identity import derive_seed
from ponderosa.records import Attempt, GradedAttempt, Row


@dataclass(frozen=True, slots=True)
class Group:
    """G graded attempts at one problem under one prompt, and the reward of each."""

    graded: tuple[GradedAttempt, ...]
    rewards: tuple[float, ...]

    @property
    def problem_id(self) -> str:
        return self.graded[0].attempt.problem_id

    @property
    def accuracy(self) -> float:
        return fmean(item.verdict.correct for item in self.graded)

    @property
    def is_flat(self) -> bool:
        """Whether every attempt earned the same, so that none is better than another."""
        return len(set(self.rewards)) == 1

    def keep(self, members: Sequence[int]) -> "Group":
        """The group of these attempts alone."""
        return Group(tuple(self.graded[i] for i in members), tuple(self.rewards[i] for i in members))


def rebalance_group(group: Group, *, max_accuracy: float, seed: int) -> Group | None:
    """Every correct attempt and as many wrong ones, drawn by seed; None if the group has only one kind, or is easier
    than `max_accuracy` (Phi-4-mini-reasoning, arXiv 2504.21233, section 3.3)."""
    right = [i for i, item in enumerate(group.graded) if item.verdict.correct]
    wrong = [i for i, item in enumerate(group.graded) if not item.verdict.correct]
    if not right or not wrong or group.accuracy > max_accuracy:
        return None
    if len(wrong) > len(right):
        wrong = Random(derive_seed("rebalance", seed, group.problem_id)).sample(wrong, len(right))
    return group.keep(sorted(right + wrong))


def compute_length_spread(attempts: Sequence[Attempt]) -> float:
    """Standard deviation of the attempts' lengths over their mean: 0 where all are equally long."""
    lengths = [attempt.num_sampled for attempt in attempts]
    return pstdev(lengths) / max(1.0, fmean(lengths))


def build_group_rows(
    group: Group,
    advantages: Sequence[float],
    token_weights: Sequence[float],
    temperature: float,
    *,
    shares_prompt: bool,
) -> list[Row]:
    """Rows of a group's attempts, each token the policy wrote weighted by its attempt's token weight.

    Columns: `advantages`, `sampling_logprobs` (of the distribution drawn from), `temperatures`. With
    `shares_prompt` one tree holds the prompt once; else each attempt is a row with a prompt of its own.
    """
    attempts = [item.attempt for item in group.graded]
    branches = [
        _build_branch(attempt, advantage, weight, temperature)
        for attempt, advantage, weight in zip(attempts, advantages, token_weights, strict=True)
    ]
    prompt = _build_prompt(attempts[0], branches[0])
    if shares_prompt:
        return [_join([prompt, *branches], is_tree=True)]
    return [
        replace(_join([prompt, branch]), document_ids=(0,) * _count(prompt, branch)) for branch in branches
    ]


def _build_branch(attempt: Attempt, advantage: float, weight: float, temperature: float) -> Row:
    length = len(attempt.token_ids)
    return Row(
        token_ids=attempt.token_ids,
        loss_weights=tuple(weight if sampled else 0.0 for sampled in attempt.sampled),
        document_ids=(0,) * length,
        columns={
            "advantages": (advantage,) * length,
            "sampling_logprobs": attempt.sampling_logprobs,
            "temperatures": (temperature,) * length,
        },
    )


def _build_prompt(attempt: Attempt, branch: Row) -> Row:
    length = len(attempt.prompt_ids)
    zeros = (0.0,) * length
    return Row(attempt.prompt_ids, zeros, (0,) * length, columns=dict.fromkeys(branch.columns, zeros))


def _join(parts: Sequence[Row], *, is_tree: bool = False) -> Row:
    """Rows of one document each, end to end."""
    return Row(
        token_ids=tuple(chain.from_iterable(part.token_ids for part in parts)),
        loss_weights=tuple(chain.from_iterable(part.loss_weights for part in parts)),
        document_ids=tuple(number for number, part in enumerate(parts) for _ in part.token_ids),
        is_tree=is_tree,
        columns={
            name: tuple(chain.from_iterable(part.columns[name] for part in parts))
            for name in parts[0].columns
        },
    )


def _count(*parts: Row) -> int:
    return sum(len(part.token_ids) for part in parts)
