"""Training speed beside TRL 1.16 and a plain transformers loop: tokens per second on one 3M-parameter model.

    python bench/training.py [--seconds 12] [--repeats 3] [--json OUT]

Fairness: one Llama, the same documents, AdamW and float32 parameters for all, batches of about as many tokens.
Each peer runs at its best settings here: both bfloat16 and float32 for the peers (the faster is the row's peer),
packed TRL as batch 1 with accumulation (its collator flattens a batch into one row under a quadratic mask),
unpacked TRL padded and padding-free, no gradient checkpointing, no logging. Repeats of all contestants are
interleaved; rows show medians. Building trainers and the first step are not counted.
"""

import argparse
import json
import logging
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from ponderosa.artifacts import write_json
from ponderosa.data.packing import build_batches, pack_rows
from ponderosa.data.rows import build_row
from ponderosa.records import Row
from ponderosa.training.loop import FixedBatches, TrainConfig, train
from ponderosa.training.optim import OptimizerConfig, ScheduleConfig
from ponderosa.training.tokenizer import train_tokenizer

VOCAB_SIZE = 1024
ROW_LENGTH = 512
TOKENS_PER_STEP = 4096
LR = 1e-3
Contestant = Callable[[Sequence[Row], float], float]
"""Rows and a time budget (s) in, tokens per second out."""


