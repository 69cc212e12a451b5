"""Model directories: written whole or not at all, loaded without a network and without anybody's code."""

from pathlib import Path

import pytest
import torch

from ponderosa.errors import DataError
from ponderosa.formats import PLAIN_CODE, load_format
from ponderosa.model_directory import get_max_context, load_model, load_tokenizer, save_model
from tiny_training import TINY, TOKENIZER, build_tiny_model


@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_a_saved_directory_gives_back_the_model_its_tokenizer_and_its_format(
    tmp_path: Path, architecture: str
) -> None:
    model = build_tiny_model(architecture=architecture)
    save_model(tmp_path / "model", model, TOKENIZER, PLAIN_CODE)
    loaded = load_model(tmp_path / "model")
    assert not loaded.training
    assert get_max_context(loaded) == TINY.context
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


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"no model directory: it has no config\.json"),
        ({"config.json": "{}", "pytorch_model.bin": ""}, r"holds no \*\.safetensors"),
        ({"config.json": '{"model_type": "llama"}', "model.safetensors": ""}, "does not load"),
        ({"config.json": '{"model_type": "none such"}', "model.safetensors": ""}, "does not load"),
    ],
)
def test_a_folder_without_a_model_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        load_model(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"it has no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="does not load"):
        load_tokenizer(tmp_path)
