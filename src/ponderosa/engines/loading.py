"""Model directories, loaded into the native engine and the native scorer."""

import logging
from pathlib import Path

import torch

from ponderosa.adapter_directory import Trunk
from ponderosa.engines.codec import load_codec
from ponderosa.engines.native import NativeEngine
from ponderosa.engines.scorer import NativeScorer
from ponderosa.errors import ConfigError
from ponderosa.hash_cache import hash_directory
from ponderosa.model_directory import get_max_context, load_model
from ponderosa.reward_model_directory import load_reward_model

log = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda", "mps")
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
    loaded = load_trunk(model_dir, device=device, dtype=dtype)
    return build_engine(loaded, num_slots=num_slots, max_context=max_context)


def load_trunk(model_dir: Path, *, device: str = "auto", dtype: str = "float32") -> Trunk:
    """The model of a directory, for an engine and for reward models that sit on it. Raises as `load_engine` does."""
    model = load_model(model_dir, device=select_device(device), dtype=select_dtype(dtype))
    return Trunk(model_dir, hash_directory(model_dir), model)


def build_engine(trunk: Trunk, *, num_slots: int = 128, max_context: int | None = None) -> NativeEngine:
    """The native engine on a model in memory. Raises DataError if it cannot run it."""
    context = get_max_context(trunk.model)
    engine = NativeEngine(
        trunk.model,
        load_codec(trunk.folder),
        model_id=trunk.model_id,
        num_slots=num_slots,
        max_context=context if max_context is None else min(max_context, context),
    )
    log.debug(
        f"{trunk.folder}: {type(trunk.model).__name__} {engine.model_id}, {trunk.model.dtype} on {trunk.model.device}, "
        f"context {engine.max_context}, {num_slots} slots"
    )
    return engine


def load_scorer(
    folder: Path,
    device: str = "auto",
    dtype: str = "float32",
    *,
    num_rows: int = 256,
    in_use: Trunk | None = None,
) -> NativeScorer:
    """The native scorer on a reward model directory; its model_id is a hash of the directory's content, calibration
    included. An adapter whose policy is `in_use` sits on that model's own tensors.

    Raises DataError if the directory holds no reward model that can be run, ConfigError for an unknown device or dtype, or
    if an adapter's policy is not to be found.
    """
    model, _, _, calibration = load_reward_model(
        folder, device=select_device(device), dtype=select_dtype(dtype), in_use=in_use
    )
    return NativeScorer(
        model,
        calibration,
        model_id=hash_directory(folder),
        max_context=get_max_context(model),
        num_rows=num_rows,
    )


def select_dtype(name: str) -> torch.dtype:
    """Raises ConfigError naming the types there are."""
    if name not in DTYPES:
        raise ConfigError(f"unknown dtype {name!r}; allowed: {', '.join(DTYPES)}")
    return DTYPES[name]


def select_device(name: str) -> str:
    """`auto` is the first of cuda, mps and cpu that this machine has."""
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, available in has.items() if available)
    here = ", ".join(device for device in DEVICES if has.get(device, device == "auto"))
    if name not in DEVICES:
        raise ConfigError(f"no device {name!r}; allowed: {', '.join(DEVICES)} (on this machine: {here})")
    if not has[name]:
        raise ConfigError(f"device {name!r} is not available; on this machine: {here}")
    return name
