"""KTO's batches: pairs whose step's KL baseline is estimated with the model as it is at that step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from ponderosa.data.packing import Batch
from ponderosa.records import Row
from ponderosa.training.loop import FixedBatches
from ponderosa.training.preference_losses import KL_BASELINE, estimate_kl_baseline

Score = Callable[[Sequence[Row]], Sequence[Sequence[float]]]
"""Rows to the log-probability of each token that carries loss, under the model in training (nats)."""


class Mismatched(NamedTuple):
    """A prompt with another problem's continuation, and log p of the latter under the reference (nats)."""

    row: Row
    reference_logprob: float


class BaselinedBatches:
    """A `BatchSource`: fixed batches of pairs, each given the baseline of its own mismatched examples.

    mismatched: for each pair's row its mismatched example. The baseline needs a whole step at once, and a pass over
    its mismatched examples before the step's own: a third of what they would cost to train on.
    """

    def __init__(self, batches: Sequence[Batch], mismatched: Mapping[Row, Mismatched], score: Score) -> None:
        fixed = FixedBatches(batches)
        self._fixed, self._mismatched, self._score = fixed, mismatched, score
        self.identity, self.num_steps, self.num_tokens = fixed.identity, fixed.num_steps, fixed.num_tokens
        self._baseline = 0.0

    def draw(self, step: int) -> Batch:
        rows = self._fixed.draw(step)
        examples = [self._mismatched[row] for row in rows]
        logprobs_K = torch.tensor([sum(scores) for scores in self._score([one.row for one in examples])])
        reference_K = torch.tensor([one.reference_logprob for one in examples])
        self._baseline = float(estimate_kl_baseline(logprobs_K, reference_K))
        return tuple(self._add_baseline(row) for row in rows)

    def describe(self, step: int) -> dict[str, Any]:
        return {"kl_baseline": self._baseline}

    def _add_baseline(self, row: Row) -> Row:
        column = (self._baseline,) * len(row.token_ids)
        return replace(row, columns={**row.columns, KL_BASELINE: column})
