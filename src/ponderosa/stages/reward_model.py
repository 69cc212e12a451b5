"""A reward model from search trees: a process preference model (PPM; rStar-Math, arXiv 2501.04519, section 3.3), or
one of the two it is measured against.

    read trees; leave out problems whose gold answer a search came to doubt; hold out a share of the others, by hash
    begin as the policy: its decoder under a new score head, all of it trained or only low-rank adapters and the head
    train, on the trees that are not held out:
        ppm            steps preferred to others that continue the same prefix, and whole solutions to others
        orm            whole solutions that are right or wrong
        q_regression   the search's value Q of every step that a solution goes through
    on those held out: which of a pair scores higher, and one monotone map from scores to success in [-1, 1]

All three are read at the same places, compared on the same held-out pairs and calibrated alike. The calibration curve
is of nodes whose problems were not in the fit: two halves of the held-out problems are read by each other's map; the map
that is kept is fitted on both. Held-out scores are computed in float32 whatever training computes in.

Writes model/ (a classifier or an adapter, with reward_model.json), metrics.jsonl, held_out.json.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from ponderosa.artifacts import write_json
from ponderosa.data.packing import build_batches
from ponderosa.data.reward_rows import build_comparison_row, build_node_rows
from ponderosa.data.step_pairs import StepPairRules, select_step_pairs
from ponderosa.data.tree_outcomes import (
    compute_success,
    is_held_out,
    judge_ends,
    list_scored,
)
from ponderosa.errors import ConfigError
from ponderosa.identity import derive_seed
from ponderosa.lora import find_trained
from ponderosa.records import GradedTree, Row
from ponderosa.reward_model_directory import Kind, RewardFile, find_padding, save_reward_file
from ponderosa.stages.held_out_trees import describe_held_out, score_trees
from ponderosa.stages.policy import check_same_ids, load_policy
from ponderosa.stages.rollout import POLICY
from ponderosa.stages.scoring import build_scorer, count_scoring
from ponderosa.stages.stage import Context, Need, Outcome, StageConfig
from ponderosa.stages.training_stage import MODEL, Adapter, Learner, load_learner, train_and_save
from ponderosa.stages.tree_tables import load_doubted, load_trees
from ponderosa.training.calibration import fit_calibration
from ponderosa.training.loop import FixedBatches, TrainConfig
from ponderosa.training.losses import Loss
from ponderosa.training.optim import OptimizerConfig
from ponderosa.training.output_head import build_reward_model, build_shared_reward_model
from ponderosa.training.reward_losses import ComparisonForm, OutcomeReward, PairwiseReward, ValueReward

VERSION = 3
HELD_OUT = "held_out.json"


class RewardOptimizer(OptimizerConfig):
    """How parameters follow the gradients of scores."""

    name: Literal["adamw", "muon"] = "adamw"
    """muon moves hidden matrices by orthogonalised momentum, and the rest by adamw."""
    learning_rate: float = 7e-6
    """Peak AdamW step size; the paper's, for 7 billion parameters."""


class RewardTraining(TrainConfig):
    """One run of the optimizer loop on scores."""

    optimizer: RewardOptimizer = RewardOptimizer()
    """How parameters follow their gradients."""


