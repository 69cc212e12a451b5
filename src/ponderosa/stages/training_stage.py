"""What the training stages share: a model directory in, batches through the loop, a model directory out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ponderosa.config import Config
from ponderosa.data.packing import Batch
from ponderosa.data.rows import build_solution_row
from ponderosa.engines.codec import HFCodec
from ponderosa.engines.loading import select_device
from ponderosa.errors import ConfigError
from ponderosa.formats import PromptFormat
from ponderosa.identity import derive_seed
from ponderosa.records import Row
from ponderosa.stages.solutions import load_solutions
from ponderosa.stages.stage import Context, Need, Outcome
from ponderosa.steps import Segment, render_steps
from ponderosa.training.loop import TrainConfig, train
from ponderosa.training.model import load_model, load_tokenizer, save_model

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


def load_parent(folder: Path, context: Context) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer of an earlier stage, on the stage's device."""
    model_dir = folder / MODEL
    return load_model(model_dir, device=select_device(context.device)), load_tokenizer(model_dir)


def train_and_save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_format: PromptFormat,
    batches: Sequence[Batch],
    config: TrainConfig,
    context: Context,
    facts: dict[str, Any],
) -> Outcome:
    """Run the loop over the batches, continuing an interrupted run, and save the model directory."""
    if context.dtype != "auto":
        config = config.model_copy(update={"dtype": context.dtype})
    seed = derive_seed("train", context.name, context.seed)
    result = train(model, batches, config, folder=context.folder, seed=seed, progress=context.progress)
    save_model(context.folder / MODEL, model, tokenizer, prompt_format)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return Outcome(
        ledger=result.ledger,
        kept=sum(len(batch) for batch in batches),
        facts={
            **facts,
            "parameters": num_parameters,
            "steps": len(batches),
            "dtype": result.dtype,
            "final_loss": sum(result.losses[-20:]) / len(result.losses[-20:]),
        },
    )
