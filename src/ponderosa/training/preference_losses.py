"""Preference losses: pure mathematics on summed log-probabilities, in float32.

Legend: P pairs, N examples, M mismatched examples. Every log-probability is the sum over the sampled tokens of one
continuation given its prompt (nats); interpreter output is in none of them.

One value for each pair or example, not a mean: the caller divides by how many the optimizer step holds, so the
loss does not depend on how a step is cut.
"""

from torch import Tensor, where
from torch.nn import functional


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
    return where(is_desirable_N, desirable_N, undesirable_weight * functional.sigmoid(above_N))


def estimate_kl_baseline(mismatched_M: Tensor, reference_mismatched_M: Tensor) -> Tensor:
    """z0 = max(0, mean log(π / π_ref)) [] over prompts with another prompt's continuation, without gradient.

    The paper's estimate of KL(π || π_ref), as TRL makes it too: continuation i goes with prompt i + 1,
    the mean is over all mismatched examples of the step, and what falls below 0, where no KL can be, is taken for 0.
    Biased, since the continuations are not sampled from π; it only moves where the loss saturates.
    """
    log_ratios_M = mismatched_M.detach().float() - reference_mismatched_M.float()
    return log_ratios_M.mean().clamp(min=0.0)


def compute_chosen_loss(chosen_P: Tensor, num_tokens_P: Tensor) -> Tensor:
    """-log π(chosen) per sampled token [P], the likelihood term beside DPO (Pang et al., arXiv 2404.19733, section 2).

    DPO may lower both likelihoods as long as the margin grows; this keeps the chosen one up.
    """
    return -chosen_P.float() / num_tokens_P.float()
