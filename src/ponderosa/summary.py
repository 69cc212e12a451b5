"""A run's results in one file, summary.json.

    the rows and paired tests of every finished stage that measures, as it wrote them
    paired tests of every finished search against the one before it of the same problems
    once all are finished: what the training seeds show together, and the arms of a sweep against others

For the first two little is read, so they are written again after every stage; the third loads every attempt.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from ponderosa.arms import Arm
from ponderosa.artifacts import read_json, write_json
from ponderosa.errors import WorkError
from ponderosa.evaluation.joint import (
    Evaluation,
    Scores,
    compare_arms,
    compare_searches,
    compare_stages,
    compute_scores,
    summarise_evaluations,
)
from ponderosa.evaluation.suites import Suite
from ponderosa.evaluation.summary import Row, RowContext
from ponderosa.evaluation.tree_summary import COVERAGE, SLICE_KEYS, compare_coverage
from ponderosa.planning import PlannedStage, Recipe
from ponderosa.records import SCHEMA, Problem
from ponderosa.stages.attempt_tables import load_problems
from ponderosa.stages.evaluate import Config as EvaluateConfig
from ponderosa.stages.evaluate import load_earlier
from ponderosa.stages.rollout import PROBLEMS
from ponderosa.stages.suite_config import SuiteConfig, draw_problems
from ponderosa.stages.tree_tables import load_costs, load_solved

MEASURING = ("evaluate", "compare_strategies", "search", "step_errors")
"""Stages that leave rows.json and tests.json. Over training seeds there are values of `evaluate` and `search`, over arms
of `evaluate` alone."""


def write_summary(
    out: Path, recipe: Recipe, stages: Sequence[PlannedStage], joint: Mapping[str, list[Row]] | None = None
) -> Path:
    """Write summary.json: rows and tests of the finished stages that measure, then those of `joint` (see
    `compute_joint`)."""
    joint = joint or {}
    rows: list[Row] = []
    tests: list[Row] = []
    searches = _Searches()
    for arm, evaluated in _list_finished(out, recipe, stages):
        folder = out / "stages" / evaluated.folder_name
        named = {"arm": arm} if arm else {}
        seeded = {"seed": evaluated.seed} if len(recipe.training_seeds) > 1 else {}
        rows += [
            {**row, **named, "run": out.resolve().name} for row in read_json(folder / "rows.json")["rows"]
        ]
        found = read_json(folder / "tests.json")
        if evaluated.kind == "search":
            found += searches.compare_with_last(evaluated.name, folder, among=(arm, evaluated.seed))
        tests += [{**test, **named, **seeded} for test in found]
    rows += [{**row, "run": out.resolve().name} for row in joint.get("rows", [])]
    tests += joint.get("tests", [])
    summary = {"schema": SCHEMA, "rows": rows, "tests": tests, "stages": [s.folder_name for s in stages]}
    if recipe.sweep:
        arms = [
            {"arm": arm.arm, "stages": [s.folder_name for s in stages if arm.arm in s.arms]}
            for arm in recipe.sweep
        ]
        summary["sweep"] = {"arms": arms, "tests": joint.get("sweep", [])}
    write_json(out / "summary.json", summary)
    return out / "summary.json"


def compute_joint(
    out: Path, recipe: Recipe, base: Path, stages: Sequence[PlannedStage]
) -> dict[str, list[Row]]:
    """Rows and tests over all training seeds, and the tests of a sweep; every stage is finished. Nothing, and
    nothing is read, for one seed without a sweep."""
    has_seeds = len(recipe.training_seeds) > 1
    if not has_seeds and not recipe.sweep:
        return {}
    evaluations = load_evaluations(out, recipe, base, stages)
    searches = load_searches(out, recipe, stages) if has_seeds else []
    return {
        "rows": summarise_evaluations([*evaluations, *searches]) if has_seeds else [],
        "tests": [*compare_stages(evaluations), *compare_searches(searches)] if has_seeds else [],
        "sweep": compare_arms(evaluations) if recipe.sweep else [],
    }


def load_evaluations(
    out: Path, recipe: Recipe, base: Path, stages: Sequence[PlannedStage]
) -> list[Evaluation]:
    """Every suite of every evaluate stage of every arm, in the order of the arms, with the scores of every seed."""
    loader = _Loader(out, base)
    evaluations: list[Evaluation] = []
    for arm in recipe.sweep or (None,):
        mine = [stage for stage in stages if arm is None or arm.arm in stage.arms]
        for name in dict.fromkeys(stage.name for stage in mine if stage.kind == "evaluate"):
            seeded = [stage for stage in mine if stage.name == name]
            config = seeded[0].config
            assert isinstance(config, EvaluateConfig)
            for item in config.suites:
                suite = loader.draw(item, seeded[0].seed)
                evaluations.append(
                    Evaluation(
                        arm=arm.arm if arm else None,
                        stage=name,
                        compare_to=config.compare_to,
                        metric=config.get_metric(item),
                        is_end=_is_end(name, arm, mine),
                        against=arm.baselines if arm else (),
                        problems=suite.problems,
                        slice_keys=suite.slice_keys,
                        scores=[loader.score(stage, item, suite) for stage in seeded],
                    )
                )
    return evaluations


def load_searches(out: Path, recipe: Recipe, stages: Sequence[PlannedStage]) -> list[Evaluation]:
    """The coverage of every search that had the same problems at all seeds, in the order of the arms."""
    found: list[Evaluation] = []
    for arm in recipe.sweep or (None,):
        mine = [s for s in stages if s.kind == "search" and (arm is None or arm.arm in s.arms)]
        for name in dict.fromkeys(stage.name for stage in mine):
            folders = [out / "stages" / stage.folder_name for stage in mine if stage.name == name]
            rows = [read_json(folder / "rows.json")["rows"][0] for folder in folders]
            if len({row["suite_hash"] for row in rows}) > 1:
                continue
            problems = load_problems(folders[0] / PROBLEMS)
            found.append(
                Evaluation(
                    arm=arm.arm if arm else None,
                    stage=name,
                    compare_to=None,
                    metric=COVERAGE,
                    is_end=False,
                    problems=problems,
                    slice_keys=SLICE_KEYS,
                    scores=[_score_search(*both, problems) for both in zip(folders, rows, strict=True)],
                )
            )
    return found


def _score_search(folder: Path, row: Row, problems: Sequence[Problem]) -> Scores:
    solved = load_solved(folder)
    costs = load_costs(folder)
    values = {
        COVERAGE: {problem.id: float(problem.id in solved) for problem in problems},
        "mean_computed_tokens": {name: float(cost.computed_tokens) for name, cost in costs.items()},
    }
    return Scores(_build_context(row), row["samples"], values, costs)


class _Searches:
    """Tests each search against the last one that had the same problems: in rounds, that of the round before."""

    def __init__(self) -> None:
        self._last: dict[Hashable, tuple[str, frozenset[str]]] = {}

    def compare_with_last(self, name: str, folder: Path, *, among: Hashable) -> list[Row]:
        """The tests of a finished search, none of the first. among: what searches have in common that are compared."""
        first_row = read_json(folder / "rows.json")["rows"][0]
        key = (among, first_row["suite_hash"])
        last, this = self._last.get(key), (name, load_solved(folder))
        self._last[key] = this
        if last is None:
            return []
        problems = load_problems(folder / PROBLEMS)
        return compare_coverage(problems, last, this, strategy=first_row["strategy"])


class _Loader:
    """Reads scores and draws suites, each once however many arms share them."""

    def __init__(self, out: Path, base: Path) -> None:
        self._out, self._base = out, base
        self._suites: dict[tuple[str, int], Suite] = {}
        self._scores: dict[tuple[str, str], Scores] = {}

    def draw(self, item: SuiteConfig, seed: int) -> Suite:
        key = (item.model_dump_json(), seed)
        if key not in self._suites:
            self._suites[key] = draw_problems(item, seed, self._base)
        return self._suites[key]

    def score(self, stage: PlannedStage, item: SuiteConfig, suite: Suite) -> Scores:
        """Raises WorkError if the suite is no longer what the stage's model answered."""
        key = (stage.folder_name, item.file_name)
        if key not in self._scores:
            folder = self._out / "stages" / stage.folder_name
            context = _read_context(folder, item)
            if context.suite_hash != suite.content_hash:
                raise WorkError(
                    f"suite {item.name!r} is no longer drawn as when {stage.folder_name} was evaluated; delete that "
                    "folder to evaluate again"
                )
            self._scores[key] = compute_scores(
                context, suite.problems, load_earlier(folder, item), item.settled_from
            )
        return self._scores[key]


