"""Attention of a decode step: one new token per row, every page read once for all rows that hold it.

Each part of a `Reading` is two batched matrix products over its pages. A page p gives each of its readers the values
mixed by softmax over the page alone, and lse_p = log sum exp(score). Softmax over all pages of a row mixes what they
gave in proportion to exp(lse_p) (Dao et al., 2023, "Flash-Decoding"); this is done in float32.

Shapes: R rows, H query heads, K key/value heads, G = H / K, D head width, n pages of a part, M readers each, B tokens a
page, E pages of the row that has most. Results of a page and key/value head lie together, X = n * K * M * G in a part.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from ponderosa.engines.page_table import PAGE_TOKENS
from ponderosa.engines.reading import Part, Reading

LOWEST = torch.finfo(torch.float32).min
"""The score of what is hidden. Finite, so that a page hidden as a whole has weight zero and no NaN."""


class PagedAttention:
    """Attention of R rows as planned; their newest tokens, just written, stand at positions [R]."""

    def __init__(self, reading: Reading, newest: Tensor) -> None:
        self._parts = [_PartAttention(part, newest) for part in reading.parts]
        self._first, self._reader, self._num_readers, self._is_padding = (
            torch.from_numpy(entry).to(newest.device)
            for entry in (reading.first, reading.reader, reading.num_readers, reading.is_padding)
        )
        self._indices: dict[tuple[int, int], Tensor] = {}

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, *, window: int | None, softcap: float | None
    ) -> Tensor:
        """Scaled query [R, H, 1, D] over all pages of a layer -> [R, 1, H, D]."""
        rows, heads, _, head_width = query.shape
        kv_heads = keys.shape[1]
        query_RKGD = query.view(rows, kv_heads, heads // kv_heads, head_width)
        results = [part.attend(query_RKGD, keys, values, window, softcap) for part in self._parts]
        lse, mixed = (
            torch.cat(every) if len(every) > 1 else every[0] for every in zip(*results, strict=True)
        )
        index = self._index_results(kv_heads, heads // kv_heads)
        lse_RHE = lse[index].masked_fill_(self._is_padding[:, None], LOWEST)
        weights = torch.softmax(lse_RHE, dim=-1).flatten(0, 1)
        merged = embedding_bag(index.flatten(0, 1), mixed, per_sample_weights=weights, mode="sum")
        return merged.view(rows, 1, heads, -1).to(query.dtype)

    def _index_results(self, kv_heads: int, group: int) -> Tensor:
        """Where in the results of all parts those of each row and head are, [R, H, E]."""
        if (kv_heads, group) not in self._indices:
            begin = (self._first * kv_heads + self._reader) * group
            kv_head, member = (torch.arange(count, device=begin.device) for count in (kv_heads, group))
            stride = self._num_readers * group
            index = begin[:, None, None] + kv_head[:, None, None] * stride[:, None, None] + member[:, None]
            self._indices[kv_heads, group] = index.flatten(1, 2)
        return self._indices[kv_heads, group]


class _PartAttention:
    """Attention over the pages of one part."""

    def __init__(self, part: Part, newest: Tensor) -> None:
        pages, readers, starts = part.pages, part.readers, part.starts
        self._pages = pages if isinstance(pages, slice) else torch.from_numpy(pages).to(newest.device)
        self._readers, self._starts = (torch.from_numpy(ids).to(newest.device) for ids in (readers, starts))
        self._newest = newest
        self._is_past = part.is_past
        self._stacked: dict[int, Tensor] = {}
        self._masks: dict[int | None, Tensor] = {}

    def attend(
        self, query_RKGD: Tensor, keys: Tensor, values: Tensor, window: int | None, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        """What the pages give: lse [X] and mixed values [X, D]."""
        (num_pages, num_readers), (_, kv_heads, group, head_width) = self._readers.shape, query_RKGD.shape
        query = query_RKGD.flatten(0, 1).index_select(0, self._stack_readers(kv_heads))
        query = query.view(num_pages * kv_heads, num_readers * group, head_width)
        scores = torch.bmm(query, keys[self._pages].flatten(0, 1)).float()
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        if window is not None or not self._is_past:
            scores.view(num_pages, kv_heads, num_readers, group, PAGE_TOKENS).add_(self._mask(window))
        weights = torch.softmax(scores, dim=-1)
        lse = scores.amax(dim=-1) - weights.amax(dim=-1).log_()
        mixed = torch.bmm(weights.to(values.dtype), values[self._pages].flatten(0, 1)).float()
        return lse.flatten(), mixed.flatten(0, 1)

    def _stack_readers(self, kv_heads: int) -> Tensor:
        """Where among rows and key/value heads the queries of each page are, [n * K * M]; any row's for no reader."""
        if kv_heads not in self._stacked:
            heads = torch.arange(kv_heads, device=self._newest.device)[:, None]
            self._stacked[kv_heads] = (self._readers.clamp(min=0)[:, None] * kv_heads + heads).flatten()
        return self._stacked[kv_heads]

    def _mask(self, window: int | None) -> Tensor:
        """0 where a reader may look and LOWEST where not, [n, 1, M, 1, B]; built once a pass and window."""
        if window not in self._masks:
            last = self._newest[self._readers.clamp(min=0)].masked_fill_(self._readers < 0, -1)[:, :, None]
            columns = self._starts[:, None, None] + torch.arange(PAGE_TOKENS, device=self._newest.device)
            hidden = columns > last
            if window is not None:
                hidden |= columns <= last - window
            mask = torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, LOWEST)
            self._masks[window] = mask[:, None, :, None]
        return self._masks[window]
