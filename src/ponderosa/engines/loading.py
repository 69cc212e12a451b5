"""A model directory, loaded into the native engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from ponderosa.engines.codec import load_codec
from ponderosa.engines.native import NativeEngine
from ponderosa.errors import ConfigError, DataError
from ponderosa.identity import hash_directory

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_engine(
    model_dir: Path,
    *,
    device: str = "auto",
    dtype: str = "float32",
    num_slots: int = 128,
    max_context: int | None = None,
) -> NativeEngine:
    """The native engine on a local Hugging Face directory; its model_id is a hash of the directory's content.

    max_context defaults to what the model was made for. Raises DataError if the directory holds no model that
    the engine can run, ConfigError for an unknown device or dtype.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
    model = load_causal_model(model_dir, dtype=DTYPES[dtype]).to(select_device(device))
    context = int(model.config.get_text_config().max_position_embeddings)
    return NativeEngine(
        model,
        load_codec(model_dir),
        model_id=hash_directory(model_dir),
        num_slots=num_slots,
        max_context=context if max_context is None else min(max_context, context),
    )


def load_causal_model(model_dir: Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A causal language model in evaluation mode: safetensors only, no network, no remote code."""
    if not (model_dir / "config.json").is_file():
        raise DataError(f"{model_dir} is no model directory: it has no config.json")
    if not list(model_dir.glob("*.safetensors")):
        raise DataError(
            f"{model_dir} holds no *.safetensors; other weight formats can run code and are not loaded"
        )
    try:
        with _without_progress_bars():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                model_dir, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True
            )
    except (OSError, ValueError) as error:
        raise DataError(f"the model in {model_dir} does not load: {error}") from error
    model.eval()
    return model


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


def select_device(name: str) -> str:
    """`auto` is the first of cuda, mps and cpu that this machine has."""
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, available in has.items() if available)
    if name not in has or not has[name]:
        raise ConfigError(
            f"device {name!r} is not available; here there is: {', '.join(d for d, on in has.items() if on)}"
        )
    return name
