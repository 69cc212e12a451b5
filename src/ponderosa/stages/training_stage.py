"""What the training stages share: a learner in, batches through the loop, a model directory out.

No row is longer than the context the model was made for: packed rows must fit it, and a solution that goes unpacked
and does not fit is left out and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ponderosa.adapter_directory import save_adapter
from ponderosa.data.packing import Batch
from ponderosa.engines.codec import HFCodec
from ponderosa.engines.loading import select_device
from ponderosa.errors import ConfigError, DataError
from ponderosa.formats import PromptFormat, load_format
from ponderosa.identity import derive_seed
from ponderosa.model_directory import get_max_context, load_model, load_tokenizer, save_model
from ponderosa.records import Row
from ponderosa.stages.stage import Context, Need, Outcome, StageConfig
from ponderosa.stages.training_data import SolutionData
from ponderosa.training.loop import BatchSource, FixedBatches, TrainConfig, train
from ponderosa.training.losses import Loss

MODEL = "model"


class SolutionTraining(StageConfig):
    """Which model, on which solutions, for how long."""

    model: str = Field("base", description="stage whose model is trained further")
    data: SolutionData
    train: TrainConfig = TrainConfig()
    tokens_per_step: int = Field(2048, ge=1, description="tokens of an optimizer step")
    epochs: int = Field(1, ge=1, description="passes over the solutions")

    def needs(self) -> tuple[Need, ...]:
        return (Need(self.model, "model"), *self.data.needs())


@dataclass(frozen=True, slots=True)
class Learner:
    """A model to train and what its directory is saved with."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompt_format: PromptFormat
    codec: HFCodec
    adapter: "Adapter | None" = None

    @property
    def max_context(self) -> int:
        return get_max_context(self.model)

    def save(self, folder: Path) -> None:
        """Write a model directory, or of an adapter its own, whole or not at all."""
        if self.adapter is None:
            save_model(folder, self.model, self.tokenizer, self.prompt_format)
        else:
            trunk, rank, alpha = self.adapter
            save_adapter(folder, self.model, trunk, rank=rank, alpha=alpha)


class Adapter(NamedTuple):
    """What of a learner is trained: not the policy in the directory `trunk`, but an adapter on it."""

    trunk: Path
    rank: int
    alpha: float


def load_learner(parent: str, context: Context) -> Learner:
    """The model of an earlier stage, on the stage's device."""
    folder = context.inputs[parent] / MODEL
    model = load_model(folder, device=select_device(context.device))
    tokenizer = load_tokenizer(folder)
    return Learner(model, tokenizer, load_format(folder), HFCodec(tokenizer))


def check_row_length(row_length: int, max_context: int) -> None:
    """Raises ConfigError if packed rows would be longer than the model's context."""
    if row_length > max_context:
        raise ConfigError(
            f"row_length {row_length} is longer than the model's context of {max_context} tokens; "
            f"allowed: 2 to {max_context}"
        )


def leave_out_long(rows: Sequence[Row], max_context: int) -> tuple[list[Row], dict[str, int]]:
    """The rows that fit the context, and how many did not, as `Outcome.dropped` counts them.

    Raises DataError if none fits.
    """
    kept = [row for row in rows if len(row.token_ids) <= max_context]
    if not kept:
        raise DataError(
            f"none of the {len(rows)} solutions fits the model's context of {max_context} tokens; "
            "train a model with a longer context, or on shorter solutions"
        )
    num_left_out = len(rows) - len(kept)
    return kept, {"longer_than_context": num_left_out} if num_left_out else {}


def train_on_batches(
    learner: Learner,
    batches: Sequence[Batch],
    config: TrainConfig,
    context: Context,
    *,
    facts: dict[str, Any],
    dropped: dict[str, int],
) -> Outcome:
    """`train_and_save` over batches of plain rows that are all known beforehand."""
    assert all(len(row.token_ids) <= learner.max_context for batch in batches for row in batch)
    source = FixedBatches(batches)
    kept = sum(map(len, batches))
    return train_and_save(learner, source, config, context, facts=facts, kept=kept, dropped=dropped)


def train_and_save(
    learner: Learner,
    source: BatchSource,
    config: TrainConfig,
    context: Context,
    *,
    loss: Loss | None = None,
    facts: dict[str, Any],
    kept: int | None = None,
    dropped: dict[str, int] | None = None,
) -> Outcome:
    """Run the loop over a source's batches, continuing an interrupted run, and save the model directory."""
    if context.dtype != "auto":
        config = config.model_copy(update={"dtype": context.dtype})
    seed = derive_seed("train", context.name, context.seed)
    result = train(
        learner.model,
        source,
        config,
        loss=loss,
        folder=context.folder,
        seed=seed,
        progress=context.progress,
        observe=context.observe,
    )
    learner.save(context.folder / MODEL)
    return Outcome(
        ledger=result.ledger,
        kept=kept,
        dropped=dropped or {},
        facts={
            **facts,
            "parameters": sum(parameter.numel() for parameter in learner.model.parameters()),
            "steps": source.num_steps,
            "dtype": result.dtype,
            "final_loss": sum(result.losses[-20:]) / len(result.losses[-20:]),
        },
    )
