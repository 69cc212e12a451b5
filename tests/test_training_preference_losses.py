"""Preference losses against TRL's own code, float64 references and cases worked by hand."""

import importlib.util
import math
import warnings
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ponderosa.training.preference_losses import (
    compute_chosen_loss,
    compute_dpo_loss,
    compute_implicit_rewards,
    compute_kto_loss,
    estimate_kl_baseline,
)

needs_trl = pytest.mark.skipif(
    importlib.util.find_spec("trl") is None, reason="trl is not installed: pip install 'ponderosa[bench]'"
)
LENGTH = 5


def draw_logprobs(*shape: int, seed: int = 0) -> Tensor:
    """Log-probabilities of single tokens."""
    return -3 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# TRL


class FakeAccelerator:
    """One process, so gathering is doing nothing."""

    device = torch.device("cpu")

    def gather(self, values: Tensor) -> Tensor:
        return values

    gather_for_metrics = gather


class FakeModel:
    """Gives out log-probabilities per token it was told, whatever it is asked: first call, second call, …"""

    training = True

    def __init__(self, *answers: Tensor) -> None:
        self.answers = list(answers)

    def __call__(self, **_: Any) -> Any:
        logprobs_NT = self.answers.pop(0)
        zeros_NT = torch.zeros_like(logprobs_NT)
        return SimpleNamespace(
            log_probs=logprobs_NT, entropy=zeros_NT, mean_logits=zeros_NT, is_top1=zeros_NT.bool()
        )


class Metrics(dict[str, Any]):
    def __missing__(self, key: str) -> Any:
        return self.setdefault(key, [])


def build_inputs(num_sequences: int) -> dict[str, Tensor]:
    """A prompt of one token and LENGTH more, all of them sampled."""
    shape = (num_sequences, LENGTH + 1)
    mask = torch.ones(shape, dtype=torch.long)
    mask[:, 0] = 0
    return {
        "input_ids": torch.ones(shape, dtype=torch.long),
        "attention_mask": torch.ones(shape, dtype=torch.long),
        "completion_mask": mask,
    }


def compute_trl_dpo(
    logprobs_NT: Tensor,
    reference_NT: Tensor,
    loss_types: Sequence[str],
    weights: Sequence[float],
    **options: Any,
) -> Tensor:
    """What DPOTrainer makes of these log-probabilities, chosen in the first half and rejected in the second."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl import DPOTrainer

    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=FakeAccelerator(),
        precompute_ref_logps=True,
        loss_types=loss_types,
        loss_weights=weights,
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        use_weighting=False,
        aux_loss_enabled=False,
        _metrics={"train": Metrics()},
        _total_train_tokens=0,
        _tp_size=1,
        **{"label_smoothing": 0.0, **options},
    )
    reference_chosen_P, reference_rejected_P = reference_NT.sum(1).chunk(2)
    inputs = build_inputs(len(logprobs_NT)) | {
        "ref_chosen_logps": reference_chosen_P,
        "ref_rejected_logps": reference_rejected_P,
    }
    loss: Tensor = DPOTrainer._compute_loss(trainer, FakeModel(logprobs_NT), inputs, return_outputs=False)
    return loss


def compute_trl_kto(
    logprobs_NT: Tensor,
    reference_NT: Tensor,
    mismatched_NT: Tensor,
    reference_mismatched_NT: Tensor,
    labels_N: Tensor,
    **options: Any,
) -> Tensor:
    """What KTOTrainer makes of these log-probabilities."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl import KTOTrainer

    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=FakeAccelerator(),
        precompute_ref_logps=True,
        calculate_KL=True,
        loss_type="kto",
        aux_loss_enabled=False,
        _metrics={"train": Metrics()},
        _total_train_tokens=0,
        _tp_size=1,
        **options,
    )
    trainer._compute_kl_logps = lambda model, batch: KTOTrainer._compute_kl_logps(trainer, model, batch)
    inputs = build_inputs(len(logprobs_NT))
    inputs |= {f"KL_{name}": tensor for name, tensor in inputs.items()} | {
        "label": labels_N,
        "ref_logps": reference_NT.sum(1),
        "ref_KL_logps": reference_mismatched_NT.sum(1),
    }
    model = FakeModel(mismatched_NT, logprobs_NT)
    loss: Tensor = KTOTrainer._compute_loss(trainer, model, inputs, return_outputs=False)
    return loss


