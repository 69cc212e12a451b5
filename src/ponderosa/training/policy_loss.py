"""The policy gradient as a loss of the loop: from logits and the columns of rows to `policy_gradient`'s objective.

Rows come from `data.groups`. Their columns, for each token the policy wrote: `advantages`, `temperatures`,
`sampling_logprobs` (of the engine), `old_logprobs` (of the policy whose ratio is 1), with a KL term
`reference_logprobs`, and `staleness`, the updates since they were sampled, where that is known: `engine_gap` is logged
of fresh tokens only. Their loss weights are those of `compute_token_weights` times the number of tokens in the step, so
that the step is divided by its tokens as any other and everything it logs is a mean over them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ponderosa.records import Row
from ponderosa.training.batching import Microbatch
from ponderosa.training.losses import LossSums, compute_logprobs
from ponderosa.training.policy_gradient import PolicyGradientConfig, PolicyTokens, compute_policy_loss


@dataclass(frozen=True, slots=True)
class PolicyGradient:
    """A `training.losses.Loss`."""

    config: PolicyGradientConfig
    keeps_rows = False

    def compute_total(self, rows: Sequence[Row]) -> float:
        return sum(weight > 0 for row in rows for weight in row.loss_weights)

    def compute(self, logits_MV: Tensor, microbatch: Microbatch) -> LossSums:
        columns = microbatch.columns_M
        scores = compute_logprobs(logits_MV, microbatch.targets_M, temperature=columns["temperatures"])
        tokens = PolicyTokens(
            old_logprobs=columns["old_logprobs"],
            advantages=columns["advantages"],
            weights=microbatch.weights_M,
            completions=microbatch.document_M,
            sampling_logprobs=columns["sampling_logprobs"],
            reference_logprobs=columns.get("reference_logprobs"),
        )
        objective, facts = compute_policy_loss(
            scores.logprobs, tokens, self.config, entropies_M=scores.entropies
        )
        # The log has tokens of its own: all that were trained on, not these.
        logged = {name: total for name, total in facts.items() if name not in ("tokens", "engine_gap")}
        is_fresh_M = columns.get("staleness", torch.zeros_like(microbatch.weights_M)) == 0
        if is_fresh_M.any():  # later the gap is what the updates moved
            logged["engine_gap"] = (scores.logprobs.detach() - columns["sampling_logprobs"]).abs().sum()
        return LossSums(objective, objective.detach(), logged)
