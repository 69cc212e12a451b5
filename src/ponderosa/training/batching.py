"""The rows of an optimizer step as microbatches: streams of whole documents.

Documents never see one another, so where they stood in their rows does not matter: a step's documents are laid
end to end without padding, whether its rows were packed or not, and cut into microbatches by token count. Rows
that a loss compares within, and trees, stay together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ponderosa.records import Row
from ponderosa.training.attention import DocumentLayout, Span, build_layout

TOKEN_BUCKET = 128
"""Streams are padded to a multiple of this: kernels are prepared for each number of tokens anew, which on a CPU can
take longer than computing (LOG.md)."""
MIN_SHARED_TOKENS = 1024
"""A step of fewer tokens is not worth dividing between workers."""


@dataclass(frozen=True, slots=True)
class Document:
    """Tokens start .. stop - 1 of a step's row number `row`; in a tree it continues the row's first `prefix` tokens."""

    row: int
    start: int
    stop: int
    prefix: int = 0

    @property
    def length(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Microbatch:
    """D documents as one stream (N tokens, padding behind the last document included; M of them predicted).

    predictors_M: the stream index whose logits predict a target (the token before it). targets_at_M: its own index.
    columns_M: the rows' further columns at the targets.
    document_M: which document a target stands in. members: the document; those of one row follow one another.
    places_2M: where a target stands: its row in the step, its token in the row.
    """

    token_ids_1N: Tensor
    positions_1N: Tensor
    predictors_M: Tensor
    targets_at_M: Tensor
    targets_M: Tensor
    weights_M: Tensor
    columns_M: Mapping[str, Tensor]
    document_M: Tensor
    members: tuple[Document, ...]
    places_2M: npt.NDArray[np.int64]
    layout: DocumentLayout


def list_documents(row: Row, number: int = 0) -> list[Document]:
    """The documents of a row, in order."""
    documents: list[Document] = []
    start = 0
    for _, group in groupby(row.document_ids):
        stop = start + sum(1 for _ in group)
        prefix = documents[0].length if row.is_tree and documents else 0
        documents.append(Document(number, start, stop, prefix))
        start = stop
    return documents


def build_microbatches(
    rows: Sequence[Row], *, max_tokens: int, device: torch.device, keep_rows: bool = False
) -> Iterator[Microbatch]:
    """Every document of the rows in streams of about equal size, longest first.

    A stream holds at most `max_tokens`, give or take half a document (or half a row, for trees and if `keep_rows`). There
    is one, or an even number of them, so that two workers finish together: on a CPU, where there are workers, one
    only if it is too short to share. The cut depends on the rows and the kind of device alone.
    """
    units: list[list[Document]] = []
    for number, row in enumerate(rows):
        documents = list_documents(row, number)
        units += [documents] if keep_rows or row.is_tree else [[document] for document in documents]
    units.sort(key=lambda unit: -max(document.length for document in unit))
    num_tokens = sum(len(row.token_ids) for row in rows)
    num_streams = -(-num_tokens // max_tokens)
    if device.type == "cpu" and num_tokens >= MIN_SHARED_TOKENS:
        num_streams = max(2, num_streams)
    num_streams += num_streams > 1 and num_streams % 2
    streams: list[list[Document]] = [[] for _ in range(num_streams)]
    offset = 0
    for unit in units:
        length = sum(document.length for document in unit)
        streams[(2 * offset + length) * num_streams // (2 * num_tokens)] += unit
        offset += length
    return (build_microbatch(rows, stream, device) for stream in streams if stream)


def build_microbatch(rows: Sequence[Row], documents: Sequence[Document], device: torch.device) -> Microbatch:
    """Documents as one stream. Positions restart with each document; in a tree they go on from the prefix."""
    spans = place_documents(documents)
    positions_N = np.concatenate([span.prefix + np.arange(span.length) for span in spans])
    num_padding = -len(positions_N) % TOKEN_BUCKET
    predictors_N = np.arange(len(positions_N)) - 1
    for span in spans:
        if span.prefix:
            predictors_N[span.start] = span.prefix_start + span.prefix - 1
    weights_N = _join([rows[d.row].loss_weights[d.start : d.stop] for d in documents], np.float32)
    targets_at_M = ((weights_N > 0) & (positions_N > 0)).nonzero()[0]
    token_ids_N = _join([rows[d.row].token_ids[d.start : d.stop] for d in documents], np.int64)
    columns_M = {
        name: _join([rows[d.row].columns[name][d.start : d.stop] for d in documents], np.float32)[
            targets_at_M
        ]
        for name in rows[documents[0].row].columns
    }
    document_M = np.repeat(np.arange(len(documents)), [d.length for d in documents])[targets_at_M]
    row_N = np.repeat([d.row for d in documents], [d.length for d in documents])
    token_N = np.concatenate([np.arange(d.start, d.stop) for d in documents])

    def send(array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(device)

    return Microbatch(
        token_ids_1N=send(np.pad(token_ids_N, (0, num_padding)))[None],
        positions_1N=send(np.pad(positions_N, (0, num_padding)))[None],
        predictors_M=send(predictors_N[targets_at_M]),
        targets_at_M=send(targets_at_M),
        targets_M=send(token_ids_N[targets_at_M]),
        weights_M=send(weights_N[targets_at_M]),
        columns_M={name: send(column) for name, column in columns_M.items()},
        document_M=send(document_M),
        members=tuple(documents),
        places_2M=np.stack([row_N, token_N])[:, targets_at_M],
        layout=build_layout(spans, device, num_tokens=len(positions_N) + num_padding),
    )


def place_documents(documents: Sequence[Document]) -> list[Span]:
    """Where documents laid end to end begin in their stream, and where the prefix of each is."""
    spans: list[Span] = []
    prefix_starts: dict[int, int] = {}
    start = 0
    for document in documents:
        if not document.start:
            prefix_starts[document.row] = start
        prefix_start = prefix_starts[document.row] if document.prefix else 0
        spans.append(Span(start, document.length, prefix_start, document.prefix))
        start += document.length
    return spans


def _join(parts: Sequence[Sequence[float]], dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.concatenate([np.asarray(part, dtype=dtype) for part in parts])
