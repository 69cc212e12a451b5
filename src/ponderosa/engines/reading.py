"""In which order a decode step reads pages. No torch.

Each page is read once for all rows that hold it: pages with one reader in one product, pages with several in another,
their queries stacked (Juravsky et al., 2024, "Hydragen"). The scores of a row's pages are laid end to end under one softmax, and what it
reads from each is added up. A page with far more readers than most is read again, from a copy, for those that do not
fit, so that the others are not padded to its number.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ponderosa.engines.page_table import PAGE_TOKENS, IntArray

PAGE_BUCKET = 16
"""Pages are read in place in multiples of this many, so that kernels are prepared for few shapes."""
READ_COST = 4
COPY_COST = 12
"""What reading or copying a page costs, measured in further readers of it, about."""


@dataclass(frozen=True, slots=True)
class Part:
    """Pages read in one product: a slice of them in place, or copies of those listed.

    readers: the rows of the step that read each page [n, M], -1 for none.
    """

    pages: slice | IntArray
    readers: IntArray


@dataclass(frozen=True, slots=True)
class Reading:
    """The parts of a step, and which of their results are whose: E for each row, all [R, E].

    A part has a result for each page and reader, n x M. first: the number of the page's first one, counted through
    all parts. reader: which of them is the row's. num_readers: M. is_padding: the row has no such page.
    """

    parts: tuple[Part, ...]
    first: IntArray
    reader: IntArray
    num_readers: IntArray
    is_padding: npt.NDArray[np.bool_]


def plan_reading(ids: IntArray, newest: IntArray, shared_end: int) -> Reading:
    """How R rows read their pages, ids [R, N], up to their newest tokens, at positions `newest` (-1: nothing)."""
    num_read = newest // PAGE_TOKENS + 1
    is_read = np.arange(num_read.max()) < num_read[:, None]
    rows, places = is_read.nonzero()
    pages = ids[rows, places]
    own, shared = np.flatnonzero(pages >= shared_end), np.flatnonzero(pages < shared_end)
    num_seats, copy, seats = _seat_readers(pages[shared])
    kept, copied = shared[copy == 0], shared[copy > 0]
    copies, slots = np.unique(pages[copied] + copy[copy > 0] * shared_end, return_inverse=True)
    num_own, num_kept = (_round_up(count) for count in (int(pages.max()) + 1 - shared_end, shared_end - 1))
    parts: list[Part] = []
    num_results = 0
    first, reader, num_readers = np.zeros((3, *is_read.shape), dtype=np.int64)
    for source, shape, entries, slot, seat in (
        (slice(shared_end, shared_end + num_own), (num_own, 1), own, pages[own] - shared_end, 0),
        (slice(1, 1 + num_kept), (num_kept, num_seats), kept, pages[kept] - 1, seats[copy == 0]),
        (copies % shared_end, (len(copies), num_seats), copied, slots, seats[copy > 0]),
    ):
        if not len(entries):
            continue
        part = Part(source, np.full(shape, -1))
        part.readers[slot, seat] = rows[entries]
        parts.append(part)
        at = rows[entries], places[entries]
        first[at], reader[at], num_readers[at] = num_results + slot * shape[1], seat, shape[1]
        num_results += part.readers.size
    return Reading(tuple(parts), first, reader, num_readers, is_padding=~is_read)


def _round_up(num_pages: int) -> int:
    return -(-num_pages // PAGE_BUCKET) * PAGE_BUCKET


def _seat_readers(pages: IntArray) -> tuple[int, IntArray, IntArray]:
    """Seats for all who read pages, one entry for each reader: the seats at a page, and for each entry which copy of the
    page it reads (0 is the page itself) and its seat there."""
    order = np.argsort(pages, kind="stable")
    rank = np.empty_like(pages)
    rank[order] = np.arange(len(pages)) - np.searchsorted(pages[order], pages[order])
    num_seats = _choose_seats(np.bincount(pages)[1:])
    return num_seats, *np.divmod(rank, num_seats)


def _choose_seats(num_readers: IntArray) -> int:
    """How many seats every page has: the power of two at which reading pages of so many readers costs least."""
    choices = 2 ** np.arange(int(num_readers.max(initial=1) - 1).bit_length() + 1)
    num_copies = np.maximum(-(-num_readers[:, None] // choices) - 1, 0).sum(axis=0)
    costs = len(num_readers) * (READ_COST + choices) + num_copies * (COPY_COST + choices)
    return int(choices[np.argmin(costs)])
