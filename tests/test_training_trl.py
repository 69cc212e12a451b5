"""TRL's SFTTrainer as the oracle: the same batch, the same loss. Skipped without the bench extra."""

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from ponderosa.training.gradients import GradientComputer
from ponderosa.training.losses import CrossEntropy
from tiny_training import TOKENIZER, build_tiny_model, draw_documents

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("trl") is None, reason="trl is not installed: pip install 'ponderosa[bench]'"
)


def compute_trl_loss(model: Any, examples: list[dict[str, list[int]]], folder: Path, **options: Any) -> float:
    """The loss of one batch as SFTTrainer computes it in training."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        config = SFTConfig(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=len(examples),
            max_length=None,
            report_to=[],
            disable_tqdm=True,
            dataset_kwargs={"skip_prepare_dataset": True},
            **options,
        )
        data = Dataset.from_list(examples)
        trainer = SFTTrainer(model=model, args=config, train_dataset=data, processing_class=TOKENIZER)
        batch = trainer.data_collator(examples)
        with torch.no_grad():
            return float(trainer.compute_loss(model, batch))


@pytest.mark.parametrize("padding_free", [False, True])
def test_loss_equals_sft_trainers_on_the_same_batch(tmp_path: Path, padding_free: bool) -> None:
    model = build_tiny_model()
    rows = draw_documents(6)
    examples = [
        {
            "input_ids": list(row.token_ids),
            "labels": [
                token if weight else -100
                for token, weight in zip(row.token_ids, row.loss_weights, strict=True)
            ],
        }
        for row in rows
    ]
    computer = GradientComputer(model, CrossEntropy(), dtype=torch.float32)
    with computer.running():
        loss = computer.compute(rows, CrossEntropy().compute_total(rows))["loss"]
    expected = compute_trl_loss(model, examples, tmp_path, padding_free=padding_free)
    assert loss == pytest.approx(expected, abs=1e-5)
