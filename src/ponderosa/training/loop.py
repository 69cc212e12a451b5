"""The optimizer loop: the only one. Rows of token ids, document ids and weights go in; a trained model comes out.

A step takes one batch of rows, whatever packed or unpacked them, computes them as streams of whole documents in
microbatches, divides the summed loss by the step's whole weight, clips, and moves the parameters. Every order and
seed is an argument; a killed run continues from its last checkpoint to the same loss curve, bit for bit on the
same machine. The loop does not save the model: the caller does, when `train` returns.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ponderosa.config import Config
from ponderosa.data.packing import Batch, split_documents
from ponderosa.errors import DataError, NonFiniteLoss
from ponderosa.identity import content_hash, derive_seed
from ponderosa.ledger import Ledger, compute_train_flops
from ponderosa.progress import SILENT, Progress, track
from ponderosa.records import Row
from ponderosa.training.attention import document_attention
from ponderosa.training.batching import Microbatch, build_microbatches, compute_total_weight
from ponderosa.training.checkpoints import Position, load_checkpoint, save_checkpoint
from ponderosa.training.losses import compute_weighted_nll, compute_z_loss
from ponderosa.training.metrics_log import MetricsLog
from ponderosa.training.model import count_matrix_parameters
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
    microbatch_tokens: int = 4096
    """Tokens computed at a time; changes speed and memory, not the loss."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; parameters stay as they are. auto takes bfloat16 where the device computes it fast."""
    checkpoint_every_s: float = 60.0
    """Seconds between checkpoints."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run did. `losses` holds the mean weighted loss of every step (nats per token)."""

    losses: tuple[float, ...]
    ledger: Ledger
    dtype: str


def train(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    config: TrainConfig,
    *,
    folder: Path,
    seed: int,
    progress: Progress = SILENT,
) -> TrainResult:
    """Train `model` in place, one optimizer step for each batch.

    The folder receives `metrics.jsonl` (one line a step) and the checkpoint, from which a later call with the same
    arguments continues. Raises NonFiniteLoss, and DataError for a checkpoint of another run or a batch that
    carries no loss.
    """
    run = _Run(model, batches, config, seed)
    folder.mkdir(parents=True, exist_ok=True)
    position = load_checkpoint(folder, model, run.optimizer, run.fingerprint) or run.start
    ledger = position.ledger
    with (
        MetricsLog(folder / METRICS_FILE, num_steps=position.step) as log,
        track(progress, "train", run.num_tokens, unit="tokens", done=ledger.train_tokens) as bar,
        document_attention(model),
        torch.random.fork_rng(),
    ):
        saved_at = time.monotonic()
        for step in range(position.step, len(batches)):
            entry = run.do_step(step, ledger)
            log.append(entry)
            bar.advance(entry["batch_tokens"], loss=round(entry["loss"], 4))
            if step + 1 == len(batches) or time.monotonic() - saved_at >= config.checkpoint_every_s:
                log.sync()
                save_checkpoint(folder, model, run.optimizer, Position(step + 1, ledger, run.fingerprint))
                saved_at = time.monotonic()
    model.eval()
    return TrainResult(
        losses=tuple(entry["loss"] for entry in log.entries),
        ledger=ledger,
        dtype=str(run.dtype).removeprefix("torch."),
    )


