"""Attention within documents, for a stream of documents laid end to end.

Everything but attention treats tokens one by one, so the loop feeds a model its documents as one row [1, N] with
no padding at all. Here, and only here, the stream is laid out again as groups of documents of similar length,
[B, T], where a causal mask is all that is needed: documents cannot see one another, and no N by N mask exists.
Documents that continue one prefix look at its keys, which stand in the stream once, before their own.

Legend: N tokens of the stream; B documents of a group, T its longest length, S = T + prefix what each may look at;
H query heads, K key heads, E head size; G = B·K stacks of the Q = (H / K)·T queries that share keys.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

IMPLEMENTATION = "ponderosa_documents"
MAX_PADDING_FRAC = 0.25
"""A group takes shorter documents until this share of it would be padding."""
LENGTH_BUCKET = 16
"""Groups are padded to a multiple of this length: kernels are prepared for each shape anew."""
MAX_SHORT_LENGTH = 512
"""Up to here a CPU keeps the whole score matrix of a document; beyond, torch's blocked kernel saves the memory."""


class Span(NamedTuple):
    """A document in a stream: `length` tokens from `start`; it continues the `prefix` tokens from `prefix_start`."""

    start: int
    length: int
    prefix_start: int = 0
    prefix: int = 0


class Group(NamedTuple):
    """B documents of at most T tokens that see S tokens each: their prefix, if they share one, and their own.

    queries, keys: the stream index of each of the B·T and B·S places; padding points at token 0.
    """

    num_documents: int
    num_queries: int
    num_keys: int
    queries: Tensor
    keys: Tensor


@dataclass(frozen=True, slots=True)
class DocumentLayout:
    """Where the tokens of a stream stand in its groups. places_N: place of each in the groups laid end to end."""

    groups: tuple[Group, ...]
    places_N: Tensor


