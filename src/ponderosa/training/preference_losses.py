"""Preference losses: pure mathematics on summed log-probabilities, in float32, and what the loop calls them by.

Legend: P pairs, N examples, K mismatched examples; M predicted tokens, D documents, V vocabulary. A continuation's
log-probability is the sum over its sampled tokens given its prompt (nats); interpreter output is not in it.

The functions give a value for each pair or example, not a mean: the loop divides by the pairs of the optimizer step,
so the loss does not depend on how a step is cut.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ponderosa.data.pair_rows import REFERENCE_LOGPROBS
from ponderosa.records import Row
from ponderosa.training.batching import Microbatch
from ponderosa.training.losses import LossSums, compute_logprobs

KL_BASELINE = "kl_baseline"
"""Column of a pair's row: z0 of its step, the same for every token."""


def compute_implicit_rewards(logprobs_N: Tensor, reference_logprobs_N: Tensor, *, beta: float) -> Tensor:
    """r = β log(π / π_ref) [N]: the reward under which π is the best policy near the reference (nats times β)."""
    return beta * (logprobs_N.float() - reference_logprobs_N.float())


def compute_dpo_loss(
    chosen_P: Tensor,
    rejected_P: Tensor,
    reference_chosen_P: Tensor,
    reference_rejected_P: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """-(1 - ε) log σ(m) - ε log σ(-m) [P], m the margin of implicit rewards, chosen less rejected.

    Sigmoid DPO (Rafailov et al., arXiv 2305.18290, eq. 7); log 2 where policy and reference agree. The gradient is
    at most β per nat, whatever the margin. ε = `label_smoothing` is the share of pairs taken to be the wrong way
    round (conservative DPO, ericmitchell.ai/cdpo.pdf): margins then stop growing at log((1 - ε) / ε).
    """
    margins_P = compute_implicit_rewards(chosen_P, reference_chosen_P, beta=beta)
    margins_P = margins_P - compute_implicit_rewards(rejected_P, reference_rejected_P, beta=beta)
    right_P, wrong_P = functional.logsigmoid(margins_P), functional.logsigmoid(-margins_P)
    return -(1 - label_smoothing) * right_P - label_smoothing * wrong_P


def compute_kto_loss(
    logprobs_N: Tensor,
    reference_logprobs_N: Tensor,
    is_desirable_N: Tensor,
    kl_baseline: Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """λ_D σ(β z0 - r) where desirable, λ_U σ(r - β z0) where not [N], r the implicit reward.

    KTO (Ethayarajh et al., arXiv 2402.01306, section 4), with its λ - λ σ(x) written λ σ(-x), which does not cancel.
    kl_baseline: z0 [], one for a whole optimizer step (`estimate_kl_baseline`); it carries no gradient.
    Pairs have as many desirable examples as undesirable ones, so λ_D = λ_U = 1 is balanced.
    """
    rewards_N = compute_implicit_rewards(logprobs_N, reference_logprobs_N, beta=beta)
    above_N = rewards_N - beta * kl_baseline.detach().float()
    desirable_N = desirable_weight * functional.sigmoid(-above_N)
    return torch.where(is_desirable_N, desirable_N, undesirable_weight * functional.sigmoid(above_N))


def estimate_kl_baseline(mismatched_K: Tensor, reference_mismatched_K: Tensor) -> Tensor:
    """z0 = max(0, mean log(π / π_ref)) [] over prompts with another prompt's continuation, without gradient.

    The paper's estimate of KL(π || π_ref), as TRL makes it too: continuation i goes with prompt i + 1,
    the mean is over all mismatched examples of the step, and what falls below 0, where no KL can be, is taken for 0.
    Biased, since the continuations are not sampled from π; it only moves where the loss saturates.
    """
    log_ratios_K = mismatched_K.detach().float() - reference_mismatched_K.float()
    return log_ratios_K.mean().clamp(min=0.0)


def compute_chosen_loss(chosen_P: Tensor, num_tokens_P: Tensor) -> Tensor:
    """-log π(chosen) per sampled token [P], the likelihood term beside DPO (Pang et al., arXiv 2404.19733, section 2).

    DPO may lower both likelihoods as long as the margin grows; this keeps the chosen one up.
    """
    return -chosen_P.float() / num_tokens_P.float()


@dataclass(frozen=True, slots=True)
class DPO:
    """Sigmoid DPO for the loop; `sft_weight` adds the chosen continuation's likelihood term.

    A row is a pair, as `data.pair_rows` builds it: prompt, chosen and rejected continuation.
    """

    beta: float
    label_smoothing: float = 0.0
    sft_weight: float = 0.0
    keeps_rows = True

    def compute_total(self, rows: Sequence[Row]) -> float:
        return float(len(rows))

    def compute(self, logits_MV: Tensor, microbatch: Microbatch) -> LossSums:
        pairs = score_pairs(logits_MV, microbatch)
        losses_P = compute_dpo_loss(*pairs.logprobs, beta=self.beta, label_smoothing=self.label_smoothing)
        if self.sft_weight:
            losses_P = losses_P + self.sft_weight * compute_chosen_loss(pairs.chosen_P, pairs.num_chosen_P)
        return LossSums(losses_P.sum(), losses_P.detach().sum(), sum_reward_facts(pairs, self.beta))


@dataclass(frozen=True, slots=True)
class KTO:
    """KTO for the loop, on pairs: the chosen continuation is desirable, the rejected one is not.

    The loss of a pair is the mean of its examples' losses. Rows are DPO's, with their step's baseline as a column.
    """

    beta: float
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    keeps_rows = True

    def compute_total(self, rows: Sequence[Row]) -> float:
        return float(len(rows))

    def compute(self, logits_MV: Tensor, microbatch: Microbatch) -> LossSums:
        pairs = score_pairs(logits_MV, microbatch)
        losses_N = compute_kto_loss(
            torch.cat([pairs.chosen_P, pairs.rejected_P]),
            torch.cat([pairs.reference_chosen_P, pairs.reference_rejected_P]),
            torch.arange(2 * len(pairs.chosen_P), device=logits_MV.device) < len(pairs.chosen_P),
            microbatch.columns_M[KL_BASELINE][0],
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )
        loss = losses_N.sum() / 2
        return LossSums(loss, loss.detach(), sum_reward_facts(pairs, self.beta))


class ScoredPairs(NamedTuple):
    """Log-probabilities of a microbatch's continuations, and how many tokens of the chosen ones were sampled."""

    chosen_P: Tensor
    rejected_P: Tensor
    reference_chosen_P: Tensor
    reference_rejected_P: Tensor
    num_chosen_P: Tensor

    @property
    def logprobs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self[:4]


def score_pairs(logits_MV: Tensor, microbatch: Microbatch) -> ScoredPairs:
    """The policy's log-probabilities, with gradient, beside the reference's, which the rows hold."""
    logprobs_M = compute_logprobs(logits_MV, microbatch.targets_M).logprobs

    def sum_pairs(values_M: Tensor) -> tuple[Tensor, Tensor]:
        zeros_D = values_M.new_zeros(len(microbatch.members))
        values_P3 = zeros_D.index_add(0, microbatch.document_M, values_M).view(-1, 3)
        return values_P3[:, 1], values_P3[:, 2]

    chosen_P, rejected_P = sum_pairs(logprobs_M)
    reference_chosen_P, reference_rejected_P = sum_pairs(microbatch.columns_M[REFERENCE_LOGPROBS])
    num_chosen_P, _ = sum_pairs(torch.ones_like(logprobs_M))
    return ScoredPairs(chosen_P, rejected_P, reference_chosen_P, reference_rejected_P, num_chosen_P)


def sum_reward_facts(pairs: ScoredPairs, beta: float) -> Mapping[str, Tensor]:
    """Sums over pairs for the log: implicit rewards, their margin, and how often it is on the right side."""
    chosen_P = compute_implicit_rewards(pairs.chosen_P.detach(), pairs.reference_chosen_P, beta=beta)
    rejected_P = compute_implicit_rewards(pairs.rejected_P.detach(), pairs.reference_rejected_P, beta=beta)
    return {
        "chosen_reward": chosen_P.sum(),
        "rejected_reward": rejected_P.sum(),
        "margin": (chosen_P - rejected_P).sum(),
        "accuracy": (chosen_P > rejected_P).float().sum(),
    }
