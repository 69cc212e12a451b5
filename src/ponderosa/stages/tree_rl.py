"""One policy-gradient update of a policy on the search trees that it grew, each step by its own value.

    every step of a tree gets an advantage: what came of it, less what came of the question   (data.tree_advantages)
    the clipped policy gradient (DAPO's: ratio, clip and mean over drawn tokens) over all steps, in batches

Sampling and training agree on every probability up to rounding at first, so trees must come from the very model that
training begins with, and be sampled without top-p. How far the update has moved by then is in metrics.jsonl. Search decides
which prefixes are continued, so prefixes it came back to are trained on more than sampling would.

Writes model/, metrics.jsonl.
"""

from pathlib import Path

from pydantic import Field

from ponderosa.artifacts import read_json
from ponderosa.data.packing import build_batches
from ponderosa.data.tree_advantages import AdvantageRows, average_draws, build_advantage_rows
from ponderosa.errors import ConfigError
from ponderosa.hash_cache import hash_directory
from ponderosa.identity import derive_seed
from ponderosa.stages.policy import check_same_ids, load_policy
from ponderosa.stages.rollout import POLICY
from ponderosa.stages.stage import Context, Need, Outcome, StageConfig
from ponderosa.stages.training_stage import MODEL, Learner, load_learner, train_and_save
from ponderosa.stages.tree_tables import iterate_trees
from ponderosa.training.loop import FixedBatches, TrainConfig
from ponderosa.training.optim import OptimizerConfig, ScheduleConfig
from ponderosa.training.policy_gradient import get_preset
from ponderosa.training.policy_loss import PolicyGradient

VERSION = 2


class Config(StageConfig):
    """Which policy, on which of its trees, updated how."""

    model: str = Field(description="stage whose model is trained further: the one that grew the trees")
    trees: tuple[str, ...] = Field(min_length=1, description="search stages whose trees to train on")
    clip_low: float = Field(0.2, gt=0, le=1, description="a ratio below 1 less this counts no further")
    clip_high: float = Field(0.28, gt=0, description="a ratio above 1 plus this counts no further")
    train: TrainConfig = TrainConfig(
        optimizer=OptimizerConfig(muon_learning_rate=2e-3, learning_rate=2e-4),
        schedule=ScheduleConfig(name="constant"),
        dtype="float32",
    )
    tokens_per_step: int = Field(8192, ge=1, description="tokens of an optimizer step")
    epochs: int = Field(1, ge=1, description="passes over the trees")

    def needs(self) -> tuple[Need, ...]:
        return (Need(self.model, "model"), *(Need(name, "trees") for name in self.trees))


def run(config: Config, context: Context) -> Outcome:
    learner = load_learner(config.model, context)
    parts = [read_advantages(name, config.model, learner, context) for name in config.trees]
    rows = [row for part in parts for row in part.rows]
    dropped = {
        f"{name}: {reason}": count
        for name, part in zip(config.trees, parts, strict=True)
        for reason, count in part.dropped.items()
    }
    if not rows:
        raise ConfigError(
            f"no tree of {', '.join(config.trees)} has both right and wrong solutions and one that fits the model's "
            f"context of {learner.max_context} tokens: {dropped}; search problems of another difficulty, or longer, or let "
            "solutions have fewer tokens"
        )
    batches = build_batches(
        rows,
        tokens_per_step=config.tokens_per_step,
        seed=derive_seed("tree_rl", context.seed),
        epochs=config.epochs,
    )
    return train_and_save(
        learner,
        FixedBatches([average_draws(batch) for batch in batches]),
        config.train,
        context,
        loss=PolicyGradient(get_preset("dapo", clip_low=config.clip_low, clip_high=config.clip_high)),
        facts={"solutions": len(rows), "steps_of_trees": sum(part.num_steps for part in parts)},
        kept=sum(map(len, batches)),
        dropped=dropped,
    )


def read_advantages(name: str, model: str, learner: Learner, context: Context) -> AdvantageRows:
    """The rows of a search stage. Raises ConfigError unless its trees were sampled from the learner's very model."""
    folder = context.inputs[name]
    policy = load_policy(folder / POLICY)
    check_same_ids(policy, learner.codec, learner.prompt_format, where=name)
    begun = hash_directory(context.inputs[model] / MODEL)
    if policy.model_id != begun:
        raise ConfigError(
            f"the trees of {name!r} were grown by model {policy.model_id}, but training begins with {begun}, the model "
            f"of {model!r}; a policy gradient is of what the policy itself drew: name the model that grew them"
        )
    return build_advantage_rows(
        iterate_trees(folder), temperature=read_temperature(folder, name), max_length=learner.max_context
    )


def read_temperature(folder: Path, name: str) -> float:
    """What a finished search stage sampled at. Raises ConfigError if it left tokens out."""
    config = read_json(folder / "config.json")
    if config["top_p"] != 1:
        raise ConfigError(
            f"the trees of {name!r} were sampled with top_p {config['top_p']}, under which probabilities are not the "
            "policy's; search with top_p 1"
        )
    return float(config["temperature"])
