"""Attention over a preallocated key/value cache, plugged into transformers' attention interface.

A model that looks its attention up in `ALL_ATTENTION_FUNCTIONS` and hands its keyword arguments down calls
`attend`; everything else about the model stays as transformers wrote it. Registering no mask function of that
name makes transformers skip its own mask building.

Shapes: S cache rows, R rows in this pass, H query heads, K key/value heads, D head width, L new tokens per row,
C columns of the cache, T columns in use. Keys lie transposed, [S, K, D, C], so that both products of a decode
step are plain batched matrix products over memory that is read once, in order.

Left out: attention sinks, and any state beside keys and values. The engine's probe refuses models with those.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION_NAME = "ponderosa_cache"
WIDTH_BUCKET = 16
"""Attention reads a multiple of this many columns, so that kernels are prepared for few shapes."""
MAX_SCORES = 1 << 24
"""Attention scores held at once, in elements; longer prefills go through in blocks of queries."""


class KVCache:
    """Keys [S, K, D, C] and values [S, K, C, D] by layer, allocated when a layer first stores something.

    C grows with the longest row. The last column, `trash`, takes what must not be kept. Unused columns are zero:
    hidden, they must still be finite.
    """

    def __init__(self, num_rows: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.num_rows = num_rows
        self.dtype, self.device = dtype, device
        self.num_columns = 0
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    @property
    def trash(self) -> int:
        return self.num_columns - 1

    def reserve(self, num_tokens: int) -> None:
        """Make room for rows of this many tokens."""
        if num_tokens < self.num_columns:
            return
        more = compute_columns(num_tokens) - self.num_columns
        self.num_columns += more
        self.keys = {layer: pad(keys, (0, more)) for layer, keys in self.keys.items()}
        self.values = {layer: pad(values, (0, 0, 0, more)) for layer, values in self.values.items()}

    def clear(self) -> None:
        """Give the memory back."""
        self.num_columns = 0
        self.keys.clear()
        self.values.clear()

    def compute_width(self, num_tokens: int) -> int:
        """How many columns to read for rows of this many tokens.

        On a CPU, products of half-width types copy any operand that is not one dense block: read all of it.
        """
        if self.device.type == "cpu" and self.dtype != torch.float32:
            return self.num_columns
        return min(-(-num_tokens // WIDTH_BUCKET) * WIDTH_BUCKET, self.num_columns)

    def find_layer(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The cached keys and values of a layer, shaped after its new ones [R, K, L, D]."""
        if layer not in self.keys:
            rows, heads, columns = self.num_rows, key.shape[1], self.num_columns
            self.keys[layer] = self._allocate(rows, heads, key.shape[3], columns)
            self.values[layer] = self._allocate(rows, heads, columns, value.shape[3])
        return self.keys[layer], self.values[layer]

    def copy(self, source: int, target: int, count: int) -> None:
        """Give the target row the first `count` columns of the source row."""
        for keys, values in self._layers():
            keys[target, :, :, :count] = keys[source, :, :, :count]
            values[target, :, :count] = values[source, :, :count]

    def swap(self, first: int, second: int, count: int) -> None:
        """Exchange the first `count` columns of two rows."""
        pair, riap = [first, second], [second, first]
        for keys, values in self._layers():
            keys[pair, :, :, :count] = keys[riap, :, :, :count]
            values[pair, :, :count] = values[riap, :, :count]

    def _allocate(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def _layers(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.keys.values(), self.values.values(), strict=True)


def compute_columns(num_tokens: int) -> int:
    """Columns for rows of this many tokens: one to spare, in steps of 64, and never a power-of-two stride."""
    return max(0, num_tokens - 16) // 64 * 64 + 80


@dataclass(slots=True)
class CachePass:
    """One forward pass: which cache rows its batch is, and where its tokens stand in them.

    rows: a slice of rows (read in place) or their indices [R] (gathered).
    row_index: indices of those rows [R, 1]. positions: of each new token in its row [R, L].
    columns: where each token's key and value are written [R, L]: its position, or the trash.
    width: T, columns attended to.
    """

    cache: KVCache
    rows: slice | Tensor
    row_index: Tensor
    positions: Tensor
    columns: Tensor
    width: int
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

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
        all_keys, all_values = self.cache.find_layer(layer, key, value)
        all_keys[self.row_index, :, :, self.columns] = key.transpose(1, 2)
        all_values[self.row_index, :, self.columns] = value.transpose(1, 2)
        keys = all_keys[self.rows, :, :, : self.width]
        values = all_values[self.rows, :, : self.width]
        mask = self._mask(window, query.dtype)
        block = max(1, MAX_SCORES // (query.shape[0] * query.shape[1] * self.width))
        if query.shape[2] <= block:
            return _attend_block(query * scaling, keys, values, mask, softcap)
        parts = zip(torch.split(query * scaling, block, dim=2), torch.split(mask, block, dim=3), strict=True)
        return torch.cat([_attend_block(part, keys, values, rows, softcap) for part, rows in parts], dim=1)

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """0 where a token may look and -inf where not, [R, 1, 1, L, T]; built once a pass and window."""
        window = None if window is not None and window >= self.width else window
        if window not in self._masks:
            columns = torch.arange(self.width, device=self.positions.device)
            last = self.positions[:, None, None, :, None]
            hidden = columns > last
            if window is not None:
                hidden |= columns <= last - window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            self._masks[window] = mask.masked_fill_(hidden, float("-inf"))
        return self._masks[window]


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
