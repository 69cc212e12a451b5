"""Problems drawn from tasks, worked out in steps, executed in the sandbox and verified.

Every drawn problem ends up kept or dropped with a counted reason: refused by its reader, not worked out, a step
that failed, or an answer that is not the gold one. Kept solutions carry what their steps printed. Work is
committed in units, so a killed run continues where it was.

Writes solutions.parquet, dropped.jsonl.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from ponderosa.artifacts import Journal, read_table, write_table, write_text
from ponderosa.config import Config as BaseConfig
from ponderosa.errors import ConfigError
from ponderosa.identity import canonical_json, derive_seed
from ponderosa.ledger import Ledger
from ponderosa.progress import track
from ponderosa.records import Problem, Step
from ponderosa.sandbox import Sandbox
from ponderosa.stages.stage import Context, Draw, Outcome, StageConfig
from ponderosa.tasks.jsonl import JsonlTask
from ponderosa.tasks.quantities.task import QuantitiesTask
from ponderosa.tasks.registry import get_task
from ponderosa.tasks.worked import Unsolved, WorkedSolution, WorkedTask
from ponderosa.verify import Grader, answer_from_attempt, compare_answers, get_verifier

VERSION = 2
UNIT_PROBLEMS = 500
TABLE = "solutions.parquet"


class Source(BaseConfig):
    """Where some of the problems come from."""

    task: str = Field(description="a task's name, FILE.jsonl, or a user's file.py:name")
    split: str = Field("train", description="which split to draw from")
    count: int | None = Field(None, ge=1, description="how many problems; unset takes all of a finite task")
    options: dict[str, Any] = Field(default_factory=dict, description="the task's own options")


class Config(StageConfig):
    """Which problems to draw."""

    sources: tuple[Source, ...] = Field(description="what to draw, in order")

    def hash_inputs(self, base: Path) -> dict[str, str]:
        hashes = {source.task: load_worked_task(source, base).source_hash for source in self.sources}
        return {task: value for task, value in hashes.items() if value}

    def draws(self) -> tuple[Draw, ...]:
        return tuple(Draw(source.task, source.split) for source in self.sources)


def run(config: Config, context: Context) -> Outcome:
    """Draw, work out, execute and verify every problem of every source."""
    with Journal(context.folder / "journal.jsonl") as journal, Sandbox(workers=context.workers) as sandbox:
        for index, source in enumerate(config.sources):
            _work_source(index, source, context, journal, sandbox)
        records = [record for unit in journal.units.values() for record in unit]
    kept = [record for record in records if "reason" not in record]
    dropped = [record for record in records if "reason" in record]
    if not kept:
        raise ConfigError(
            f"no problem of {[source.task for source in config.sources]} has a verified solution"
        )
    write_table(context.folder / TABLE, kept)
    write_text(context.folder / "dropped.jsonl", "".join(canonical_json(record) + "\n" for record in dropped))
    reasons = dict(Counter(f"{record['source']}: {record['reason']}" for record in dropped))
    executions = sum(len(json.loads(record["steps"])) for record in kept)
    return Outcome(ledger=Ledger(executions=executions), kept=len(kept), dropped=reasons)


def load_solutions(folder: Path) -> Iterator[tuple[Problem, WorkedSolution]]:
    """The kept solutions of a finished stage, steps with their observations."""
    for row in read_table(folder / TABLE):
        problem = Problem(
            question=row["question"],
            answer=row["answer"],
            source=row["source"],
            split=row["split"],
            verifier=row.get("verifier") or "answer",
            meta=json.loads(row["meta"]),
            id=row["id"],
        )
        steps = tuple(Step(*step) for step in json.loads(row["steps"]))
        yield problem, WorkedSolution(steps, row["prose"])


def load_worked_task(source: Source, base: Path) -> WorkedTask:
    """The source's task. Raises RequestError if there is none, or if it would never end or works nothing out."""
    task = get_task(source.task, base)
    if not isinstance(task, WorkedTask):
        raise ConfigError(f"task {source.task!r} does not work out its problems: it has no work_out method")
    if source.count is None and not isinstance(task, JsonlTask):
        raise ConfigError(f"task {source.task!r} has no end: say how many problems to draw with `count`")
    if isinstance(task, QuantitiesTask):
        task.with_options(**source.options)
    return task


def _work_source(index: int, source: Source, context: Context, journal: Journal, sandbox: Sandbox) -> None:
    task = load_worked_task(source, context.base)
    seed = derive_seed("solutions", context.seed, index)
    count = sys.maxsize if source.count is None else source.count
    problems = task.generate(count, seed, source.split, **source.options)
    with track(context.progress, f"solutions: {source.task}", source.count, unit="problems") as bar:
        for number, batch in enumerate(_batched(problems, UNIT_PROBLEMS)):
            unit = f"{index}/{number}"
            if unit not in journal.units:
                journal.append(unit, work_out_problems(task, batch, sandbox))
            bar.advance(len(batch))
    unit = f"{index}/quarantined"
    if isinstance(task, JsonlTask) and unit not in journal.units:
        refused = [
            {"source": Path(source.task).name, "id": f"{row.file}:{row.line}", "reason": row.reason}
            for row in task.list_quarantined(source.split)
        ]
        journal.append(unit, refused)


def work_out_problems(
    task: WorkedTask, problems: Sequence[Problem], sandbox: Sandbox
) -> list[dict[str, Any]]:
    """One record for each problem: its verified solution, or the reason it was dropped."""
    worked = [task.work_out(problem) for problem in problems]
    codes = [
        [step.code for step in item.steps if step.code] if isinstance(item, WorkedSolution) else []
        for item in worked
    ]
    executions = sandbox.run_many(codes)
    with Grader() as grader:
        return [
            _build_record(problem, item, runs, grader)
            for problem, item, runs in zip(problems, worked, executions, strict=True)
        ]


def _build_record(
    problem: Problem, worked: WorkedSolution | Unsolved, executions: Sequence[Any], grader: Grader
) -> dict[str, Any]:
    key = {"source": problem.source, "id": problem.id}
    if isinstance(worked, Unsolved):
        return {**key, "reason": worked.reason}
    steps = []
    runs = iter(executions)
    for step in worked.steps:
        if step.code is None:
            steps.append(step)
            continue
        execution = next(runs, None)
        if execution is None or execution.outcome != "ok":
            return {**key, "reason": f"step_{execution.outcome if execution else 'not_run'}"}
        steps.append(
            Step(step.text, step.code, execution.output.removesuffix("\n") or None, execution.outcome)
        )
    answer = answer_from_attempt("", steps)
    if answer is None or not _is_right(problem, answer, grader):
        return {**key, "reason": "wrong_answer"}
    return {
        **key,
        "question": problem.question,
        "answer": problem.answer,
        "split": problem.split,
        "verifier": problem.verifier,
        "prose": worked.prose,
        "steps": json.dumps([[s.text, s.code, s.observation, s.outcome] for s in steps]),
        "meta": json.dumps(dict(problem.meta)),
    }


def _is_right(problem: Problem, answer: str, grader: Grader) -> bool:
    """Whether the problem's verifier takes the answer; where that compares with a gold answer, in this process."""
    if problem.verifier == "answer":
        return problem.answer is not None and compare_answers(problem.answer, answer) is True
    return get_verifier(problem.verifier).verify(problem, answer, grader).correct


def _batched(problems: Iterable[Problem], size: int) -> Iterator[list[Problem]]:
    batch: list[Problem] = []
    for problem in problems:
        batch.append(problem)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
