"""Reinforcement learning with verifiable rewards (Phi-4-mini-reasoning, arXiv 2504.21233, stage 4; GRPO and its kin).

    for each iteration:  sample groups of attempts from the policy, run, grade and reward them   (policy_rollouts)
                         advantages against the group, the clipped policy gradient, one or more optimizer steps
    temperature falls from `start` to `end` over the first `anneal_frac` of the iterations, then stays

Sampling uses no top-p, top-k or min-p, and the trainer divides logits by the temperature that was sampled at, so
the two agree on every probability up to rounding; `engine_gap` in the metrics is how far they are apart, logged at
each iteration's first update: later ones have other weights than sampled. Engine and trainer share one set of weights;
cached prefixes are dropped before each drawing.

Writes model/, metrics.jsonl, attempts.parquet, verdicts.parquet.
"""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from ponderosa.artifacts import Journal
from ponderosa.config import Config as BaseConfig
from ponderosa.data.prompts import PromptRules, select_prompts
from ponderosa.engines.native import NativeEngine
from ponderosa.errors import ConfigError
from ponderosa.identity import derive_seed
from ponderosa.records import Problem, Row
from ponderosa.rewards.recipe import RewardConfig, build_reward_sum, hash_rewards
from ponderosa.rewards.reward import RewardContext
from ponderosa.search.driver import build_context
from ponderosa.search.solution import Limits
from ponderosa.stages.attempt_tables import count_costs, save_graded
from ponderosa.stages.labelling import open_labelling
from ponderosa.stages.policy_rollouts import Environment, PolicyRollouts, Rebalance, RolloutPlan
from ponderosa.stages.problem_sources import DrawnProblems, ProblemConfig, draw_problems
from ponderosa.stages.rollout import load_rollouts
from ponderosa.stages.scoring import Scores, build_scorer
from ponderosa.stages.stage import Context, Need, Outcome
from ponderosa.stages.training_stage import Learner, load_learner, train_and_save
from ponderosa.training.gradients import GradientComputer, use_threads
from ponderosa.training.loop import TrainConfig
from ponderosa.training.optim import OptimizerConfig, ScheduleConfig
from ponderosa.training.policy_gradient import (
    PolicyGradientConfig,
    compute_advantages,
    compute_token_weights,
    get_preset,
)
from ponderosa.training.policy_loss import PolicyGradient

VERSION = 4


class Annealing(BaseConfig):
    """The sampling temperature over the run."""

    start: float = Field(1.0, gt=0, description="temperature of the first iteration")
    end: float = Field(0.6, gt=0, description="temperature from `anneal_frac` of the iterations on")
    anneal_frac: float = Field(
        0.5, ge=0, le=1, description="share of the iterations spent going there, linearly"
    )


class Rebalancing(BaseConfig):
    """Hard prompts asked more, every correct attempt kept with as many wrong ones."""

    max_accuracy: float = Field(0.5, gt=0, le=1, description="groups more accurate than this are dropped")
    max_samples: int = Field(
        32, ge=1, description="a prompt without a correct attempt is asked until so many"
    )


class Config(ProblemConfig):
    """Which policy, on which problems, rewarded how, updated how."""

    model: str = Field("dpo", description="stage whose model is the policy to begin with")
    select: PromptRules | None = Field(
        None, description="ask the problems that went so in a rollout stage, instead of sources or solutions"
    )
    rewards: tuple[RewardConfig, ...] = Field(
        (RewardConfig(use="correctness"),), description="the weighted sum that attempts earn"
    )
    requires_work: bool = Field(
        True,
        description="a right answer must be computed, not just stated; off for tasks with nothing to compute",
    )
    preset: str = Field("grpo", description="grpo, dr_grpo, dapo, gspo or rloo")
    policy_gradient: dict[str, Any] = Field(
        default_factory=dict, description="values of the preset to change, such as kl_weight or clip_high"
    )
    iterations: int = Field(60, ge=1, description="drawings of groups")
    updates: int = Field(1, ge=1, description="optimizer steps that share an iteration's groups")
    prompts: int = Field(16, ge=1, description="groups of an iteration")
    samples: int = Field(8, ge=2, description="attempts of a group")
    temperature: Annealing = Annealing()
    dynamic_sampling: bool = Field(
        True,
        description="drop groups whose attempts all earned the same, and ask other prompts in their place",
    )
    max_waves: int = Field(3, ge=1, description="drawings of an iteration when dropped groups are replaced")
    rebalance: Rebalancing | None = Field(
        None, description="Phi-4-mini-reasoning's rebalancing; unset leaves it off"
    )
    old_logprobs: Literal["engine", "trainer"] = Field(
        "engine",
        description="whose log-probabilities the ratio starts from; importance_cap needs the trainer's",
    )
    share_prompts: bool = Field(
        True, description="compute a group's prompt once, its attempts as a tree beside it"
    )
    max_tokens: int = Field(256, ge=1, description="most new tokens of an attempt, observations included")
    num_slots: int = Field(128, ge=1, description="attempts sampled at once")
    train: TrainConfig = TrainConfig(
        optimizer=OptimizerConfig(muon_learning_rate=2e-3, learning_rate=2e-4),
        schedule=ScheduleConfig(name="constant"),
        dtype="float32",
    )

    @model_validator(mode="after")
    def _check_loss(self) -> "Config":
        loss = self.build_policy_gradient()
        if loss.importance_cap is not None and self.old_logprobs == "engine":
            raise ConfigError(
                "importance_cap corrects the trainer's probabilities for the engine's: set old_logprobs: trainer"
            )
        return self

    def build_policy_gradient(self) -> PolicyGradientConfig:
        return get_preset(self.preset, **self.policy_gradient)

    def check_sources(self) -> None:
        if self.select is None:
            super().check_sources()
        elif self.sources or self.solutions or self.limit:
            raise ConfigError(
                "`select` asks the problems of its rollout stage: leave out sources, solutions and limit"
            )

    def needs(self) -> tuple[Need, ...]:
        selected = (Need(self.select.rollouts, "rollouts"),) if self.select else ()
        return (Need(self.model, "model"), *selected, *super().needs())

    def hash_inputs(self, base: Path) -> dict[str, str]:
        return super().hash_inputs(base) | hash_rewards(self.rewards, base)


