"""Measure a model: solve suites, grade, summarise with intervals, and test against an earlier evaluation.

    for each suite:  draw its problems by a seed kept for reporting, solve them unit by unit, grade every attempt
    rows for every slice and metric; paired tests on the same problems against `compare_to`

Writes rows.json, tests.json, samples.json, attempts/SUITE.parquet, verdicts/SUITE.parquet.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from ponderosa.artifacts import Journal, read_json, spent_seconds, write_json
from ponderosa.config import suggest
from ponderosa.engines.codec import load_codec
from ponderosa.engines.loading import build_engine, load_trunk
from ponderosa.engines.native import NativeEngine
from ponderosa.engines.protocol import Sampling
from ponderosa.engines.scorer import NativeScorer
from ponderosa.errors import ConfigError
from ponderosa.evaluation.protocol import evaluate_model
from ponderosa.evaluation.samples import select_samples
from ponderosa.evaluation.suites import Suite, find_suite
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
from ponderosa.formats import PromptFormat, load_format
from ponderosa.ledger import Ledger
from ponderosa.records import GradedAttempt
from ponderosa.sandbox import Sandbox
from ponderosa.search.driver import build_context
from ponderosa.search.solution import Limits
from ponderosa.stages.attempt_tables import count_costs, load_graded, save_graded
from ponderosa.stages.policy import describe_policy, load_scorer_for
from ponderosa.stages.stage import Context, Draw, Need, Outcome, StageConfig
from ponderosa.stages.suite_config import SuiteConfig, draw_problems
from ponderosa.tasks.registry import get_task
from ponderosa.verify import Grader

VERSION = 2
MODEL = "model"


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
        suites = [
            item if item.seed is not None else item.model_copy(update={"seed": seed}) for item in self.suites
        ]
        return self.model_copy(update={"suites": tuple(suites)})

    def hash_inputs(self, base: Path) -> dict[str, str]:
        hashes = {item.suite: get_task(find_suite(item.suite).task, base).source_hash for item in self.suites}
        return {name: value for name, value in hashes.items() if value}

    def draws(self) -> tuple[Draw, ...]:
        suites = [(find_suite(item.suite), item.split) for item in self.suites]
        return tuple(Draw(suite.task, split or suite.split) for suite, split in suites)


def run(config: Config, context: Context) -> Outcome:
    trained = read_json(context.inputs[config.model] / "manifest.json")["ledger"]
    ledger = Ledger()
    rows: list[dict[str, Any]] = []
    tests: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    reasons: dict[str, dict[str, int]] = {}
    dropped: Counter[str] = Counter()
    with _open_bench(config, context) as bench:
        for item in config.suites:
            with spent_seconds(context.folder / f"seconds-{item.file_name}.json") as read_seconds:
                suite = draw_suite(item, context)
                graded = bench.measure(suite, item, config.max_tokens, context)
                eval_s = read_seconds()
            dropped.update(Counter(f"{item.name}: {row.reason}" for row in suite.quarantined))
            row_context = RowContext(
                stage=config.model,
                model=config.model,
                model_id=bench.engine.model_id,
                suite=item.name,
                suite_hash=suite.content_hash,
                strategy=item.strategy,
                reward_model=item.reward_model,
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


@dataclass(frozen=True, slots=True)
class _Bench:
    """A model with all that measuring it takes."""

    engine: NativeEngine
    scorers: Mapping[str, NativeScorer]
    prompt_format: PromptFormat
    sandbox: Sandbox
    grader: Grader
    journal: Journal

    def measure(
        self, suite: Suite, item: SuiteConfig, max_tokens: int, context: Context
    ) -> list[GradedAttempt]:
        """Every attempt at the suite, graded."""
        scorer = self.scorers[item.reward_model] if item.reward_model else None
        return evaluate_model(
            self.engine,
            self.sandbox,
            self.grader,
            suite,
            item.get_strategy(),
            build_context(
                self.engine,
                self.prompt_format,
                seed=context.seed,
                sampling=Sampling(temperature=item.temperature, top_p=item.top_p),
                limits=Limits(max_tokens=max_tokens),
                scorer=scorer,
            ),
            self.journal,
            scorer=scorer,
            progress=context.progress,
        )


@contextmanager
def _open_bench(config: Config, context: Context) -> Iterator[_Bench]:
    model_dir = context.inputs[config.model] / MODEL
    prompt_format = load_format(model_dir)
    dtype = "float32" if context.dtype == "auto" else context.dtype
    trunk = load_trunk(model_dir, device=context.device, dtype=dtype)
    engine = build_engine(trunk, num_slots=config.num_slots)
    policy = describe_policy(load_codec(model_dir), prompt_format, engine.model_id)
    scorers = {
        name: load_scorer_for(
            policy,
            context.inputs[name] / MODEL,
            where=name,
            device=context.device,
            dtype=dtype,
            in_use=trunk,
        )
        for name in {item.reward_model for item in config.suites if item.reward_model}
    }
    with (
        Sandbox(workers=context.workers) as sandbox,
        Grader(num_workers=context.workers) as grader,
        Journal(context.folder / "journal.jsonl") as journal,
    ):
        yield _Bench(engine, scorers, prompt_format, sandbox, grader, journal)


def draw_suite(item: SuiteConfig, context: Context) -> Suite:
    """The suite's problems for this recipe's seed; rows of a file that are not asked are told about."""
    suite = draw_problems(item, context.seed, context.base)
    for line in suite.left_out:
        context.progress.say(f"left out {line}")
    return suite


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
