"""Preference pairs from rollouts and search trees, with what the reference model makes of them.

    set correct attempts at a problem against wrong ones, by `rules`; every other one is counted with its reason
    score both continuations of every pair with the reference, once, by the trainer's own forward pass

The reference is the model that DPO begins with. It is scored here so that training holds one model, not two; the hash
of its directory goes with the scores, and a `dpo` stage takes no pairs scored by another model.

Writes pairs.parquet.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from ponderosa.artifacts import Journal, read_json, read_table, write_table
from ponderosa.data.pair_rows import ScoredPair, build_pair_row, split_scores
from ponderosa.data.preferences import PairRules, PairSelection, count_attempts, select_pairs
from ponderosa.errors import ConfigError
from ponderosa.hash_cache import hash_directory
from ponderosa.identity import derive_seed
from ponderosa.ledger import Ledger
from ponderosa.records import GradedAttempt, Pair, to_record
from ponderosa.stages.policy import check_same_ids, load_policy
from ponderosa.stages.rollout import POLICY, load_rollouts
from ponderosa.stages.scoring import build_scorer, count_scoring, score_rows
from ponderosa.stages.stage import Context, Need, Outcome, StageConfig
from ponderosa.stages.training_stage import MODEL, Learner, load_learner
from ponderosa.stages.tree_tables import load_doubted, load_trajectories

VERSION = 1
TABLE = "pairs.parquet"


class Config(StageConfig):
    """Which attempts, paired how, scored by which model."""

    rollouts: tuple[str, ...] = Field((), description="rollout stages whose attempts are paired")
    trees: tuple[str, ...] = Field((), description="search stages whose trees' solutions are paired")
    reference: str = Field(description="stage whose model is the reference: the one that `dpo` will train")
    rules: PairRules = PairRules()
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the reference's matrix products; the same as in training"
    )
    microbatch_tokens: int | None = Field(
        None, ge=1, description="most tokens scored at a time; unset fits the device"
    )

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if not (self.rollouts or self.trees):
            raise ConfigError("there is nothing to pair: give `rollouts` or `trees`, names of stages")
        return self

    def needs(self) -> tuple[Need, ...]:
        return (
            *(Need(name, "rollouts") for name in self.rollouts),
            *(Need(name, "trees") for name in self.trees),
            Need(self.reference, "model"),
        )


def run(config: Config, context: Context) -> Outcome:
    reference = load_learner(config.reference, context)
    selection = pair_stages(config, context, reference)
    pairs = selection.pairs
    rows = [build_pair_row(pair) for pair in pairs]
    dtype = config.dtype if context.dtype == "auto" else context.dtype
    scorer = build_scorer(reference.model, dtype, config.microbatch_tokens)
    with Journal(context.folder / "journal.jsonl") as journal:
        scores = score_rows(scorer, rows, label="score pairs", progress=context.progress, journal=journal)
    scored = [split_scores(pair, row_scores) for pair, row_scores in zip(pairs, scores, strict=True)]
    save_pairs(context.folder, scored)
    ledger = Ledger()
    count_scoring(ledger, reference.model, rows)
    return Outcome(
        ledger=ledger,
        kept=count_attempts(pairs),
        dropped=dict(selection.unused),
        facts={
            "reference": hash_directory(context.inputs[config.reference] / MODEL),
            "dtype": name_dtype(scorer.dtype),
            "pairs": len(pairs),
            "problems": len({pair.problem_id for pair in pairs}),
            "problems_without_pair": dict(selection.unpaired),
            "mean_length_difference": fmean(one.length_difference for one in scored),
        },
    )


def pair_stages(config: Config, context: Context, reference: Learner) -> PairSelection:
    """The pairs of all stages' attempts. Raises ConfigError if there are none, or if their token ids mean something
    else to the reference."""
    graded: list[GradedAttempt] = []
    doubted = load_doubted(context.inputs[name] for name in config.trees)
    for name in (*config.rollouts, *config.trees):
        folder = context.inputs[name]
        policy = load_policy(folder / POLICY)
        check_same_ids(policy, reference.codec, reference.prompt_format, where=name)
        if name in config.trees:
            graded += [trajectory.graded for trajectory in load_trajectories(folder)]
        else:
            graded += [one for group in load_rollouts(folder) for one in group.graded]
    seed = derive_seed("pairs", context.seed)
    sound = [one for one in graded if one.attempt.problem_id not in doubted]
    selection = select_pairs(sound, config.rules, seed=seed, max_length=reference.max_context)
    if doubted:
        selection = replace(selection, unpaired={**selection.unpaired, "suspicious": len(doubted)})
    if not selection.pairs:
        raise ConfigError(
            f"the attempts of {', '.join((*config.rollouts, *config.trees))} give no pair, their problems being {dict(selection.unpaired)}; "
            "sample more often or at a higher temperature, ask problems of another difficulty, or loosen `rules`"
        )
    return selection


def save_pairs(folder: Path, scored: Sequence[ScoredPair]) -> None:
    """Write the table that `load_pairs` reads."""
    write_table(
        folder / TABLE,
        [
            {
                **to_record(one.pair),
                "chosen_logprobs": one.chosen_logprobs,
                "rejected_logprobs": one.rejected_logprobs,
            }
            for one in scored
        ],
    )


def load_pairs(folder: Path) -> list[ScoredPair]:
    """The scored pairs of a finished stage."""
    names = [field.name for field in fields(Pair)]
    return [
        ScoredPair(
            Pair(**{name: _freeze(record[name]) for name in names}),
            tuple(record["chosen_logprobs"]),
            tuple(record["rejected_logprobs"]),
        )
        for record in read_table(folder / TABLE)
    ]


def _freeze(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def name_dtype(dtype: torch.dtype) -> str:
    """As configurations and manifests call it."""
    return str(dtype).removeprefix("torch.")


def check_reference(folder: Path, model_dir: Path, *, pairs: str, model: str) -> str:
    """The hash of the model that scored a finished stage's pairs. Raises ConfigError if it is not the one in
    `model_dir`."""
    reference = read_json(folder / "manifest.json")["facts"]["reference"]
    start = hash_directory(model_dir)
    if reference != start:
        raise ConfigError(
            f"the pairs of {pairs!r} were scored by model {reference}, but training begins with {start}, the model of "
            f"{model!r}; DPO measures how far a model moves from the one it began with: give stage {pairs!r} "
            f"`reference: {model}`"
        )
    return start


def check_dtype(folder: Path, dtype: torch.dtype, *, pairs: str) -> None:
    """Raises ConfigError if a finished stage's pairs were scored in another dtype than `dtype`, that of the training;
    those of a `pivotal` stage were scored by the engine and name none."""
    scored = read_json(folder / "manifest.json")["facts"].get("dtype")
    trained = name_dtype(dtype)
    if scored not in (None, trained):
        raise ConfigError(
            f"the pairs of {pairs!r} were scored in {scored}, but training would compute in {trained}, and take the "
            f"difference in rounding for a move away from the reference; run with --dtype {scored}, or give stage "
            f"{pairs!r} as `dtype` what this stage has as `train: {{dtype: ...}}`, so that they are scored again"
        )
