"""Measure how well a reward model finds the first wrong step of solutions whose steps are labelled.

    draw problems; write half of their solutions truly, plant one error in each of the others; run every step
    load the step-labelled sets that are named
    score each solution as a search would: after the prompt, and at the end of each step
    for each set and each rule of calling a step wrong: choose the threshold on one half of the solutions, measure on
        the other, and test against an earlier measurement on the same solutions

`ponderosa.evaluation.step_errors` has the rules and the figures. A set on which no threshold can be chosen, for want of
correct or of erroneous solutions, is scored and not measured. The steps of public sets are prose: a model that writes
code reads them as comments, which is not what it was trained on.

Writes rows.json, tests.json, solutions.parquet.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from ponderosa.artifacts import Journal, read_json, read_table, spent_seconds, write_json, write_table
from ponderosa.engines.codec import load_codec
from ponderosa.engines.loading import load_scorer
from ponderosa.engines.scorer import NativeScorer
from ponderosa.errors import ConfigError, RequestError
from ponderosa.evaluation.step_error_rows import (
    ScoredSolution,
    Table,
    compare_found,
    describe_solution,
    summarise,
)
from ponderosa.evaluation.step_errors import RULES, Rule, ScoredSteps, choose_threshold, is_for_selection
from ponderosa.evaluation.summary import Row, RowContext, build_results
from ponderosa.formats import load_format
from ponderosa.identity import content_hash, hash_file
from ponderosa.ledger import Ledger
from ponderosa.progress import track
from ponderosa.records import Cost
from ponderosa.reward_model_directory import find_home
from ponderosa.sandbox import Sandbox
from ponderosa.stages.labelled_solutions import (
    LabelledSet,
    PlantedErrors,
    draw_planted,
    encode_prefixes,
    load_set,
)
from ponderosa.stages.stage import Context, Need, Outcome, StageConfig
from ponderosa.stages.training_stage import MODEL
from ponderosa.tasks.step_labels import LabelledSolution, find_labelled

VERSION = 2
TABLE = "solutions.parquet"
PLANTED = "planted"
UNIT_SOLUTIONS = 32
"""Solutions scored at a time; the cache is emptied before each, so that a unit's cost depends on it alone."""


class Config(StageConfig):
    """Which reward model, on which solutions, against whom."""

    reward_model: str = Field(description="stage whose reward model is measured")
    planted: PlantedErrors | None = PlantedErrors()
    """Solutions of drawn problems, half of them with an error; null leaves them out."""
    sets: tuple[str, ...] = Field(
        (), description="public sets in $PONDEROSA_DATA: prm800k, big_bench_mistake, processbench"
    )
    limit: int | None = Field(None, ge=1, description="most solutions of a public set; unset takes all")
    compare_to: str | None = Field(
        None, description="an earlier step_errors stage to test against, on the same solutions"
    )

    @model_validator(mode="after")
    def _check(self) -> "Config":
        for name in self.sets:
            find_labelled(name)
        if len(set(self.sets)) < len(self.sets):
            raise ConfigError(f"sets {list(self.sets)} name one twice")
        if self.planted is None and not self.sets:
            raise ConfigError("there is nothing to measure on: leave `planted` as it is, or name `sets`")
        return self

    def needs(self) -> tuple[Need, ...]:
        compared = (Need(self.compare_to, "step_errors"),) if self.compare_to else ()
        return (Need(self.reward_model, "reward_model"), *compared)

    def hash_inputs(self, base: Path) -> dict[str, str]:
        found = {name: find_labelled(name) for name in self.sets}
        return {name: hash_file(path) for name, path in found.items() if path}

    def keep_problems(self, seed: int) -> Self:
        if self.planted is None or self.planted.seed is not None:
            return self
        return self.model_copy(update={"planted": self.planted.model_copy(update={"seed": seed})})


def run(config: Config, context: Context) -> Outcome:
    folder = context.inputs[config.reward_model] / MODEL
    scorer = load_scorer(folder, context.device, "float32" if context.dtype == "auto" else context.dtype)
    outcome = Outcome(ledger=Ledger())
    rows: list[Row] = []
    table: list[dict[str, Any]] = []
    with Journal(context.folder / "journal.jsonl") as journal:
        for name in (*([PLANTED] if config.planted else []), *config.sets):
            with spent_seconds(context.folder / f"seconds-{name}.json") as read_seconds:
                drawn = load_solutions(name, config, context)
                scored = score_solutions(name, drawn.solutions, folder, scorer, journal, context)
                eval_s = read_seconds()
            thresholds = choose_thresholds(name, scored, context)
            rows += summarise(
                describe_rows(name, scored, config, context, scorer.model_id, eval_s), scored, thresholds
            )
            table += [describe_solution(name, one, thresholds) for one in scored]
            count_set(outcome, name, drawn, scored, thresholds)
    if not rows:
        raise ConfigError(
            f"nothing could be measured: {outcome.facts}; draw more solutions, or name larger sets"
        )
    write_json(context.folder / "rows.json", build_results(rows))
    write_json(context.folder / "tests.json", compare(config, table, context))
    write_table(context.folder / TABLE, table)
    return outcome


