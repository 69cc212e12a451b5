"""Drawing tokens: uniforms, truncation against transformers' own, and the distribution drawn from."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from ponderosa.engines.protocol import Sampling
from ponderosa.engines.sampling import compute_uniforms, draw_tokens, truncate_logprobs


def truncate_by_reference(scores_BV: Tensor, sampling: Sampling) -> Tensor:
    """transformers' own warpers, in the order of `generate`, on scores already divided by the temperature."""
    ids = torch.zeros(scores_BV.shape[0], 1, dtype=torch.long)
    if sampling.top_k:
        scores_BV = TopKLogitsWarper(sampling.top_k)(ids, scores_BV)
    if sampling.top_p < 1:
        scores_BV = TopPLogitsWarper(sampling.top_p)(ids, scores_BV)
    if sampling.min_p:
        scores_BV = MinPLogitsWarper(sampling.min_p)(ids, scores_BV)
    return scores_BV


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    spread=st.sampled_from([0.01, 1.0, 4.0]),
    samplings=st.lists(
        st.builds(
            Sampling,
            temperature=st.sampled_from([0.5, 1.0, 2.0]),
            top_k=st.sampled_from([0, 1, 3, 80, 500]),
            top_p=st.sampled_from([1.0, 0.95, 0.5, 0.01]),
            min_p=st.sampled_from([0.0, 0.05, 0.5]),
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_truncation_keeps_what_transformers_keeps(
    seed: int, spread: float, samplings: list[Sampling]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(samplings), 200, generator=generator, dtype=torch.float64) * spread
    actual = truncate_logprobs(logits.log_softmax(-1), samplings)
    for row, sampling in enumerate(samplings):
        scores = logits[row : row + 1] / sampling.temperature
        expected = truncate_by_reference(scores, sampling).log_softmax(-1)
        torch.testing.assert_close(actual[row : row + 1], expected, atol=1e-6, rtol=1e-5)


def test_draws_follow_the_distribution() -> None:
    logprobs = torch.tensor([[0.5, 0.25, 0.0, 0.25]]).log()
    steps = np.arange(20_000, dtype=np.uint64)
    uniforms = compute_uniforms(np.full(20_000, 7, np.uint64), steps)
    draw = draw_tokens(logprobs.expand(20_000, -1), [Sampling()] * 20_000, uniforms)
    frequencies = np.bincount(draw.tokens, minlength=4) / 20_000
    assert frequencies[2] == 0
    np.testing.assert_allclose(frequencies, [0.5, 0.25, 0.0, 0.25], atol=0.015)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-24])
def test_the_ends_of_the_unit_interval_draw_possible_tokens(uniform: float) -> None:
    logits = torch.full((1, 50_000), float("-inf"))
    logits[0, 10:40_000] = 0.0
    draw = draw_tokens(logits, [Sampling()], np.array([uniform], np.float32))
    assert 10 <= int(draw.tokens[0]) < 40_000


def test_uniforms_depend_on_seed_and_step_and_look_uniform() -> None:
    seeds, steps = np.meshgrid(np.arange(200, dtype=np.uint64), np.arange(200, dtype=np.uint64))
    uniforms = compute_uniforms(seeds.ravel(), steps.ravel())
    assert len(np.unique(uniforms)) > 0.99 * len(uniforms)
    assert 0 <= uniforms.min() < uniforms.max() < 1
    counts = np.histogram(uniforms, bins=20, range=(0, 1))[0]
    assert abs(counts - 2000).max() < 250
    table = uniforms.reshape(200, 200)
    assert abs(np.corrcoef(table[0], table[1])[0, 1]) < 0.25
    assert abs(np.corrcoef(table[:, 0], table[:, 1])[0, 1]) < 0.25


def test_the_uniform_of_a_seed_and_step_never_changes() -> None:
    golden = compute_uniforms(np.array([0, 1, 2**63 - 1], np.uint64), np.array([0, 5, 9], np.uint64))
    np.testing.assert_array_equal(
        golden, np.array([0.6524484753608704, 0.7743991613388062, 0.21985453367233276], np.float32)
    )


def test_greedy_and_sampled_rows_mix_in_one_batch() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [0.0, 3.0, 1.0]])
    draw = draw_tokens(logits, [Sampling(0.0), Sampling(1.0)], np.array([0.999, 0.999], np.float32))
    assert draw.tokens.tolist() == [1, 2]
    assert draw.sampling_logprobs[0] == 0.0
    assert draw.model_logprobs[0] == pytest.approx(float(logits[0].log_softmax(0)[1]))
