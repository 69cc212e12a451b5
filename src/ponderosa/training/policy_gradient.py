"""The group-relative policy gradient, from three kinds of pure function.

    advantage            rewards of one group -> how much better than its group each completion is
    ratio and clipping   policy over the policy that sampled, by token or by completion, and where it stops counting
    aggregation          what weight a token has in the loss of a step, given how long all completions are

GRPO, Dr. GRPO, DAPO, GSPO and RLOO are combinations of these (`PRESETS`). Only sampled tokens are positions here:
text the model did not write has no ratio, no KL, no entropy and no length.

Legend: M sampled token positions (of a microbatch), D completions (of an optimizer step).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from ponderosa.config import Config, parse_config, suggest
from ponderosa.errors import ConfigError

STD_EPS = 1e-4
"""Added to the standard deviation that advantages are divided by, as TRL does."""
MAX_LOG_RATIO = 20.0
"""Log-ratios are cut here, where e^x is still a number and far beyond every clip: no infinity, so no inf · 0."""


class PolicyGradientConfig(Config):
    """Which advantage, which ratio and clip, which aggregation."""

    baseline: Literal["mean", "leave_one_out"] = "mean"
    """what a reward is compared with: the mean of its group, or of the others in it."""
    divides_by_std: bool = True
    """divide advantages by the standard deviation of their group."""
    ratio: Literal["token", "sequence"] = "token"
    """each token's own ratio, or the geometric mean over its completion."""
    clip_low: float | None = Field(0.2, gt=0, le=1)
    """a ratio below 1 less this counts no further; unset does not clip."""
    clip_high: float | None = Field(0.2, gt=0)
    """a ratio above 1 plus this counts no further; unset does not clip."""
    importance_cap: float | None = Field(None, gt=0)
    """weigh tokens by trainer over engine probability, at most this; unset does not correct for the engine."""
    kl_weight: float = Field(0.0, ge=0)
    """weight of the KL to a reference policy; 0 needs no reference."""
    aggregation: Literal["token", "sequence", "constant"] = "token"
    """mean over tokens; over completions, of their means; or sum over tokens by a constant length."""


PRESETS = {
    "grpo": PolicyGradientConfig(aggregation="sequence"),
    "dr_grpo": PolicyGradientConfig(divides_by_std=False, aggregation="constant"),
    "dapo": PolicyGradientConfig(clip_high=0.28, aggregation="token"),
    "gspo": PolicyGradientConfig(ratio="sequence", clip_low=3e-4, clip_high=4e-4, aggregation="sequence"),
    "rloo": PolicyGradientConfig(
        baseline="leave_one_out", divides_by_std=False, clip_low=None, clip_high=None, aggregation="constant"
    ),
}
"""The published combinations; none has a KL term here, where the sources differ or leave it out.

grpo      DeepSeekMath, arXiv 2402.03300, section 4.1
dr_grpo   arXiv 2503.20783, section 3.2: neither length nor spread of a group changes a token's weight
dapo      arXiv 2503.14476, section 3: clip-higher, every token of the step alike
gspo      arXiv 2507.18071, sections 4 and 5.1
rloo      arXiv 2402.14740, section 3.2: REINFORCE, no clipping; its sum over tokens is divided by a constant
"""


def get_preset(name: str, **changes: Any) -> PolicyGradientConfig:
    """A preset with some values changed. Raises ConfigError for an unknown name, key or value."""
    if name not in PRESETS:
        raise ConfigError(f"unknown policy gradient {name!r}{suggest(name, PRESETS)}")
    return parse_config(PolicyGradientConfig, PRESETS[name].model_dump() | changes, where=name)


def compute_advantages(rewards: Sequence[float], config: PolicyGradientConfig) -> list[float]:
    """A = r - b, perhaps over σ + 1e-4, for the completions of one group; all exactly 0 where the rewards are equal.

    b is the mean of the group, or of the others, which is n / (n - 1) times as far from r. σ is that of a sample
    (n - 1 in its denominator). Equal rewards are told by comparing them: rounding of the mean would otherwise be
    divided by a σ of nothing.
    """
    if min(rewards) == max(rewards):
        return [0.0] * len(rewards)
    size = len(rewards)
    mean = math.fsum(rewards) / size
    centred = [reward - mean for reward in rewards]
    scale = size / (size - 1) if config.baseline == "leave_one_out" else 1.0
    if config.divides_by_std:
        scale /= math.sqrt(math.fsum(value * value for value in centred) / (size - 1)) + STD_EPS
    return [scale * value for value in centred]


def compute_token_weights(
    lengths_D: Sequence[int], config: PolicyGradientConfig, *, max_tokens: int
) -> list[float]:
    """w [D], the weight of every token of each completion of one optimizer step: the loss is Σ w l over its tokens.

    lengths_D: sampled tokens of each completion of the whole step. max_tokens: the longest a completion may get.

        token      1 / Σ L            every token of the step alike (DAPO)
        sequence   1 / (D L_d)        every completion alike (GRPO)
        constant   1 / (D max_tokens) neither, so a long completion has more to say, and a short step less (Dr. GRPO)

    They hold for the whole step, so it may be cut into microbatches anywhere (for ratios by sequence, between
    completions), and there is nothing left to divide by.
    """
    assert max_tokens > 0, max_tokens
    if config.aggregation == "token":
        return [1.0 / max(1, sum(lengths_D))] * len(lengths_D)
    if config.aggregation == "constant":
        return [1.0 / (len(lengths_D) * max_tokens)] * len(lengths_D)
    return [1.0 / (len(lengths_D) * max(1, length)) for length in lengths_D]


