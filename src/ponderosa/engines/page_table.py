"""Which pages of the key/value cache the tokens of each row lie in. No torch.

A page has room for PAGE_TOKENS tokens of one sequence. Rows that begin alike hold the pages that are full of what they
have in common together (Kwon et al., 2023, "PagedAttention"); a page that is still being filled belongs to one row. Page
0 belongs to nobody and takes what must not be kept.

Pages 1 .. shared_end - 1 are those that several active rows read; behind them lie those that one reads, then those
that wait. So a decode step reads either kind in place, in order, and each page once.
"""

import numpy as np
import numpy.typing as npt

PAGE_TOKENS = 32
"""Smaller pages waste less behind the last token of a row; larger ones are fewer to look up."""
MAX_IDLE_FRAC = 0.125
"""Share of pages read in vain that a decode step puts up with."""

IntArray = npt.NDArray[np.int64]


class PageTable:
    """The pages of S rows of at most `num_tokens` tokens: ids [S, N + 1], in the order of the tokens, then 0."""

    def __init__(self, num_rows: int, num_tokens: int) -> None:
        self.ids: IntArray = np.zeros((num_rows, count_pages(num_tokens) + 1), dtype=np.int64)
        self.num_pages = 1
        self.shared_end = 1

    @property
    def trash(self) -> int:
        """The position in a row that lies in page 0."""
        return int(self.ids.shape[1] - 1) * PAGE_TOKENS

    def find(self, rows: IntArray, positions: IntArray) -> tuple[IntArray, IntArray]:
        """The pages that positions of rows lie in, and where in them."""
        return self.ids[rows, positions // PAGE_TOKENS], positions % PAGE_TOKENS

    def hold(self, row: int, num_tokens: int) -> None:
        """Give a row the pages it lacks for this many tokens."""
        held, wanted = int(np.count_nonzero(self.ids[row])), count_pages(num_tokens)
        if wanted > held:
            self.ids[row, held:wanted] = self._take(wanted - held)

    def extend(self, rows: IntArray, positions: IntArray) -> None:
        """Give rows that hold pages for all tokens before these positions one for that token, if they lack it."""
        places = positions // PAGE_TOKENS
        is_lacking = self.ids[rows, places] == 0
        self.ids[rows[is_lacking], places[is_lacking]] = self._take(int(np.count_nonzero(is_lacking)))

    def share(self, source: int, row: int, num_tokens: int) -> tuple[int, int] | None:
        """Let a row begin as another does (or itself), with the pages that this many tokens fill.

        Returns the page to copy and its copy, for the tokens behind the last full one.
        """
        num_full, num_left = divmod(num_tokens, PAGE_TOKENS)
        known = self.ids[source, : num_full + 1].copy()
        self.drop(row)
        self.ids[row, :num_full] = known[:num_full]
        if not num_left:
            return None
        self.hold(row, num_tokens)
        return int(known[num_full]), int(self.ids[row, num_full])

    def drop(self, row: int) -> None:
        """Take a row's pages from it."""
        self.ids[row] = 0

    def forget(self, is_forgotten: npt.NDArray[np.bool_]) -> None:
        """Take the pages of some rows from them, and start anew behind the others'."""
        self.ids[is_forgotten] = 0
        self.num_pages = int(self.ids.max()) + 1
        self.shared_end = 1

    def arrange(self, is_active: npt.NDArray[np.bool_]) -> IntArray:
        """Put pages where active rows read them in place: the pages to move and where to [2, ·], all at once.

        No moves while pages with several readers lie by themselves and few pages are read in vain.
        """
        num_readers = self._count_holders(self.ids[is_active])
        last = int(num_readers.nonzero()[0].max(initial=0))
        num_idle = last - int(np.count_nonzero(num_readers[: last + 1]))
        if not (num_readers[self.shared_end :] > 1).any() and num_idle <= MAX_IDLE_FRAC * last:
            return np.zeros((2, 0), dtype=np.int64)
        is_trash = np.arange(self.num_pages) == 0
        kinds = np.select([is_trash, num_readers > 1, num_readers == 1], [0, 1, 2], 3)
        order = _sort_kinds(kinds)
        moved_to = np.empty_like(order)
        moved_to[order] = np.arange(self.num_pages)
        is_held = self._count_holders(self.ids)[order] > 0
        targets = np.flatnonzero((order != np.arange(self.num_pages)) & is_held)
        self.ids = moved_to[self.ids]
        self.shared_end = int(np.count_nonzero(kinds <= 1))
        return np.stack([order[targets], targets])

    def _take(self, count: int) -> IntArray:
        """Pages that nobody holds. They will be written, so they never lie among those with several readers."""
        free = np.flatnonzero(self._count_holders(self.ids)[self.shared_end :] == 0)[:count]
        start = self.num_pages
        self.num_pages += count - len(free)
        return np.concatenate([free + self.shared_end, np.arange(start, self.num_pages)])

    def _count_holders(self, ids: IntArray) -> IntArray:
        """How many of these rows hold each page; none hold page 0."""
        counts = np.bincount(ids.ravel(), minlength=self.num_pages)
        counts[0] = 0
        return counts


def count_pages(num_tokens: int) -> int:
    """Pages that this many tokens need."""
    return -(-num_tokens // PAGE_TOKENS)


def _sort_kinds(kinds: IntArray) -> IntArray:
    """An order that sorts by kind, and leaves in place all that it can."""
    order = np.arange(len(kinds))
    start = 0
    for kind in range(int(kinds.max())):
        is_kind = kinds[order] == kind
        end = start + int(np.count_nonzero(is_kind[start:]))
        inside = start + np.flatnonzero(~is_kind[start:end])
        outside = end + np.flatnonzero(is_kind[end:])
        order[np.concatenate([inside, outside])] = order[np.concatenate([outside, inside])]
        start = end
    return order
