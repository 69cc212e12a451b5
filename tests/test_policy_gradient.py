"""Policy gradients against TRL's GRPOTrainer, float64 references and numbers worked out by hand."""

import importlib.util
import math
import statistics
import warnings
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ponderosa.errors import ConfigError
from ponderosa.training.policy_gradient import (
    PRESETS,
    PolicyGradientConfig,
    PolicyTokens,
    compute_advantages,
    compute_policy_loss,
    compute_token_weights,
    get_preset,
)

LENGTHS = [5, 1, 7, 3, 6, 2]
MAX_TOKENS = 9


class Step(NamedTuple):
    """An optimizer step's tokens (M), and the same padded to a batch of completions [D, T]."""

    logprobs_M: Tensor
    tokens: PolicyTokens
    mask_DT: Tensor
    advantages_D: Tensor


def draw_step(
    config: PolicyGradientConfig, *, spread: float = 0.3, dtype: torch.dtype = torch.float32
) -> Step:
    generator = torch.Generator().manual_seed(3)
    lengths_D = torch.tensor(LENGTHS)
    num_tokens = sum(LENGTHS)

    def draw() -> Tensor:
        return -torch.rand(num_tokens, generator=generator, dtype=torch.float64).mul(3)

    def near(values_M: Tensor) -> Tensor:
        return values_M + spread * torch.randn(num_tokens, generator=generator, dtype=torch.float64)

    old_M = draw()
    advantages_D = torch.tensor([1.2, -0.7, -1.1, 0.4, 0.0, 0.9], dtype=torch.float64)
    weights_D = compute_token_weights(LENGTHS, config, max_tokens=MAX_TOKENS)
    completions_M = torch.repeat_interleave(torch.arange(len(LENGTHS)), lengths_D)
    tokens = PolicyTokens(
        old_logprobs=old_M.to(dtype),
        advantages=advantages_D[completions_M].to(dtype),
        weights=torch.tensor(weights_D, dtype=torch.float64)[completions_M].to(dtype),
        completions=completions_M,
        sampling_logprobs=near(old_M).to(dtype),
        reference_logprobs=near(old_M).to(dtype),
    )
    mask_DT = torch.arange(max(LENGTHS))[None] < lengths_D[:, None]
    logprobs_M = near(old_M).to(dtype).requires_grad_()
    return Step(logprobs_M, tokens, mask_DT, advantages_D.to(dtype))


def select(tokens: PolicyTokens, places_M: Tensor) -> PolicyTokens:
    """Some of the tokens: a microbatch, its completions numbered anew."""
    fields = {name: getattr(tokens, name)[places_M] for name in PolicyTokens.__slots__}
    return PolicyTokens(**fields | {"completions": fields["completions"].unique(return_inverse=True)[1]})


# Advantages


def test_advantages_are_what_a_hand_computes() -> None:
    rewards = [1.0, 1.0, -1.0, -1.0, -1.0]  # mean -0.2, sample variance 1.2
    plain = get_preset("grpo", divides_by_std=False)
    assert compute_advantages(rewards, plain) == pytest.approx([1.2, 1.2, -0.8, -0.8, -0.8])
    over_std = [value / (math.sqrt(1.2) + 1e-4) for value in (1.2, 1.2, -0.8, -0.8, -0.8)]
    assert compute_advantages(rewards, PRESETS["grpo"]) == pytest.approx(over_std)
    # The others of a right one have mean (1 - 3) / 4, those of a wrong one (2 - 2) / 4.
    assert compute_advantages(rewards, PRESETS["rloo"]) == pytest.approx([1.5, 1.5, -1.0, -1.0, -1.0])


groups = st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=16)
presets = st.sampled_from(sorted(PRESETS))


@given(st.floats(-2, 2), st.integers(1, 33), presets)
@settings(deadline=None)
def test_a_flat_group_has_advantages_of_exactly_zero(reward: float, size: int, preset: str) -> None:
    assert compute_advantages([reward] * size, PRESETS[preset]) == [0.0] * size


@given(groups, presets)
@settings(deadline=None)
def test_advantages_sum_to_zero_and_keep_the_order_of_rewards(rewards: list[float], preset: str) -> None:
    advantages = compute_advantages(rewards, PRESETS[preset])
    assert math.fsum(advantages) == pytest.approx(0.0, abs=1e-9)
    pairs = sorted(zip(rewards, advantages, strict=True))
    assert [advantage for _, advantage in pairs] == sorted(advantages)


@given(groups)
def test_leave_one_out_compares_with_the_mean_of_the_others(rewards: list[float]) -> None:
    advantages = compute_advantages(rewards, PRESETS["rloo"])
    for i, advantage in enumerate(advantages):
        others = rewards[:i] + rewards[i + 1 :]
        assert advantage == pytest.approx(rewards[i] - statistics.fmean(others), abs=1e-9)


