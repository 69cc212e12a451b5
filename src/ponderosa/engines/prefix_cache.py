"""Sequences in cache rows: what is known of them is taken over, the rest computed in few passes.

The part of the native engine that generating and scoring share. Enter: token ids. Left behind: their keys and values,
and whatever the owner's `forward` notes of each pass.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ponderosa.engines.attention import CachePass, RowAttention
from ponderosa.engines.kv_pages import KVPages
from ponderosa.engines.linear import PackedLinears
from ponderosa.engines.page_table import count_pages
from ponderosa.engines.prefill import Span, build_grid, plan_prefill
from ponderosa.engines.rows import Placement, RowTable

MIN_PACKED = 256
"""Passes of fewer padded tokens come in too many shapes to prepare oneDNN kernels for."""

Forward = Callable[[Tensor, Tensor, CachePass], object]
"""Runs the model on new tokens: ids [R, L], positions [R, L], where they stand in the cache."""


class PrefixCache:
    """Cache rows and the passes that fill them; the model must be borrowed (`borrow_model`) while they run.

    long_rope_after: sequences of more tokens use LongRoPE's long factors; None if frequencies never change.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rows: RowTable,
        cache: KVPages,
        forward: Forward,
        *,
        long_rope_after: int | None,
    ) -> None:
        self.linears = PackedLinears(model)
        self.long_rope_after = long_rope_after
        self._rows = rows
        self._cache = cache
        self._forward = forward

    def is_long(self, num_tokens: int) -> bool:
        """Does a sequence of this many tokens use LongRoPE's long factors?"""
        return self.long_rope_after is not None and num_tokens > self.long_rope_after

    def forget(self) -> None:
        """Empty every row that nobody needs, and give the memory back."""
        self._rows.forget()
        self._cache.clear()
        self.linears.forget()

    def fill(self, placements: Sequence[Placement]) -> None:
        """Complete shared prefixes and compute the rest, in rounds: a page is complete before it is copied."""
        self._cache.reserve(self._rows.pages.num_pages)
        for stage in range(max((placement.stage for placement in placements), default=-1) + 1):
            ready = [placement for placement in placements if placement.stage == stage]
            # One by one: a page that is copied may be the copy of another, or be given to somebody else next.
            for placement in ready:
                if placement.copied is not None:
                    self._cache.copy(*placement.copied)
            self.compute([Span(p.row, p.shared, p.length, bool(self._rows.is_long[p.row])) for p in ready])
        self._rows.stage[:] = 0

    def compute(self, spans: Sequence[Span]) -> None:
        """Compute the keys and values of spans."""
        table = self._rows.pages
        self._cache.reserve(table.num_pages)
        for batch in plan_prefill(spans):
            grid = build_grid(
                batch, self._rows.tokens, trash=table.trash, long_rope_after=self.long_rope_after
            )
            rows = np.array([span.row for span in batch])
            num_read = count_pages(max(span.end for span in batch))
            positions = self._to_device(grid.positions)
            attention = RowAttention(self._to_device(table.ids[rows, :num_read]), positions)
            pages, places = table.find(rows[:, None], grid.columns)
            cache_pass = CachePass(self._cache, self._to_device(pages), self._to_device(places), attention)
            is_large = grid.token_ids.size >= MIN_PACKED
            with self.linears.lend() if is_large else nullcontext():
                self._forward(self._to_device(grid.token_ids), positions, cache_pass)

    def _to_device(self, array: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self._cache.device)
