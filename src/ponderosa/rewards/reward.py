"""What a reward is: a function of one graded attempt.

Length is counted in sampled tokens: what the model wrote. The prompt and what the interpreter printed have none.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ponderosa.formats import PromptFormat
from ponderosa.records import Attempt, Verdict


@dataclass(frozen=True, slots=True)
class RewardContext:
    """What all attempts of a run share.

    max_tokens: the longest a solution may get. prompt_format: how the model was asked to write.
    requires_work: a right answer must be computed, not just stated; switch it off for tasks whose answers need no
        computing (see `faults`).
    """

    max_tokens: int
    prompt_format: PromptFormat
    requires_work: bool = True

    def __post_init__(self) -> None:
        assert self.max_tokens > 0, self.max_tokens


Reward = Callable[[Attempt, Verdict, RewardContext], float]
"""A finite number, the larger the better; a function of its arguments alone."""


def list_sampled_ids(attempt: Attempt) -> list[int]:
    """The tokens the model wrote, in order, what the interpreter wrote between them left out."""
    return [token for token, is_sampled in zip(attempt.token_ids, attempt.sampled, strict=True) if is_sampled]
