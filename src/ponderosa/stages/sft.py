"""Supervised fine-tuning (Phi-4-mini-reasoning, arXiv 2504.21233, stage 2): a compact set, unpacked.

    each row is one problem and its solution, nothing before it and nothing behind it: the model learns to stop
    loss on what the model writes, never on the question or on observations

Writes model/, metrics.jsonl.
"""

from pydantic import Field

from ponderosa.data.packing import build_batches
from ponderosa.engines.codec import HFCodec
from ponderosa.formats import load_format
from ponderosa.identity import derive_seed
from ponderosa.stages.stage import Context, Need, Outcome, StageConfig
from ponderosa.stages.training_stage import (
    MODEL,
    SolutionData,
    build_solution_rows,
    load_parent,
    train_and_save,
)
from ponderosa.training.loop import TrainConfig

VERSION = 1


class Config(StageConfig):
    """Which model, on which solutions, for how long."""

    model: str = Field("midtrained", description="stage whose model is trained further")
    data: SolutionData
    train: TrainConfig = TrainConfig()
    tokens_per_step: int = Field(2048, ge=1, description="tokens of an optimizer step")
    epochs: int = Field(1, ge=1, description="passes over the solutions")

    def needs(self) -> tuple[Need, ...]:
        return (Need(self.model, "model"), *self.data.needs())


def run(config: Config, context: Context) -> Outcome:
    parent = context.inputs[config.model]
    model, tokenizer = load_parent(parent, context)
    prompt_format = load_format(parent / MODEL)
    rows = build_solution_rows(config.data, prompt_format, HFCodec(tokenizer), context)
    batches = build_batches(
        rows,
        tokens_per_step=config.tokens_per_step,
        seed=derive_seed("sft", context.seed),
        epochs=config.epochs,
    )
    return train_and_save(
        model, tokenizer, prompt_format, batches, config.train, context, {"documents": len(rows)}
    )