def run(config: Config, context: Context) -> Outcome:
    if context.dtype != "auto":  # of old and reference log-probabilities as of training
        train = config.train.model_copy(update={"dtype": context.dtype})
        config = config.model_copy(update={"train": train})
    learner = load_learner(config.model, context)
    problems, dropped = draw_prompts(config, context)
    reward_context = RewardContext(config.max_tokens, learner.prompt_format, config.requires_work)
    rewards = build_reward_sum(config.rewards, reward_context, context.base)
    engine = NativeEngine(
        learner.model,
        learner.codec,
        model_id="policy",
        num_slots=config.num_slots,
        max_context=learner.max_context,
    )
    with open_labelling(context) as (sandbox, judge, journal):
        environment = Environment(
            engine=engine,
            sandbox=sandbox,
            judge=judge,
            context=build_context(engine, learner.prompt_format, limits=Limits(max_tokens=config.max_tokens)),
            rewards=rewards,
            num_threads=torch.get_num_threads(),
        )
        source = build_source(
            config, learner, problems, environment, journal, seed=derive_seed("rl", context.seed)
        )
        outcome = train_and_save(
            learner,
            source,
            config.train,
            context,
            loss=PolicyGradient(config.build_policy_gradient()),
            facts={},
            dropped=dropped,
        )
        graded = source.list_graded()
    save_graded(context.folder / "attempts.parquet", context.folder / "verdicts.parquet", graded)
    count_costs(outcome.ledger, graded)
    outcome.kept = len(graded)
    return outcome


def draw_prompts(config: Config, context: Context) -> DrawnProblems:
    """The problems to ask. Raises ConfigError if the selection leaves none."""
    if config.select is None:
        return draw_problems(config, context, purpose="rl", seed=context.seed)
    selection = select_prompts(load_rollouts(context.inputs[config.select.rollouts]), config.select)
    if not selection.problems:
        raise ConfigError(
            f"no problem passes `select`: {selection.dropped}; widen it, or roll out other problems"
        )
    return DrawnProblems(*selection)


def build_source(
    config: Config,
    learner: Learner,
    problems: Sequence[Problem],
    environment: Environment,
    journal: Journal,
    *,
    seed: int,
) -> PolicyRollouts:
    """The batches of a configuration, sampled from the learner's model as it is trained."""
    loss = config.build_policy_gradient()
    return PolicyRollouts(
        build_plan(config),
        problems,
        environment,
        journal,
        compute_advantages=lambda rewards: compute_advantages(rewards, loss),
        compute_token_weights=lambda lengths: compute_token_weights(
            lengths, loss, max_tokens=config.max_tokens
        ),
        compute_columns=ModelColumns(learner, config),
        seed=seed,
    )


def build_plan(config: Config) -> RolloutPlan:
    """The configuration as the batch source reads it."""
    balance = config.rebalance
    return RolloutPlan(
        temperatures=anneal(config.temperature, config.iterations),
        updates=config.updates,
        prompts=config.prompts,
        samples=config.samples,
        max_waves=config.max_waves if config.dynamic_sampling or balance else 1,
        drops_flat_groups=config.dynamic_sampling,
        rebalance=Rebalance(balance.max_accuracy, balance.max_samples) if balance else None,
        shares_prompts=config.share_prompts,
    )


def anneal(annealing: Annealing, num_iterations: int) -> tuple[float, ...]:
    """The temperature of each iteration."""
    num_falling = annealing.anneal_frac * num_iterations
    fracs = [min(1.0, number / num_falling) if num_falling else 1.0 for number in range(num_iterations)]
    return tuple(annealing.start + frac * (annealing.end - annealing.start) for frac in fracs)


class ModelColumns:
    """The log-probabilities that take a model to compute, as training computes them: `old_logprobs`, unless they are the
    engine's, and with a KL term `reference_logprobs`, of the policy that the stage began with."""

    def __init__(self, learner: Learner, config: Config) -> None:
        dtype, microbatch_tokens = config.train.dtype, config.train.microbatch_tokens
        self._num_threads = torch.get_num_threads()
        self._scorers: dict[str, GradientComputer] = {}
        if config.old_logprobs == "trainer":
            self._scorers["old_logprobs"] = build_scorer(learner.model, dtype, microbatch_tokens)
        if config.build_policy_gradient().kl_weight:
            # Copied before the loop loads a checkpoint into the learner.
            reference = deepcopy(learner.model).eval()
            self._scorers["reference_logprobs"] = build_scorer(reference, dtype, microbatch_tokens)

    def __call__(self, rows: Sequence[Row]) -> list[dict[str, Scores]]:
        columns: list[dict[str, Scores]] = [{} for _ in rows]
        for name, scorer in self._scorers.items():
            with use_threads(self._num_threads), scorer.running():
                for row_columns, scores in zip(columns, scorer.score(rows), strict=True):
                    row_columns[name] = scores
        return columns
