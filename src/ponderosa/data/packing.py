"""Documents into fixed-length rows, and rows into the batches of optimizer steps.

Packing is best fit (Ding et al., arXiv 2404.10830) over documents in shuffled order, not by falling length: sorting
fills rows a little better, but puts documents of one length beside each other, and a batch of few rows then holds
few lengths (LOG.md has what that costs). Documents stay whole unless longer than a row. Nothing is dropped: a
document that is too long is split and counted. Batches are lists of rows in an order that depends on the seed and the epoch alone.
"""

import random
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from ponderosa.errors import DataError
from ponderosa.identity import derive_seed
from ponderosa.records import Row

Batch = tuple[Row, ...]
"""The rows of one optimizer step."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Packed rows and what packing did: `num_split` documents were longer than a row."""

    rows: tuple[Row, ...]
    num_documents: int
    num_split: int
    fill_frac: float


def split_documents(row: Row) -> Iterator[Row]:
    """The documents of a row, each as a row of its own."""
    is_plain = not (row.is_tree or row.columns)
    assert is_plain, "only plain rows are taken apart"
    start = 0
    for _, group in groupby(row.document_ids):
        stop = start + sum(1 for _ in group)
        yield Row(row.token_ids[start:stop], row.loss_weights[start:stop], (0,) * (stop - start))
        start = stop


def pack_rows(rows: Sequence[Row], length: int, *, seed: int) -> Packing:
    """Pack every document of `rows` into rows of at most `length` tokens.

    A document longer than a row continues as a new document; the first token of each piece carries no loss.
    """
    if length < 2:
        raise DataError(f"a packed row needs at least 2 tokens to predict anything, seen length {length}")
    documents = [document for row in rows for document in split_documents(row)]
    pieces = [piece for document in documents for piece in _cut(document, length)]
    random.Random(derive_seed("pack", seed)).shuffle(pieces)
    bins = _fill_bins([len(piece.token_ids) for piece in pieces], length)
    packed = tuple(_join([pieces[i] for i in sorted(members)]) for members in bins)
    num_tokens = sum(len(row.token_ids) for row in packed)
    return Packing(
        rows=packed,
        num_documents=len(documents),
        num_split=sum(len(document.token_ids) > length for document in documents),
        fill_frac=num_tokens / (length * len(packed)) if packed else 0.0,
    )


def build_batches(
    rows: Sequence[Row], *, tokens_per_step: int, seed: int, epochs: int = 1, max_tokens: int | None = None
) -> list[Batch]:
    """The batches of whole epochs over `rows`, each about `tokens_per_step` tokens, in seeded order.

    A batch closes when the next row would take it further from the target than it is. With `max_tokens`, epochs
    are repeated (or cut) until that many tokens have been given. Lists of batches can be concatenated: a
    curriculum is one list after another. Raises DataError if there is nothing to train on.
    """
    if not rows:
        raise DataError("there are no rows to train on; check the filters of the stage that made them")
    batches: list[Batch] = []
    num_tokens = 0
    epoch = 0
    while epoch < epochs if max_tokens is None else num_tokens < max_tokens:
        for batch in _batch_epoch(rows, tokens_per_step, derive_seed("batches", seed, epoch)):
            batches.append(batch)
            num_tokens += sum(len(row.token_ids) for row in batch)
            if max_tokens is not None and num_tokens >= max_tokens:
                break
        epoch += 1
    return batches


def _batch_epoch(rows: Sequence[Row], tokens_per_step: int, seed: int) -> Iterator[Batch]:
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    batch: list[Row] = []
    num_tokens = 0
    for index in order:
        length = len(rows[index].token_ids)
        if batch and num_tokens + length - tokens_per_step > tokens_per_step - num_tokens:
            yield tuple(batch)
            batch, num_tokens = [], 0
        batch.append(rows[index])
        num_tokens += length
    if batch:
        yield tuple(batch)


def _cut(document: Row, length: int) -> Iterator[Row]:
    for start in range(0, len(document.token_ids), length):
        token_ids = document.token_ids[start : start + length]
        weights = document.loss_weights[start : start + length]
        yield Row(token_ids, (0.0, *weights[1:]), (0,) * len(token_ids))


def _fill_bins(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best fit: each piece in turn goes where it leaves the least room. Indices of each bin's pieces."""
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []
    for index, length in enumerate(lengths):
        position = bisect_left(rooms, (length, 0))
        if position == len(rooms):
            room, bin_index = capacity, len(bins)
            bins.append([])
        else:
            room, bin_index = rooms.pop(position)
        bins[bin_index].append(index)
        insort(rooms, (room - length, bin_index))
    return bins


def _join(pieces: Sequence[Row]) -> Row:
    return Row(
        tuple(token for piece in pieces for token in piece.token_ids),
        tuple(weight for piece in pieces for weight in piece.loss_weights),
        tuple(number for number, piece in enumerate(pieces) for _ in piece.token_ids),
    )
