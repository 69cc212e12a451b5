"""Rows of preference pairs: a tree of three documents, the prompt and then its chosen and its rejected continuation.

Loss and log-probabilities fall on sampled tokens alone: neither the prompt nor what the interpreter printed has any.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ponderosa.errors import DataError
from ponderosa.records import Pair, Row

REFERENCE_LOGPROBS = "reference_logprobs"
"""Column of a scored pair's row: log p of each token under the reference model (nats); 0 where none counts."""

TokenScores = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A pair and the reference's log-probability of every token of its continuations (nats); 0 where not sampled."""

    pair: Pair
    chosen_logprobs: TokenScores
    rejected_logprobs: TokenScores

    @property
    def length_difference(self) -> int:
        """Sampled tokens of the chosen continuation less those of the rejected one."""
        return sum(map(bool, self.pair.chosen_weights)) - sum(map(bool, self.pair.rejected_weights))

    @property
    def logprob_difference(self) -> float:
        """log p of the chosen continuation less that of the rejected one, under the reference (nats)."""
        return sum(self.chosen_logprobs) - sum(self.rejected_logprobs)


def build_pair_row(pair: Pair) -> Row:
    """The row of a pair that is to be scored."""
    no_loss = (0.0,) * len(pair.prompt_ids)
    lengths = map(len, (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids))
    return Row(
        token_ids=pair.prompt_ids + pair.chosen_ids + pair.rejected_ids,
        loss_weights=no_loss + pair.chosen_weights + pair.rejected_weights,
        document_ids=tuple(document for document, length in enumerate(lengths) for _ in range(length)),
        is_tree=True,
    )


def build_scored_row(scored: ScoredPair) -> Row:
    """The row of a pair that is to be trained on."""
    row = build_pair_row(scored.pair)
    no_scores = (0.0,) * len(scored.pair.prompt_ids)
    scores = no_scores + scored.chosen_logprobs + scored.rejected_logprobs
    return Row(row.token_ids, row.loss_weights, row.document_ids, True, {REFERENCE_LOGPROBS: scores})


def split_scores(pair: Pair, scores: TokenScores) -> ScoredPair:
    """A pair with the scores of its row."""
    begin = len(pair.prompt_ids)
    middle = begin + len(pair.chosen_ids)
    return ScoredPair(pair, scores[begin:middle], scores[middle:])


def build_mismatched_rows(pairs: Sequence[Pair], *, max_length: int) -> list[Row]:
    """For each pair its prompt with a continuation of the next pair of another problem, chosen and rejected by turns,
    cut at `max_length` tokens.

    KTO's baseline is estimated on them. Raises DataError if there is no other problem.
    """
    if len({pair.problem_id for pair in pairs}) < 2:
        raise DataError(
            "KTO compares prompts with other problems' continuations, but all pairs are of one problem; "
            "use the sigmoid loss, or pairs of more problems"
        )
    rows: list[Row] = []
    for number, pair in enumerate(pairs):
        after = (pairs[(number + step) % len(pairs)] for step in range(1, len(pairs)))
        other = next(one for one in after if one.problem_id != pair.problem_id)
        ids, weights = (
            (other.rejected_ids, other.rejected_weights)
            if number % 2
            else (other.chosen_ids, other.chosen_weights)
        )
        token_ids = (pair.prompt_ids + ids)[:max_length]
        loss_weights = ((0.0,) * len(pair.prompt_ids) + weights)[:max_length]
        rows.append(Row(token_ids, loss_weights, (0,) * len(token_ids)))
    return rows
