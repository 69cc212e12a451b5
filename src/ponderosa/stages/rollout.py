"""A model asked many times: every attempt executed, verified and kept, the wrong ones with their reason.

    draw problems from tasks, or take those of solutions stages; none that is kept for reports
    for each unit of problems:  attempts under the budget, each graded as it is made; commit the unit
    for each problem: how often it was solved, with a posterior; over problems: solve rate and coverage

Budgets: `fixed` makes `samples` attempts; `stop_on_success` makes up to `samples` and stops at the first correct one;
`pass_until` stops at the `target`-th (arXiv 2310.03262). Attempt number i of a problem is the same under all of them.

Writes problems.parquet, attempts.parquet, verdicts.parquet, solve_rates.parquet, policy.json.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from ponderosa.artifacts import write_json, write_table
from ponderosa.data.rollouts import ProblemRollouts
from ponderosa.engines.codec import load_codec
from ponderosa.engines.loading import load_engine
from ponderosa.engines.protocol import GREEDY, Engine, Sampling
from ponderosa.errors import ConfigError
from ponderosa.evaluation.solve_rates import estimate_solve_rate, summarise_solve_rates
from ponderosa.evaluation.summary import count_reasons
from ponderosa.evaluation.units import (
    UNIT_ATTEMPTS,
    Record,
    commit_units,
    describe_setting,
    parse_graded,
    record_graded,
)
from ponderosa.formats import load_format
from ponderosa.identity import derive_seed
from ponderosa.ledger import Ledger
from ponderosa.progress import Progress
from ponderosa.records import GradedAttempt, Problem
from ponderosa.search.budgets import Budget
from ponderosa.search.driver import build_context, run_unit
from ponderosa.search.solution import Limits, SearchContext
from ponderosa.stages.attempt_tables import (
    count_costs,
    load_graded,
    load_problems,
    save_graded,
    save_problems,
)
from ponderosa.stages.labelling import open_labelling
from ponderosa.stages.policy import describe_policy
from ponderosa.stages.problem_sources import ProblemConfig, draw_problems
from ponderosa.stages.stage import Context, Need, Outcome

VERSION = 4
MODEL = "model"
PROBLEMS, ATTEMPTS, VERDICTS = "problems.parquet", "attempts.parquet", "verdicts.parquet"
SOLVE_RATES, POLICY = "solve_rates.parquet", "policy.json"


class Config(ProblemConfig):
    """Which model, on which problems, how often."""

    model: str = Field(description="stage whose model is asked")
    strategy: Literal["sample", "greedy"] = Field(
        "sample", description="sample draws; greedy takes the likeliest token, one solution per problem"
    )
    budget: Literal["fixed", "stop_on_success", "pass_until"] = Field(
        "fixed",
        description="fixed draws `samples`; the others stop at the first, or at the `target`-th, correct one",
    )
    samples: int = Field(8, ge=1, description="most solutions per problem; not used by greedy")
    target: int | None = Field(None, ge=1, description="pass_until: correct solutions that are enough")
    wave: int | None = Field(
        None,
        ge=1,
        description="budgets that stop: solutions of one problem drawn side by side; unset takes one at a time",
    )
    temperature: float = Field(1.0, gt=0, description="sampling temperature; not used by greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 leaves nothing out")
    top_k: int = Field(0, ge=0, description="likeliest tokens to draw from; 0 leaves nothing out")
    min_p: float = Field(
        0.0, ge=0, le=1, description="least share of the likeliest token's chance; 0 leaves nothing out"
    )
    max_tokens: int = Field(256, ge=1, description="most new tokens of a solution, observations included")
    num_slots: int = Field(128, ge=1, description="solutions sampled at once")
    seed: int | None = Field(None, description="draws problems and solutions; unset takes the recipe's seed")

    @model_validator(mode="after")
    def _check_budget(self) -> "Config":
        if self.strategy == "greedy" and self.budget != "fixed":
            raise ConfigError(
                f"budget {self.budget!r} draws again, and greedy gives the same again; use sample"
            )
        if (self.budget == "pass_until") != (self.target is not None):
            raise ConfigError("`target` says when budget pass_until stops: give both or neither")
        if self.target is not None and self.target > self.samples:
            raise ConfigError(f"target {self.target} can never be met in {self.samples} samples")
        if self.budget == "fixed" and self.wave is not None:
            raise ConfigError("`wave` is for budgets that stop early; a fixed one draws all side by side")
        return self

    def needs(self) -> tuple[Need, ...]:
        return (Need(self.model, "model"), *super().needs())

    def build_budget(self) -> Budget:
        """The budget as searches follow it."""
        if self.strategy == "greedy":
            return Budget("rollout", 1, strategy="greedy")
        if self.budget == "fixed":
            return Budget("rollout", self.samples, wave=self.samples)
        return Budget("rollout", self.samples, target=self.target or 1, wave=self.wave or 1)

    def build_sampling(self) -> Sampling:
        if self.strategy == "greedy":
            return GREEDY
        return Sampling(self.temperature, top_p=self.top_p, top_k=self.top_k, min_p=self.min_p)


def run(config: Config, context: Context) -> Outcome:
    seed = context.seed if config.seed is None else config.seed
    model_dir = context.inputs[config.model] / MODEL
    prompt_format = load_format(model_dir)
    problems, dropped = draw_problems(config, context, purpose="rollout", seed=seed)
    engine = load_engine(
        model_dir,
        device=context.device,
        dtype="float32" if context.dtype == "auto" else context.dtype,
        num_slots=config.num_slots,
    )
    search_context = build_context(
        engine,
        prompt_format,
        seed=derive_seed("rollout", "sampling", seed),
        sampling=config.build_sampling(),
        limits=Limits(max_tokens=config.max_tokens),
    )
    budget = config.build_budget()
    graded = sample_rollouts(
        engine,
        problems,
        budget,
        search_context,
        context,
        unit_attempts=max(UNIT_ATTEMPTS, 4 * config.num_slots),
    )
    save_problems(context.folder / PROBLEMS, problems)
    save_graded(context.folder / ATTEMPTS, context.folder / VERDICTS, graded)
    policy = describe_policy(load_codec(model_dir), prompt_format, engine.model_id)
    write_json(context.folder / POLICY, asdict(policy))
    groups = group_rollouts(problems, graded)
    write_table(context.folder / SOLVE_RATES, [describe_solve_rate(group, budget) for group in groups])
    ledger = Ledger()
    count_costs(ledger, graded)
    facts = {
        "problems": len(problems),
        "reasons": count_reasons(graded),
        **summarise_solve_rates(
            [group.is_correct for group in groups],
            max_attempts=budget.max_attempts,
            target=budget.target,
            seed=seed,
        ),
    }
    return Outcome(ledger=ledger, kept=len(graded), dropped=dropped, facts=facts)


def sample_rollouts(
    engine: Engine,
    problems: Sequence[Problem],
    budget: Budget,
    search_context: SearchContext,
    context: Context,
    *,
    unit_attempts: int = UNIT_ATTEMPTS,
) -> list[GradedAttempt]:
    """Every attempt with its verdict, in problem and sample order, committed in units.

    Verdicts are committed too, since they decided where drawing stopped. unit_attempts: those in the engine at once,
    as far as a unit is concerned; a budget that stops draws more of them one after another.
    """
    with open_labelling(context) as (sandbox, judge, journal):

        def solve(part: Sequence[Problem], progress: Progress) -> list[Record]:
            groups = run_unit(engine, sandbox, part, budget, search_context, judge=judge, progress=progress)
            return [record_graded(one) for group in groups for one in group]

        records = commit_units(
            problems,
            solve,
            journal,
            setting=describe_setting([asdict(budget)], search_context),
            unit_size=max(1, unit_attempts // budget.wave),
            label=f"rollout {context.name}",
            progress=context.progress,
        )
    return [parse_graded(record) for record in records]


def group_rollouts(problems: Sequence[Problem], graded: Sequence[GradedAttempt]) -> list[ProblemRollouts]:
    """Each problem with its attempts in sample order."""
    by_problem: defaultdict[str, list[GradedAttempt]] = defaultdict(list)
    for one in graded:
        by_problem[one.attempt.problem_id].append(one)
    return [
        ProblemRollouts(problem, tuple(sorted(by_problem[problem.id], key=lambda one: one.attempt.sample)))
        for problem in problems
    ]


def describe_solve_rate(group: ProblemRollouts, budget: Budget) -> dict[str, Any]:
    """What a problem's attempts say of its solve rate, and what they cost."""
    costs = [one.attempt.cost for one in group.graded]
    return {
        "problem_id": group.problem.id,
        **estimate_solve_rate(group.is_correct, budget.target)._asdict(),
        "generated_tokens": sum(cost.generated_tokens for cost in costs),
        "flops": math.fsum(cost.flops for cost in costs),
    }


def load_rollouts(folder: Path) -> list[ProblemRollouts]:
    """Every problem of a finished stage with its graded attempts."""
    return group_rollouts(load_problems(folder / PROBLEMS), load_graded(folder / ATTEMPTS, folder / VERDICTS))
