"""A model directory, loaded into the native engine."""

import logging
from pathlib import Path

import torch

from ponderosa.engines.codec import load_codec
from ponderosa.engines.native import NativeEngine
from ponderosa.errors import ConfigError
from ponderosa.hash_cache import hash_directory
from ponderosa.model_directory import get_max_context, load_model

log = logging.getLogger(__name__)

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
    model = load_model(model_dir, device=select_device(device), dtype=DTYPES[dtype])
    context = get_max_context(model)
    engine = NativeEngine(
        model,
        load_codec(model_dir),
        model_id=hash_directory(model_dir),
        num_slots=num_slots,
        max_context=context if max_context is None else min(max_context, context),
    )
    log.debug(
        f"{model_dir}: {type(model).__name__} {engine.model_id}, {dtype} on {model.device}, "
        f"context {engine.max_context}, {num_slots} slots"
    )
    return engine


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
