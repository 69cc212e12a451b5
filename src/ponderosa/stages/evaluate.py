"""Measure a model: solve suites, grade, summarise with intervals, and test against an earlier evaluation.

    for each suite:  draw its problems by a seed kept for reporting, solve them unit by unit, grade every attempt
    rows for every slice and metric; paired tests on the same problems against `compare_to`

Writes rows.json, tests.json, samples.json, attempts/SUITE.parquet, verdicts/SUITE.parquet.
"""

from collections import Counter
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from ponderosa.artifacts import read_json, spent_seconds, write_json
from ponderosa.config import suggest
from ponderosa.engines.protocol import Sampling
from ponderosa.errors import ConfigError
from ponderosa.evaluation.samples import select_samples
from ponderosa.evaluation.suites import Suite
from ponderosa.evaluation.summary import (
    ACCURACY,
    RowContext,
    build_results,
    compare,
    correct_family,
    count_reasons,
    list_metrics,
    summarise,
)
from ponderosa.ledger import Ledger
from ponderosa.records import GradedAttempt
from ponderosa.search.registry import find_token_budget
from ponderosa.search.solution import Limits
from ponderosa.stages.attempt_tables import count_costs, load_graded, save_graded
from ponderosa.stages.measuring import open_measuring
from ponderosa.stages.stage import Context, Draw, Need, Outcome, StageConfig
from ponderosa.stages.suite_config import SuiteConfig, draw_suite

VERSION = 5


class Config(StageConfig):
    """Which model, on what, against whom."""

    model: str = Field(description="stage whose model is measured")
    suites: tuple[SuiteConfig, ...]
    compare_to: str | None = Field(
        None, description="an earlier evaluate stage to test against, on the same problems"
    )
    metric: str = Field(
        "pass@1",
        description="what the paired tests compare; of a strategy that settles on an answer its accuracy",
    )
    max_tokens: int = Field(256, ge=1, description="most new tokens of a solution, observations included")
    max_steps: int = Field(32, ge=1, description="most steps of a solution: the depth of a tree")
    num_slots: int = Field(128, ge=1, description="solutions sampled at once")

    @model_validator(mode="after")
    def _check(self) -> "Config":
        names = [item.file_name for item in self.suites]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ConfigError(f"measured twice: {', '.join(repeated)}; give each a `label` of its own")
        for item in self.suites:
            metrics = list_metrics(item.get_strategy().num_attempts)
            if item.settled_from is None and self.metric not in metrics:
                raise ConfigError(
                    f"{item.file_name} has no metric {self.metric!r}{suggest(self.metric, metrics)}"
                )
        return self

    def needs(self) -> tuple[Need, ...]:
        compared = (Need(self.compare_to, "evaluation"),) if self.compare_to else ()
        reward_models = [Need(item.reward_model, "reward_model") for item in self.suites if item.reward_model]
        return (Need(self.model, "model"), *reward_models, *compared)

    def get_metric(self, item: SuiteConfig) -> str:
        """What the paired tests on a suite compare."""
        return self.metric if item.settled_from is None else ACCURACY

    def keep_problems(self, seed: int) -> Self:
        return self.model_copy(update={"suites": tuple(item.keep_problems(seed) for item in self.suites)})

    def hash_inputs(self, base: Path) -> dict[str, str]:
        hashes = {item.suite: item.hash_source(base) for item in self.suites}
        return {name: value for name, value in hashes.items() if value}

    def draws(self) -> tuple[Draw, ...]:
        return tuple(item.describe_draw() for item in self.suites)


def run(config: Config, context: Context) -> Outcome:
    trained = read_json(context.inputs[config.model] / "manifest.json")["ledger"]
    ledger = Ledger()
    rows: list[dict[str, Any]] = []
    tests: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    reasons: dict[str, dict[str, int]] = {}
    dropped: Counter[str] = Counter()
    reward_models = {item.reward_model for item in config.suites}
    with open_measuring(config.model, reward_models, context, num_slots=config.num_slots) as measuring:
        for item in config.suites:
            with spent_seconds(context.folder / f"seconds-{item.file_name}.json") as read_seconds:
                suite = draw_suite(item, context)
                graded = measuring.measure(
                    suite,
                    item.get_strategy(),
                    sampling=Sampling(temperature=item.temperature, top_p=item.top_p),
                    limits=Limits(config.max_tokens, config.max_steps),
                    reward_model=item.reward_model,
                )
                eval_s = read_seconds()
            dropped.update(Counter(f"{item.name}: {row.reason}" for row in suite.quarantined))
            row_context = RowContext(
                stage=config.model,
                model=config.model,
                model_id=measuring.engine.model_id,
                suite=item.name,
                suite_hash=suite.content_hash,
                strategy=item.strategy,
                reward_model=item.reward_model,
                token_budget=find_token_budget(item.get_strategy()),
                seed=context.seed,
                train_flops=trained["train_flops"],
                stage_s=trained["seconds"],
                eval_s=eval_s,
            )
            rows += summarise(row_context, suite.problems, graded, suite.slice_keys, item.settled_from)
            samples += select_samples(suite.problems, graded, slice_keys=suite.slice_keys)
            reasons[item.name] = count_reasons(graded)
            save_graded(*_name_tables(context.folder, item), graded)
            if config.compare_to:
                tests += _compare(config, item, suite, graded, context)
            count_costs(ledger, graded)
    write_json(context.folder / "rows.json", build_results(rows))
    write_json(context.folder / "tests.json", correct_family(tests) if tests else [])
    write_json(context.folder / "samples.json", samples)
    return Outcome(ledger=ledger, kept=len(rows), dropped=dict(dropped), facts={"reasons": reasons})


def load_earlier(folder: Path, item: SuiteConfig) -> list[GradedAttempt]:
    """An earlier evaluation's attempts. Raises ConfigError if it had no such suite."""
    attempts, verdicts = _name_tables(folder, item)
    if not attempts.exists():
        raise ConfigError(
            f"compare_to: that evaluation has no suite {item.name!r} with strategy {item.strategy!r}"
        )
    return load_graded(attempts, verdicts)


def _name_tables(folder: Path, item: SuiteConfig) -> tuple[Path, Path]:
    """Where a suite's attempts and verdicts lie."""
    name = f"{item.file_name}.parquet"
    return folder / "attempts" / name, folder / "verdicts" / name


def _compare(
    config: Config, item: SuiteConfig, suite: Suite, graded: list[GradedAttempt], context: Context
) -> list[dict[str, Any]]:
    assert config.compare_to is not None
    other = context.inputs[config.compare_to]
    other_model = read_json(other / "config.json")["model"]
    return compare(
        suite.problems,
        (other_model, load_earlier(other, item)),
        (config.model, graded),
        suite=item.name,
        strategy=item.strategy,
        metric=config.get_metric(item),
        slice_keys=suite.slice_keys,
        is_settled=item.settled_from is not None,
    )
