"""The token loss against a float64 reference."""

import pytest
import torch
from torch import Tensor

from ponderosa.training.losses import compute_logprobs, compute_token_loss


def compute_reference(
    logits_MV: Tensor, targets_M: Tensor, weights_M: Tensor, z_loss_weight: float
) -> Tensor:
    log_z_M = logits_MV.double().exp().sum(-1).log()
    nll_M = log_z_M - logits_MV.double()[torch.arange(len(targets_M)), targets_M]
    return (weights_M.double() * (nll_M + z_loss_weight * log_z_M**2)).sum()


@pytest.mark.parametrize("z_loss_weight", [0.0, 0.1])
def test_loss_and_gradient_match_a_float64_reference(z_loss_weight: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits_MV = torch.randn(7, 11, generator=generator).mul(3).requires_grad_()
    targets_M = torch.randint(11, (7,), generator=generator)
    weights_M = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0, 0.0, 0.25])

    objective, nll = compute_token_loss(logits_MV, targets_M, weights_M, z_loss_weight=z_loss_weight)
    (grad_MV,) = torch.autograd.grad(objective, logits_MV)

    expected = compute_reference(logits_MV, targets_M, weights_M, z_loss_weight)
    (expected_grad_MV,) = torch.autograd.grad(expected, logits_MV)
    assert objective.item() == pytest.approx(expected.item(), abs=1e-5)
    assert nll.item() == pytest.approx(
        compute_reference(logits_MV, targets_M, weights_M, 0.0).item(), abs=1e-5
    )
    torch.testing.assert_close(grad_MV, expected_grad_MV, atol=1e-6, rtol=1e-5)


def test_certain_and_impossible_targets_have_exact_losses() -> None:
    logits_MV = torch.tensor([[0.0, -200.0], [0.0, -200.0]])
    _, nll = compute_token_loss(logits_MV[:1], torch.tensor([0]), torch.ones(1))
    assert nll.item() == 0.0
    _, nll = compute_token_loss(logits_MV[1:], torch.tensor([1]), torch.ones(1))
    assert nll.item() == 200.0


def test_an_infinite_logit_without_weight_leaves_loss_and_gradient_finite() -> None:
    logits_MV = torch.tensor([[0.0, 1.0], [torch.inf, 0.0], [torch.nan, 0.0]], requires_grad=True)
    objective, _ = compute_token_loss(
        logits_MV, torch.tensor([0, 1, 1]), torch.tensor([1.0, 0.0, 0.0]), z_loss_weight=0.1
    )
    (grad_MV,) = torch.autograd.grad(objective, logits_MV)
    assert objective.isfinite()
    assert grad_MV[0].isfinite().all()
    assert (grad_MV[1:] == 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_and_their_gradient_are_those_of_log_softmax(temperature: float) -> None:
    torch.manual_seed(0)
    logits_MV = (3 * torch.randn(7, 11)).requires_grad_()
    targets_M = torch.arange(7)
    scores = compute_logprobs(logits_MV, targets_M, temperature=temperature)
    expected_MV = (logits_MV.double() / temperature).log_softmax(-1)
    expected_M = expected_MV.gather(1, targets_M[:, None])[:, 0]
    torch.testing.assert_close(scores.logprobs.double(), expected_M, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        scores.entropies.double(), -(expected_MV.exp() * expected_MV).sum(-1), atol=1e-5, rtol=1e-5
    )
    factors_M = torch.linspace(-1, 2, 7)
    (gradient,) = torch.autograd.grad((scores.logprobs * factors_M).sum(), logits_MV)
    (expected,) = torch.autograd.grad((expected_M * factors_M).sum(), logits_MV)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-5)


def test_an_impossible_token_leaves_entropy_and_gradient_finite() -> None:
    logits_MV = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    scores = compute_logprobs(logits_MV, torch.tensor([1]))
    (gradient,) = torch.autograd.grad(scores.logprobs.sum(), logits_MV)
    assert torch.isfinite(scores.entropies).all()
    assert torch.isfinite(gradient).all()
