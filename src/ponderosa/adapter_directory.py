"""A reward model's adapter on disk: what was trained on top of a policy, and which policy that is.

The files are PEFT's (adapter_config.json, adapter_model.safetensors, its names of tensors), so that PEFT loads an adapter
of rank 1 or more onto `AutoModelForSequenceClassification` of the policy with one label. The policy is found beside it, by
a path relative to the adapter, or is the one already in use; either way only its content decides whether it is the one.
"""

import json
import os
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from ponderosa.artifacts import write_json
from ponderosa.errors import ConfigError, DataError
from ponderosa.hash_cache import hash_directory
from ponderosa.lora import LoraLinear, add_adapters, build_shared_classifier, find_trained
from ponderosa.model_directory import replace_directory

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts before the names of tensors."""


class Trunk(NamedTuple):
    """A policy in memory, on which reward models may sit: its directory, the hash of that, the model."""

    folder: Path
    model_id: str
    model: PreTrainedModel


class AdapterConfig(BaseModel):
    """adapter_config.json, as far as PEFT needs it; whatever would change what the weights mean has one value.

    base_model_name_or_path: the policy's directory, seen from the adapter's. revision: the hash of its content.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    peft_type: Literal["LORA"] = "LORA"
    task_type: Literal["SEQ_CLS"] = "SEQ_CLS"
    base_model_name_or_path: str
    revision: str
    r: int = Field(ge=0)
    lora_alpha: float = Field(gt=0)
    target_modules: tuple[str, ...]
    modules_to_save: tuple[Literal["score"]] = ("score",)
    inference_mode: bool = True


def save_adapter(folder: Path, model: PreTrainedModel, trunk: Path, *, rank: int, alpha: float) -> None:
    """Write adapters and score head whole or not at all, replacing what is there. trunk: the policy's directory."""
    adapted = {name for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    config = AdapterConfig(
        base_model_name_or_path=Path(os.path.relpath(trunk.resolve(), folder.resolve())).as_posix(),
        revision=hash_directory(trunk),
        r=rank,
        lora_alpha=alpha,
        target_modules=tuple(sorted({name.rpartition(".")[2] for name in adapted})),
    )
    tensors = {PREFIX + name: one.detach().contiguous().cpu() for name, one in find_trained(model).items()}
    with replace_directory(folder) as temporary:
        save_file(tensors, temporary / WEIGHTS_FILE, metadata={"format": "pt"})
        write_json(temporary / CONFIG_FILE, config.model_dump(mode="json"))


def load_adapter_config(folder: Path) -> AdapterConfig | None:
    """What an adapter's directory says of it; None if the directory holds no adapter. Raises DataError."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return None
    try:
        return AdapterConfig.model_validate(json.loads(path.read_text("utf-8")))
    except (ValidationError, json.JSONDecodeError) as error:
        raise DataError(
            f"{path} does not describe an adapter that a reward_model stage saved: {error}"
        ) from error


def load_adapted(
    folder: Path, config: AdapterConfig, policy: PreTrainedModel, *, pad_token_id: int | None
) -> PreTrainedModel:
    """The classifier of an adapter on the tensors of its policy, none of them copied. Raises DataError if weights and
    policy do not fit together."""
    model = build_shared_classifier(policy, pad_token_id=pad_token_id)
    add_adapters(model, config.r, config.lora_alpha, torch.Generator())
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise DataError(f"the adapter in {folder} does not load: {error}") from error
    trained = {PREFIX + name: parameter for name, parameter in find_trained(model).items()}
    seen, wanted = ({name: one.shape for name, one in named.items()} for named in (tensors, trained))
    if seen != wanted:
        odd = min(name for name in {*seen, *wanted} if seen.get(name) != wanted.get(name))
        raise DataError(
            f"the adapter in {folder} does not fit its policy: {odd} has shape {seen.get(odd)}, not {wanted.get(odd)}"
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[name])
    return model.requires_grad_(False).eval()


def find_trunk(folder: Path, config: AdapterConfig, in_use: Trunk | None) -> Path:
    """The directory of the policy on which an adapter sits: the one in use if it is that, or the one it names.

    Raises ConfigError if neither is it.
    """
    if in_use is not None and in_use.model_id == config.revision:
        return in_use.folder
    named = (folder.resolve() / config.base_model_name_or_path).resolve()
    found = hash_directory(named) if named.is_dir() else None
    if found == config.revision:
        return named
    used = "" if in_use is None else f", and the model in use, {in_use.folder}, holds {in_use.model_id}"
    raise ConfigError(
        f"the reward model in {folder} is an adapter on a policy whose content has hash {config.revision}; "
        f"{named} {'does not exist' if found is None else f'holds {found}'}{used}. Use it with that policy, put the "
        "policy's directory back there, or train the reward model again"
    )
