"""Suites: named lists of problems with a content hash, and what each may be used for.

A suite is for reporting or for selection (choosing checkpoints, stopping, tuning), never both: they come from
different splits and their seeds are derived for different purposes, so no seed a user picks can mix them.

    quantities              the whole procedural family, by number of operations
    quantities-structural   graphs whose shape never occurs in training
    quickstart, quickstart-structural     the part of the family that the quickstart's models are grown on
    gsm8k, svamp, math500   benchmarks (`ponderosa.tasks.jsonl`)
    gym/gsm_symbolic        any reasoning-gym task
    FILE.jsonl              a user's problems
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from ponderosa.config import suggest
from ponderosa.errors import ConfigError, DataError, RequestError
from ponderosa.identity import content_hash, derive_seed
from ponderosa.records import Problem
from ponderosa.tasks.jsonl import JsonlTask
from ponderosa.tasks.quarantine import QuarantinedRow
from ponderosa.tasks.registry import GYM_PREFIX, Task, get_task

log = logging.getLogger(__name__)

Purpose = Literal["report", "selection"]
"""What a number will be used for: told to others, or used to choose."""

SELECTION_SPLIT = "selection"
REPORT_SPLITS = ("test", "structural")
DEFAULT_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class SuiteRecipe:
    """How a named suite is drawn. `limit` None takes every problem of the split (a finite benchmark)."""

    task: str
    split: str = "test"
    slice_keys: tuple[str, ...] = ()
    limit: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


QUICKSTART_FAMILY: Mapping[str, Any] = {
    "relations": ["more", "fewer", "times", "half", "sum", "difference", "price", "shared"],
    "max_operations": 3,
    "max_distractors": 1,
    "max_value": 200,
    "num_names": 24,
    "num_items": 6,
    "num_phrasings": 2,
}

SUITES = {
    "quickstart": SuiteRecipe(
        "quantities", slice_keys=("operations",), limit=DEFAULT_LIMIT, options=QUICKSTART_FAMILY
    ),
    "quickstart-structural": SuiteRecipe(
        "quantities",
        split="structural",
        slice_keys=("operations",),
        limit=DEFAULT_LIMIT,
        options={**QUICKSTART_FAMILY, "min_operations": 2},
    ),
    "quantities": SuiteRecipe(
        "quantities", slice_keys=("operations",), limit=DEFAULT_LIMIT, options={"max_operations": 6}
    ),
    "quantities-structural": SuiteRecipe(
        "quantities",
        split="structural",
        slice_keys=("operations",),
        limit=DEFAULT_LIMIT,
        options={"min_operations": 2, "max_operations": 6},
    ),
    "gsm8k": SuiteRecipe("gsm8k"),
    "svamp": SuiteRecipe("svamp", slice_keys=("type",)),
    "math500": SuiteRecipe("math500", slice_keys=("level", "type")),
    "gym/gsm_symbolic": SuiteRecipe("gym/gsm_symbolic", limit=DEFAULT_LIMIT),
    "gym/chain_sum": SuiteRecipe("gym/chain_sum", limit=DEFAULT_LIMIT),
    "gym/basic_arithmetic": SuiteRecipe("gym/basic_arithmetic", limit=DEFAULT_LIMIT),
    "gym/countdown": SuiteRecipe("gym/countdown", slice_keys=("level",), limit=DEFAULT_LIMIT),
}


@dataclass(frozen=True, slots=True)
class Suite:
    """Problems to evaluate on. Ids are distinct; every problem is of a split that fits the purpose.

    quarantined: refused rows of a problem file. other_splits: what else in it is not asked, in words.
    """

    name: str
    purpose: Purpose
    problems: tuple[Problem, ...]
    slice_keys: tuple[str, ...] = ()
    quarantined: tuple[QuarantinedRow, ...] = ()
    other_splits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.problems:
            raise DataError(f"suite {self.name!r} has no problems")
        ids = [problem.id for problem in self.problems]
        if len(set(ids)) != len(ids):
            raise DataError(f"suite {self.name!r} holds a problem twice; its intervals would be too narrow")
        for problem in self.problems:
            check_split(problem.split, self.purpose, self.name)

    @property
    def content_hash(self) -> str:
        """Hash of what is asked and how it is checked, whatever the suite is called."""
        return content_hash([[p.id, p.question, p.answer, p.verifier] for p in self.problems])

    @property
    def left_out(self) -> list[str]:
        """Which rows of a problem file are not in the suite and why, in lines to tell the user."""
        refused = [f"{row.file}:{row.line}: {row.reason}" for row in self.quarantined]
        if refused:
            asked = len(self.problems)
            refused.append(
                f"{len(refused)} malformed in all; the figures are of {asked} problem{'s' * (asked > 1)}"
            )
        return [*refused, *self.other_splits]


def find_suite(name: str) -> SuiteRecipe:
    """How a suite is drawn; a task or a problem file is one by its own name. Raises RequestError for another name."""
    if name in SUITES:
        return SUITES[name]
    if not (_is_finite(name) or ":" in name or name.startswith(GYM_PREFIX)):
        raise RequestError(
            f"no suite {name!r}{suggest(name, SUITES)}; also gym/NAME, FILE.jsonl, FILE.py:NAME"
        )
    return SuiteRecipe(name, limit=None if _is_finite(name) else DEFAULT_LIMIT)


def load_suite(
    name: str,
    *,
    seed: int,
    purpose: Purpose = "report",
    limit: int | None = None,
    split: str | None = None,
    options: Mapping[str, Any] | None = None,
    base: Path | None = None,
) -> Suite:
    """The suite of that name: `limit` problems drawn by a seed derived for the purpose.

    split: default the suite's own for reports (`test`), `selection` for selection. options: override the task's.
    base: the folder a file name is relative to. Raises RequestError for an unknown name, a split that does not
    fit the purpose, or a task that cannot give any problem.
    """
    recipe = find_suite(name)
    split = split or (recipe.split if purpose == "report" else SELECTION_SPLIT)
    check_split(split, purpose, name)
    task = get_task(recipe.task, base)
    drawn = draw_distinct(
        task,
        recipe.limit if limit is None else limit,
        seed=derive_seed(purpose, "suite", name, seed),
        split=split,
        options={**recipe.options, **(options or {})},
    )
    rows = task if isinstance(task, JsonlTask) else None
    suite = Suite(
        name,
        purpose,
        tuple(drawn),
        recipe.slice_keys,
        quarantined=tuple(rows.load(split).quarantined) if rows else (),
        other_splits=tuple(rows.describe_other_splits(split)) if rows else (),
    )
    log.debug(f"suite {name}: {len(drawn)} problems of split {split}, hash {suite.content_hash}")
    return suite


def check_split(split: str, purpose: Purpose, name: str) -> None:
    """Raises ConfigError if problems of this split must not be used for this purpose."""
    if purpose == "report" and split not in REPORT_SPLITS:
        raise ConfigError(
            f"suite {name!r} is of split {split!r}, which is trained or selected on; a report takes "
            f"{' or '.join(REPORT_SPLITS)}, or ask for a selection"
        )
    if purpose == "selection" and split in REPORT_SPLITS:
        raise ConfigError(
            f"suite {name!r} is of split {split!r}, which is kept for reports; a selection takes {SELECTION_SPLIT!r}"
        )


def draw_distinct(
    task: Task, limit: int | None, *, seed: int, split: str, options: Mapping[str, Any]
) -> list[Problem]:
    """Up to `limit` problems with distinct ids (all of a finite task if None); repeats are drawn again."""
    if limit is not None and limit < 1:
        raise RequestError(f"limit={limit}; allowed: 1 or more")
    count = 4 * limit if limit else 10**9
    return list(islice(_skip_repeats(task.generate(count, seed, split, **options)), limit))


def _skip_repeats(problems: Iterator[Problem]) -> Iterator[Problem]:
    seen: set[str] = set()
    for problem in problems:
        if problem.id not in seen:
            seen.add(problem.id)
            yield problem


def _is_finite(name: str) -> bool:
    return name.endswith((".jsonl", ".jsonl.gz"))