class Config(StageConfig):
    """Which model begins, on which trees, what it learns from them."""

    kind: Kind = Field(
        "ppm",
        description="what it learns: which of two steps is better (ppm), which solutions are right (orm), or the search's "
        "value of each step (q_regression)",
    )
    model: str = Field("sft", description="stage whose model it begins as: the policy")
    trees: tuple[str, ...] = Field(min_length=1, description="stages whose trees to learn from")
    rules: StepPairRules = StepPairRules()
    comparison: ComparisonForm = Field(
        "tanh", description="what pairs of a ppm compare: scores squashed to (-1, 1), or scores as they are"
    )
    beta: float = Field(
        4.0,
        gt=0,
        description="steepness of a ppm's comparison; with tanh the odds of a pair reach exp(2 beta)",
    )
    held_out_frac: float = Field(
        0.1, gt=0, lt=1, description="share of the problems kept for calibration and for accuracy on pairs"
    )
    trunk: Literal["separate", "shared"] = Field(
        "separate",
        description="separate trains a copy of the policy; shared trains low-rank adapters and the score head on the policy "
        "as it is, so that both need its memory once",
    )
    lora_rank: int = Field(
        8, ge=0, description="rank of the adapters of a shared trunk; 0 trains the score head alone"
    )
    lora_alpha: float = Field(
        16.0, gt=0, description="the adapters of a shared trunk count lora_alpha / lora_rank times"
    )
    train: RewardTraining = RewardTraining()
    tokens_per_step: int = Field(4096, ge=1, description="tokens of an optimizer step")
    epochs: int = Field(1, ge=1, description="passes over the trees")

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if self.kind != "ppm" and (unused := sorted({"comparison", "beta"} & self.model_fields_set)):
            raise ConfigError(f"kind {self.kind!r} makes no use of {', '.join(unused)}; leave it out")
        if self.trunk == "separate" and (
            unused := sorted({"lora_rank", "lora_alpha"} & self.model_fields_set)
        ):
            raise ConfigError(f"a separate trunk makes no use of {', '.join(unused)}; set trunk: shared")
        if self.train.z_loss_weight:
            raise ConfigError(
                "z_loss_weight goes with cross-entropy; scores are not trained by it: leave it out"
            )
        return self

    def needs(self) -> tuple[Need, ...]:
        return (Need(self.model, "model"), *(Need(name, "trees") for name in self.trees))

    def describe_comparison(self) -> dict[str, Any]:
        return {"comparison": self.comparison, "beta": self.beta} if self.kind == "ppm" else {}

    def build_loss(self) -> Loss:
        if self.kind == "ppm":
            return PairwiseReward(self.comparison, self.beta)
        return OutcomeReward() if self.kind == "orm" else ValueReward()


class Examples(NamedTuple):
    """What is trained on, what there is of it for the manifest, and what was left out by reason."""

    rows: list[Row]
    facts: dict[str, Any]
    dropped: dict[str, int]


def run(config: Config, context: Context) -> Outcome:
    learner = load_reward_learner(config, context)
    trees = load_policy_trees(config, context, learner)
    doubted = load_doubted(context.inputs[name] for name in config.trees)
    sound = [one for one in trees if one.tree.problem_id not in doubted]
    held_out, seen = split_trees(sound, config.held_out_frac)
    examples = build_examples(seen, config, max_length=learner.max_context)
    batches = build_batches(
        examples.rows,
        tokens_per_step=config.tokens_per_step,
        seed=derive_seed("reward model", context.seed),
        epochs=config.epochs,
    )
    dropped = {"suspicious": len(trees) - len(sound), **examples.dropped}
    outcome = train_and_save(
        learner,
        FixedBatches(batches),
        config.train,
        context,
        loss=config.build_loss(),
        facts={"kind": config.kind, **examples.facts, **describe_trained(learner)},
        kept=sum(map(len, batches)),
        dropped={reason: count for reason, count in dropped.items() if count},
    )
    scorer = build_scorer(learner.model, "float32", config.train.microbatch_tokens)
    scored = score_trees(scorer, held_out, config.rules, learner.max_context, context.progress)
    count_scoring(outcome.ledger, learner.model, scored.rows)
    calibration = fit_calibration(scored.scores_N, scored.success_N)
    file = RewardFile(kind=config.kind, calibration=calibration, **config.describe_comparison())
    save_reward_file(context.folder / MODEL, file)
    measured = describe_held_out(scored, seed=context.seed)
    write_json(context.folder / HELD_OUT, measured)
    outcome.facts |= {
        "held_out_problems": measured["calibration"]["problems"],
        "pair_accuracy": measured["pairs"]["all"],
        **{
            f"calibration_{name}": measured["calibration"][name]
            for name in ("error", "squared_error", "baseline")
        },
    }
    return outcome


