"""The optimizer loop: the only one. Rows of token ids, document ids and weights go in; a trained model comes out.

A step takes one batch of rows, whatever packed, unpacked or sampled them, sums the loss over all their documents,
divides by the step's total, clips the gradient and moves the parameters. Every order and seed is an argument; a
killed run continues from its last checkpoint to the same loss curve, bit for bit on the same machine.
The loop does not save the model directory: the caller does, when `train` returns.
"""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from ponderosa.config import Config
from ponderosa.data.packing import Batch
from ponderosa.errors import DataError, NonFiniteLoss
from ponderosa.identity import content_hash, derive_seed
from ponderosa.ledger import Ledger, compute_train_flops, count_matrix_parameters
from ponderosa.lora import find_trained
from ponderosa.progress import SILENT, Observer, Progress, Task, ignore_line, track
from ponderosa.records import Row
from ponderosa.training.batching import list_documents
from ponderosa.training.checkpoints import Position, load_checkpoint, save_checkpoint
from ponderosa.training.gradients import GradientComputer
from ponderosa.training.losses import CrossEntropy, Loss
from ponderosa.training.metrics_log import MetricsLog
from ponderosa.training.optim import Optimizer, OptimizerConfig, ScheduleConfig, compute_lr_frac

METRICS_FILE = "metrics.jsonl"


class TrainConfig(Config):
    """One run of the optimizer loop."""

    optimizer: OptimizerConfig = OptimizerConfig()
    """How parameters follow their gradients."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How step sizes change over the run."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are scaled down to it."""
    z_loss_weight: float = 0.0
    """Weight of the squared log-normaliser beside the loss; 0 switches it off."""
    microbatch_tokens: int | None = None
    """Most tokens computed at a time; changes speed and memory, not the loss. None fits the device."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; parameters keep theirs. auto takes bfloat16 where the device computes it fast."""
    checkpoint_every_s: float = Field(60.0, ge=0, exclude=True)
    """Seconds between checkpoints; no part of what the run is."""


class BatchSource(Protocol):
    """Where the batches of optimizer steps come from; it may draw them from the model as it then is.

    identity: what it will give, hashed, so that a checkpoint of another run is refused. num_tokens: of all its
    batches, None if that shows only as they are drawn.
    """

    identity: str
    num_steps: int
    num_tokens: int | None

    def draw(self, step: int) -> Batch:
        """The batch of a step (0-based). After a kill it is asked again from the last checkpoint's step on, and must
        give what it gave."""
        ...

    def describe(self, step: int) -> dict[str, Any]:
        """What the log of a drawn step says besides the loss."""
        ...


class FixedBatches:
    """Batches that are known beforehand."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches
        self.num_steps = len(batches)
        self.num_tokens: int | None = sum(len(row.token_ids) for batch in batches for row in batch)
        ends = [identify_row(row) for batch in (*batches[:1], *batches[-1:]) for row in batch]
        self.identity = content_hash([self.num_tokens, self.num_steps, ends])

    def draw(self, step: int) -> Batch:
        return self._batches[step]

    def describe(self, step: int) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run did. losses: of every step, as the loss reports them."""

    losses: tuple[float, ...]
    ledger: Ledger
    dtype: str


