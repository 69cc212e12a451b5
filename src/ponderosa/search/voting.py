"""Which of several solutions an answer is taken from: by score, or by votes that may be weighted.

Pure. Of solutions or answers that are equally good, the one that was reached first wins. The legend: M solutions.
"""

from collections.abc import Sequence


def compute_vote_weight(score: float) -> float:
    """A reward model's score in [-1, 1] as a vote: (1 + score) / 2, the probability of being right that it stands for,
    since a calibrated score is the mean of 1 for right and -1 for wrong."""
    return (1.0 + score) / 2.0


def elect(answer_keys_M: Sequence[str | None], weights_M: Sequence[float]) -> int | None:
    """The first solution with the answer that gets the largest sum of votes; None if none has an answer."""
    votes: dict[str, float] = {}
    for key, weight in zip(answer_keys_M, weights_M, strict=True):
        if key is not None:
            votes[key] = votes.get(key, 0.0) + weight
    return answer_keys_M.index(max(votes, key=votes.__getitem__)) if votes else None


def select_best(scores_M: Sequence[float | None]) -> int | None:
    """The solution with the highest score; None if none was scored."""
    scored = [index for index, score in enumerate(scores_M) if score is not None]
    return max(scored, key=lambda index: scores_M[index] or 0.0, default=None)
