"""A penalty for saying the same thing again (Phi-4-reasoning, arXiv 2504.21318, section 4.1)."""

from collections import Counter

from pydantic import Field

from ponderosa.config import Config
from ponderosa.records import Attempt, Verdict
from ponderosa.rewards.reward import RewardContext, list_sampled_ids


class Repetition(Config):
    """-max(share of n-grams that are repeated ones, how much of the solution the most frequent one fills), in [-1, 0].

    With y the sampled tokens, an n-gram is a repeated one if it occurs more than `allowed` times:

        -max(#distinct repeated n-grams / #n-grams,  count of the most frequent / (|y| / n)),  0 if none is repeated

    The second is cut at 1, which only n-grams that overlap themselves exceed (one token over and over).
    """

    name: str = "repetition"
    ngram: int = Field(5, ge=1)
    allowed: int = Field(5, ge=1)

    def __call__(self, attempt: Attempt, verdict: Verdict, context: RewardContext) -> float:
        token_ids = list_sampled_ids(attempt)
        counts = Counter(zip(*(token_ids[start:] for start in range(self.ngram)), strict=False))
        repeated = [count for count in counts.values() if count > self.allowed]
        if not repeated:
            return 0.0
        distinct_frac = len(repeated) / counts.total()
        filled_frac = max(repeated) * self.ngram / len(token_ids)
        return -min(1.0, max(distinct_frac, filled_frac))
