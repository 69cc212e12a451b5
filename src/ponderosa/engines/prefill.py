"""Which prompt tokens are computed together. No torch.

Spans of similar length share a forward pass, padded on the right; spans on different sides of a LongRoPE
threshold never do, because a pass uses the factors of its longest position for every row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_TOKENS = 4096
"""Padded tokens in one forward pass."""
MAX_PADDING_FRAC = 0.25
"""Padding a pass may carry before it is cut in two."""
MAX_SMALL_PASS = 512
"""A pass of this many padded tokens or fewer is never cut for its padding: starting one costs more."""


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens start .. end - 1 of a row, to be computed; `is_long` if its sequence uses LongRoPE's long factors."""

    row: int
    start: int
    end: int
    is_long: bool = False

    @property
    def length(self) -> int:
        return self.end - self.start


def plan_prefill(spans: Sequence[Span]) -> list[list[Span]]:
    """Spans in batches, each for one padded forward pass; empty spans are dropped."""
    batches: list[list[Span]] = []
    ordered = sorted((span for span in spans if span.length), key=lambda span: (span.is_long, span.length))
    for span in ordered:
        if batches and _fits(batches[-1], span):
            batches[-1].append(span)
        else:
            batches.append([span])
    return batches


def _fits(batch: Sequence[Span], span: Span) -> bool:
    """`span` is at least as long as those in the batch, so it sets the padded width."""
    if batch[0].is_long != span.is_long:
        return False
    padded = span.length * (len(batch) + 1)
    padding = padded - span.length - sum(other.length for other in batch)
    is_dense = padded <= MAX_SMALL_PASS or padding <= MAX_PADDING_FRAC * padded
    return padded <= MAX_TOKENS and is_dense


@dataclass(frozen=True, slots=True)
class Grid:
    """A padded batch of R spans, L wide: token ids, positions, and the cache columns to write, all [R, L]."""

    token_ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]


def build_grid(
    batch: Sequence[Span], tokens: npt.NDArray[np.int64], *, trash: int, long_rope_after: int | None
) -> Grid:
    """Lay a batch out. Padding stands at position 0 and is written to the trash column.

    A long batch gets a column of padding at the threshold, so that its factors are long whatever else is in it.
    """
    is_long = batch[0].is_long
    width = max(span.length for span in batch) + is_long
    shape = (len(batch), width)
    grid = Grid(np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, trash, np.int64))
    for index, span in enumerate(batch):
        grid.token_ids[index, : span.length] = tokens[span.row, span.start : span.end]
        grid.positions[index, : span.length] = np.arange(span.start, span.end)
        grid.columns[index, : span.length] = grid.positions[index, : span.length]
    if is_long:
        assert long_rope_after is not None
        grid.positions[:, -1] = long_rope_after
    return grid
