"""Supervised fine-tuning (Phi-4-mini-reasoning, arXiv 2504.21233, stage 2): a compact set, unpacked.

    each row is one problem and its solution, nothing before it and nothing behind it: the model learns to stop
    loss on what the model writes, never on the question or on observations
    with `rollouts`: what a model solved itself, rejection sampled; greedy ones of an RL policy are re-distillation
    a row longer than the model's context is left out and counted

Writes model/, metrics.jsonl, rejected.parquet.
"""

from pydantic import Field

from ponderosa.data.packing import build_batches
from ponderosa.identity import derive_seed
from ponderosa.stages.stage import Context, Outcome
from ponderosa.stages.training_data import build_training_rows
from ponderosa.stages.training_stage import (
    SolutionTraining,
    leave_out_long,
    load_learner,
    train_on_batches,
)

VERSION = 3


class Config(SolutionTraining):
    """Which model, on which solutions, for how long."""

    model: str = Field("midtrained", description="stage whose model is trained further")


def run(config: Config, context: Context) -> Outcome:
    learner = load_learner(config.model, context)
    rows, rejected = build_training_rows(config.data, learner.prompt_format, learner.codec, context)
    rows, too_long = leave_out_long(rows, learner.max_context)
    batches = build_batches(
        rows,
        tokens_per_step=config.tokens_per_step,
        seed=derive_seed("sft", context.seed),
        epochs=config.epochs,
    )
    facts = {"documents": len(rows)}
    return train_on_batches(
        learner, batches, config.train, context, facts=facts, dropped={**rejected, **too_long}
    )
