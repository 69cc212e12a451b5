"""Model directories."""

from pathlib import Path

import pytest
import torch

from ponderosa.errors import ConfigError, DataError
from ponderosa.formats import PLAIN_CODE, load_format
from ponderosa.model_directory import load_model, load_tokenizer, save_model
from ponderosa.training.model import build_model, count_matrix_parameters
from tiny_training import TINY, TOKENIZER, build_tiny_model


@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_a_saved_directory_gives_back_the_model_its_tokenizer_and_its_format(
    tmp_path: Path, architecture: str
) -> None:
    model = build_tiny_model(architecture=architecture)
    save_model(tmp_path / "model", model, TOKENIZER, PLAIN_CODE)
    loaded = load_model(tmp_path / "model")
    assert loaded.config.model_type == architecture
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    assert load_tokenizer(tmp_path / "model").get_vocab() == TOKENIZER.get_vocab()
    assert load_format(tmp_path / "model") == PLAIN_CODE
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_saving_again_replaces_the_directory_whole(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_model(folder, build_tiny_model(seed=0), TOKENIZER, PLAIN_CODE)
    (folder / "stale.txt").write_text("left over")
    model = build_tiny_model(seed=1)
    save_model(folder, model, TOKENIZER, PLAIN_CODE)
    assert not (folder / "stale.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert torch.equal(next(load_model(folder).parameters()), next(model.parameters()))


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


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json"):
        load_model(tmp_path)