@dataclass(frozen=True, slots=True)
class PolicyTokens:
    """M sampled tokens as they were before the update; every tensor is [M] and has no gradient.

    old_logprobs: under the policy whose ratio is 1, computed by the trainer. advantages: of their completions.
    weights: of `compute_token_weights`. completions: which completion each belongs to, numbered from 0.
    sampling_logprobs: under the distribution the engine drew them from. reference_logprobs: under the policy that
    the KL term pulls to.
    """

    old_logprobs: Tensor
    advantages: Tensor
    weights: Tensor
    completions: Tensor
    sampling_logprobs: Tensor | None = None
    reference_logprobs: Tensor | None = None


class PolicyLoss(NamedTuple):
    """objective: what is minimised, weighted for the whole step. facts: sums over tokens, without gradient.

    facts: `tokens` to divide the others by; `ratio`; `clipped_low`, `clipped_high`, tokens whose gradient was cut;
    `kl_old_k1`, `kl_old_k3`, how far the update has gone; `engine_gap` (absolute, nats) and `engine_k3`, how far
    the engine is from the trainer; `importance`, `importance_capped`; `kl_reference`; `entropy`.
    """

    objective: Tensor
    facts: dict[str, Tensor]


def compute_policy_loss(
    logprobs_M: Tensor,
    tokens: PolicyTokens,
    config: PolicyGradientConfig,
    *,
    entropies_M: Tensor | None = None,
) -> PolicyLoss:
    """Σ w (-c min(ρ A, clip(ρ) A) + β KL) over the tokens of a microbatch (PPO's objective, arXiv 1707.06347, eq. 7).

    logprobs_M: under the policy being trained, at the temperature that was sampled at, with gradient.
    ρ: exp(log π - log π_old) of the token or, by sequence, its geometric mean over the completion, all of whose
    tokens must then be here. c: min(π_old / π_engine, `importance_cap`), without gradient. KL: to the reference, k3.
    """
    losses_M, facts_M = _compute_surrogate(logprobs_M, tokens, config)
    if tokens.sampling_logprobs is not None:
        gaps_M = _cut(tokens.old_logprobs - tokens.sampling_logprobs)
        facts_M |= {"engine_gap": gaps_M.abs(), "engine_k3": _estimate_kl(gaps_M)}
    if config.importance_cap is not None:
        assert tokens.sampling_logprobs is not None, "importance_cap needs the engine's log-probabilities"
        importance_M = gaps_M.exp().clamp(max=config.importance_cap)
        losses_M = losses_M * importance_M
        facts_M |= {
            "importance": importance_M,
            "importance_capped": importance_M >= config.importance_cap,
        }
    if config.kl_weight:
        assert tokens.reference_logprobs is not None, "kl_weight needs a reference's log-probabilities"
        kl_M = _estimate_kl(_cut(tokens.reference_logprobs - logprobs_M))
        losses_M = losses_M + config.kl_weight * kl_M
        facts_M["kl_reference"] = kl_M
    if entropies_M is not None:
        facts_M["entropy"] = entropies_M
    facts = {name: values_M.detach().sum() for name, values_M in facts_M.items()}
    return PolicyLoss((tokens.weights * losses_M).sum(), facts)


def _compute_surrogate(
    logprobs_M: Tensor, tokens: PolicyTokens, config: PolicyGradientConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """-min(ρ A, clip(ρ) A) [M], and what to log of it."""
    log_ratios_M = _cut(logprobs_M - tokens.old_logprobs)
    is_by_token = config.ratio == "token"
    ratios_M = (log_ratios_M if is_by_token else _average(log_ratios_M, tokens.completions)).exp()
    low = 0.0 if config.clip_low is None else 1.0 - config.clip_low
    high = math.inf if config.clip_high is None else 1.0 + config.clip_high
    advantages_M = tokens.advantages
    losses_M = -torch.minimum(ratios_M * advantages_M, ratios_M.clamp(low, high) * advantages_M)
    return losses_M, {
        "tokens": torch.ones_like(ratios_M),
        "ratio": ratios_M,
        "clipped_low": (ratios_M < low) & (advantages_M < 0),
        "clipped_high": (ratios_M > high) & (advantages_M > 0),
        "kl_old_k1": -log_ratios_M,
        "kl_old_k3": _estimate_kl(log_ratios_M),
    }


def _cut(log_ratios_M: Tensor) -> Tensor:
    return log_ratios_M.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def _estimate_kl(log_ratios_M: Tensor) -> Tensor:
    """k3 = e^x - 1 - x: for tokens drawn from p and x = log q - log p, an unbiased estimate of KL(p || q), never negative
    (Schulman, joschu.net/blog/kl-approx.html)."""
    return torch.expm1(log_ratios_M) - log_ratios_M


def _average(values_M: Tensor, completions_M: Tensor) -> Tensor:
    """Each value replaced by the mean over its completion."""
    counts_D = torch.bincount(completions_M)
    sums_D = values_M.new_zeros(len(counts_D)).index_add(0, completions_M, values_M)
    return (sums_D / counts_D.clamp(min=1))[completions_M]
