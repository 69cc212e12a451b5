"""Rollout DPO (Phi-4-mini-reasoning, arXiv 2504.21233, stage 3): a model learns to prefer its better attempts.

    read pairs, scored by the very model that training begins with
    train on whole pairs, prompt shared: sigmoid DPO, perhaps with the chosen continuation's likelihood, or KTO
    score all pairs once more: margins of implicit reward against length differences, to see what is owed to length

Loss, rewards and lengths count sampled tokens alone. The log's rewards, margin and accuracy are of each pair before
the step that trains on it, so in the first epoch they are of pairs not seen before.

Writes model/, metrics.jsonl, margins.json.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from ponderosa.artifacts import write_json
from ponderosa.data.margins import summarise_margins
from ponderosa.data.packing import Batch, build_batches
from ponderosa.data.pair_rows import ScoredPair, build_mismatched_rows, build_scored_row, split_scores
from ponderosa.engines.loading import select_device
from ponderosa.errors import ConfigError
from ponderosa.identity import derive_seed
from ponderosa.progress import Progress
from ponderosa.records import Row
from ponderosa.stages.pairs import check_dtype, check_reference, load_pairs
from ponderosa.stages.scoring import Scores, build_scorer, count_scoring, score_rows
from ponderosa.stages.stage import Context, Need, Outcome, StageConfig
from ponderosa.stages.training_stage import MODEL, load_learner, train_and_save
from ponderosa.training.gradients import GradientComputer, use_threads
from ponderosa.training.kl_baseline import BaselinedBatches, Mismatched
from ponderosa.training.loop import BatchSource, FixedBatches, TrainConfig, choose_dtype
from ponderosa.training.optim import OptimizerConfig
from ponderosa.training.preference_losses import DPO, KTO

VERSION = 1
MARGINS = "margins.json"


class DPOOptimizer(OptimizerConfig):
    """How parameters follow the gradients of pairs."""

    name: Literal["adamw", "muon"] = "adamw"
    """muon moves hidden matrices by orthogonalised momentum, and the rest by adamw."""
    learning_rate: float = 5e-7
    """Peak AdamW step size; the paper's, for 3.8 billion parameters."""


class DPOTraining(TrainConfig):
    """One run of the optimizer loop on pairs."""

    optimizer: DPOOptimizer = DPOOptimizer()
    """How parameters follow their gradients."""


class Config(StageConfig):
    """Which model, on which pairs, by which loss."""

    model: str = Field("sft", description="stage whose model is trained further; the pairs' reference")
    pairs: tuple[str, ...] = Field(min_length=1, description="stages whose pairs to train on")
    loss: Literal["sigmoid", "kto"] = Field(
        "sigmoid", description="sigmoid compares the two of a pair; kto judges each against a baseline"
    )
    beta: float = Field(0.1, gt=0, description="how dear it is to move away from the reference")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="sigmoid: share of pairs taken to be the wrong way round"
    )
    sft_weight: float = Field(
        0.0, ge=0, description="sigmoid: weight of the chosen continuation's likelihood, per token"
    )
    desirable_weight: float = Field(1.0, gt=0, description="kto: weight of chosen continuations")
    undesirable_weight: float = Field(1.0, gt=0, description="kto: weight of rejected continuations")
    train: DPOTraining = DPOTraining()
    tokens_per_step: int = Field(4096, ge=1, description="tokens of an optimizer step")
    epochs: int = Field(1, ge=1, description="passes over the pairs")

    @model_validator(mode="after")
    def _check_loss(self) -> "Config":
        others = {
            "sigmoid": ("desirable_weight", "undesirable_weight"),
            "kto": ("label_smoothing", "sft_weight"),
        }[self.loss]
        if unused := [name for name in others if getattr(self, name) != Config.model_fields[name].default]:
            raise ConfigError(f"loss {self.loss!r} makes no use of {', '.join(unused)}; leave it out")
        if self.train.z_loss_weight:
            raise ConfigError(
                "z_loss_weight goes with cross-entropy; pairs are not trained by it: leave it out"
            )
        return self

    def needs(self) -> tuple[Need, ...]:
        return (Need(self.model, "model"), *(Need(name, "pairs") for name in self.pairs))

    def build_loss(self) -> DPO | KTO:
        if self.loss == "kto":
            return KTO(self.beta, self.desirable_weight, self.undesirable_weight)
        return DPO(self.beta, self.label_smoothing, self.sft_weight)