# Aggregation


def test_token_weights_are_what_a_hand_computes() -> None:
    lengths = [4, 1, 5]
    assert compute_token_weights(lengths, PRESETS["dapo"], max_tokens=20) == [1 / 10] * 3
    assert compute_token_weights(lengths, PRESETS["grpo"], max_tokens=20) == [1 / 12, 1 / 3, 1 / 15]
    assert compute_token_weights(lengths, PRESETS["dr_grpo"], max_tokens=20) == [1 / 60] * 3


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9))
def test_a_step_has_weight_one_and_an_empty_completion_still_counts(lengths: list[int]) -> None:
    by_token = compute_token_weights(lengths, PRESETS["dapo"], max_tokens=50)
    total = sum(w * n for w, n in zip(by_token, lengths, strict=True))
    assert total == pytest.approx(1.0 if any(lengths) else 0.0)
    by_sequence = compute_token_weights(lengths, PRESETS["grpo"], max_tokens=50)
    total = sum(w * n for w, n in zip(by_sequence, lengths, strict=True))
    assert total == pytest.approx(sum(n > 0 for n in lengths) / len(lengths))


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_cutting_a_step_into_microbatches_changes_neither_loss_nor_gradient(preset: str) -> None:
    config = get_preset(preset, importance_cap=2.0, kl_weight=0.1)
    step = draw_step(config)
    whole, facts = compute_policy_loss(step.logprobs_M, step.tokens, config)
    (grad_M,) = torch.autograd.grad(whole, step.logprobs_M)

    if config.ratio == "sequence":
        parts = [torch.isin(step.tokens.completions, torch.tensor(kept)) for kept in ([1, 4], [0, 2, 3, 5])]
    else:
        parts = [torch.arange(len(grad_M)) % 3 == residue for residue in range(3)]
    losses = [compute_policy_loss(step.logprobs_M[part], select(step.tokens, part), config) for part in parts]
    (grad_of_parts_M,) = torch.autograd.grad(sum(loss.objective for loss in losses), step.logprobs_M)

    torch.testing.assert_close(sum(loss.objective for loss in losses), whole)
    torch.testing.assert_close(grad_of_parts_M, grad_M)
    for name, total in facts.items():
        torch.testing.assert_close(sum(loss.facts[name] for loss in losses), total)


# The loss


def test_a_clipped_loss_is_what_a_hand_computes() -> None:
    ratios = [1.5, 1.5, 0.5, 0.5, 1.1]
    advantages = [1.0, -1.0, 1.0, -1.0, 2.0]
    tokens = PolicyTokens(
        torch.full((5,), -2.0),
        torch.tensor(advantages),
        torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]),
        torch.arange(5),
    )
    logprobs_M = (torch.tensor(ratios).log() - 2.0).requires_grad_()
    loss, facts = compute_policy_loss(logprobs_M, tokens, PRESETS["dapo"])
    # A ratio that went too far the way its advantage points is cut; one that went the other way counts in full.
    expected = [-1.28, 1.5, -0.5, 0.8, -2.2]
    assert loss.item() == pytest.approx(sum(w * v for w, v in zip(range(1, 6), expected, strict=True)))
    (grad_M,) = torch.autograd.grad(loss, logprobs_M)
    assert grad_M.tolist() == pytest.approx([0.0, 3.0, -1.5, 0.0, -11.0])
    assert (facts["clipped_high"], facts["clipped_low"], facts["tokens"]) == (1, 1, 5)
    assert facts["ratio"].item() == pytest.approx(5.1)
    assert not any(total.requires_grad for total in facts.values())
    assert facts["kl_old_k1"].item() == pytest.approx(-sum(map(math.log, ratios)))
    assert facts["kl_old_k3"].item() == pytest.approx(sum(r - 1 - math.log(r) for r in ratios))


def test_a_sequence_ratio_is_the_geometric_mean_and_its_gradient_is_shared_by_the_tokens() -> None:
    config = get_preset("gspo", clip_low=0.5, clip_high=1.0)
    weights_D = compute_token_weights([2, 1], config, max_tokens=5)
    tokens = PolicyTokens(
        torch.zeros(3),
        torch.tensor([3.0, 3.0, 1.0]),
        torch.tensor(weights_D)[[0, 0, 1]],
        torch.tensor([0, 0, 1]),
    )
    logprobs_M = torch.tensor([1.44, 1.0, 0.7]).log().requires_grad_()
    loss, _ = compute_policy_loss(logprobs_M, tokens, config)
    assert loss.item() == pytest.approx(-(1.2 * 3.0 + 0.7) / 2)
    (grad_M,) = torch.autograd.grad(loss, logprobs_M)
    assert grad_M.tolist() == pytest.approx([-1.2 * 3 / 4, -1.2 * 3 / 4, -0.7 / 2])


