"""Attention of a decode step: one new token per row, every page read once for all rows that hold it.

Each part of a `Reading` is two batched matrix products over its pages. Between them the scores of each row's pages are
laid end to end, so that softmax is what it is without pages; what the pages give afterwards adds up.

Shapes: R rows, H query heads, K key/value heads, G = H / K, D head width, n pages of a part, M readers each, B tokens a
page, E pages of the row that has most. A result is what one page and key/value head say of one query head of one
reader; they lie in the order n, K, M, G, part after part: X in all.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from ponderosa.engines.attention import build_mask
from ponderosa.engines.page_table import PAGE_TOKENS
from ponderosa.engines.reading import Part, Reading


@dataclass(frozen=True, slots=True)
class _Places:
    """How X results and the pages of R * H rows and heads belong together.

    results [R * H * E]: which result is that of each row, head and page; any where the row has no such page.
    is_real [R * H, E]: 1 where it has one, else 0. weights [X]: the inverse of results, any for no reader.
    """

    results: Tensor
    weights: Tensor
    is_real: Tensor


class PagedAttention:
    """Attention of R rows as planned; `advance` begins each step."""

    def __init__(self, reading: Reading, device: torch.device) -> None:
        self._parts = [_PartProducts(part, device) for part in reading.parts]
        self._first, self._reader, self._num_readers, self._is_padding = (
            torch.from_numpy(entry).to(device)
            for entry in (reading.first, reading.reader, reading.num_readers, reading.is_padding)
        )
        self._places: dict[tuple[int, int], _Places] = {}
        self._masks: dict[int | None, Tensor] = {}

    def advance(self, newest: Tensor) -> None:
        """The newest tokens stand at these positions [R] (-1: no row), on the pages that were planned for."""
        self._newest = newest.clamp(min=0)[:, None]
        self._masks.clear()

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, *, window: int | None, softcap: float | None
    ) -> Tensor:
        """Scaled query [R, H, 1, D] over all pages of a layer -> [R, 1, H, D]."""
        rows, heads, _, head_width = query.shape
        kv_heads = keys.shape[1]
        query_RKGD = query.view(rows, kv_heads, heads // kv_heads, head_width)
        places = self._find_places(kv_heads, heads // kv_heads)
        scores_XB = _join([part.compare(query_RKGD, keys) for part in self._parts])
        scores_RHT = scores_XB.index_select(0, places.results).view(rows, heads, -1)
        if softcap is not None:
            scores_RHT = torch.tanh(scores_RHT / softcap) * softcap
        scores_RHT += self._mask(scores_RHT.shape[2], window, query.dtype)
        weights_RHT = torch.softmax(scores_RHT, dim=-1, dtype=torch.float32).to(query.dtype)
        weights_XB = weights_RHT.view(-1, PAGE_TOKENS).index_select(0, places.weights)
        shares = torch.split(weights_XB, [part.count_results(query_RKGD) for part in self._parts])
        mixed = _join([part.mix(share, values) for part, share in zip(self._parts, shares, strict=True)])
        summed = embedding_bag(
            places.results.view(rows * heads, -1),
            mixed.float(),
            per_sample_weights=places.is_real,
            mode="sum",
        )
        return summed.view(rows, 1, heads, -1).to(query.dtype)

    def _find_places(self, kv_heads: int, group: int) -> _Places:
        """Built once."""
        if (kv_heads, group) not in self._places:
            begin = (self._first * kv_heads + self._reader) * group
            kv_head, member = (torch.arange(count, device=begin.device) for count in (kv_heads, group))
            stride = self._num_readers * group
            index = begin[:, None, None] + kv_head[:, None, None] * stride[:, None, None] + member[:, None]
            is_real = ~self._is_padding[:, None, None].expand_as(index)
            results, is_real = index.flatten(), is_real.flatten()
            num_results = sum(part.readers.numel() for part in self._parts) * kv_heads * group
            weights = torch.zeros(num_results + 1, dtype=torch.int64, device=index.device)
            weights[torch.where(is_real, results, num_results)] = torch.arange(
                len(results), device=index.device
            )
            self._places[kv_heads, group] = _Places(
                results, weights[:-1], is_real.view(-1, index.shape[-1]).float()
            )
        return self._places[kv_heads, group]

    def _mask(self, width: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """0 where a row may look and -inf where not, [R, 1, T]; built once a step and window."""
        if window not in self._masks:
            self._masks[window] = build_mask(self._newest, width, window, dtype)
        return self._masks[window]


class _PartProducts:
    """Products of queries and weights with the pages of one part."""

    def __init__(self, part: Part, device: torch.device) -> None:
        self._pages = part.pages if isinstance(part.pages, slice) else torch.from_numpy(part.pages).to(device)
        self.readers = torch.from_numpy(part.readers).clamp_(min=0).to(device)
        self._stacked: dict[int, Tensor] = {}

    def count_results(self, query_RKGD: Tensor) -> int:
        """How many of the X results are this part's."""
        return self.readers.numel() * query_RKGD.shape[1] * query_RKGD.shape[2]

    def compare(self, query_RKGD: Tensor, keys: Tensor) -> Tensor:
        """Queries with the keys of each page, [n * K * M * G, B]."""
        (num_pages, num_readers), (_, kv_heads, group, head_width) = self.readers.shape, query_RKGD.shape
        query = query_RKGD.flatten(0, 1).index_select(0, self._stack_readers(kv_heads))
        query = query.view(num_pages * kv_heads, num_readers * group, head_width)
        return torch.bmm(query, keys[self._pages].flatten(0, 1)).flatten(0, 1)

    def mix(self, weights: Tensor, values: Tensor) -> Tensor:
        """The values of each page by weight: [n * K * M * G, B] -> [n * K * M * G, D]."""
        pages = values[self._pages].flatten(0, 1)
        return torch.bmm(weights.view(len(pages), -1, PAGE_TOKENS), pages).flatten(0, 1)

    def _stack_readers(self, kv_heads: int) -> Tensor:
        """Where among rows and key/value heads the queries of each page are, [n * K * M]; any row's for no reader."""
        if kv_heads not in self._stacked:
            heads = torch.arange(kv_heads, device=self.readers.device)[:, None]
            self._stacked[kv_heads] = (self.readers[:, None] * kv_heads + heads).flatten()
        return self._stacked[kv_heads]


def _join(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]