def round_up(count: int, bucket: int) -> int:
    """The least multiple of `bucket` that is not below `count`."""
    return -(-count // bucket) * bucket


def build_layout(spans: Sequence[Span], device: torch.device, *, num_tokens: int) -> DocumentLayout:
    """The layout of a stream of `num_tokens`; those behind its documents are padding and get anything finite."""
    places_N = np.zeros(num_tokens, dtype=np.int64)
    groups: list[Group] = []
    num_places = 0
    for members in _group_spans(spans):
        lengths_B1 = np.array([span.length for span in members])[:, None]
        starts_B1 = np.array([span.start for span in members])[:, None]
        steps_T = np.arange(round_up(members[0].length, LENGTH_BUCKET))
        is_token_BT = steps_T < lengths_B1
        index_BT = np.where(is_token_BT, starts_B1 + steps_T, 0)
        places_N[index_BT[is_token_BT]] = num_places + is_token_BT.ravel().nonzero()[0]
        num_places += index_BT.size
        _, _, prefix_start, prefix = members[0]
        prefix_BP = np.broadcast_to(prefix_start + np.arange(prefix), (len(members), prefix))
        keys_BS = np.concatenate([prefix_BP, index_BT], axis=1) if prefix else index_BT
        queries, keys = (torch.from_numpy(index.ravel()).to(device) for index in (index_BT, keys_BS))
        groups.append(Group(len(members), len(steps_T), keys_BS.shape[1], queries, keys))
    return DocumentLayout(tuple(groups), torch.from_numpy(places_N).to(device))


def _group_spans(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Documents of similar length and one prefix, longest first."""
    group: list[Span] = []
    num_tokens = 0
    for span in sorted(spans, key=lambda span: (span.prefix_start, span.prefix, -span.length)):
        is_alike = group and span[2:] == group[0][2:]
        padded = group[0].length * (len(group) + 1) if group else 0
        if group and not (is_alike and num_tokens + span.length >= (1 - MAX_PADDING_FRAC) * padded):
            yield group
            group, num_tokens = [], 0
        group.append(span)
        num_tokens += span.length
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
    for group in documents.groups:
        q, k, v = (
            stream.index_select(0, index)
            .view(group.num_documents, length, -1, module.head_dim)
            .transpose(1, 2)
            for stream, index, length in zip(
                streams,
                (group.queries, group.keys, group.keys),
                (group.num_queries, group.num_keys, group.num_keys),
                strict=True,
            )
        )
        attend = _choose_kernel(group.num_keys, q, dropout)
        outputs.append(attend(q, k, v, scaling, dropout).transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, documents.places_N)[None], None


def _choose_kernel(length: int, query: Tensor, dropout: float) -> Callable[..., Tensor]:
    is_short = length <= MAX_SHORT_LENGTH and not dropout
    is_short_on_cpu = is_short and query.device.type == "cpu" and query.dtype == torch.bfloat16
    return _attend_short if is_short_on_cpu else _attend_any


def _attend_any(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, scale: float, dropout: float) -> Tensor:
    # The CPU kernel's backward pass is five times slower in bfloat16 than in float32.
    dtype = torch.float32 if q_BHTE.device.type == "cpu" else q_BHTE.dtype
    num_queries, num_keys = q_BHTE.shape[2], k_BKSE.shape[2]
    is_square = num_queries == num_keys
    may_look_TS = torch.ones(num_queries, num_keys, dtype=torch.bool, device=q_BHTE.device)
    return functional.scaled_dot_product_attention(
        q_BHTE.to(dtype),
        k_BKSE.to(dtype),
        v_BKSE.to(dtype),
        attn_mask=None if is_square else may_look_TS.tril_(num_keys - num_queries),
        is_causal=is_square,
        scale=scale,
        dropout_p=dropout,
        enable_gqa=q_BHTE.shape[1] != k_BKSE.shape[1],
    ).to(q_BHTE.dtype)


def _attend_short(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, scale: float, _: float) -> Tensor:
    num_documents, num_heads, num_queries, head_dim = q_BHTE.shape
    num_groups, num_keys = k_BKSE.shape[1:3]
    mask_TS = torch.full((num_queries, num_keys), -torch.inf, dtype=q_BHTE.dtype)
    mask_TS.triu_(1 + num_keys - num_queries)
    output_GQE: Tensor = CausalAttention.apply(  # type: ignore[no-untyped-call]
        q_BHTE.reshape(num_documents * num_groups, -1, head_dim),
        k_BKSE.reshape(-1, num_keys, head_dim),
        v_BKSE.reshape(-1, num_keys, head_dim),
        mask_TS.repeat(num_heads // num_groups, 1),
        scale,
    )
    return output_GQE.view(num_documents, num_heads, num_queries, head_dim)


class CausalAttention(torch.autograd.Function):
    """softmax(scale Q Kᵀ + causal mask) V by plain matrix products, probabilities kept for the gradient.

    For short sequences in bfloat16 this is several times faster on a CPU than torch's blocked kernel. Heads that
    share keys are stacked along the query axis: Q = heads per group × T.
    """

    @staticmethod
    def forward(
        ctx: Any, q_GQE: Tensor, k_GSE: Tensor, v_GSE: Tensor, mask_QS: Tensor, scale: float
    ) -> Tensor:
        scores_GQS = torch.baddbmm(mask_QS, q_GQE, k_GSE.mT, alpha=scale)
        p_GQS = torch.softmax(scores_GQS, dim=-1)
        ctx.save_for_backward(q_GQE, k_GSE, v_GSE, p_GQS)
        ctx.scale = scale
        return torch.bmm(p_GQS, v_GSE)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_GQE: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q_GQE, k_GSE, v_GSE, p_GQS = ctx.saved_tensors
        grad_v_GSE = torch.bmm(p_GQS.mT, grad_GQE)
        grad_p_GQS = torch.bmm(grad_GQE, v_GSE.mT)
        grad_s_GQS = torch._softmax_backward_data(grad_p_GQS, p_GQS, -1, p_GQS.dtype)
        grad_q_GQE = torch.bmm(grad_s_GQS, k_GSE).mul_(ctx.scale)
        grad_k_GSE = torch.bmm(grad_s_GQS.mT, q_GQE).mul_(ctx.scale)
        return grad_q_GQE, grad_k_GSE, grad_v_GSE, None, None


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
