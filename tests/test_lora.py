"""Low-rank adapters: what they leave alone, what they add, what moves when they are trained, and what that costs."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from engine_models import ARCHITECTURES, draw_prompts
from engine_models import build_tiny_model as build_policy
from ponderosa.data.packing import build_batches
from ponderosa.errors import DataError
from ponderosa.ledger import compute_train_flops
from ponderosa.lora import LoraLinear, find_linears, find_trained
from ponderosa.training.checkpoints import CHECKPOINT_FILE
from ponderosa.training.loop import FixedBatches, TrainConfig, TrainResult, train
from ponderosa.training.optim import OptimizerConfig
from ponderosa.training.output_head import build_reward_model, build_shared_reward_model
from test_training_reward import plant_rule, score
from tiny_training import build_tiny_model

RANK = 3
CONFIG = TrainConfig(optimizer=OptimizerConfig(name="adamw", learning_rate=1e-2), dtype="float32")


def share(policy: PreTrainedModel, rank: int = RANK) -> PreTrainedModel:
    return build_shared_reward_model(policy, rank=rank, alpha=6.0, pad_token_id=0, seed=0)


def read(model: PreTrainedModel) -> Tensor:
    """Scores as transformers gives them."""
    with torch.no_grad():
        return torch.cat([model(torch.tensor([ids])).logits for ids in draw_prompts(5)])


def copy_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def train_tiny(model: PreTrainedModel, folder: Path) -> TrainResult:
    loss, rows = plant_rule("q_regression")
    source = FixedBatches(build_batches(rows[:110], tokens_per_step=160, seed=0, epochs=5))
    return train(model, source, CONFIG, loss=loss, folder=folder, seed=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_new_adapters_on_every_linear_layer_leave_the_scores_of_the_bare_head(architecture: str) -> None:
    policy = build_policy(architecture)
    adapted, bare = share(policy), share(policy, rank=0)
    separate = build_reward_model(policy, pad_token_id=0, seed=0)
    assert torch.equal(read(adapted), read(bare))
    torch.testing.assert_close(read(bare), read(separate), atol=1e-6, rtol=0)
    found = [module for module in adapted.modules() if isinstance(module, LoraLinear)]
    assert len(found) == len(find_linears(policy.get_decoder())) >= 2 * 4
    assert find_trained(bare).keys() == {"score.weight"}


def test_adapters_are_drawn_by_the_seed_alone_within_the_bound_of_the_reference_implementation() -> None:
    policy = build_tiny_model()
    with torch.random.fork_rng():
        before = torch.get_rng_state()
        one, same = find_trained(share(policy)), find_trained(share(policy))
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    for name, weight in one.items():
        if ".lora_A." in name:
            bound = weight.shape[1] ** -0.5
            assert 0.8 * bound < weight.abs().max() <= bound


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("architecture", ["qwen3", "phi3"])
def test_an_adapter_scores_as_a_stock_classifier_with_its_weights_added_up(
    architecture: str, dtype: torch.dtype, tolerance: float
) -> None:
    """W + (alpha / r) B A; the paper's equation 3."""
    policy = build_policy(architecture).to(dtype)
    adapted, stock = share(policy), build_reward_model(policy, pad_token_id=0, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in (adapted, stock):
            module.score.weight.mul_(300)
        for name, module in adapted.named_modules():
            if isinstance(module, LoraLinear):
                up, down = module.lora_B.weight, module.lora_A.weight
                up.copy_(0.1 * torch.randn(up.shape, generator=generator))
                stock.get_submodule(name).weight.add_(6.0 / RANK * (up @ down))
    assert not torch.allclose(read(adapted), 300 * read(share(policy)), atol=1e-2)
    torch.testing.assert_close(read(adapted), read(stock), atol=tolerance, rtol=tolerance)


def test_training_moves_adapters_and_head_and_not_a_bit_of_the_policy(tmp_path: Path) -> None:
    policy = build_tiny_model()
    before = copy_tensors(policy)
    model = share(policy)
    drawn = copy_tensors(model)
    train_tiny(model, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())
    assert all(parameter.requires_grad for parameter in policy.parameters())
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, drawn[name])}
    assert moved == find_trained(model).keys()
    assert {name.rpartition(".lora_")[2] for name in moved} == {"A.weight", "B.weight", "score.weight"}
    with safe_open(tmp_path / CHECKPOINT_FILE, framework="pt") as file:
        saved = set(file.keys())
    kinds = ("model.", "optimizer.adamw.mean.", "optimizer.adamw.square.", "optimizer.adamw.steps.")
    assert saved == {kind + name for kind in kinds for name in moved}


def test_adapters_learn_a_planted_rule_and_fit_it_closer_than_a_bare_head(tmp_path: Path) -> None:
    _, rows = plant_rule("q_regression")
    is_good = torch.arange(110, len(rows)) % 2 == 0
    adapted, bare = share(build_tiny_model()), share(build_tiny_model(), rank=0)
    final = [
        sum(train_tiny(model, tmp_path / name).losses[-10:]) for model, name in ((adapted, "a"), (bare, "b"))
    ]
    scores = torch.tensor(score(adapted, rows[110:]))
    assert (scores[is_good][:, None] > scores[~is_good]).float().mean() > 0.95
    assert final[0] < 0.5 * final[1]


def test_a_frozen_matrix_costs_no_gradient_of_its_own_and_a_bare_head_no_backward_pass(
    tmp_path: Path,
) -> None:
    """Of N frozen and n trained parameters: 4 N + 6 n and three times the attention, or 2 N + 4 n and it once."""
    sizes = {"num_layers": 2, "width": 10, "context": 3.0}
    attention = 4 * 2 * 3 * 10
    assert compute_train_flops(matrix_parameters=107, frozen_parameters=100, **sizes) == (
        4 * 100 + 6 * 7 + 3 * attention
    )
    assert compute_train_flops(
        matrix_parameters=107, frozen_parameters=100, is_decoder_frozen=True, **sizes
    ) == (2 * 100 + 4 * 7 + attention)

    adapted, bare = (
        train_tiny(share(build_tiny_model(), rank), tmp_path / str(rank)).ledger for rank in (RANK, 0)
    )
    policy = build_tiny_model()
    separate = build_reward_model(policy, pad_token_id=0, seed=0)
    whole = train_tiny(separate, tmp_path / "whole").ledger
    matrices = find_linears(policy.get_decoder()).values()
    num_adapter = sum(RANK * (one.in_features + one.out_features) for one in matrices)
    num_frozen = sum(one.weight.numel() for one in matrices)
    tokens = whole.train_tokens
    assert adapted.train_tokens == bare.train_tokens == tokens
    assert adapted.train_flops == pytest.approx(
        whole.train_flops - tokens * 2 * num_frozen + tokens * 6 * num_adapter
    )
    assert bare.train_flops == pytest.approx((whole.train_flops / 3) + tokens * 2 * 32)


def test_a_decoder_without_linear_layers_is_refused_by_name() -> None:
    policy = build_tiny_model()
    for name in find_linears(policy.get_decoder()):
        parent, _, leaf = name.rpartition(".")
        setattr(policy.get_decoder().get_submodule(parent), leaf, nn.Identity())
    with pytest.raises(DataError, match="no linear layers that could be adapted"):
        share(policy)