def test_on_policy_rloo_is_reinforce_with_a_constant_instead_of_lengths() -> None:
    step = draw_step(PRESETS["rloo"], spread=0.0)
    loss, facts = compute_policy_loss(step.logprobs_M, step.tokens, PRESETS["rloo"])
    (grad_M,) = torch.autograd.grad(loss, step.logprobs_M)
    torch.testing.assert_close(grad_M, -step.tokens.advantages / (len(LENGTHS) * MAX_TOKENS))
    assert facts["clipped_low"] == facts["clipped_high"] == facts["kl_old_k3"] == 0


@pytest.mark.parametrize("advantage", [-1.0, 1.0])
@pytest.mark.parametrize("ratio", [0.1, 4.0])
def test_rloo_does_not_clip(advantage: float, ratio: float) -> None:
    tokens = PolicyTokens(
        torch.zeros(1), torch.tensor([advantage]), torch.ones(1), torch.zeros(1, dtype=torch.int64)
    )
    loss, facts = compute_policy_loss(torch.tensor([math.log(ratio)]), tokens, PRESETS["rloo"])
    assert loss.item() == pytest.approx(-ratio * advantage)
    assert facts["clipped_low"] == facts["clipped_high"] == 0


def test_importance_weights_are_cut_at_their_cap_and_leave_the_kl_alone() -> None:
    config = get_preset("dapo", importance_cap=2.0, kl_weight=0.5)
    ratios = torch.tensor([0.5, 1.5, 8.0])  # trainer over engine
    tokens = PolicyTokens(
        old_logprobs=torch.full((3,), -1.0),
        advantages=torch.ones(3),
        weights=torch.ones(3),
        completions=torch.zeros(3, dtype=torch.int64),
        sampling_logprobs=-1.0 - ratios.log(),
        reference_logprobs=torch.full((3,), -1.0 + math.log(2.0)),
    )
    loss, facts = compute_policy_loss(
        torch.full((3,), -1.0), tokens, config, entropies_M=torch.tensor([1.0, 2.0, 4.0])
    )
    kl = 2.0 - 1.0 - math.log(2.0)
    assert loss.item() == pytest.approx(-(0.5 + 1.5 + 2.0) + 0.5 * 3 * kl)
    assert facts["importance"].item() == pytest.approx(4.0)
    assert facts["importance_capped"] == 1
    assert facts["engine_gap"].item() == pytest.approx(math.log(2) + math.log(1.5) + math.log(8))
    assert facts["kl_reference"].item() == pytest.approx(3 * kl)
    assert facts["entropy"] == 7


CONFIGS = {
    **PRESETS,
    "everything": get_preset("dapo", importance_cap=1.3, kl_weight=0.2),
    "gspo_everything": get_preset("gspo", importance_cap=1.3, kl_weight=0.2, clip_low=0.05, clip_high=0.1),
}


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_float32_agrees_with_float64_in_loss_and_gradient(name: str) -> None:
    results = []
    for dtype in (torch.float32, torch.float64):
        step = draw_step(CONFIGS[name], dtype=dtype)
        loss = compute_policy_loss(step.logprobs_M, step.tokens, CONFIGS[name]).objective
        results.append((loss.double(), torch.autograd.grad(loss, step.logprobs_M)[0].double()))
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    step = draw_step(CONFIGS[name], dtype=torch.float64)

    def compute(logprobs_M: Tensor) -> Tensor:
        return compute_policy_loss(logprobs_M, step.tokens, CONFIGS[name]).objective

    assert torch.autograd.gradcheck(compute, (step.logprobs_M,), eps=1e-7)


@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize("logprob", [0.0, -1e-3, -90.0, -1e4, -math.inf])
@pytest.mark.parametrize("old_logprob", [0.0, -90.0, -1e4])
def test_extreme_log_ratios_give_neither_nan_nor_infinity(
    name: str, logprob: float, old_logprob: float
) -> None:
    for advantage in (-1.0, 0.0, 1.0):
        tokens = PolicyTokens(
            old_logprobs=torch.full((4,), old_logprob),
            advantages=torch.full((4,), advantage),
            weights=torch.full((4,), 0.25),
            completions=torch.tensor([0, 0, 1, 1]),
            sampling_logprobs=torch.full((4,), -50.0),
            reference_logprobs=torch.full((4,), -70.0),
        )
        logprobs_M = torch.tensor([logprob, -1.0, logprob, logprob], requires_grad=True)
        loss, facts = compute_policy_loss(logprobs_M, tokens, CONFIGS[name])
        (grad_M,) = torch.autograd.grad(loss, logprobs_M)
        assert loss.isfinite()
        assert grad_M.isfinite().all()
        assert all(value.isfinite() for value in facts.values())