def train(
    model: PreTrainedModel,
    source: BatchSource,
    config: TrainConfig,
    *,
    loss: Loss | None = None,
    folder: Path,
    seed: int,
    progress: Progress = SILENT,
    observe: Observer = ignore_line,
) -> TrainResult:
    """Train `model` in place, one optimizer step for each batch; `loss` defaults to cross-entropy.

    The folder receives `metrics.jsonl` (one line a step, shown to `observe`) and the checkpoint, from which a later call with the same
    arguments continues: written first after a sixth of `checkpoint_every_s`, then after twice as long each time, up to that.
    Raises NonFiniteLoss; DataError for a checkpoint of another run or a batch without loss.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(model, source, loss or CrossEntropy(config.z_loss_weight), config, seed)
    position = load_checkpoint(folder, model, run.optimizer, run.fingerprint)
    position = position or Position(0, Ledger(), run.fingerprint)
    ledger = position.ledger
    model.train()
    with (
        MetricsLog(folder / METRICS_FILE, num_steps=position.step) as log,
        _track(progress, source, position) as bar,
        run.computer.running(),
        torch.random.fork_rng(),
    ):
        for entry in log.entries:
            observe(entry)
        saved_at, save_after_s = time.monotonic(), config.checkpoint_every_s / 6
        for step in range(position.step, source.num_steps):
            entry = run.do_step(step, ledger)
            log.append(entry)
            observe(entry)
            bar.advance(entry["step_tokens"] if source.num_tokens else 1, loss=round(entry["loss"], 4))
            if step + 1 == source.num_steps or time.monotonic() - saved_at >= save_after_s:
                log.sync()
                save_checkpoint(folder, model, run.optimizer, Position(step + 1, ledger, run.fingerprint))
                saved_at, save_after_s = time.monotonic(), min(2 * save_after_s, config.checkpoint_every_s)
    model.eval()
    losses = tuple(entry["loss"] for entry in log.entries)
    return TrainResult(losses, ledger, str(run.computer.dtype).removeprefix("torch."))


def _track(progress: Progress, source: BatchSource, position: Position) -> AbstractContextManager[Task]:
    if source.num_tokens:
        done = position.ledger.train_tokens
        return track(progress, "train", source.num_tokens, unit="tokens", done=done)
    return track(progress, "train", source.num_steps, unit="steps", done=position.step)


class _Run:
    """What stays the same from step to step."""

    def __init__(
        self, model: PreTrainedModel, source: BatchSource, loss: Loss, config: TrainConfig, seed: int
    ) -> None:
        self.model, self.source, self.loss, self.config, self.seed = model, source, loss, config, seed
        self.optimizer = Optimizer(model, config.optimizer)
        self.computer = GradientComputer(
            model,
            loss,
            dtype=choose_dtype(config.dtype, model.get_input_embeddings().weight.device),
            microbatch_tokens=config.microbatch_tokens,
        )
        self.matrix_parameters = count_matrix_parameters(model)
        self.frozen_parameters = count_matrix_parameters(model, only_frozen=True)
        self.is_decoder_frozen = not find_trained(model.get_decoder())
        plan = [config.model_dump(mode="json"), repr(loss), seed, source.identity]
        self.fingerprint = content_hash(plan)

    def do_step(self, step: int, ledger: Ledger) -> dict[str, Any]:
        """One optimizer step (0-based): its line for the log. Adds to the ledger."""
        started_at = time.monotonic()
        rows = self.source.draw(step)
        total = self.loss.compute_total(rows)
        if total <= 0:
            raise DataError(f"nothing in step {step + 1} carries loss: rows {_name_rows(rows)}")
        torch.manual_seed(derive_seed("train", self.seed, step))
        means = self.computer.compute(rows, total)
        grad_norm = float(nn.utils.clip_grad_norm_(self.computer.parameters, self.config.max_grad_norm))
        if not (math.isfinite(means["loss"]) and math.isfinite(grad_norm)):
            raise NonFiniteLoss(
                f"step {step + 1}: loss {means['loss']}, gradient norm {grad_norm}; rows {_name_rows(rows)}. "
                "Lower the learning rate or leave these rows out"
            )
        lr_frac = compute_lr_frac(self.config.schedule, step, self.source.num_steps)
        self.optimizer.step(lr_frac)
        step_tokens = self._count(rows, ledger)
        seconds = time.monotonic() - started_at
        ledger.seconds += seconds
        return {
            "step": step + 1,
            "tokens": ledger.train_tokens,
            "step_tokens": step_tokens,
            **means,
            "lr": lr_frac * self.optimizer.peak_lr,
            "grad_norm": grad_norm,
            "tokens_per_s": round(step_tokens / seconds, 1),
            **self.source.describe(step),
        }

    def _count(self, rows: Batch, ledger: Ledger) -> int:
        """Add a step to the ledger; its tokens."""
        documents = [document for row in rows for document in list_documents(row)]
        num_tokens = sum(document.length for document in documents)
        num_seen = sum(
            document.length * (document.prefix + (document.length + 1) / 2) for document in documents
        )
        ledger.train_tokens += num_tokens
        ledger.train_flops += num_tokens * compute_train_flops(
            matrix_parameters=self.matrix_parameters,
            num_layers=self.model.config.num_hidden_layers,
            width=self.model.config.hidden_size,
            context=num_seen / num_tokens,
            frozen_parameters=self.frozen_parameters,
            is_decoder_frozen=self.is_decoder_frozen,
        )
        return num_tokens


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products: the one named, or for `auto` bfloat16 where the device has instructions for it."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    is_fast = {
        "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
        "cpu": lambda: torch.cpu.get_capabilities().get("avx512_bf16", False),
    }
    return torch.bfloat16 if device.type in is_fast and is_fast[device.type]() else torch.float32


def identify_row(row: Row) -> str:
    """A row's id: a hash of all it holds."""
    return content_hash([row.token_ids, row.loss_weights, row.document_ids, row.is_tree, row.columns])


def _name_rows(rows: Batch) -> str:
    return ", ".join(identify_row(row) for row in rows)
