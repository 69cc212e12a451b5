"""Best-of-n: independent attempts, and the answer of the one that the reward model scores highest at its end."""

from collections.abc import Sequence
from typing import ClassVar

from ponderosa.records import Attempt
from ponderosa.search.strategies import RewardModelUse, SelectingStrategy
from ponderosa.search.voting import select_best


class BestOfN(SelectingStrategy):
    """The attempt with the highest final score; of equals the first."""

    name: ClassVar[str] = "best_of_n"
    reward_model: ClassVar[RewardModelUse] = "required"

    def select(self, attempts_M: Sequence[Attempt], scores_M: Sequence[float | None]) -> int | None:
        return select_best(scores_M)
