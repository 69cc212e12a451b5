"""Losses: pure mathematics on tensors.

Legend: N tokens, M weighted positions, D width, V vocabulary.

Sums, not means: the loop divides by the weight of the whole optimizer step, so the loss of a step does not depend
on how it is cut into microbatches (the accumulation bug of transformers #34191 cannot arise).
"""

import torch
from torch import Tensor
from torch.nn import functional


def compute_token_nll(logits_MV: Tensor, targets_M: Tensor) -> Tensor:
    """Negative log-likelihood of each target (nats), in float32."""
    return functional.cross_entropy(logits_MV.float(), targets_M, reduction="none")


def compute_weighted_nll(logits_MV: Tensor, targets_M: Tensor, weights_M: Tensor) -> Tensor:
    """Sum of weighted negative log-likelihoods (nats).

    Where a weight is 0 the term is selected away rather than multiplied, so an infinite logit there cannot turn
    the sum into NaN.
    """
    nll_M = compute_token_nll(logits_MV, targets_M)
    return torch.where(weights_M > 0, weights_M * nll_M, 0.0).sum()


def compute_z_loss(logits_MV: Tensor, weights_M: Tensor) -> Tensor:
    """Sum of weighted squared log-normalisers, which keeps logits from drifting (PaLM, arXiv 2204.02311, section 5)."""
    log_z_M = logits_MV.float().logsumexp(dim=-1)
    return torch.where(weights_M > 0, weights_M * log_z_M.square(), 0.0).sum()
