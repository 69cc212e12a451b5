"""Distillation mid-training (Phi-4-mini-reasoning, arXiv 2504.21233, stage 1): many worked solutions, packed.

    every verified solution becomes a document: question, steps, observations, end of text
    pack documents into rows; they are masked from each other
    train on what the model writes and, weighted by `question_weight`, on the question; never on observations

Writes model/, metrics.jsonl.
"""

from pydantic import Field

from ponderosa.data.packing import build_batches, pack_rows
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

VERSION = 2


class Config(StageConfig):
    """Which model, on which solutions, for how long."""

    model: str = Field("base", description="stage whose model is trained further")
    data: SolutionData
    train: TrainConfig = TrainConfig()
    row_length: int = Field(512, ge=2, description="tokens of a packed row")
    tokens_per_step: int = Field(2048, ge=1, description="tokens of an optimizer step")
    epochs: int = Field(1, ge=1, description="passes over the solutions")
    question_weight: float = Field(0.0, ge=0, description="loss weight of the question's tokens")

    def needs(self) -> tuple[Need, ...]:
        return (Need(self.model, "model"), *self.data.needs())


def run(config: Config, context: Context) -> Outcome:
    parent = context.inputs[config.model]
    model, tokenizer = load_parent(parent, context)
    prompt_format = load_format(parent / MODEL)
    codec = HFCodec(tokenizer)
    rows = build_solution_rows(
        config.data, prompt_format, codec, context, question_weight=config.question_weight
    )
    seed = derive_seed("midtrain", context.seed)
    packing = pack_rows(rows, config.row_length, seed=seed)
    batches = build_batches(
        packing.rows,
        tokens_per_step=config.tokens_per_step,
        seed=seed,
        epochs=config.epochs,
    )
    facts = {"documents": packing.num_documents, "split": packing.num_split, "fill_frac": packing.fill_frac}
    return train_and_save(model, tokenizer, prompt_format, batches, config.train, context, facts)
