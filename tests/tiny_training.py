"""A model small enough to train in a test, and a run of it that another process can kill.

python tiny_training.py FOLDER RANK    trains `build_run` in FOLDER, a checkpoint after every step
"""

import random
import sys
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ponderosa.data.packing import Batch, build_batches, pack_rows
from ponderosa.data.rows import build_row
from ponderosa.lora import add_adapters
from ponderosa.records import Row
from ponderosa.training.loop import FixedBatches, TrainConfig, train
from ponderosa.training.model import ModelConfig, build_model
from ponderosa.training.tokenizer import train_tokenizer

TINY = ModelConfig(num_layers=2, width=32, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=64, context=64)
TEXTS = [f"Ann has {n} apples. Ben has {n + 3} more than Ann." for n in range(40)]
TOKENIZER = train_tokenizer(TEXTS, 320)


def build_tiny_model(seed: int = 0, **changes: object) -> PreTrainedModel:
    return build_model(TINY.model_copy(update=changes), TOKENIZER, seed=seed)


def draw_documents(num_documents: int, seed: int = 0, max_length: int = 40) -> list[Row]:
    """Documents of random tokens, a random third of them without loss."""
    source = random.Random(seed)
    documents = []
    for _ in range(num_documents):
        length = source.randint(3, max_length)
        token_ids = [source.randrange(280) for _ in range(length)]
        is_sampled = [source.random() < 0.67 for _ in range(length - 1)]
        documents.append(build_row(token_ids, [*is_sampled, True]))
    return documents


def build_run(
    checkpoint_every_s: float = 3600.0, rank: int = 0
) -> tuple[PreTrainedModel, list[Batch], TrainConfig]:
    """A dozen steps of packed rows, in several microbatches each. rank: of adapters, which alone are then trained."""
    rows = pack_rows(draw_documents(140), 64, seed=0).rows
    batches = build_batches(rows, tokens_per_step=256, seed=0)
    config = TrainConfig(microbatch_tokens=100, z_loss_weight=1e-4, checkpoint_every_s=checkpoint_every_s)
    model = build_tiny_model()
    if rank:
        model.requires_grad_(False)
        add_adapters(model, rank, 2.0 * rank, torch.Generator().manual_seed(0))
    return model, batches, config


if __name__ == "__main__":
    model, batches, config = build_run(checkpoint_every_s=0.0, rank=int(sys.argv[2]))
    train(model, FixedBatches(batches), config, folder=Path(sys.argv[1]), seed=0)
