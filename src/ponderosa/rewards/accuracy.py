"""Rewards for a right answer: plain, and by the length it took (Phi-4-reasoning, arXiv 2504.21318, section 4.1)."""

import math

from pydantic import Field

from ponderosa.config import Config
from ponderosa.records import Attempt, Verdict
from ponderosa.rewards.faults import find_fault
from ponderosa.rewards.reward import RewardContext

PAPER_MAX_TOKENS = 31_744
CORRECT_PLATEAU_FRAC = 25_600 / PAPER_MAX_TOKENS
WRONG_PLATEAU_FRAC = 3_702 / PAPER_MAX_TOKENS


class Correctness(Config):
    """`correct` for a right answer that was properly come by, else `wrong` (Phi-4-mini-reasoning: +1 and -1).

    A right answer in a faulty solution (`faults`: cut off, an unclosed step, nothing executed, no work shown) earns `wrong`.
    """

    name: str = "correctness"
    correct: float = Field(1.0, allow_inf_nan=False)
    wrong: float = Field(-1.0, allow_inf_nan=False)

    def __call__(self, attempt: Attempt, verdict: Verdict, context: RewardContext) -> float:
        return self.correct if verdict.correct and find_fault(attempt, context) is None else self.wrong


class LengthAwareAccuracy(Config):
    """A right answer earns 1.0, less when it is long; a wrong one -1.0, more when it is long; nothing from 0.5 to -0.5.

    With L sampled tokens of at most L_max, L⁺ = `correct_plateau_frac` L_max, L⁻ = `wrong_plateau_frac` L_max:

        right   0.5 + 0.25 (1 + cos πρ⁺),  ρ⁺ = clip((L - L⁺) / (L_max - L⁺)):  1.0 up to L⁺, falling to 0.5 at L_max
        wrong  -0.5 - 0.25 (1 + cos πρ⁻),  ρ⁻ = clip(L / L⁻):                  -1.0 at 0, rising to -0.5 from L⁻ on

    Whatever its answer, a solution that did not end by itself earns `unfinished`, but no more than a wrong one of its
    length (what the interpreter printed may have used up its room); one with another fault (`faults`) `malformed`.
    So nothing that is not right earns more than an honest wrong attempt of length L⁻. Below that length a wrong
    attempt does gain by going on, which is meant.

    The paper gives -1.0 for a missing think block, too. Here that is no fault, since code formats have none and models
    that were not trained to think write none. So a block that the chat template opened and the model never closed
    passes, if the solution ended by itself: its text has neither tag.

    On the plateaus groups are exactly tied, so tiny differences of length are not blown up by dividing by the
    standard deviation.
    """

    name: str = "length_aware_accuracy"
    correct_plateau_frac: float = Field(CORRECT_PLATEAU_FRAC, ge=0, le=1)
    wrong_plateau_frac: float = Field(WRONG_PLATEAU_FRAC, ge=0, le=1)
    unfinished: float = Field(-0.5, allow_inf_nan=False)
    malformed: float = Field(-1.0, allow_inf_nan=False)

    def __call__(self, attempt: Attempt, verdict: Verdict, context: RewardContext) -> float:
        num_tokens, max_tokens = attempt.num_sampled, context.max_tokens
        wrong = -0.5 - _fall(num_tokens, self.wrong_plateau_frac * max_tokens)
        fault = find_fault(attempt, context)
        if fault is not None:
            return min(self.unfinished, wrong) if fault == "unfinished" else self.malformed
        start = self.correct_plateau_frac * max_tokens
        return 0.5 + _fall(num_tokens - start, max_tokens - start) if verdict.correct else wrong


class CosineAccuracy(LengthAwareAccuracy):
    """The same without plateaus: length counts from the first token to the last, for right and wrong answers.

    So a wrong attempt always gains by going on, up to the end of its room: the incentive that the plateau bounds.
    """

    name: str = "cosine_accuracy"
    correct_plateau_frac: float = Field(0.0, ge=0, le=1)
    wrong_plateau_frac: float = Field(1.0, ge=0, le=1)


def _fall(along: float, width: float) -> float:
    """Half a cosine from 0.5 at 0 to 0.0 at `width`, flat on both sides; a step where there is no width."""
    if along <= 0:
        return 0.5
    return 0.25 * (1.0 + math.cos(math.pi * along / width)) if along < width else 0.0
