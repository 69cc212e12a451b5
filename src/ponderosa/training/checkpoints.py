"""Checkpoints: one safetensors file, replaced atomically; nothing is pickled.

The file holds the parameters that are trained, the optimizer's state and, in its header, a JSON object: the step
reached, the ledger and a fingerprint of the run, so that a run continues only what it began.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import PreTrainedModel

from ponderosa.artifacts import write_bytes
from ponderosa.errors import DataError
from ponderosa.ledger import Ledger
from ponderosa.lora import find_trained
from ponderosa.training.optim import Optimizer

CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run has come: `step` optimizer steps are done."""

    step: int
    ledger: Ledger
    fingerprint: str


def save_checkpoint(folder: Path, model: PreTrainedModel, optimizer: Optimizer, position: Position) -> None:
    """Replace the folder's checkpoint, durably and atomically."""
    tensors: dict[str, Tensor] = {
        f"model.{name}": parameter for name, parameter in find_trained(model).items()
    }
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.state().items()}
    contiguous = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    write_bytes(
        folder / CHECKPOINT_FILE, save(contiguous, metadata={"position": json.dumps(asdict(position))})
    )


def load_checkpoint(
    folder: Path, model: PreTrainedModel, optimizer: Optimizer, fingerprint: str
) -> Position | None:
    """Restore model and optimizer in place; None if the folder holds no checkpoint.

    Raises DataError if the checkpoint was made by a run with another configuration, data or model.
    """
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        position = _parse_position(json.loads(file.metadata()["position"]))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    if position.fingerprint != fingerprint:
        raise DataError(
            f"{path.name} in {folder.name} belongs to a run with another configuration or other data; "
            "remove it to start over, or choose another folder"
        )
    _load_parameters(model, _select_prefix(tensors, "model."))
    optimizer.load_state(_select_prefix(tensors, "optimizer."))
    return position


@torch.no_grad()
def _load_parameters(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> None:
    parameters = find_trained(model)
    if parameters.keys() != tensors.keys():
        raise DataError("the checkpoint belongs to another model; remove it to start over")
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


def _select_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _parse_position(record: Mapping[str, Any]) -> Position:
    return Position(record["step"], Ledger(**record["ledger"]), record["fingerprint"])
