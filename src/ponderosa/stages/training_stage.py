"""What the training stages share: a learner in, batches through the loop, a model directory out.

No row is longer than the context the model was made for: packed rows must fit it, and a solution that goes unpacked
and does not fit is left out and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ponderosa.config import Config
from ponderosa.data.rows import build_solution_row
from ponderosa.engines.codec import HFCodec
from ponderosa.engines.loading import select_device
from ponderosa.errors import ConfigError, DataError
from ponderosa.formats import PromptFormat, load_format
from ponderosa.identity import derive_seed
from ponderosa.model_directory import get_max_context, load_model, load_tokenizer, save_model
from ponderosa.records import Row
from ponderosa.stages.solutions import load_solutions
from ponderosa.stages.stage import Context, Need, Outcome, StageConfig
from ponderosa.steps import Segment, render_steps
from ponderosa.training.loop import BatchSource, TrainConfig, train
from ponderosa.training.losses import Loss

MODEL = "model"


class SolutionData(Config):
    """Which worked solutions a stage trains on."""

    solutions: tuple[str, ...] = Field(description="solutions stages to read")
    min_operations: int = Field(1, description="easiest problem to use, where problems have operations")
    max_operations: int | None = Field(None, description="hardest problem to use")
    limit: int | None = Field(None, ge=1, description="use this many, drawn at random; unset uses all")
    few_shot_frac: float = Field(
        0.15,
        ge=0,
        le=1,
        description="share of prompts with the format's worked examples; the others have none",
    )

    def needs(self) -> tuple[Need, ...]:
        return tuple(Need(name, "solutions") for name in self.solutions)


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

    @property
    def max_context(self) -> int:
        return get_max_context(self.model)


def load_learner(parent: str, context: Context) -> Learner:
    """The model of an earlier stage, on the stage's device."""
    folder = context.inputs[parent] / MODEL
    model = load_model(folder, device=select_device(context.device))
    tokenizer = load_tokenizer(folder)
    return Learner(model, tokenizer, load_format(folder), HFCodec(tokenizer))


def build_solution_rows(
    data: SolutionData,
    prompt_format: PromptFormat,
    codec: HFCodec,
    context: Context,
    *,
    question_weight: float = 0.0,
) -> list[Row]:
    """One row for each chosen solution, loss on what the model writes."""
    bare = prompt_format.model_copy(update={"few_shot": ()})
    chosen: list[tuple[int, str, list[Segment]]] = []
    for name in data.solutions:
        for problem, worked in load_solutions(context.inputs[name]):
            operations = problem.meta.get("operations", data.min_operations)
            if operations < data.min_operations or operations > (data.max_operations or operations):
                continue
            order = derive_seed("choose", context.name, context.seed, problem.id)
            chosen.append(
                (order, problem.question, render_solution(worked.steps, worked.prose, prompt_format))
            )
    if not chosen:
        raise ConfigError(
            f"no solution of {', '.join(data.solutions)} has {data.min_operations} to "
            f"{data.max_operations or 'any number of'} operations; change min_operations or max_operations"
        )
    chosen.sort(key=lambda item: item[0])
    rows = []
    for order, question, segments in chosen[: data.limit]:
        is_shown = order % 10_000 < data.few_shot_frac * 10_000
        prompt_ids = codec.encode_prompt(prompt_format if is_shown else bare, question)
        weight = 0.0 if is_shown else question_weight
        rows.append(
            build_solution_row(prompt_ids, segments, codec.encode, eos_id=codec.eos_id, prompt_weight=weight)
        )
    return rows


def render_solution(steps: Sequence[Any], prose: str, prompt_format: PromptFormat) -> list[Segment]:
    """A worked solution in the kind the format asks for."""
    if prompt_format.solution == "code":
        return render_steps(steps, prompt_format.delimiters)
    return [Segment(f" {prose.strip()}", True)]


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
        learner.model, source, config, loss=loss, folder=context.folder, seed=seed, progress=context.progress
    )
    save_model(context.folder / MODEL, learner.model, learner.tokenizer, learner.prompt_format)
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
