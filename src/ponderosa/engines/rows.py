"""Who sits in which cache row, and which rows hold a prefix worth taking over. No torch.

A row is active (somebody needs it now), retained (its tokens may begin another sequence) or empty.
`tokens[row, :lengths[row]]` have their keys and values in the cache, in the row's pages. In an engine a row is active
while its request runs, and `tokens[row, lengths[row]]` is the token to feed next.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ponderosa.engines.page_table import PageTable

MIN_SHARED = 8
"""Fewer common tokens than this are not worth taking over."""
SHARED_BUCKET = 16
"""Common prefixes are compared in buckets, so that a few accidental tokens more do not chain prefills."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a sequence goes and what it takes over.

    shared: of its `length` tokens, those already known. copied: a page to copy and where to, for those of them that do
    not fill one. stage: how many rounds of prefill must run before the source is complete.
    """

    row: int
    source: int
    shared: int
    length: int
    stage: int
    copied: tuple[int, int] | None = None


class RowTable:
    """Bookkeeping for S cache rows of at most `columns` tokens, all in host memory."""

    def __init__(self, num_rows: int, columns: int) -> None:
        self.tokens: npt.NDArray[np.int64] = np.zeros((num_rows, columns), dtype=np.int64)
        self.lengths: npt.NDArray[np.int64] = np.zeros(num_rows, dtype=np.int64)
        self.is_active: npt.NDArray[np.bool_] = np.zeros(num_rows, dtype=np.bool_)
        self.is_long: npt.NDArray[np.bool_] = np.zeros(num_rows, dtype=np.bool_)
        self.last_used: npt.NDArray[np.int64] = np.zeros(num_rows, dtype=np.int64)
        self.stage: npt.NDArray[np.int64] = np.zeros(num_rows, dtype=np.int64)
        self.pages = PageTable(num_rows, columns)
        self._clock = 0

    def forget(self) -> None:
        """Empty every retained row."""
        self.lengths[~self.is_active] = 0
        self.last_used[~self.is_active] = 0
        self.pages.forget(~self.is_active)

    def place(self, token_ids: Sequence[int], *, is_long: bool, is_read_only: bool = False) -> Placement:
        """Give a sequence the row it is cheapest to compute in, and mark that active.

        A retained row that it continues is taken over; else the least useful inactive row is, and begins with the pages
        of the longest known prefix. Nothing will be written behind a read-only sequence: where it is known whole, the
        row that holds it will do, even one that goes on or that another uses.
        """
        ids = np.asarray(token_ids, dtype=np.int64)
        length = len(ids)
        source, shared = self._find_prefix(ids, is_long)
        stage = int(self.stage[source]) if shared else 0
        if is_read_only and shared == length:
            self.is_active[source] = True
            return Placement(source, source, shared, length, stage)
        continues = shared and not self.is_active[source] and shared == self.lengths[source]
        row = source if continues else self._pick_row()
        copied = None if continues else self.pages.share(source, row, shared)
        self.pages.hold(row, length)
        self.tokens[row, :length] = ids
        self.lengths[row] = length
        self.is_active[row], self.is_long[row] = True, is_long
        self.stage[row] = stage + (shared < length)
        return Placement(row, source if shared else row, shared, length, stage, copied)

    def release(self, row: int, *, is_over: bool) -> None:
        """Nobody needs a row any more. `is_over`: nothing will continue it, so reuse the row first."""
        self.is_active[row] = False
        self._clock += 1
        self.last_used[row] = 0 if is_over else self._clock

    def _pick_row(self) -> int:
        """The inactive row that is least worth keeping: empty or over, else least recently used."""
        idle = np.flatnonzero(~self.is_active)
        return int(idle[np.argmin(self.last_used[idle])])

    def _find_prefix(self, known: npt.NDArray[np.int64], is_long: bool) -> tuple[int, int]:
        """The row whose cached tokens best begin this sequence, and how many of them do (0: none worth taking)."""
        if len(known) < MIN_SHARED:
            return 0, 0
        begins = (self.tokens[:, :MIN_SHARED] == known[:MIN_SHARED]).all(axis=1)
        rows = np.flatnonzero(begins & (self.lengths >= MIN_SHARED) & (self.is_long == is_long))
        if not len(rows):
            return 0, 0
        same = self.tokens[rows, : len(known)] == known
        same &= np.arange(len(known)) < self.lengths[rows, None]
        shared = np.where(same.all(axis=1), len(known), same.argmin(axis=1))
        order = np.lexsort((-rows, shared, -self.stage[rows], shared // SHARED_BUCKET, shared == len(known)))
        best = int(order[-1])
        return int(rows[best]), int(shared[best])


class RequestRows(RowTable):
    """The rows of an engine's requests.

    Log-probabilities stand beside the tokens they belong to. A row's request began with `starts` prompt tokens,
    and ends at `limits` tokens if nothing stops it before.
    """

    def __init__(self, num_rows: int, columns: int) -> None:
        super().__init__(num_rows, columns)
        self.model_logprobs: npt.NDArray[np.float32] = np.zeros((num_rows, columns), dtype=np.float32)
        self.sampling_logprobs: npt.NDArray[np.float32] = np.zeros((num_rows, columns), dtype=np.float32)
        self.starts: npt.NDArray[np.int64] = np.zeros(num_rows, dtype=np.int64)
        self.limits: npt.NDArray[np.int64] = np.zeros(num_rows, dtype=np.int64)
        self.seeds: npt.NDArray[np.uint64] = np.zeros(num_rows, dtype=np.uint64)
