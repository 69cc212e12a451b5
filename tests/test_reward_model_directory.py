"""Reward model directories: stock classifiers, read with the calibration that lies beside them or not at all."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaForSequenceClassification

from ponderosa.errors import DataError
from ponderosa.formats import PLAIN_CODE
from ponderosa.model_directory import load_model, save_model
from ponderosa.reward_model_directory import (
    REWARD_FILE,
    Calibration,
    RewardFile,
    load_reward_file,
    load_reward_model,
    save_reward_file,
)
from tiny_training import TOKENIZER, build_tiny_model

FILE = RewardFile(
    kind="ppm",
    comparison="tanh",
    beta=2.0,
    calibration=Calibration(scores=(-1.0, 1.0, 3.0), values=(-1, 0, 0.5)),
)


def save_classifier(folder: Path, num_labels: int = 1) -> None:
    config = build_tiny_model(architecture="llama").config
    config.num_labels = num_labels
    save_model(folder, LlamaForSequenceClassification(config), TOKENIZER, PLAIN_CODE)


def test_a_directory_gives_back_the_classifier_its_format_and_its_calibration(tmp_path: Path) -> None:
    save_classifier(tmp_path / "model")
    save_reward_file(tmp_path / "model", FILE)
    model, tokenizer, prompt_format, calibration = load_reward_model(tmp_path / "model")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, stock(ids).logits)
    assert not model.training
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()
    assert prompt_format == PLAIN_CODE
    assert calibration == FILE.calibration
    assert load_reward_file(tmp_path / "model") == FILE


def test_scores_are_read_linearly_between_knots_and_flat_beyond_them() -> None:
    assert FILE.calibration.apply([-9, -1, 0, 2, 9]) == [-1, -1, -0.5, 0.25, 0.5]


def test_a_policy_is_no_reward_model_and_a_reward_model_no_policy(tmp_path: Path) -> None:
    save_model(tmp_path / "policy", build_tiny_model(), TOKENIZER, PLAIN_CODE)
    save_classifier(tmp_path / "reward")
    save_reward_file(tmp_path / "reward", FILE)
    with pytest.raises(DataError, match=r"it has no reward_model\.json; name the model of a finished"):
        load_reward_model(tmp_path / "policy")
    with pytest.raises(DataError, match=r"holds a reward model \(LlamaForSequenceClassification\)"):
        load_model(tmp_path / "reward")


def test_a_classifier_of_several_labels_is_refused(tmp_path: Path) -> None:
    save_classifier(tmp_path / "model", num_labels=3)
    save_reward_file(tmp_path / "model", FILE)
    with pytest.raises(DataError, match="has 3 labels; a reward model has one"):
        load_reward_model(tmp_path / "model")


@pytest.mark.parametrize(
    "calibration",
    [
        {"scores": [], "values": []},
        {"scores": [0, 0], "values": [0, 1]},
        {"scores": [0, 1], "values": [1, 0]},
        {"scores": [0, 1], "values": [0, 1.5]},
        {"scores": [0, 1], "values": [0]},
        {"scores": [float("nan")], "values": [0]},
    ],
)
def test_a_map_that_is_not_monotone_is_refused(tmp_path: Path, calibration: dict[str, Any]) -> None:
    (tmp_path / REWARD_FILE).write_text(json.dumps({"kind": "orm", "calibration": calibration}))
    with pytest.raises(DataError, match="does not describe a reward model"):
        load_reward_file(tmp_path)
