"""Reward-weighted vote: independent attempts, and the answer with the largest sum of (1 + score) / 2 over those that
reach it. Scores are calibrated to [-1, 1], so each vote is the probability of being right that its score stands for;
with equal scores it is the majority. (Arithmetic of a verifier-weighted vote: arXiv 2206.02336, section 3.)
"""

from collections.abc import Sequence
from typing import ClassVar

from ponderosa.records import Attempt
from ponderosa.search.strategies import RewardModelUse, SelectingStrategy
from ponderosa.search.voting import compute_vote_weight, elect


class WeightedVote(SelectingStrategy):
    """The answer that most of the reward model's trust goes to."""

    name: ClassVar[str] = "weighted_vote"
    reward_model: ClassVar[RewardModelUse] = "required"

    def select(self, attempts_M: Sequence[Attempt], scores_M: Sequence[float | None]) -> int | None:
        weights = [0.0 if score is None else compute_vote_weight(score) for score in scores_M]
        return elect([attempt.answer_key for attempt in attempts_M], weights)
