"""Step-labelled solutions as a reward model reads them: drawn or loaded, run, and as token ids step by step."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pydantic import Field, model_validator

from ponderosa.config import Config, parse_config
from ponderosa.engines.protocol import Codec
from ponderosa.errors import ConfigError
from ponderosa.evaluation.suites import check_split, draw_distinct
from ponderosa.formats import PromptFormat
from ponderosa.identity import derive_seed
from ponderosa.records import Step
from ponderosa.sandbox import Execution, Sandbox
from ponderosa.steps import render_steps
from ponderosa.tasks.quantities.planted_errors import label_solution
from ponderosa.tasks.quantities.task import QuantitiesOptions
from ponderosa.tasks.registry import get_task
from ponderosa.tasks.step_labels import LabelledSolution, load_labelled
from ponderosa.verify import answer_from_attempt, compare_answers


class PlantedErrors(Config):
    """Solutions of `quantities` problems, half of them with one planted error."""

    count: int = Field(1000, ge=1, description="how many problems")
    split: str = Field("test", description="which split to draw them from")
    seed: int | None = Field(
        None, description="draws problems and errors; unset takes the recipe's first seed"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="the quantities options")

    @model_validator(mode="after")
    def _check(self) -> "PlantedErrors":
        check_split(self.split, "report", "planted")
        self.parse_options()
        return self

    def parse_options(self) -> QuantitiesOptions:
        return parse_config(QuantitiesOptions, self.options, where="planted: options")


class LabelledSet(NamedTuple):
    """Solutions, and how many were left out for each reason."""

    solutions: list[LabelledSolution]
    dropped: Counter[str]


def draw_planted(config: PlantedErrors, seed: int, sandbox: Sandbox) -> LabelledSet:
    """Solutions with and without an error, every step run. seed: draws them if the configuration has none."""
    seed = seed if config.seed is None else config.seed
    problems = draw_distinct(
        get_task("quantities"),
        config.count,
        seed=derive_seed("report", "planted", seed),
        split=config.split,
        options=config.options,
    )
    relations = config.parse_options().relations
    labelled = [label_solution(problem, seed, relations) for problem in problems]
    written = [solution for solution in labelled if solution]
    runs = sandbox.run_many([[step.code or "" for step in solution.steps] for solution in written])
    executed = [
        run_solution(solution, executions)
        for solution, executions in zip(written, runs, strict=True)
        if all(execution.outcome == "ok" for execution in executions)
    ]
    dropped = {"no place for an error": len(labelled) - len(written), "failed": len(written) - len(executed)}
    return LabelledSet(executed, +Counter(dropped))


def run_solution(solution: LabelledSolution, executions: Sequence[Execution]) -> LabelledSolution:
    """A solution with what its steps showed, and whether the answer they give is right."""
    steps = tuple(
        Step(step.text, step.code, execution.output.removesuffix("\n") or None, execution.outcome)
        for step, execution in zip(solution.steps, executions, strict=True)
    )
    answer, gold = answer_from_attempt("", steps), solution.problem.answer
    is_right = answer is not None and gold is not None and compare_answers(gold, answer)
    return replace(solution, steps=steps, is_answer_right=is_right)


def load_set(name: str, limit: int | None) -> LabelledSet:
    """The solutions of a public set, the first `limit` by a hash of their ids, in the order of the file."""
    solutions, quarantined = load_labelled(name)
    ranked = sorted(solutions, key=lambda solution: derive_seed("labelled", solution.id))
    kept = {solution.id for solution in ranked[:limit]}
    return LabelledSet(
        [solution for solution in solutions if solution.id in kept],
        Counter(row.reason for row in quarantined),
    )


def encode_prefixes(
    solution: LabelledSolution, prompt_format: PromptFormat, codec: Codec
) -> list[tuple[int, ...]]:
    """Token ids of the prompt, then of the solution up to the end of each step and what it showed; each begins the
    next, and all are as a search with this format would have written them.

    Raises ConfigError for code steps where the format has none.
    """
    delimiters = prompt_format.delimiters
    opening = render_steps([], delimiters)
    prefixes = [tuple(codec.encode_prompt(prompt_format, solution.problem.question))]
    written = [*prefixes[0], *(token for segment in opening for token in codec.encode(segment.text))]
    for step in solution.steps:
        segments = render_steps([_write_in_format(step, prompt_format)], delimiters)[len(opening) :]
        written += [token for segment in segments for token in codec.encode(segment.text)]
        prefixes.append(tuple(written))
    return prefixes


def _write_in_format(step: Step, prompt_format: PromptFormat) -> Step:
    """The step as a model with this format writes steps; prose is a comment where steps are code."""
    if prompt_format.solution == "code":
        if step.code is not None:
            return step
        comment = "\n".join(f"# {line}" for line in step.text.split("\n"))
        return Step(comment, comment)
    if step.code is not None:
        raise ConfigError(
            f"this reward model reads prose ({prompt_format.name}), and planted errors are in code; set "
            "`planted: null` and name `sets`"
        )
    return Step(f"{step.text}\n")
