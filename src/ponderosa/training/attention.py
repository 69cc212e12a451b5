"""Attention within documents, for a stream of documents laid end to end.

Everything but attention treats tokens one by one, so the loop feeds a model its documents as one row [1, N] with
no padding at all. Here, and only here, the stream is laid out again as groups of documents of similar length,
[B, T], where a causal mask is all that is needed: documents cannot see one another, and no N by N mask exists.

Legend: N tokens of the stream, B documents of a group, T its longest length, H heads, D head size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

IMPLEMENTATION = "ponderosa_documents"
MAX_PADDING_FRAC = 0.15
"""A group takes shorter documents until this share of it would be padding."""


@dataclass(frozen=True, slots=True)
class DocumentLayout:
    """Where the tokens of a stream stand in its groups.

    groups: (B, T, stream index of each of the B·T places; padding points at token 0).
    places_N: place of each stream token in the groups laid end to end.
    """

    groups: tuple[tuple[int, int, Tensor], ...]
    places_N: Tensor


def build_layout(lengths: Sequence[int], device: torch.device) -> DocumentLayout:
    """The layout of a stream whose documents have these lengths, longest first."""
    assert list(lengths) == sorted(lengths, reverse=True), "documents are laid out longest first"
    groups: list[tuple[int, int, Tensor]] = []
    places: list[Tensor] = []
    offset = num_places = 0
    for members in _group_lengths(lengths):
        starts_B1 = offset + torch.tensor([0, *members[:-1]]).cumsum(0)[:, None]
        steps_T = torch.arange(members[0])
        is_token_BT = steps_T < torch.tensor(members)[:, None]
        index_BT = torch.where(is_token_BT, starts_B1 + steps_T, 0)
        groups.append((len(members), members[0], index_BT.flatten().to(device)))
        places.append(num_places + is_token_BT.flatten().nonzero()[:, 0])
        offset += sum(members)
        num_places += index_BT.numel()
    return DocumentLayout(tuple(groups), torch.cat(places).to(device))


def _group_lengths(lengths: Sequence[int]) -> Iterator[list[int]]:
    group: list[int] = []
    num_tokens = 0
    for length in lengths:
        if group and num_tokens + length < (1 - MAX_PADDING_FRAC) * group[0] * (len(group) + 1):
            yield group
            group, num_tokens = [], 0
        group.append(length)
        num_tokens += length
    if group:
        yield group


def attend_documents(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    documents: DocumentLayout,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each document: [1, H, N, D] in, [1, N, H, D] out (transformers' interface)."""
    assert attention_mask is None, "the layout is the mask"
    # The CPU kernel's backward pass is five times slower in bfloat16 than in float32.
    dtype = torch.float32 if query.device.type == "cpu" else value.dtype
    streams = [tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value)]
    outputs = []
    for num_documents, length, index in documents.groups:
        q, k, v = (
            stream.index_select(0, index).unflatten(0, (num_documents, length)).transpose(1, 2)
            for stream in streams
        )
        output_BHTD = functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=q.shape[1] != k.shape[1]
        )
        outputs.append(output_BHTD.transpose(1, 2).flatten(0, 1))
    output_NHD = torch.cat(outputs).index_select(0, documents.places_N)
    return output_NHD[None].to(value.dtype), None


AttentionInterface.register(IMPLEMENTATION, attend_documents)


@contextmanager
def document_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model attend within documents for the length of a block; its forward then needs `documents=`."""
    before = model.config._attn_implementation
    model.set_attn_implementation(IMPLEMENTATION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
