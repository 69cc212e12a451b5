"""Tasks by name. Nothing is imported until a task is asked for.

A task yields problems deterministically: the same (count, seed, split, options) give the same problems, and no
problem of one split occurs in another, whatever the seeds.

    quantities              a family of this package (the table below)
    gsm8k, svamp, math500   a benchmark found as a JSONL file (`ponderosa.tasks.jsonl`)
    problems.jsonl[.gz]     any problem file
    gym/chain_sum           a reasoning-gym task (`ponderosa.tasks.reasoning_gym`)
    mytask.py:coins         a user's own (`ponderosa.tasks.custom`)
    package.module:coins
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from ponderosa.config import suggest
from ponderosa.errors import RequestError
from ponderosa.records import Problem

TASKS = {
    "quantities": "ponderosa.tasks.quantities.task:QUANTITIES",
    "gsm8k": "ponderosa.tasks.gsm8k:GSM8K",
    "svamp": "ponderosa.tasks.jsonl:SVAMP",
    "math500": "ponderosa.tasks.jsonl:MATH500",
}
"""Name -> where the task object is."""

GYM_PREFIX = "gym/"


@runtime_checkable
class Task(Protocol):
    """A source of problems.

    source_hash: hash of what, besides the package's own version, decides the problems (a user's source, a
        problem file); empty where the package decides everything.
    """

    name: str
    source_hash: str

    def generate(self, count: int, seed: int, split: str, **options: Any) -> Iterator[Problem]:
        """Up to `count` problems of a split; fewer only where the source is finite."""
        ...


def list_tasks() -> list[str]:
    """Every task that can be asked for by name, gym tasks included; imports none of them."""
    gym_tasks = import_module("ponderosa.tasks.gym_catalogue").GYM_TASKS
    return sorted(TASKS) + [GYM_PREFIX + name for name in gym_tasks]


def list_data_files() -> list[str]:
    """The stems of the files that named benchmarks are looked for as."""
    tasks = [get_task(name) for name in TASKS]
    return [stem for task in tasks for stem in getattr(task, "files", {}).values()]


def get_task(name: str, base: Path | None = None) -> Task:
    """The task of that name. `base` is the folder a user's file name is relative to (a recipe's own folder).

    Raises RequestError naming the nearest known task, or why a gym task is refused.
    """
    if name in TASKS:
        module, _, attribute = TASKS[name].partition(":")
        return cast(Task, getattr(import_module(module), attribute))
    if name.startswith(GYM_PREFIX):
        return cast(Task, import_module("ponderosa.tasks.reasoning_gym").get_gym_task(name))
    if name.endswith((".jsonl", ".jsonl.gz")):
        return cast(Task, import_module("ponderosa.tasks.jsonl").JsonlTask(name, (base or Path()) / name))
    if ":" in name:
        return cast(Task, import_module("ponderosa.tasks.custom").load_task(name, base or Path()))
    raise RequestError(
        f"unknown task {name!r}{suggest(name, list(TASKS))}; also gym/NAME, FILE.jsonl, FILE.py:NAME"
    )
