"""A reward model directory: a stock sequence classifier with one label, or an adapter on a policy, and what its scores mean.

Beside what any model directory holds (the prompt format is the policy's), or what an adapter's does
(`adapter_directory`), lies `reward_model.json`: how the model was trained, and the one calibration that search and report
read its scores by. A score is the raw number that transformers gives for a sequence of token ids, read at the last of them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from ponderosa.adapter_directory import Trunk, find_trunk, load_adapted, load_adapter_config
from ponderosa.artifacts import write_json
from ponderosa.errors import DataError
from ponderosa.formats import PromptFormat, load_format
from ponderosa.model_directory import load_model, load_tokenizer, load_transformer

REWARD_FILE = "reward_model.json"

Kind = Literal["ppm", "orm", "q_regression"]
"""What it learned from: preferences between steps, the outcomes of whole solutions, or the Q values of steps."""


class Calibration(BaseModel):
    """A monotone map from raw scores to success in [-1, 1]: linear between its knots, constant beyond them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scores: tuple[FiniteFloat, ...] = Field(min_length=1)
    values: tuple[FiniteFloat, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_knots(self) -> Self:
        is_map = len(self.scores) == len(self.values) and bool(np.all(np.diff(self.scores) > 0))
        if not is_map or np.any(np.diff(self.values) < 0) or max(map(abs, self.values)) > 1:
            raise ValueError(
                "knots need rising scores, and as many values that never fall and stay in [-1, 1]"
            )
        return self

    def apply(self, scores: Sequence[float]) -> list[float]:
        """The success that each score stands for."""
        return [float(value) for value in np.interp(scores, self.scores, self.values)]


class RewardFile(BaseModel):
    """reward_model.json. comparison, beta: of the pairwise loss; None for the other kinds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    comparison: Literal["tanh", "logits"] | None = None
    beta: float | None = None
    calibration: Calibration


class RewardModel(NamedTuple):
    """A reward model as its directory holds it; tokenizer and prompt format of an adapter are its policy's."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompt_format: PromptFormat
    calibration: Calibration


def load_reward_model(
    folder: Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    in_use: Trunk | None = None,
) -> RewardModel:
    """The reward model of a directory, in evaluation mode; an adapter whose policy is `in_use` sits on its tensors.

    Raises DataError if the directory holds none, or none that is calibrated; ConfigError if an adapter's policy is not to
    be found.
    """
    calibration = load_reward_file(folder).calibration
    home = find_home(folder, in_use)
    tokenizer, prompt_format = load_tokenizer(home), load_format(home)
    if adapter := load_adapter_config(folder):
        shared = in_use.model if in_use is not None and in_use.folder == home else None
        policy = shared or load_model(home, device=device, dtype=dtype)
        model = load_adapted(folder, adapter, policy, pad_token_id=find_padding(tokenizer))
    else:
        model = load_transformer(AutoModelForSequenceClassification, folder, device=device, dtype=dtype)
    if model.config.num_labels != 1:
        raise DataError(
            f"the classifier in {folder} has {model.config.num_labels} labels; a reward model has one"
        )
    return RewardModel(model, tokenizer, prompt_format, calibration)


def find_home(folder: Path, in_use: Trunk | None = None) -> Path:
    """The directory with a reward model's tokenizer and prompt format: its own, or that of the policy under an adapter.
    Raises as `load_reward_model` does."""
    adapter = load_adapter_config(folder)
    return folder if adapter is None else find_trunk(folder, adapter, in_use)


def find_padding(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token id that transformers' own forward pass of a classifier takes for padding."""
    pad: int | None = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return pad


def load_reward_file(folder: Path) -> RewardFile:
    """How a directory's scores are to be read. Raises DataError if nothing says so."""
    path = folder / REWARD_FILE
    if not path.is_file():
        raise DataError(
            f"{folder} is no reward model directory: it has no {REWARD_FILE}; name the model of a finished "
            "`reward_model` stage"
        )
    try:
        return RewardFile.model_validate(json.loads(path.read_text("utf-8")))
    except (ValidationError, json.JSONDecodeError) as error:
        raise DataError(f"{path} does not describe a reward model: {error}") from error


def save_reward_file(folder: Path, file: RewardFile) -> None:
    """Make a saved sequence classifier a reward model."""
    write_json(folder / REWARD_FILE, file.model_dump(mode="json"))
