"""From logits to tokens: temperature, truncation, and one uniform number per (seed, t).

Shapes: B sequences, V vocabulary. Truncation follows transformers' order: temperature, then top-k, then top-p on
what is left, then min-p. Tokens tied with the last one kept are kept as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ponderosa.engines.protocol import Sampling

NUM_CANDIDATES = 64
"""Top tokens sorted first; only rows whose nucleus is not inside them are sorted in full."""


def compute_uniforms(seeds: npt.NDArray[np.uint64], steps: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
    """A uniform in [0, 1) for each (seed, step): 24 bits of SplitMix64 keyed by the seed (Steele et al., 2014)."""
    state = _mix(_mix(seeds + _GOLDEN) + (steps + np.uint64(1)) * _GOLDEN)
    return (state >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@dataclass(frozen=True, slots=True)
class Draw:
    """Drawn tokens [B], with their log-probabilities in the model and under the distribution drawn from [B]."""

    tokens: npt.NDArray[np.int64]
    model_logprobs: npt.NDArray[np.float32]
    sampling_logprobs: npt.NDArray[np.float32]


def draw_tokens(logits_BV: Tensor, samplings: Sequence[Sampling], uniforms: npt.NDArray[np.float32]) -> Draw:
    """One token per row. A row at temperature 0 takes its largest logit and ignores its uniform."""
    logprobs_BV = torch.log_softmax(logits_BV.float(), dim=-1)
    rows = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if len(rows) == len(samplings):
        tokens_B, sampling_B = _draw_sampled(logprobs_BV, samplings, uniforms)
    else:
        tokens_B, sampling_B = logprobs_BV.argmax(dim=-1), torch.zeros_like(logprobs_BV[:, 0])
        if rows:
            chosen = [samplings[row] for row in rows]
            tokens_B[rows], sampling_B[rows] = _draw_sampled(logprobs_BV[rows], chosen, uniforms[rows])
    model_B = logprobs_BV.gather(1, tokens_B[:, None]).squeeze(1)
    return Draw(tokens_B.cpu().numpy(), model_B.cpu().numpy(), sampling_B.cpu().numpy())


def _draw_sampled(
    logprobs_BV: Tensor, samplings: Sequence[Sampling], uniforms: npt.NDArray[np.float32]
) -> tuple[Tensor, Tensor]:
    """Tokens [B] and their log-probabilities under the truncated distributions [B]; no row is greedy."""
    filtered_BV = truncate_logprobs(logprobs_BV, samplings)
    tokens_B = _draw_by_inversion(filtered_BV.exp(), torch.from_numpy(uniforms).to(filtered_BV.device))
    return tokens_B, filtered_BV.gather(1, tokens_B[:, None]).squeeze(1)


def truncate_logprobs(logprobs_BV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Log-probabilities [B, V] of the distributions drawn from: -inf outside the truncation, summing to one."""
    if any(sampling.temperature != 1.0 for sampling in samplings):
        temperatures = logprobs_BV.new_tensor([sampling.temperature for sampling in samplings])
        logprobs_BV = torch.log_softmax(logprobs_BV / temperatures[:, None], dim=-1)
    rows = [row for row, sampling in enumerate(samplings) if _truncates(sampling)]
    if not rows:
        return logprobs_BV
    if len(rows) < len(samplings):
        logprobs_BV = logprobs_BV.clone()
        logprobs_BV[rows] = _keep_top(logprobs_BV[rows], [samplings[row] for row in rows])
        return logprobs_BV
    return _keep_top(logprobs_BV, samplings)


def _truncates(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0


def _keep_top(logprobs_BV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Keep what is at least as likely as each row's threshold, and renormalise."""
    thresholds = _compute_top_thresholds(logprobs_BV, samplings)
    min_ps = logprobs_BV.new_tensor([sampling.min_p for sampling in samplings])
    thresholds = thresholds.maximum(logprobs_BV.amax(dim=1) + min_ps.log())
    hidden = logprobs_BV < thresholds[:, None]
    return torch.log_softmax(logprobs_BV.masked_fill(hidden, float("-inf")), dim=-1)


def _compute_top_thresholds(logprobs_BV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """The least log-probability that top-k and top-p keep, [B]; sorts no more of a row than it must."""
    num_tokens = logprobs_BV.shape[1]
    num_candidates = min(num_tokens, max(NUM_CANDIDATES, *(sampling.top_k for sampling in samplings)))
    if all(sampling.top_k == 0 and sampling.top_p >= 1.0 for sampling in samplings):
        return logprobs_BV.new_full((len(samplings),), float("-inf"))
    thresholds, is_settled = _compute_sorted_thresholds(logprobs_BV.topk(num_candidates).values, samplings)
    if num_candidates < num_tokens and not bool(is_settled.all()):
        rows = (~is_settled).nonzero().squeeze(1)
        in_full = logprobs_BV[rows].sort(descending=True).values
        open_samplings = [samplings[row] for row in rows.tolist()]
        thresholds[rows] = _compute_sorted_thresholds(in_full, open_samplings)[0]
    return thresholds


def _compute_sorted_thresholds(sorted_BN: Tensor, samplings: Sequence[Sampling]) -> tuple[Tensor, Tensor]:
    """Thresholds [B] from each row's N largest log-probabilities in falling order, and whether N sufficed [B].

    A token is in the nucleus if the tokens before it hold less than top_p of the mass that top-k left.
    """
    width = sorted_BN.shape[1]
    device = sorted_BN.device
    top_k = torch.tensor([sampling.top_k or width for sampling in samplings], device=device).clamp(max=width)
    top_p = sorted_BN.new_tensor([sampling.top_p for sampling in samplings])
    has_top_k = torch.tensor([sampling.top_k > 0 for sampling in samplings], device=device)
    probs = sorted_BN.exp()
    cumulative = probs.cumsum(dim=1)
    mass = torch.where(has_top_k, cumulative.gather(1, top_k[:, None] - 1).squeeze(1), 1.0)
    goal = torch.where(top_p < 1.0, top_p * mass, float("inf"))
    is_kept = (cumulative - probs < goal[:, None]) & (torch.arange(width, device=device) < top_k[:, None])
    thresholds = sorted_BN.gather(1, is_kept.sum(dim=1, keepdim=True).clamp(min=1) - 1).squeeze(1)
    is_open = ~has_top_k & (top_p >= 1.0)
    thresholds = thresholds.masked_fill(is_open, float("-inf"))
    return thresholds, is_open | has_top_k | (cumulative[:, -1] >= goal)


def _draw_by_inversion(probs_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """The first token whose cumulative probability exceeds the uniform, [B]; never one of probability zero."""
    cumulative = probs_BV.cumsum(dim=1)
    total = cumulative[:, -1]
    goal = torch.minimum(uniforms_B * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, goal[:, None], right=True).squeeze(1)