def test_a_microbatch_without_tokens_has_a_loss_of_zero() -> None:
    nothing = torch.zeros(0)
    tokens = PolicyTokens(nothing, nothing, nothing, torch.zeros(0, dtype=torch.int64))
    for config in PRESETS.values():
        assert compute_policy_loss(nothing, tokens, config).objective == 0


def test_presets_are_changed_by_name_and_mistakes_are_explained() -> None:
    assert get_preset("dapo", clip_high=0.25).clip_high == 0.25
    with pytest.raises(ConfigError, match="did you mean 'dapo'"):
        get_preset("dappo")
    with pytest.raises(ConfigError, match="did you mean 'clip_high'"):
        get_preset("dapo", clip_hi=0.25)


# TRL as the oracle


class Accelerator:
    """One process."""

    num_processes = 1

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor

    def reduce(self, tensor: Tensor, reduction: str) -> Tensor:
        return tensor


@pytest.fixture(scope="module")
def compute_trl_loss() -> Callable[..., Tensor]:
    """GRPOTrainer's own loss, on given log-probabilities instead of a model."""
    if importlib.util.find_spec("trl") is None:
        pytest.skip("trl is not installed: pip install 'ponderosa[dev]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl import GRPOTrainer

    def compute(step: Step, config: PolicyGradientConfig, loss_type: str) -> Tensor:
        def pad(values_M: Tensor) -> Tensor:
            return torch.zeros(step.mask_DT.shape).masked_scatter(step.mask_DT, values_M)

        tokens = step.tokens
        assert tokens.sampling_logprobs is not None
        assert tokens.reference_logprobs is not None
        importance_M = (tokens.old_logprobs - tokens.sampling_logprobs).exp()
        inputs = {
            "prompt_ids": torch.zeros(len(LENGTHS), 0),
            "prompt_mask": torch.zeros(len(LENGTHS), 0),
            "completion_ids": torch.zeros(step.mask_DT.shape),
            "completion_mask": step.mask_DT.float(),
            "advantages": step.advantages_D,
            "old_per_token_logps": pad(tokens.old_logprobs),
            "ref_per_token_logps": pad(tokens.reference_logprobs),
            "importance_sampling_ratio": pad(importance_M.clamp(max=config.importance_cap or math.inf)),
            "num_items_in_batch": step.mask_DT.sum(),
        }
        entropies_DT = torch.zeros(step.mask_DT.shape)
        trainer: Any = SimpleNamespace(
            _get_per_token_logps_and_entropies=lambda *_, **__: (pad(step.logprobs_M), entropies_DT, None),
            loss_type=loss_type,
            importance_sampling_level=config.ratio,
            epsilon_low=config.clip_low,
            epsilon_high=config.clip_high,
            beta=config.kl_weight,
            max_completion_length=MAX_TOKENS,
            use_vllm=config.importance_cap is not None,
            vllm_importance_sampling_correction=True,
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            aux_loss_enabled=False,
            _entropy_bonus_enabled=False,
            args=SimpleNamespace(delta=None, use_bias_correction_kl=False),
            model=SimpleNamespace(training=False),
            accelerator=Accelerator(),
            _metrics=defaultdict(lambda: defaultdict(list)),
        )
        return GRPOTrainer._compute_loss(trainer, None, inputs)

    return compute


@pytest.mark.parametrize("kl_weight", [0.0, 0.04])
@pytest.mark.parametrize("importance_cap", [None, 1.2])
@pytest.mark.parametrize(
    ("preset", "loss_type"), [("grpo", "grpo"), ("dr_grpo", "dr_grpo"), ("dapo", "dapo"), ("gspo", "grpo")]
)
@pytest.mark.parametrize("clip", [None, (0.1, 0.15)])
def test_loss_and_gradient_equal_grpo_trainers_on_the_same_tensors(
    compute_trl_loss: Callable[..., Tensor],
    preset: str,
    loss_type: str,
    importance_cap: float | None,
    kl_weight: float,
    clip: tuple[float, float] | None,
) -> None:
    clips = {"clip_low": clip[0], "clip_high": clip[1]} if clip else {}
    config = get_preset(preset, importance_cap=importance_cap, kl_weight=kl_weight, **clips)
    step = draw_step(config)
    loss = compute_policy_loss(step.logprobs_M, step.tokens, config).objective
    expected = compute_trl_loss(step, config, loss_type)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    (grad_M,) = torch.autograd.grad(loss, step.logprobs_M)
    (expected_M,) = torch.autograd.grad(expected, step.logprobs_M)
    torch.testing.assert_close(grad_M, expected_M, atol=1e-6, rtol=1e-5)
