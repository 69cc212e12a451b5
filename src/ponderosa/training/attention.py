"""Attention within documents, for a stream of documents laid end to end.

Everything but attention treats tokens one by one, so the loop feeds a model its documents as one row [1, N] with
no padding at all. Here, and only here, the stream is laid out again as groups of documents of similar length,
[B, T], where a causal mask is all that is needed: documents cannot see one another, and no N by N mask exists.

Legend: N tokens of the stream; B documents of a group, T its longest length; H query heads, K key heads, E head size;
G = B·K stacks of the S = (H / K)·T queries that share keys.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

IMPLEMENTATION = "ponderosa_documents"
MAX_PADDING_FRAC = 0.25
"""A group takes shorter documents until this share of it would be padding."""
MAX_SHORT_LENGTH = 512
"""Up to here a CPU keeps the whole score matrix of a document; beyond, torch's blocked kernel saves the memory."""


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
    module: Any,
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
    """Causal attention inside each document: [1, H, N, E] in, [1, N, H, E] out (transformers' interface)."""
    assert attention_mask is None, "the layout is the mask"
    dtype = value.dtype
    streams = [tensor[0].transpose(0, 1).to(dtype).flatten(1) for tensor in (query, key, value)]
    outputs = []
    for num_documents, length, index in documents.groups:
        q, k, v = (
            stream.index_select(0, index).view(num_documents, length, -1, module.head_dim).transpose(1, 2)
            for stream in streams
        )
        attend = _choose_kernel(length, q, dropout)
        outputs.append(attend(q, k, v, scaling, dropout).transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, documents.places_N)[None], None


def _choose_kernel(length: int, query: Tensor, dropout: float) -> Callable[..., Tensor]:
    is_short = length <= MAX_SHORT_LENGTH and not dropout
    is_short_on_cpu = is_short and query.device.type == "cpu" and query.dtype == torch.bfloat16
    return _attend_short if is_short_on_cpu else _attend_any


def _attend_any(q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, scale: float, dropout: float) -> Tensor:
    # The CPU kernel's backward pass is five times slower in bfloat16 than in float32.
    dtype = torch.float32 if q_BHTE.device.type == "cpu" else q_BHTE.dtype
    return functional.scaled_dot_product_attention(
        q_BHTE.to(dtype),
        k_BKTE.to(dtype),
        v_BKTE.to(dtype),
        is_causal=True,
        scale=scale,
        dropout_p=dropout,
        enable_gqa=q_BHTE.shape[1] != k_BKTE.shape[1],
    ).to(q_BHTE.dtype)


def _attend_short(q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, scale: float, _: float) -> Tensor:
    num_documents, num_heads, length, head_dim = q_BHTE.shape
    num_groups = k_BKTE.shape[1]
    mask_TT = torch.full((length, length), -torch.inf, dtype=q_BHTE.dtype).triu_(1)
    output_GSE: Tensor = CausalAttention.apply(  # type: ignore[no-untyped-call]
        q_BHTE.reshape(num_documents * num_groups, -1, head_dim),
        k_BKTE.reshape(-1, length, head_dim),
        v_BKTE.reshape(-1, length, head_dim),
        mask_TT.repeat(num_heads // num_groups, 1),
        scale,
    )
    return output_GSE.view(num_documents, num_heads, length, head_dim)


class CausalAttention(torch.autograd.Function):
    """softmax(scale Q Kᵀ + causal mask) V by plain matrix products, probabilities kept for the gradient.

    For short sequences in bfloat16 this is several times faster on a CPU than torch's blocked kernel. Heads that
    share keys are stacked along the query axis: S = heads per group × T.
    """

    @staticmethod
    def forward(
        ctx: Any, q_GSE: Tensor, k_GTE: Tensor, v_GTE: Tensor, mask_ST: Tensor, scale: float
    ) -> Tensor:
        scores_GST = torch.baddbmm(mask_ST, q_GSE, k_GTE.mT, alpha=scale)
        p_GST = torch.softmax(scores_GST, dim=-1)
        ctx.save_for_backward(q_GSE, k_GTE, v_GTE, p_GST)
        ctx.scale = scale
        return torch.bmm(p_GST, v_GTE)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_GSE: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q_GSE, k_GTE, v_GTE, p_GST = ctx.saved_tensors
        grad_v_GTE = torch.bmm(p_GST.mT, grad_GSE)
        grad_p_GST = torch.bmm(grad_GSE, v_GTE.mT)
        grad_s_GST = torch._softmax_backward_data(grad_p_GST, p_GST, -1, p_GST.dtype)
        grad_q_GSE = torch.bmm(grad_s_GST, k_GTE).mul_(ctx.scale)
        grad_k_GTE = torch.bmm(grad_s_GST.mT, q_GSE).mul_(ctx.scale)
        return grad_q_GSE, grad_k_GTE, grad_v_GTE, None, None


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