def compute_both(
    compute: Any, *, num_pairs: int = 6, beta: float, label_smoothing: float = 0.0, sft_weight: float = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Our mean loss and gradient, and those of `compute(logprobs, reference)`, on the same drawn numbers."""
    logprobs_NT = draw_logprobs(2 * num_pairs, LENGTH, seed=1).requires_grad_()
    reference_NT = draw_logprobs(2 * num_pairs, LENGTH, seed=2)
    chosen_P, rejected_P = logprobs_NT.sum(1).chunk(2)
    reference_chosen_P, reference_rejected_P = reference_NT.sum(1).chunk(2)
    losses_P = compute_dpo_loss(
        chosen_P,
        rejected_P,
        reference_chosen_P,
        reference_rejected_P,
        beta=beta,
        label_smoothing=label_smoothing,
    ) + sft_weight * compute_chosen_loss(chosen_P, torch.full_like(chosen_P, LENGTH))
    ours, theirs = losses_P.mean(), compute(logprobs_NT, reference_NT)
    (our_gradient,) = torch.autograd.grad(ours, logprobs_NT, retain_graph=True)
    (their_gradient,) = torch.autograd.grad(theirs, logprobs_NT)
    return ours, theirs, our_gradient, their_gradient


@needs_trl
@pytest.mark.parametrize("beta", [0.05, 0.5, 4.0])
def test_the_sigmoid_loss_and_its_gradient_are_trls(beta: float) -> None:
    ours, theirs, our_gradient, their_gradient = compute_both(
        lambda policy, reference: compute_trl_dpo(policy, reference, ["sigmoid"], [1.0], beta=beta), beta=beta
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(our_gradient, their_gradient, atol=1e-5, rtol=1e-5)


@needs_trl
def test_the_likelihood_term_is_trls_where_the_chosen_are_equally_long() -> None:
    ours, theirs, our_gradient, their_gradient = compute_both(
        lambda policy, reference: compute_trl_dpo(
            policy, reference, ["sigmoid", "sft"], [1.0, 0.3], beta=0.1
        ),
        beta=0.1,
        sft_weight=0.3,
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(our_gradient, their_gradient, atol=1e-5, rtol=1e-5)


@needs_trl
def test_label_smoothing_is_trls_on_one_pair() -> None:
    """TRL smooths in its `aot` loss, which for a single pair is the sigmoid loss."""
    ours, theirs, our_gradient, their_gradient = compute_both(
        lambda policy, reference: compute_trl_dpo(
            policy, reference, ["aot"], [1.0], beta=0.3, label_smoothing=0.2
        ),
        num_pairs=1,
        beta=0.3,
        label_smoothing=0.2,
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(our_gradient, their_gradient, atol=1e-5, rtol=1e-5)


@needs_trl
@pytest.mark.parametrize("shift", [2.0, -2.0])
def test_the_kto_loss_its_baseline_and_its_gradient_are_trls(shift: float) -> None:
    """shift: of the policy on mismatched examples; below 0 the baseline is clamped."""
    logprobs_NT = draw_logprobs(7, LENGTH, seed=1).requires_grad_()
    reference_NT = draw_logprobs(7, LENGTH, seed=2)
    reference_mismatched_NT = draw_logprobs(7, LENGTH, seed=3)
    mismatched_NT = reference_mismatched_NT + shift
    is_desirable_N = torch.tensor([True, False, True, True, False, False, True])
    weights = {"beta": 0.2, "desirable_weight": 1.3, "undesirable_weight": 0.7}

    baseline = estimate_kl_baseline(mismatched_NT.sum(1), reference_mismatched_NT.sum(1))
    ours = compute_kto_loss(
        logprobs_NT.sum(1), reference_NT.sum(1), is_desirable_N, baseline, **weights
    ).mean()
    theirs = compute_trl_kto(
        logprobs_NT, reference_NT, mismatched_NT, reference_mismatched_NT, is_desirable_N, **weights
    )

    assert baseline.item() == pytest.approx(max(0.0, shift * LENGTH), rel=1e-5)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    (our_gradient,) = torch.autograd.grad(ours, logprobs_NT, retain_graph=True)
    (their_gradient,) = torch.autograd.grad(theirs, logprobs_NT)
    torch.testing.assert_close(our_gradient, their_gradient, atol=1e-5, rtol=1e-5)


# By hand


def compute_one(chosen: float, rejected: float, *references: float, **options: float) -> float:
    tensors = [torch.tensor([value]) for value in (chosen, rejected, *(references or (0.0, 0.0)))]
    return compute_dpo_loss(*tensors, **{"beta": 1.0, **options}).item()  # type: ignore[arg-type]


def test_dpo_by_hand() -> None:
    assert compute_one(-5.0, -9.0, -5.0, -9.0, beta=0.7) == pytest.approx(math.log(2))
    # The policy gained log 3 on the chosen: odds 3 to 1.
    assert compute_one(math.log(3), 0.0) == pytest.approx(math.log(4 / 3))
    assert compute_one(0.0, math.log(3)) == pytest.approx(math.log(4))
    # Right side with weight 3/4, wrong side with 1/4.
    smoothed = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert compute_one(math.log(3), 0.0, label_smoothing=0.25) == pytest.approx(smoothed)


def test_label_smoothing_stops_margins_at_the_log_odds_of_a_right_label() -> None:
    chosen = torch.tensor([math.log(0.9 / 0.1)], requires_grad=True)
    zero = torch.zeros(1)
    compute_dpo_loss(chosen, zero, zero, zero, beta=1.0, label_smoothing=0.1).sum().backward()
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(0.0, abs=1e-7)


def test_kto_by_hand() -> None:
    log_ratios_N = torch.tensor([math.log(3), math.log(3), 0.0, 0.0])
    is_desirable_N = torch.tensor([True, False, True, False])
    losses_N = compute_kto_loss(
        log_ratios_N,
        torch.zeros(4),
        is_desirable_N,
        torch.tensor(math.log(3)),
        beta=1.0,
        desirable_weight=2.0,
        undesirable_weight=4.0,
    )
    assert losses_N.tolist() == pytest.approx([1.0, 2.0, 1.5, 1.0])


def test_the_baseline_is_the_mean_log_ratio_or_nothing_and_has_no_gradient() -> None:
    policy = torch.tensor([-1.0, -4.0], requires_grad=True)
    assert estimate_kl_baseline(policy, torch.tensor([-3.0, -5.0])).item() == 1.5
    assert estimate_kl_baseline(policy, torch.tensor([0.0, 0.0])).item() == 0.0
    assert not estimate_kl_baseline(policy, torch.zeros(2)).requires_grad


def test_implicit_rewards_and_the_chosen_likelihood_by_hand() -> None:
    rewards = compute_implicit_rewards(torch.tensor([-1.0, -2.0]), torch.tensor([-3.0, -1.0]), beta=0.5)
    assert rewards.tolist() == [1.0, -0.5]
    assert compute_chosen_loss(torch.tensor([-6.0, -1.0]), torch.tensor([3, 4])).tolist() == [2.0, 0.25]


# Extremes


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_losses_and_gradients_stay_finite_at_any_margin(label_smoothing: float) -> None:
    chosen_P = torch.tensor([-1e4, 0.0, -50.0], requires_grad=True)
    rejected_P = torch.tensor([0.0, -1e4, -50.0])
    zero_P = torch.zeros(3)
    losses_P = compute_dpo_loss(
        chosen_P, rejected_P, zero_P, zero_P, beta=1.0, label_smoothing=label_smoothing
    )
    (gradient_P,) = torch.autograd.grad(losses_P.sum(), chosen_P)
    assert losses_P[0].item() == pytest.approx(1e4 * (1 - label_smoothing))
    assert losses_P[1].item() == pytest.approx(1e4 * label_smoothing)
    assert gradient_P.tolist() == pytest.approx([label_smoothing - 1, label_smoothing, label_smoothing - 0.5])


def test_a_saturated_kto_example_has_no_loss_or_all_of_it() -> None:
    log_ratios_N = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    is_desirable_N = torch.tensor([True, True, False, False])
    losses_N = compute_kto_loss(log_ratios_N, torch.zeros(4), is_desirable_N, torch.tensor(0.0), beta=1.0)
    (gradient_N,) = torch.autograd.grad(losses_N.sum(), log_ratios_N)
    assert losses_N.tolist() == [0.0, 1.0, 1.0, 0.0]
    assert gradient_N.tolist() == [0.0] * 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_losses_are_float32_whatever_comes_in(dtype: torch.dtype) -> None:
    ones = torch.ones(2, dtype=dtype)
    assert compute_dpo_loss(ones, ones, ones, ones, beta=1.0).dtype == torch.float32
    assert compute_kto_loss(ones, ones, ones > 0, ones[0], beta=1.0).dtype == torch.float32
    assert compute_chosen_loss(ones, ones).dtype == torch.float32


# float64


def test_losses_are_those_of_their_formulas_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    columns = [300 * torch.rand(64, generator=generator, dtype=torch.float64) - 350 for _ in range(4)]
    chosen_P, rejected_P, reference_chosen_P, reference_rejected_P = columns
    singles = [column.float() for column in columns]
    margins_P = 0.1 * ((chosen_P - reference_chosen_P) - (rejected_P - reference_rejected_P))
    expected_P = -(0.9 * torch.sigmoid(margins_P).log() + 0.1 * torch.sigmoid(-margins_P).log())
    losses_P = compute_dpo_loss(*singles, beta=0.1, label_smoothing=0.1)
    torch.testing.assert_close(losses_P.double(), expected_P, atol=1e-4, rtol=1e-4)

    is_desirable_N = torch.arange(64) % 2 == 0
    above_N = 0.1 * (chosen_P - reference_chosen_P) - 0.1 * 3.0
    value_N = torch.where(is_desirable_N, torch.sigmoid(above_N), torch.sigmoid(-above_N))
    weight_N = torch.where(is_desirable_N, 1.5, 0.5).double()
    losses_N = compute_kto_loss(
        singles[0],
        singles[2],
        is_desirable_N,
        torch.tensor(3.0),
        beta=0.1,
        desirable_weight=1.5,
        undesirable_weight=0.5,
    )
    torch.testing.assert_close(losses_N.double(), weight_N - weight_N * value_N, atol=1e-4, rtol=1e-4)