def _read_context(folder: Path, item: SuiteConfig) -> RowContext:
    """What the rows of one suite share, read back from the first of them; older ones say less."""
    rows = read_json(folder / "rows.json")["rows"]
    row = next(row for row in rows if (row["suite"], row["strategy"]) == (item.name, item.strategy))
    return _build_context(row)


def _build_context(row: Row) -> RowContext:
    names = [field.name for field in fields(RowContext)]
    return RowContext(**{name: row[name] for name in names if name in row})


def _is_end(name: str, arm: Arm | None, stages: Sequence[PlannedStage]) -> bool:
    """Whether an arm ends in a stage: it is named by `until`, or without that nothing reads it."""
    if arm is not None and arm.ends:
        return name in arm.ends
    return all(name not in stage.needs for stage in stages)


def _list_finished(
    out: Path, recipe: Recipe, stages: Sequence[PlannedStage]
) -> Iterator[tuple[str | None, PlannedStage]]:
    """Finished stages that measure, by arm; one that several arms share comes once for each."""
    done = [s for s in stages if s.kind in MEASURING and (out / "stages" / s.folder_name / "DONE").exists()]
    arms: list[str | None] = [arm.arm for arm in recipe.sweep]
    for arm in arms or [None]:
        yield from ((arm, stage) for stage in done if arm is None or arm in stage.arms)
