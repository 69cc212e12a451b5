"""Building models from nothing."""

import pytest
import torch

from ponderosa.errors import ConfigError
from ponderosa.ledger import count_matrix_parameters
from ponderosa.training.model import build_model
from tiny_training import TINY, TOKENIZER, build_tiny_model


def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (
        torch.cat([p.flatten() for p in build_tiny_model(seed).parameters()]) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_matrix_parameters_count_the_head_once_tied_or_not() -> None:
    tied, untied = (count_matrix_parameters(build_tiny_model(tie_embeddings=tie)) for tie in (True, False))
    per_layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64
    assert tied == untied == 2 * per_layer + 320 * 32


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_kv_heads 3"):
        build_model(TINY.model_copy(update={"num_kv_heads": 3}), TOKENIZER, seed=0)
