"""Attention over paged keys and values, plugged into transformers' attention interface.

A model that looks its attention up in `ALL_ATTENTION_FUNCTIONS` and hands its keyword arguments down calls
`attend`; everything else about the model stays as transformers wrote it. Registering no mask function of that
name makes transformers skip its own mask building.

Shapes: R rows in this pass, H query heads, K key/value heads, D head width, L new tokens per row, N pages read of
each row, B tokens a page.

Left out: attention sinks, and any state beside keys and values. The engine's probe refuses models with those.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ponderosa.engines.kv_pages import KVPages
from ponderosa.engines.page_table import PAGE_TOKENS

ATTENTION_NAME = "ponderosa_cache"
MAX_SCORES = 1 << 24
"""Attention scores held at once, in elements; longer prefills go through in blocks of queries."""


class Attention(Protocol):
    """How the rows of a pass read their pages."""

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, *, window: int | None, softcap: float | None
    ) -> Tensor:
        """Scaled query [R, H, L, D] over all pages of a layer -> [R, L, H, D]."""
        ...


@dataclass(frozen=True, slots=True)
class CachePass:
    """One forward pass: the page of each new token and its place there, both [R, L], and how all pages are read."""

    cache: KVPages
    pages: Tensor
    places: Tensor
    attention: Attention

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Store the new keys and values, attend to all of the row. query [R, H, L, D] -> [R, L, H, D]."""
        keys, values = self.cache.find_layer(layer, key, value)
        keys[self.pages, :, :, self.places] = key.transpose(1, 2)
        values[self.pages, :, self.places] = value.transpose(1, 2)
        return self.attention.attend(query * scaling, keys, values, window=window, softcap=softcap)


@dataclass(frozen=True, slots=True)
class RowAttention:
    """Attention of new tokens at positions [R, L] over a copy of each row's pages [R, N], laid end to end."""

    pages: Tensor
    positions: Tensor
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, *, window: int | None, softcap: float | None
    ) -> Tensor:
        """Scaled query [R, H, L, D] over all pages of a layer -> [R, L, H, D]."""
        rows, num_pages = self.pages.shape
        listed = self.pages.flatten()
        width = num_pages * PAGE_TOKENS
        keys, values = (
            pages.index_select(0, listed).view(rows, num_pages, *pages.shape[1:]) for pages in (keys, values)
        )
        keys_RKDT, values_RKTD = keys.permute(0, 2, 3, 1, 4).flatten(3), values.transpose(1, 2).flatten(2, 3)
        mask = self._mask(width, window, query.dtype)
        block = max(1, MAX_SCORES // (rows * query.shape[1] * width))
        if query.shape[2] <= block:
            return _attend_block(query, keys_RKDT, values_RKTD, mask, softcap)
        parts = zip(torch.split(query, block, dim=2), torch.split(mask, block, dim=3), strict=True)
        blocks = [_attend_block(part, keys_RKDT, values_RKTD, rows, softcap) for part, rows in parts]
        return torch.cat(blocks, dim=1)

    def _mask(self, width: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """0 where a token may look and -inf where not, [R, 1, 1, L, T]; built once a pass and window."""
        window = None if window is not None and window >= width else window
        if window not in self._masks:
            mask = build_mask(self.positions, width, window, dtype)
            self._masks[window] = mask[:, None, None]
        return self._masks[window]


def build_mask(last: Tensor, width: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """0 where tokens at positions `last` [R, L] may look and -inf where not, [R, L, T]."""
    columns = torch.arange(width, device=last.device)
    hidden = columns > last[..., None]
    if window is not None:
        hidden |= columns <= last[..., None] - window
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))


def _attend_block(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, softcap: float | None) -> Tensor:
    """Scaled query [R, H, L, D], keys [R, K, D, T], values [R, K, T, D], mask [R, 1, 1, L, T] -> [R, L, H, D]."""
    rows, heads, length, _ = query.shape
    kv_heads, width = keys.shape[1], keys.shape[3]
    grouped = query.reshape(rows * kv_heads, -1, query.shape[3])
    scores = torch.bmm(grouped, keys.flatten(0, 1))
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores.view(rows, kv_heads, heads // kv_heads, length, width).add_(mask)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    mixed = torch.bmm(weights, values.flatten(0, 1))
    return mixed.view(rows, heads, length, -1).transpose(1, 2)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    cache_pass: CachePass | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention function transformers calls; `cache_pass` arrives through the model's keyword arguments."""
    if cache_pass is None:
        raise TypeError(f"{type(module).__name__} does not hand keyword arguments to its attention")
    layer = module.layer_idx
    assert isinstance(layer, int)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    mixed = cache_pass.attend(layer, query, key, value, scaling=scale, window=sliding_window, softcap=softcap)
    return mixed, None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, attend)