class _Run:
    """What stays the same from step to step."""

    def __init__(
        self, model: PreTrainedModel, batches: Sequence[Batch], config: TrainConfig, seed: int
    ) -> None:
        self.model, self.batches, self.config, self.seed = model, batches, config, seed
        self.optimizer = Optimizer(model, config.optimizer)
        self.device = model.get_input_embeddings().weight.device
        self.dtype = choose_dtype(config.dtype, self.device)
        self.num_tokens = sum(len(row.token_ids) for batch in batches for row in batch)
        plan = [config.model_dump(mode="json"), seed, len(batches), self.num_tokens]
        self.fingerprint = content_hash(
            [*plan, *(identify_row(row) for row in (*batches[:1], *batches[-1:]) for row in row)]
        )
        self.start = Position(0, Ledger(), self.fingerprint)
        self.matrix_parameters = count_matrix_parameters(model)

    def do_step(self, step: int, ledger: Ledger) -> dict[str, Any]:
        """One optimizer step; its line for the log. Adds to the ledger."""
        started_at = time.monotonic()
        rows = self.batches[step]
        torch.manual_seed(derive_seed("train", self.seed, step))
        self.model.train()
        loss = self.compute_gradients(step, rows)
        grad_norm = float(nn.utils.clip_grad_norm_(self.optimizer.parameters, self.config.max_grad_norm))
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise NonFiniteLoss(_describe_non_finite(step, loss, grad_norm, rows))
        lr_frac = compute_lr_frac(self.config.schedule, step, len(self.batches))
        self.optimizer.step(lr_frac)
        self.optimizer.clear_gradients()
        num_tokens = self.count(rows, ledger)
        seconds = time.monotonic() - started_at
        ledger.seconds += seconds
        return {
            "step": step + 1,
            "tokens": ledger.train_tokens,
            "batch_tokens": num_tokens,
            "loss": loss,
            "lr_frac": lr_frac,
            "grad_norm": grad_norm,
            "tokens_per_s": round(num_tokens / seconds, 1),
        }

    def compute_gradients(self, step: int, rows: Batch) -> float:
        """Accumulate the gradient of the step's mean weighted loss; that loss (nats per token)."""
        total_weight = compute_total_weight(rows)
        if total_weight <= 0:
            raise DataError(f"no token of step {step + 1} carries loss: rows {_name_rows(rows)}")
        nll = torch.zeros((), device=self.device)
        for microbatch in build_microbatches(
            rows, max_tokens=self.config.microbatch_tokens, device=self.device
        ):
            objective, microbatch_nll = self.compute_objective(microbatch)
            (objective / total_weight).backward()
            nll += microbatch_nll.detach()
        return float(nll) / total_weight

    def compute_objective(self, microbatch: Microbatch) -> tuple[Tensor, Tensor]:
        """Summed objective (with the z-loss) and summed weighted NLL of a microbatch."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            hidden_1ND = self.model.get_decoder()(
                input_ids=microbatch.token_ids_1N,
                position_ids=microbatch.positions_1N,
                use_cache=False,
                documents=microbatch.documents,
            ).last_hidden_state
            logits_MV = self.model.get_output_embeddings()(hidden_1ND[0, microbatch.predictors_M])
        nll = compute_weighted_nll(logits_MV, microbatch.targets_M, microbatch.weights_M)
        if not self.config.z_loss_weight:
            return nll, nll
        return nll + self.config.z_loss_weight * compute_z_loss(logits_MV, microbatch.weights_M), nll

    def count(self, rows: Batch, ledger: Ledger) -> int:
        """Add the step to the ledger; its tokens."""
        lengths = [len(document.token_ids) for row in rows for document in split_documents(row)]
        num_tokens = sum(lengths)
        config = self.model.config
        flops_per_token = compute_train_flops(
            matrix_parameters=self.matrix_parameters,
            num_layers=config.num_hidden_layers,
            width=config.hidden_size,
            context=sum(length * (length + 1) / 2 for length in lengths) / num_tokens,
        )
        ledger.train_tokens += num_tokens
        ledger.train_flops += num_tokens * flops_per_token
        return num_tokens


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products: as named, or bfloat16 where the device has instructions for it."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    has_bfloat16 = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return torch.bfloat16 if has_bfloat16 else torch.float32


def identify_row(row: Row) -> str:
    """A row's id: a hash of its token ids and weights."""
    return content_hash([row.token_ids, row.loss_weights, row.document_ids])


def _name_rows(rows: Batch) -> str:
    return ", ".join(identify_row(row) for row in rows)


def _describe_non_finite(step: int, loss: float, grad_norm: float, rows: Batch) -> str:
    return (
        f"step {step + 1}: loss {loss}, gradient norm {grad_norm}; rows {_name_rows(rows)}. "
        "Continue from the last checkpoint with a smaller learning rate, or leave these rows out"
    )