def run(config: Config, context: Context) -> Outcome:
    dtype = config.train.dtype if context.dtype == "auto" else context.dtype
    scored = load_scored(config, context, choose_dtype(dtype, torch.device(select_device(context.device))))
    learner = load_learner(config.model, context)
    rows = [build_scored_row(one) for one in scored]
    batches = build_batches(
        rows,
        tokens_per_step=config.tokens_per_step,
        seed=derive_seed("dpo", context.seed),
        epochs=config.epochs,
    )
    scorer = build_scorer(learner.model, dtype, config.train.microbatch_tokens)
    source: BatchSource = FixedBatches(batches)
    examples: list[Row] = []
    if config.loss == "kto":
        examples = build_mismatched_rows([one.pair for one in scored], max_length=learner.max_context)
        source = build_kto_source(batches, rows, examples, scorer, context.progress)
    outcome = train_and_save(
        learner,
        source,
        config.train,
        context,
        loss=config.build_loss(),
        facts={"pairs": len(scored)},
        kept=sum(map(len, batches)),
    )
    scores = score_rows(scorer, rows, label="score margins", progress=context.progress)
    count_scoring(outcome.ledger, learner.model, [*rows, *examples * (1 + config.epochs)])
    margins = describe_margins(scored, scores, config.beta)
    write_json(context.folder / MARGINS, margins)
    outcome.facts |= {name: margins["trained"][name] for name in ("accuracy", "margin", "length_correlation")}
    return outcome


def load_scored(config: Config, context: Context, dtype: torch.dtype) -> list[ScoredPair]:
    """The pairs of every stage named. Raises ConfigError if another model than the learner scored some, or in another
    dtype than that of the training."""
    for name in config.pairs:
        model_dir = context.inputs[config.model] / MODEL
        check_reference(context.inputs[name], model_dir, pairs=name, model=config.model)
        check_dtype(context.inputs[name], dtype, pairs=name)
    return [pair for name in config.pairs for pair in load_pairs(context.inputs[name])]


def build_kto_source(
    batches: Sequence[Batch],
    rows: Sequence[Row],
    examples: Sequence[Row],
    scorer: GradientComputer,
    progress: Progress,
) -> BaselinedBatches:
    """KTO's batches. The model in the scorer is still the reference here, and scores the mismatched examples as such."""
    references = score_rows(scorer, examples, label="score baseline", progress=progress)
    num_threads = torch.get_num_threads()

    def score(step_rows: Sequence[Row]) -> list[Scores]:
        with use_threads(num_threads), scorer.running():
            return scorer.score(step_rows)

    mismatched = {
        row: Mismatched(example, sum(scores))
        for row, example, scores in zip(rows, examples, references, strict=True)
    }
    return BaselinedBatches(batches, mismatched, score)


def describe_margins(scored: Sequence[ScoredPair], scores: Sequence[Scores], beta: float) -> dict[str, Any]:
    """`reference`: log-probability differences before training (nats), where every margin is 0. `trained`: margins
    of implicit reward after it. Both by length difference.

    scores: of the pairs' rows under the trained model.
    """
    before = [one.logprob_difference for one in scored]
    after = [split_scores(one.pair, row).logprob_difference for one, row in zip(scored, scores, strict=True)]
    margins = [beta * (trained - reference) for trained, reference in zip(after, before, strict=True)]
    differences, problems = [one.length_difference for one in scored], [one.pair.problem_id for one in scored]
    return {
        "beta": beta,
        "reference": summarise_margins(before, differences, problems),
        "trained": summarise_margins(margins, differences, problems),
    }
