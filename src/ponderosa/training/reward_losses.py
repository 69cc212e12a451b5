"""Reward model losses: pure mathematics on scores, in float32, and what the loop calls them by.

Legend: P pairs, N scores that are judged one by one; M scores of a microbatch, D documents. A score s is the raw number
of a step's end. The functions give a value for each pair or score; the loop divides by the pairs or scores of the
optimizer step, so every pair weighs the same however a step is cut and however many pairs a node has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ponderosa.data.reward_rows import IS_CHOSEN, TARGET
from ponderosa.records import Row
from ponderosa.training.batching import Microbatch
from ponderosa.training.losses import LossSums

ComparisonForm = Literal["tanh", "logits"]
"""What the pairwise loss compares: scores squashed to (-1, 1), or scores as they are (Bradley and Terry 1952)."""


def compute_pairwise_loss(
    chosen_P: Tensor, rejected_P: Tensor, *, form: ComparisonForm, beta: float
) -> Tensor:
    """-log σ(β (v⁺ - v⁻)) [P], v = tanh s or s: log 2 where two scores agree (rStar-Math, arXiv 2501.04519, eq. 4).

    With tanh the margin is at most 2β, so the loss cannot fall below log(1 + exp(-2β)), and where a share p of equal
    pairs goes one way the best margin is logit(p): β should be large enough to reach it. rStar-Math's released code
    compares scores without a bound in training and reads tanh(s / 5) in search; here the two are one.
    """
    chosen_P, rejected_P = chosen_P.float(), rejected_P.float()
    if form == "tanh":
        chosen_P, rejected_P = chosen_P.tanh(), rejected_P.tanh()
    return -functional.logsigmoid(beta * (chosen_P - rejected_P))


def compute_outcome_loss(scores_N: Tensor, is_right_N: Tensor) -> Tensor:
    """Binary cross-entropy [N] of σ(s), the chance that a finished solution is right (Cobbe et al., arXiv 2110.14168)."""
    return functional.binary_cross_entropy_with_logits(scores_N.float(), is_right_N.float(), reduction="none")


def compute_value_loss(scores_N: Tensor, values_N: Tensor) -> Tensor:
    """(tanh s - Q)² [N] for Q in [-1, 1]: regression on the values of the search (PQM in rStar-Math, section 4.3)."""
    return (scores_N.float().tanh() - values_N.float()).square()


@dataclass(frozen=True, slots=True)
class PairwiseReward:
    """The pairwise loss for the loop. A row is a comparison (`data.reward_rows`): all its chosen continuations are
    compared with all its rejected ones."""

    form: ComparisonForm
    beta: float
    keeps_rows = True

    def compute_total(self, rows: Sequence[Row]) -> float:
        return float(sum(count_row_pairs(row) for row in rows))

    def compute(self, scores_M1: Tensor, microbatch: Microbatch) -> LossSums:
        scores_M = scores_M1[:, 0]
        chosen_at_P, rejected_at_P = list_pairs(microbatch)
        chosen_P, rejected_P = scores_M[chosen_at_P], scores_M[rejected_at_P]
        loss = compute_pairwise_loss(chosen_P, rejected_P, form=self.form, beta=self.beta).sum()
        margins_P = (chosen_P - rejected_P).detach().float()
        facts = {
            "chosen_score": chosen_P.detach().float().sum(),
            "rejected_score": rejected_P.detach().float().sum(),
            "margin": margins_P.sum(),
            "accuracy": (margins_P > 0).float().sum(),
        }
        return LossSums(loss, loss.detach(), facts)


def count_row_pairs(row: Row) -> int:
    """Pairs of a comparison's row."""
    num_chosen = int(sum(row.columns[IS_CHOSEN]))
    return num_chosen * (int(sum(row.loss_weights)) - num_chosen)


def list_pairs(microbatch: Microbatch) -> tuple[Tensor, Tensor]:
    """For each pair of a microbatch the places of its chosen and of its rejected score among M, [P] each."""
    is_chosen_M = microbatch.columns_M[IS_CHOSEN] > 0
    row_M = torch.from_numpy(microbatch.places_2M[0]).to(is_chosen_M.device)
    is_pair_MM = (row_M[:, None] == row_M) & is_chosen_M[:, None] & ~is_chosen_M
    chosen_at_P, rejected_at_P = is_pair_MM.nonzero(as_tuple=True)
    return chosen_at_P, rejected_at_P


@dataclass(frozen=True, slots=True)
class OutcomeReward:
    """Binary cross-entropy for the loop, on whole solutions; `accuracy` is of s > 0 meaning right."""

    keeps_rows = False

    def compute_total(self, rows: Sequence[Row]) -> float:
        return sum(sum(row.loss_weights) for row in rows)

    def compute(self, scores_M1: Tensor, microbatch: Microbatch) -> LossSums:
        scores_M, is_right_M = scores_M1[:, 0], microbatch.columns_M[TARGET]
        loss = compute_outcome_loss(scores_M, is_right_M).sum()
        is_said_right_M = (scores_M.detach() > 0).float()
        return LossSums(loss, loss.detach(), {"accuracy": (is_said_right_M == is_right_M).float().sum()})


@dataclass(frozen=True, slots=True)
class ValueReward:
    """Squared error on Q values for the loop."""

    keeps_rows = False

    def compute_total(self, rows: Sequence[Row]) -> float:
        return sum(sum(row.loss_weights) for row in rows)

    def compute(self, scores_M1: Tensor, microbatch: Microbatch) -> LossSums:
        loss = compute_value_loss(scores_M1[:, 0], microbatch.columns_M[TARGET]).sum()
        return LossSums(loss, loss.detach())
