"""The rows of an optimizer step as microbatches: streams of whole documents, longest first.

Documents never see one another, so where they stood in their rows does not matter: a step's documents are laid
end to end without padding, whether its rows were packed or not, and cut into microbatches by token count.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ponderosa.data.packing import split_documents
from ponderosa.records import Row
from ponderosa.training.attention import DocumentLayout, build_layout


@dataclass(frozen=True, slots=True)
class Microbatch:
    """Documents as one stream (N tokens, M of them predicted).

    predictors_M: the stream index whose logits predict a target (the token before it).
    """

    token_ids_1N: Tensor
    positions_1N: Tensor
    predictors_M: Tensor
    targets_M: Tensor
    weights_M: Tensor
    documents: DocumentLayout


def build_microbatches(rows: Sequence[Row], *, max_tokens: int, device: torch.device) -> Iterator[Microbatch]:
    """Every document of the rows, longest first, in streams of about equal size.

    A stream holds at most `max_tokens`, give or take half a document. There is one, or an even number of them, so
    that two workers finish together; the cut depends on the rows alone.
    """
    documents = [document for row in rows for document in split_documents(row)]
    documents.sort(key=lambda document: -len(document.token_ids))
    num_tokens = sum(len(document.token_ids) for document in documents)
    num_streams = -(-num_tokens // max_tokens)
    num_streams += num_streams > 1 and num_streams % 2
    streams: list[list[Row]] = [[] for _ in range(num_streams)]
    offset = 0
    for document in documents:
        length = len(document.token_ids)
        streams[(2 * offset + length) * num_streams // (2 * num_tokens)].append(document)
        offset += length
    return (build_microbatch(stream, device) for stream in streams if stream)


def build_microbatch(documents: Sequence[Row], device: torch.device) -> Microbatch:
    """Documents, longest first, as one stream. Positions restart with each document."""
    token_ids_N = torch.tensor([token for document in documents for token in document.token_ids])
    weights_N = torch.tensor([weight for document in documents for weight in document.loss_weights])
    positions_N = torch.cat([torch.arange(len(document.token_ids)) for document in documents])
    targets_at_M = ((weights_N > 0) & (positions_N > 0)).nonzero()[:, 0]
    return Microbatch(
        token_ids_1N=token_ids_N[None].to(device),
        positions_1N=positions_N[None].to(device),
        predictors_M=(targets_at_M - 1).to(device),
        targets_M=token_ids_N[targets_at_M].to(device),
        weights_M=weights_N[targets_at_M].to(device),
        documents=build_layout([len(document.token_ids) for document in documents], device),
    )
