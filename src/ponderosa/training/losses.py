"""Losses: what the loop asks of one, the cross-entropy, and the log-probabilities the others start from.

Legend: M weighted positions, V vocabulary.

Sums, not means: the loop divides by a total of the whole optimizer step, so the loss of a step does not depend on
how it is cut into microbatches (with means it would: transformers #34191).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ponderosa.records import Row
from ponderosa.training.batching import Microbatch


@dataclass(frozen=True, slots=True)
class LossSums:
    """A microbatch's share of a step.

    objective: what is minimised, with gradient. loss: what is reported as the loss. facts: further sums to log.
    """

    objective: Tensor
    loss: Tensor
    facts: Mapping[str, Tensor] = field(default_factory=dict)


class Loss(Protocol):
    """Rows to a number. keeps_rows: the documents of a row are compared, so no microbatch may divide them."""

    @property
    def keeps_rows(self) -> bool: ...

    def compute_total(self, rows: Sequence[Row]) -> float:
        """What the sums of a whole step are divided by; 0 if nothing in it carries loss."""
        ...

    def compute(self, logits_MV: Tensor, microbatch: Microbatch) -> LossSums:
        """The sums over a microbatch, from the logits at its predicted positions."""
        ...


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Mean weighted negative log-likelihood (nats per token), with a z-loss that is minimised but not reported."""

    z_loss_weight: float = 0.0
    keeps_rows = False

    def compute_total(self, rows: Sequence[Row]) -> float:
        return sum(weight for row in rows for weight in row.loss_weights)

    def compute(self, logits_MV: Tensor, microbatch: Microbatch) -> LossSums:
        objective, nll = compute_token_loss(
            logits_MV, microbatch.targets_M, microbatch.weights_M, z_loss_weight=self.z_loss_weight
        )
        return LossSums(objective, nll)


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


class TokenScores(NamedTuple):
    """logprobs: log p of each target, with gradient. entropies: of each distribution (nats), without."""

    logprobs: Tensor
    entropies: Tensor


def compute_logprobs(
    logits_MV: Tensor, targets_M: Tensor, *, temperature: float | Tensor = 1.0
) -> TokenScores:
    """Log-probabilities of targets under softmax(logits / temperature), in float32; temperature: one, or [M]."""
    temperatures_M = torch.as_tensor(temperature, dtype=torch.float32, device=logits_MV.device)
    return TokenScores(
        *_TargetLogprobs.apply(logits_MV, targets_M, temperatures_M.expand(len(targets_M)))  # type: ignore[no-untyped-call]
    )


class _TargetLogprobs(torch.autograd.Function):
    """Keeps the probabilities alone; the gradient of log p is (onehot - p) / temperature."""

    @staticmethod
    def forward(
        ctx: Any, logits_MV: Tensor, targets_M: Tensor, temperatures_M: Tensor
    ) -> tuple[Tensor, Tensor]:
        scaled_MV = logits_MV.float() / temperatures_M[:, None]
        log_z_M1 = scaled_MV.logsumexp(dim=-1, keepdim=True)
        logprobs_M = (scaled_MV.gather(1, targets_M[:, None]) - log_z_M1)[:, 0]
        p_MV = torch.exp(scaled_MV - log_z_M1)
        # 0 · log 0 counts 0: an impossible token has a logit of -inf.
        entropies_M = log_z_M1[:, 0] - torch.where(p_MV > 0, p_MV * scaled_MV, 0.0).sum(dim=-1)
        ctx.save_for_backward(p_MV, targets_M, temperatures_M)
        ctx.dtype = logits_MV.dtype
        ctx.mark_non_differentiable(entropies_M)
        return logprobs_M, entropies_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_M: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        p_MV, targets_M, temperatures_M = ctx.saved_tensors
        grad_M1 = (grad_M / temperatures_M)[:, None]
        grad_MV = p_MV * -grad_M1
        grad_MV.scatter_add_(1, targets_M[:, None], grad_M1)
        return grad_MV.to(ctx.dtype), None, None