def build_peer_model() -> PreTrainedModel:
    """The 3M-parameter Llama every contestant trains."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=256,
            intermediate_size=576,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            attn_implementation="sdpa",
        )
    )


def draw_documents(num_documents: int, seed: int) -> list[Row]:
    """Prompt and solution lengths like the quickstart's: 100 to 200 tokens, loss on the second half."""
    source = random.Random(seed)
    documents = []
    for _ in range(num_documents):
        length = source.randint(100, 200)
        token_ids = [source.randrange(VOCAB_SIZE) for _ in range(length)]
        documents.append(build_row(token_ids, [t >= length // 2 for t in range(length)]))
    return documents


def count_tokens(rows: Sequence[Row]) -> int:
    return sum(len(row.token_ids) for row in rows)


def run_ponderosa(rows: Sequence[Row], seconds: float) -> float:
    """The loop of `ponderosa.training`, its metrics and final checkpoint included."""
    config = TrainConfig(
        optimizer=OptimizerConfig(name="adamw", learning_rate=LR), schedule=ScheduleConfig(name="constant")
    )

    def train_tokens(num_tokens: int) -> float:
        batches = build_batches(rows, tokens_per_step=TOKENS_PER_STEP, seed=0, max_tokens=num_tokens)
        with tempfile.TemporaryDirectory() as folder:
            result = train(build_peer_model(), FixedBatches(batches), config, folder=Path(folder), seed=0)
        return result.ledger.train_tokens / result.ledger.seconds

    estimate = train_tokens(3 * TOKENS_PER_STEP)
    return train_tokens(int(estimate * seconds))


class StopAfter(TrainerCallback):  # type: ignore[misc]
    """Times a Trainer from the end of its first step and stops it when the budget is spent."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.num_steps = 0
        self.started_at = self.ended_at = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ended_at = time.perf_counter()
        if not self.started_at:
            self.started_at = self.ended_at
            return
        self.num_steps += 1
        control.should_training_stop = self.ended_at - self.started_at >= self.seconds


def run_trl(rows: Sequence[Row], seconds: float, *, bf16: bool, is_packed: bool, padding_free: bool) -> float:
    """SFTTrainer on the same rows; packed rows come with their documents' lengths, as its own packing makes them."""
    num_rows = max(1, round(TOKENS_PER_STEP * len(rows) / count_tokens(rows)))
    columns = [
        {
            "input_ids": list(row.token_ids),
            "labels": [t if w else -100 for t, w in zip(row.token_ids, row.loss_weights, strict=True)],
            **({"seq_lengths": count_documents(row)} if is_packed else {}),
        }
        for row in rows
    ]
    timer = StopAfter(seconds)
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=bf16,
            gradient_checkpointing=False,
            per_device_train_batch_size=1 if is_packed else num_rows,
            gradient_accumulation_steps=num_rows if is_packed else 1,
            max_steps=100_000,
            learning_rate=LR,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            max_length=None,
            packing=is_packed,
            padding_free=padding_free or is_packed,
            dataset_kwargs={"skip_prepare_dataset": True},
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = SFTTrainer(
            model=build_peer_model(),
            args=config,
            train_dataset=Dataset.from_list(columns),
            processing_class=train_tokenizer(["a b"], 320),
            callbacks=[timer],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    mean_tokens = count_tokens(rows) / len(rows)
    return timer.num_steps * num_rows * mean_tokens / (timer.ended_at - timer.started_at)


def count_documents(row: Row) -> list[int]:
    """Lengths of a packed row's documents."""
    return [row.document_ids.count(number) for number in range(row.document_ids[-1] + 1)]


def run_plain(rows: Sequence[Row], seconds: float, *, bf16: bool) -> float:
    """The loop a user would write: padded batches, the model's own loss, fused AdamW."""
    model = build_peer_model()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    batches = build_batches(rows, tokens_per_step=TOKENS_PER_STEP, seed=0, epochs=50)
    started_at, num_tokens = 0.0, 0
    for number, batch in enumerate(batches):
        token_ids = [torch.tensor(row.token_ids) for row in batch]
        labels = [
            torch.where(torch.tensor(row.loss_weights) > 0, ids, -100)
            for row, ids in zip(batch, token_ids, strict=True)
        ]
        mask = pad_sequence([torch.ones_like(ids) for ids in token_ids], batch_first=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(
                input_ids=pad_sequence(token_ids, batch_first=True),
                attention_mask=mask,
                labels=pad_sequence(labels, batch_first=True, padding_value=-100),
                use_cache=False,
            ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if number == 0:
            started_at = time.perf_counter()
            continue
        num_tokens += count_tokens(batch)
        if time.perf_counter() - started_at >= seconds:
            break
    return num_tokens / (time.perf_counter() - started_at)


def build_contestants(is_packed: bool) -> dict[str, Contestant]:
    """Everyone who trains on rows of this kind, by printed name."""
    contestants: dict[str, Contestant] = {"ponderosa": run_ponderosa}
    for bf16 in (False, True):
        dtype = "bf16" if bf16 else "fp32"
        for padding_free in (False, True) if not is_packed else (True,):
            layout = "batch 1 x accumulation" if is_packed else "padding-free" if padding_free else "padded"

            def contestant(
                rows: Sequence[Row], seconds: float, bf16: bool = bf16, padding_free: bool = padding_free
            ) -> float:
                return run_trl(rows, seconds, bf16=bf16, is_packed=is_packed, padding_free=padding_free)

            contestants[f"trl {dtype} {layout}"] = contestant
        if not is_packed:
            contestants[f"plain loop {dtype}"] = lambda rows, seconds, bf16=bf16: run_plain(
                rows, seconds, bf16=bf16
            )
    return contestants


def measure(is_packed: bool, seconds: float, repeats: int) -> list[dict[str, Any]]:
    """One row for each peer: median tokens/s of both sides, and ours over it."""
    documents = draw_documents(600, seed=0)
    rows = pack_rows(documents, ROW_LENGTH, seed=0).rows if is_packed else documents
    contestants = build_contestants(is_packed)
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            speeds[name].append(contestant(rows, seconds))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    ours = medians.pop("ponderosa")
    return [
        {
            "work": "training, packed documents" if is_packed else "training, unpacked documents",
            "peer": name,
            "unit": "tokens/s",
            "ours": round(ours),
            "theirs": round(median),
            "ratio": round(ours / median, 2),
            "target": (1.6 if is_packed else 1.2) if name.startswith("trl") else None,
            "our_runs": [round(value) for value in speeds["ponderosa"]],
            "their_runs": [round(value) for value in speeds[name]],
        }
        for name, median in medians.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=12.0, help="length of one measurement")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each contestant")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    num_parameters = build_peer_model().num_parameters()
    print(
        f"{num_parameters / 1e6:.2f}M parameters, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    results = []
    for is_packed in (True, False):
        for row in measure(is_packed, options.seconds, options.repeats):
            print(json.dumps(row), flush=True)
            results.append(row)
    if options.json:
        settings = {"parameters": num_parameters, "threads": torch.get_num_threads()}
        write_json(options.json, {"schema": 1, "settings": settings, "rows": results})


if __name__ == "__main__":
    main()
