"""A model directory: a stock Hugging Face causal language model, its tokenizer and its prompt format, on disk.

Weights are safetensors only; nothing is fetched and no code in a directory is run. A directory appears whole or not
at all.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ponderosa.artifacts import write_json
from ponderosa.config import suggest_path
from ponderosa.errors import DataError
from ponderosa.formats import FORMAT_FILE, PromptFormat


def check_model_directory(folder: Path) -> None:
    """Raises DataError, naming models nearby, unless the folder holds a configuration and safetensors weights."""
    if not folder.exists():
        raise DataError(f"no such model directory: {folder}{suggest_path(folder)}")
    if _holds_model(folder):
        return
    inside = sorted(str(path) for depth in ("*", "*/*") for path in folder.glob(depth) if _holds_model(path))
    if inside:
        raise DataError(f"{folder} is no model directory; inside it there is {', '.join(inside)}")
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder} is no model directory: it has no config.json")
    raise DataError(
        f"{folder} holds no *.safetensors; other weight formats can run code and are not loaded: convert them first"
    )


def _holds_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def load_model(
    folder: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """The causal language model of a directory, in evaluation mode. Raises DataError if it holds none."""
    model = load_transformer(AutoModelForCausalLM, folder, device=device, dtype=dtype)
    made_as = (model.config.architectures or ["unnamed"])[0]
    if "SequenceClassification" in made_as:
        # transformers would give it an output head of random numbers and go on.
        raise DataError(f"{folder} holds a reward model ({made_as}), which writes nothing; name a policy")
    return model


def load_transformer(
    auto_class: Any, folder: Path, *, device: str | torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    """What one of transformers' auto classes makes of a directory, in evaluation mode. Raises DataError if nothing."""
    check_model_directory(folder)
    try:
        with _without_progress_bars():
            model: PreTrainedModel = auto_class.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"the model in {folder} does not load: {error}") from error
    return model.to(device).eval()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a directory. Raises DataError if it holds none."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise DataError(f"{folder} is no model directory: it has no tokenizer.json")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # tokenizers raises nothing narrower for a broken file
        raise DataError(f"the tokenizer in {folder} does not load: {error!r}") from error
    return tokenizer


def save_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_format: PromptFormat,
) -> None:
    """Write a directory whole or not at all, replacing one that is there."""
    with replace_directory(folder) as temporary:
        with _without_progress_bars():
            model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_json(temporary / FORMAT_FILE, prompt_format.model_dump(mode="json"))


@contextmanager
def replace_directory(folder: Path) -> Iterator[Path]:
    """An empty directory that takes the place of `folder` when the block ends well."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def get_max_context(model: PreTrainedModel) -> int:
    """The longest sequence the model was made for, in tokens."""
    return int(model.config.get_text_config().max_position_embeddings)


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """transformers draws bars of its own, which would tear ours."""
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
