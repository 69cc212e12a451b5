"""Keys and values of every layer in pages.

Shapes: P pages, K key/value heads, D head width, B tokens a page (PAGE_TOKENS). Keys lie transposed, [P, K, D, B], so
that both products of attention are plain batched matrix products over memory that is read once, in order.
"""

import torch
from torch import Tensor

from ponderosa.engines.page_table import PAGE_TOKENS, IntArray

GROWTH = 1.5
"""The pages are copied when they no longer suffice, so they grow by more than is asked."""


class KVPages:
    """Keys [P, K, D, B] and values [P, K, B, D] by layer, allocated when a layer first stores something.

    Places not yet written are zero: hidden, they must still be finite.
    """

    def __init__(self, *, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.num_pages = 0
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def reserve(self, num_pages: int) -> None:
        """Make room for this many pages."""
        if num_pages <= self.num_pages:
            return
        more = max(num_pages, int(self.num_pages * GROWTH)) - self.num_pages
        self.num_pages += more
        for tensors in (self.keys, self.values):
            for layer, pages in tensors.items():
                tensors[layer] = pages.new_empty(self.num_pages, *pages.shape[1:])
                tensors[layer][: len(pages)] = pages
                tensors[layer][len(pages) :] = 0

    def clear(self) -> None:
        """Give the memory back."""
        self.num_pages = 0
        self.keys.clear()
        self.values.clear()

    def find_layer(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The pages of a layer, shaped after its new keys and values [R, K, L, D]."""
        if layer not in self.keys:
            heads = key.shape[1]
            self.keys[layer] = self._allocate(heads, key.shape[3], PAGE_TOKENS)
            self.values[layer] = self._allocate(heads, PAGE_TOKENS, value.shape[3])
        return self.keys[layer], self.values[layer]

    def copy(self, source: int, target: int) -> None:
        """Copy one page."""
        for pages in (*self.keys.values(), *self.values.values()):
            pages[target] = pages[source]

    def move(self, sources: IntArray, targets: IntArray) -> None:
        """Put pages in the places of others, all at once."""
        if not len(sources):
            return
        where_from, where_to = (torch.from_numpy(ids).to(self.device) for ids in (sources, targets))
        for pages in (*self.keys.values(), *self.values.values()):
            pages[where_to] = pages.index_select(0, where_from)

    def _allocate(self, *shape: int) -> Tensor:
        return torch.zeros(self.num_pages, *shape, dtype=self.dtype, device=self.device)