def load_solutions(name: str, config: Config, context: Context) -> LabelledSet:
    """The solutions of one set, or those with planted errors."""
    if name != PLANTED:
        return load_set(name, config.limit)
    assert config.planted is not None
    with Sandbox(workers=context.workers) as sandbox:
        return draw_planted(config.planted, context.seed, sandbox)


def score_solutions(
    name: str,
    solutions: Sequence[LabelledSolution],
    folder: Path,
    scorer: NativeScorer,
    journal: Journal,
    context: Context,
) -> list[ScoredSolution]:
    """Every solution that fits the model's context, scored after its prompt and each step; committed in units."""
    home = find_home(folder)
    prompt_format, codec = load_format(home), load_codec(home)
    prefixes = [encode_prefixes(solution, prompt_format, codec) for solution in solutions]
    fitting = [
        (solution, parts)
        for solution, parts in zip(solutions, prefixes, strict=True)
        if len(parts[-1]) <= scorer.max_context
    ]
    scored: list[ScoredSolution] = []
    with track(context.progress, f"{context.name}: {name}", len(fitting), unit="solutions") as bar:
        for start in range(0, len(fitting), UNIT_SOLUTIONS):
            unit, part = f"{name} {start}", fitting[start : start + UNIT_SOLUTIONS]
            if unit not in journal.units:
                scorer.reset()
                journal.append(unit, score_prefixes(scorer, [parts for _, parts in part]))
            scored += [
                ScoredSolution(
                    labelled=solution,
                    steps=ScoredSteps(solution.id, tuple(record["scores"]), solution.first_error),
                    cost=Cost(
                        scored_tokens=record["tokens"], flops=record["tokens"] * scorer.flops_per_token
                    ),
                )
                for (solution, _), record in zip(part, journal.units[unit], strict=True)
            ]
            bar.advance(len(part))
    return scored


def score_prefixes(
    scorer: NativeScorer, solutions: Sequence[Sequence[tuple[int, ...]]]
) -> list[dict[str, Any]]:
    """The scores of each solution's prefixes, and how many of its tokens were computed."""
    scored = iter(scorer.score([prefix for prefixes in solutions for prefix in prefixes]))
    records = []
    for prefixes in solutions:
        mine = list(islice(scored, len(prefixes)))
        records.append(
            {"scores": [one.score for one in mine], "tokens": sum(one.scored_tokens for one in mine)}
        )
    return records


def choose_thresholds(name: str, scored: Sequence[ScoredSolution], context: Context) -> dict[Rule, float]:
    """The threshold of each rule, chosen on the half that is kept for it; none where there is too little to choose
    and measure on."""
    selection = [one.steps for one in scored if is_for_selection(one.steps)]
    try:
        if len(selection) == len(scored):
            raise RequestError("no solution is left to measure on")
        return {rule: choose_threshold(selection, rule) for rule in RULES}
    except RequestError as error:
        context.progress.say(f"{name} is scored but not measured: {error}")
        return {}


def describe_rows(
    name: str,
    scored: Sequence[ScoredSolution],
    config: Config,
    context: Context,
    model_id: str,
    eval_s: float,
) -> RowContext:
    """What the rows of one set share."""
    trained = read_json(context.inputs[config.reward_model] / "manifest.json")["ledger"]
    return RowContext(
        stage=config.reward_model,
        model=config.reward_model,
        model_id=model_id,
        suite=name,
        suite_hash=content_hash(
            [[one.labelled.id, [step.text for step in one.labelled.steps]] for one in scored]
        ),
        strategy="",
        seed=context.seed,
        train_flops=trained["train_flops"],
        stage_s=trained["seconds"],
        eval_s=eval_s,
    )


def count_set(
    outcome: Outcome,
    name: str,
    drawn: LabelledSet,
    scored: Sequence[ScoredSolution],
    thresholds: Mapping[Rule, float],
) -> None:
    """Add one set to what the manifest says."""
    dropped = +Counter({**drawn.dropped, "longer_than_context": len(drawn.solutions) - len(scored)})
    outcome.kept = (outcome.kept or 0) + len(scored)
    outcome.dropped |= {f"{name}: {reason}": count for reason, count in dropped.items()}
    outcome.facts[name] = {
        "solutions": len(scored),
        "erroneous": sum(one.labelled.first_error is not None for one in scored),
        "right_answer_all_the_same": sum(
            one.labelled.first_error is not None and one.labelled.is_answer_right is True for one in scored
        ),
        "thresholds": dict(thresholds),
    }
    outcome.ledger.scored_tokens += sum(one.cost.scored_tokens for one in scored)
    outcome.ledger.eval_flops += sum(one.cost.flops for one in scored)


def compare(config: Config, table: Table, context: Context) -> list[Row]:
    """Paired tests against the earlier measurement, if one is named."""
    if config.compare_to is None:
        return []
    folder = context.inputs[config.compare_to]
    other = read_json(folder / "config.json")["reward_model"]
    return compare_found((other, read_table(folder / TABLE)), (config.reward_model, table))
