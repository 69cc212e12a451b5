"""Optimizers and schedules."""

import copy
from itertools import pairwise

import pytest
import torch

from ponderosa.errors import DataError
from ponderosa.training.optim import (
    Optimizer,
    OptimizerConfig,
    ScheduleConfig,
    compute_lr_frac,
    orthogonalize,
    select_hidden_matrices,
)
from tiny_training import build_tiny_model


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 24), (2, 24, 8)])
def test_orthogonalized_matrices_keep_their_directions_with_singular_values_near_one(
    shape: tuple[int, ...],
) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 7
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    result = orthogonalize(matrices)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.5
    assert values.max() < 1.3
    overlap = (result * (u @ vh)).sum((-2, -1)) / (result.norm(dim=(-2, -1)) * (u @ vh).norm(dim=(-2, -1)))
    assert overlap.min() > 0.95


def test_a_zero_matrix_stays_zero() -> None:
    assert (orthogonalize(torch.zeros(1, 4, 4)) == 0).all()


def test_adamw_takes_the_steps_of_torch_adamw() -> None:
    model = build_tiny_model()
    reference = copy.deepcopy(model)
    config = OptimizerConfig(name="adamw", learning_rate=0.01)
    optimizer = Optimizer(model, config)
    expected = torch.optim.AdamW(reference.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(3):
        for mine, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            torch.manual_seed(step)
            mine.grad = torch.randn_like(mine)
            theirs.grad = mine.grad.clone()
        optimizer.step(1.0)
        expected.step()
    for mine, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_weight_decay_shrinks_hidden_matrices_and_leaves_norms_and_embeddings() -> None:
    model = build_tiny_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for name in ("adamw", "muon"):
        Optimizer(model, OptimizerConfig(name=name, weight_decay=0.5)).step(1.0)
    hidden = select_hidden_matrices(model)
    for name, parameter in model.named_parameters():
        is_shrunk = parameter.norm() < before[name].norm()
        assert is_shrunk == (name in hidden)


def test_muon_moves_hidden_matrices_only_and_adamw_the_rest() -> None:
    model = build_tiny_model()
    names = {name.removeprefix("muon.momentum.") for name in Optimizer(model, OptimizerConfig()).state()}
    hidden = {name for name in names if not name.startswith("adamw.")}
    assert hidden == set(select_hidden_matrices(model))
    assert not any("embed" in name or "norm" in name for name in hidden)


def test_state_of_another_optimizer_is_refused() -> None:
    model = build_tiny_model()
    state = Optimizer(model, OptimizerConfig(name="adamw")).state()
    with pytest.raises(DataError, match="another model or optimizer"):
        Optimizer(model, OptimizerConfig(name="muon")).load_state(state)


def test_wsd_rises_stays_and_falls_to_its_end() -> None:
    schedule = ScheduleConfig(warmup_frac=0.1, decay_frac=0.2, final_frac=0.1)
    shape = [compute_lr_frac(schedule, step, 100) for step in range(100)]
    assert shape[0] == pytest.approx(0.1)
    assert shape[9] == 1.0
    assert shape[10:80] == [1.0] * 70
    assert all(later < earlier for earlier, later in pairwise(shape[79:]))
    assert shape[89] == pytest.approx(0.55)
    assert shape[-1] == pytest.approx(0.1)


def test_cosine_falls_from_the_peak_and_constant_never_falls() -> None:
    cosine = [
        compute_lr_frac(ScheduleConfig(name="cosine", warmup_frac=0.0), step, 101) for step in range(101)
    ]
    assert cosine[0] == 1.0
    assert cosine[50] == pytest.approx(0.5, abs=0.01)
    assert cosine[-1] < 0.001
    constant = ScheduleConfig(name="constant", warmup_frac=0.0)
    assert {compute_lr_frac(constant, step, 10) for step in range(10)} == {1.0}
