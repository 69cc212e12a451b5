"""Distillation mid-training (Phi-4-mini-reasoning, arXiv 2504.21233, stage 1): many worked solutions, packed.

    every verified solution, worked or rolled out, becomes a document: question, steps, observations, end of text
    pack documents into rows; they are masked from each other (or, as a control, leave each by itself)
    train on what the model writes and, weighted by `question_weight`, on the question; never on observations

Writes model/, metrics.jsonl, rejected.parquet.
"""

from typing import Any

from pydantic import Field

from ponderosa.data.packing import build_batches, pack_rows
from ponderosa.identity import derive_seed
from ponderosa.stages.stage import Context, Outcome
from ponderosa.stages.training_data import build_training_rows
from ponderosa.stages.training_stage import (
    SolutionTraining,
    check_row_length,
    leave_out_long,
    load_learner,
    train_on_batches,
)

VERSION = 3


class Config(SolutionTraining):
    """Which model, on which solutions, for how long."""

    row_length: int | None = Field(
        512,
        ge=2,
        description="tokens of a packed row, no more than the model's context; null leaves solutions unpacked",
    )
    question_weight: float = Field(0.0, ge=0, description="loss weight of the question's tokens")


def run(config: Config, context: Context) -> Outcome:
    learner = load_learner(config.model, context)
    rows, rejected = build_training_rows(
        config.data,
        learner.prompt_format,
        learner.codec,
        context,
        question_weight=config.question_weight,
    )
    seed = derive_seed("midtrain", context.seed)
    if config.row_length is None:
        rows, too_long = leave_out_long(rows, learner.max_context)
        facts: dict[str, Any] = {"documents": len(rows)}
    else:
        check_row_length(config.row_length, learner.max_context)
        packing = pack_rows(rows, config.row_length, seed=seed)
        rows, too_long = list(packing.rows), {}
        facts = {
            "documents": packing.num_documents,
            "split": packing.num_split,
            "fill_frac": packing.fill_frac,
        }
    batches = build_batches(rows, tokens_per_step=config.tokens_per_step, seed=seed, epochs=config.epochs)
    return train_on_batches(
        learner, batches, config.train, context, facts=facts, dropped={**rejected, **too_long}
    )
