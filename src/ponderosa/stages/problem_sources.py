"""Problems that a model is asked so that something can be trained on its answers: never those kept for reports."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from ponderosa.config import Config
from ponderosa.errors import ConfigError
from ponderosa.evaluation.suites import REPORT_SPLITS, draw_distinct
from ponderosa.identity import derive_seed
from ponderosa.records import Problem
from ponderosa.stages.solutions import load_solutions
from ponderosa.stages.stage import Context, Draw, Need, StageConfig
from ponderosa.tasks.jsonl import JsonlTask
from ponderosa.tasks.quantities.task import QuantitiesTask
from ponderosa.tasks.registry import Task, get_task


class ProblemSource(Config):
    """Where some of the problems come from."""

    task: str = Field(description="a task's name, FILE.jsonl, or a user's file.py:name")
    split: Literal["train", "selection"] = Field("train", description="which split to draw from")
    count: int | None = Field(None, ge=1, description="how many problems; unset takes all of a finite task")
    options: dict[str, Any] = Field(default_factory=dict, description="the task's own options")


class ProblemConfig(StageConfig):
    """Base of the stages that draw problems."""

    sources: tuple[ProblemSource, ...] = Field((), description="problems to draw from tasks, in order")
    solutions: tuple[str, ...] = Field((), description="solutions stages whose problems are asked too")
    limit: int | None = Field(
        None, ge=1, description="use this many of the solutions' problems, drawn at random; unset uses all"
    )

    @model_validator(mode="after")
    def _check(self) -> "ProblemConfig":
        self.check_sources()
        return self

    def check_sources(self) -> None:
        """Raises ConfigError unless it says, once, which problems to draw."""
        if not (self.sources or self.solutions):
            raise ConfigError("there is nothing to ask: give `sources` (tasks) or `solutions` (stages)")
        if self.limit and not self.solutions:
            raise ConfigError("`limit` is for the problems of `solutions`; a source has its own `count`")

    def needs(self) -> tuple[Need, ...]:
        return tuple(Need(name, "solutions") for name in self.solutions)

    def hash_inputs(self, base: Path) -> dict[str, str]:
        hashes = {source.task: load_task(source, base).source_hash for source in self.sources}
        return {task: value for task, value in hashes.items() if value}

    def draws(self) -> tuple[Draw, ...]:
        return tuple(Draw(source.task, source.split) for source in self.sources)


class DrawnProblems(NamedTuple):
    """Distinct problems in the order drawn, and how many were left out for each reason."""

    problems: tuple[Problem, ...]
    dropped: dict[str, int]


def draw_problems(config: ProblemConfig, context: Context, *, purpose: str, seed: int) -> DrawnProblems:
    """The problems of every source, then of the solutions stages; each problem once.

    purpose: what they are for, so that stages of different kinds draw different problems from one task.
    Raises ConfigError if a problem belongs to a split kept for reports.
    """
    drawn: dict[str, Problem] = {}
    dropped: Counter[str] = Counter()

    def add(problems: Iterable[Problem], where: str) -> None:
        for problem in problems:
            if problem.split in REPORT_SPLITS:
                raise ConfigError(
                    f"{where} holds problems of split {problem.split!r}, which is kept for reports; "
                    "train or select on another split"
                )
            if problem.id in drawn:
                dropped[f"{where}: asked already"] += 1
            drawn.setdefault(problem.id, problem)

    for index, source in enumerate(config.sources):
        task = load_task(source, context.base)
        source_seed = derive_seed(purpose, "problems", seed, index)
        found = draw_distinct(
            task, source.count, seed=source_seed, split=source.split, options=source.options
        )
        if source.count and len(found) < source.count:
            context.progress.say(f"{source.task}: {len(found)} different problems, {source.count} asked for")
        add(found, source.task)
        if isinstance(task, JsonlTask):
            dropped.update(f"{row.file}: {row.reason}" for row in task.list_quarantined(source.split))
    told = [
        (problem, name) for name in config.solutions for problem, _ in load_solutions(context.inputs[name])
    ]
    told.sort(key=lambda item: derive_seed(purpose, "choose", seed, item[0].id))
    for problem, name in told[: config.limit]:
        add([problem], name)
    return DrawnProblems(tuple(drawn.values()), dict(dropped))


def load_task(source: ProblemSource, base: Path) -> Task:
    """The source's task. Raises RequestError if there is none, or if it would never end."""
    task = get_task(source.task, base)
    if source.count is None and not isinstance(task, JsonlTask):
        raise ConfigError(f"task {source.task!r} has no end: say how many problems to draw with `count`")
    if isinstance(task, QuantitiesTask):
        task.with_options(**source.options)
    return task