def load_reward_learner(config: Config, context: Context) -> Learner:
    """The policy's decoder, a copy of it or itself, under a new head, with what its directory is saved with."""
    learner = load_learner(config.model, context)
    pad = find_padding(learner.tokenizer)
    seed = derive_seed("reward model", context.name, context.seed)
    if config.trunk == "separate":
        return replace(learner, model=build_reward_model(learner.model, pad_token_id=pad, seed=seed))
    adapter = Adapter(context.inputs[config.model] / MODEL, config.lora_rank, config.lora_alpha)
    _, rank, alpha = adapter
    model = build_shared_reward_model(learner.model, rank=rank, alpha=alpha, pad_token_id=pad, seed=seed)
    return replace(learner, model=model, adapter=adapter)


def describe_trained(learner: Learner) -> dict[str, int]:
    """How many parameters an adapter has, its head among them; of a model that is trained whole nothing."""
    if learner.adapter is None:
        return {}
    return {"trained_parameters": sum(one.numel() for one in find_trained(learner.model).values())}


def load_policy_trees(config: Config, context: Context, learner: Learner) -> list[GradedTree]:
    """The trees of every stage named. Raises ConfigError if their token ids mean something else to the learner."""
    for name in config.trees:
        policy = load_policy(context.inputs[name] / POLICY)
        check_same_ids(policy, learner.codec, learner.prompt_format, where=name)
    return [one for name in config.trees for one in load_trees(context.inputs[name])]


def split_trees(
    trees: Sequence[GradedTree], held_out_frac: float
) -> tuple[list[GradedTree], list[GradedTree]]:
    """The trees of problems that are held out, whatever the seed, and the others. Raises ConfigError if one of the
    two is too few."""
    held_out: list[GradedTree] = []
    seen: list[GradedTree] = []
    for one in trees:
        (held_out if is_held_out(one.tree.problem_id, held_out_frac) else seen).append(one)
    num_held_out = len({one.tree.problem_id for one in held_out})
    if num_held_out < 2 or not seen:
        raise ConfigError(
            f"of {len({one.tree.problem_id for one in trees})} problems that may be learned from, {num_held_out} are "
            f"held out at held_out_frac {held_out_frac}; calibration takes at least 2, and training some others: search "
            "more problems, or hold out another share"
        )
    return held_out, seen


def build_examples(trees: Sequence[GradedTree], config: Config, *, max_length: int) -> Examples:
    """What a kind of reward model learns from trees. Raises ConfigError if that is nothing."""
    if config.kind == "ppm":
        examples = build_preferences(trees, config.rules, max_length=max_length)
    else:
        examples = build_targets(trees, config, max_length=max_length)
    if not examples.rows:
        raise ConfigError(
            f"the trees of {', '.join(config.trees)} hold nothing for a reward model of kind {config.kind!r}: "
            f"{examples.facts | examples.dropped}; search longer or other problems, or loosen `rules`"
        )
    return examples


def build_preferences(trees: Sequence[GradedTree], rules: StepPairRules, *, max_length: int) -> Examples:
    """Comparisons, and why nodes and problems gave none."""
    selection = select_step_pairs(trees, rules, max_length=max_length)
    facts = {
        "pairs": sum(one.num_pairs for one in selection.comparisons),
        "problems": len({one.problem_id for one in selection.comparisons}),
        "nodes_without_pair": dict(selection.nodes),
        "problems_without_pair_of_solutions": dict(selection.problems),
    }
    return Examples([build_comparison_row(one) for one in selection.comparisons], facts, {})


def build_targets(trees: Sequence[GradedTree], config: Config, *, max_length: int) -> Examples:
    """What the controls learn: outcomes of whole solutions, or Q values of steps."""
    rows: list[Row] = []
    num_targets = num_read = 0
    for one in trees:
        if config.kind == "orm":
            ends = judge_ends(one, config.rules.failures)
            targets = {place: float(is_right) for place, is_right in ends.items()}
        else:
            # A step that no solution goes through has at most the pseudo-visit of the model that scored it.
            known = compute_success(one)
            targets = {place: one.tree.nodes[place].value for place in list_scored(one) if place in known}
        found = build_node_rows(one.tree, targets, max_length=max_length)
        rows += [node_row.row for node_row in found]
        num_targets += len(targets)
        num_read += sum(len(node_row.places) for node_row in found)
    facts = {{"orm": "solutions", "q_regression": "steps"}[config.kind]: num_read}
    return Examples(rows, facts, {"longer_than_context": num_targets - num_read})
