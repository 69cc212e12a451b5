"""One suite of a stage that measures: how it is drawn, and how solutions of its problems are looked for."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from ponderosa.config import Config
from ponderosa.evaluation.suites import Suite, check_split, find_suite, load_suite
from ponderosa.search.registry import check_reward_model, get_strategy
from ponderosa.search.strategies import Strategy
from ponderosa.stages.stage import Context, Draw
from ponderosa.tasks.registry import get_task


class DrawnSuite(Config):
    """A suite and how its problems are drawn."""

    suite: str = Field(description="a suite's name or FILE.jsonl")
    label: str | None = Field(None, description="what to call it in results; default: the suite's name")
    limit: int | None = Field(
        None, ge=1, description="most problems to draw; unset takes the suite's own number"
    )
    split: str | None = Field(None, description="unset takes the suite's own")
    seed: int | None = Field(None, description="draws the problems; unset takes the recipe's first seed")
    options: dict[str, Any] = Field(default_factory=dict, description="the task's own options")

    @model_validator(mode="after")
    def _check_split(self) -> Self:
        if self.split is not None:
            check_split(self.split, "report", self.suite)
        return self

    @property
    def name(self) -> str:
        is_file = self.suite.endswith((".jsonl", ".jsonl.gz"))
        return self.label or (Path(self.suite).name if is_file else self.suite)

    def keep_problems(self, seed: int) -> Self:
        """The same at another training seed, drawn by `seed` unless it has a seed of its own."""
        return self if self.seed is not None else self.model_copy(update={"seed": seed})

    def hash_source(self, base: Path) -> str:
        """Hash of the file or user code its problems are from; empty if there is none."""
        return get_task(find_suite(self.suite).task, base).source_hash

    def describe_draw(self) -> Draw:
        """What problems it takes."""
        suite = find_suite(self.suite)
        return Draw(suite.task, self.split or suite.split)


class SuiteConfig(DrawnSuite):
    """One suite, how it is drawn, and how it is solved."""

    strategy: str = Field("greedy", description="how solutions are looked for, see docs/search.md")
    samples: int = Field(
        8, ge=1, description="solutions per problem, or what a strategy has for that; not used by greedy"
    )
    search: dict[str, Any] = Field(
        default_factory=dict, description="the strategy's own parameters; they go before `samples`"
    )
    reward_model: str | None = Field(
        None, description="stage whose reward model scores solutions; for strategies that use one"
    )
    temperature: float = Field(1.0, ge=0, description="sampling temperature; not used by greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; not used by greedy")

    @model_validator(mode="after")
    def _check(self) -> "SuiteConfig":
        check_reward_model(self.get_strategy(), is_given=self.reward_model is not None)
        return self

    def get_strategy(self) -> Strategy:
        return get_strategy(self.strategy, self.samples, self.search)

    @property
    def settled_from(self) -> int | None:
        """How many solutions an answer is settled on from, at most; None if it is the attempts that are measured."""
        strategy = self.get_strategy()
        return strategy.num_attempts if strategy.settles else None

    @property
    def file_name(self) -> str:
        return f"{self.name.replace('/', '_')}-{self.strategy}"


def draw_problems(item: DrawnSuite, seed: int, base: Path) -> Suite:
    """The suite's problems at a training seed, which only draws them if the suite has no seed of its own."""
    return load_suite(
        item.suite,
        seed=seed if item.seed is None else item.seed,
        limit=item.limit,
        split=item.split,
        options=item.options,
        base=base,
    )


def draw_suite(item: DrawnSuite, context: Context) -> Suite:
    """The suite's problems for this recipe's seed; rows of a file that are not asked are told about."""
    suite = draw_problems(item, context.seed, context.base)
    for line in suite.left_out:
        context.progress.say(f"left out {line}")
    return suite
