"""Losses: pure mathematics on tensors.

Legend: M weighted positions, V vocabulary.

Sums, not means: the loop divides by the weight of the whole optimizer step, so the loss of a step does not depend
on how it is cut into microbatches (with means it would: transformers #34191).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class TokenLoss(NamedTuple):
    """objective: what is minimised. nll: its summed weighted negative log-likelihood (nats), without gradient."""

    objective: Tensor
    nll: Tensor


def compute_token_loss(
    logits_MV: Tensor, targets_M: Tensor, weights_M: Tensor, *, z_loss_weight: float = 0.0
) -> TokenLoss:
    """Σ w (nll + c log²Z): weighted cross-entropy with the z-loss of PaLM (arXiv 2204.02311, section 5), in float32.

    c = `z_loss_weight` keeps logits from drifting. Where w is 0 the term is selected away rather than multiplied,
    so an infinite logit there cannot turn the sum or its gradient into NaN.
    """
    return TokenLoss(*_TokenLoss.apply(logits_MV, targets_M, weights_M, z_loss_weight))  # type: ignore[no-untyped-call]


class _TokenLoss(torch.autograd.Function):
    """The gradient is made in the forward pass, in the softmax's own memory: w ((1 + 2 c log Z) p - onehot)."""

    @staticmethod
    def forward(
        ctx: Any, logits_MV: Tensor, targets_M: Tensor, weights_M: Tensor, z_loss_weight: float
    ) -> tuple[Tensor, Tensor]:
        targets_M1 = targets_M[:, None]
        target_logits_M = logits_MV.gather(1, targets_M1)[:, 0].float()
        p_MV = torch.softmax(logits_MV, dim=-1, dtype=torch.float32)
        # log Z = logit - log p at every entry; take the largest, whose p (at least 1/V) never underflows.
        top_p_M, top_M = p_MV.max(dim=-1)
        log_z_M = logits_MV.gather(1, top_M[:, None])[:, 0].float() - top_p_M.log()
        nll_M = log_z_M - target_logits_M
        is_weighted_M = weights_M != 0
        nll = torch.where(is_weighted_M, weights_M * nll_M, 0.0).sum()
        z_loss = torch.where(is_weighted_M, weights_M * log_z_M.square(), 0.0).sum()
        p_MV.mul_((weights_M * (1 + 2 * z_loss_weight * log_z_M))[:, None])
        p_MV.scatter_add_(1, targets_M1, -weights_M[:, None])
        if not is_weighted_M.all():
            p_MV.masked_fill_(~is_weighted_M[:, None], 0.0)
        ctx.save_for_backward(p_MV.to(logits_MV.dtype))
        ctx.mark_non_differentiable(nll)
        return nll + z_loss_weight * z_loss, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_MV,) = ctx.saved_tensors
        return grad_MV * grad, None, None, None
