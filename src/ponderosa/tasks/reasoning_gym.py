"""reasoning-gym's tasks as tasks of this package: `gym/chain_sum`.

reasoning-gym is never imported here: both its generators and its scorers run in the sandbox's cpython tier. Several
scorers evaluate Python taken from the answer, and several generators depend on the order of sets, which that tier
fixes. Seeds are hashed (reasoning-gym adds index to seed, so neighbouring seeds share nearly all their items); the
split of a problem is a hash of its question, so splits are disjoint under every seed. An answer is right if it
scores 1.0; partial credit can be earned by padding and is ignored.

`gym/countdown` works its problems out (`ponderosa.tasks.countdown`), and splits them by puzzle, not by wording.
"""

import atexit
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ponderosa.config import suggest
from ponderosa.errors import DataError, RequestError, WorkError
from ponderosa.identity import derive_seed, split_bucket
from ponderosa.records import Outcome, Problem, Verdict
from ponderosa.sandbox.cpython import ForkServer
from ponderosa.sandbox.execution import Execution, Limits
from ponderosa.tasks import countdown
from ponderosa.tasks.gym_catalogue import (
    GYM_TASKS,
    REFUSED,
    SEEDED_BY_DATASET,
    VERIFY_ONLY,
    is_well_formed,
)
from ponderosa.tasks.registry import GYM_PREFIX
from ponderosa.tasks.worked import Unsolved, WorkedSolution
from ponderosa.verify import Grader

VERIFIER = "reasoning_gym"
SPLIT_BOUNDS = {"train": (0.0, 0.6), "selection": (0.6, 0.75), "test": (0.75, 1.0)}
"""Which part of the hash range each split owns."""

GENERATE_LIMITS = Limits(wall_s=60.0, memory_bytes=1 << 30, max_output_bytes=16 << 20)
SCORE_LIMITS = Limits(wall_s=10.0, memory_bytes=512 << 20)
BATCH = 16
MAX_BARREN_DRAWS = 400
SOURCE = Path(__file__).with_name("gym_sandboxed.py")


@dataclass(frozen=True, slots=True)
class GymTask:
    """One reasoning-gym task. Options are the fields of its own configuration."""

    name: str
    source_hash: str = ""

    @property
    def gym_name(self) -> str:
        return self.name.removeprefix(GYM_PREFIX)

    def generate(self, count: int, seed: int, split: str, **options: Any) -> Iterator[Problem]:
        """`count` different problems. Raises DataError if the task has not that many in this split."""
        if split not in SPLIT_BOUNDS:
            raise RequestError(f"{self.name} has no split {split!r}; it has {', '.join(SPLIT_BOUNDS)}")
        low, high = SPLIT_BOUNDS[split]
        seen: set[str] = set()
        barren = draw = 0
        while len(seen) < count:
            seeds = [_derive_item_seed(self.gym_name, seed, draw + offset) for offset in range(BATCH)]
            draw += BATCH
            for item in generate_items(self.gym_name, options, seeds):
                answer, content = item[1], self.identify(item)
                is_readable = answer is None or is_well_formed(self.gym_name, answer, answer)
                if content in seen or not is_readable or not low <= split_bucket(content) < high:
                    barren += 1
                    continue
                seen.add(content)
                barren = 0
                yield self._build_problem(item, options, split)
                if len(seen) == count:
                    return
            if barren >= MAX_BARREN_DRAWS:
                raise DataError(
                    f"{self.name} with these options has too few different {split} problems: "
                    f"{len(seen)} of {count} found; ask for fewer or make it harder"
                )

    def identify(self, item: list[Any]) -> str:
        """What decides an item's split, and which items are the same problem: its question."""
        question: str = item[0]
        return question

    def describe(self, item: list[Any]) -> dict[str, Any]:
        """What results may be sliced by."""
        return {}

    def _build_problem(self, item: list[Any], options: dict[str, Any], split: str) -> Problem:
        question, answer, metadata = item
        return Problem(
            question=question,
            answer=None if self.gym_name in VERIFY_ONLY else answer,
            verifier=VERIFIER,
            source=self.name,
            split=split,
            meta={
                "task": self.gym_name,
                "config": options,
                "metadata": metadata,
                **self.describe(item),
            },
        )


@dataclass(frozen=True, slots=True)
class CountdownTask(GymTask):
    """Countdown: its level is how many numbers a puzzle has; one puzzle in other words is the same problem."""

    name: str = f"{GYM_PREFIX}countdown"

    def identify(self, item: list[Any]) -> str:
        return countdown.name_puzzle(item[2])

    def describe(self, item: list[Any]) -> dict[str, Any]:
        return {"level": countdown.count_numbers(item[2])}

    def work_out(self, problem: Problem) -> WorkedSolution | Unsolved:
        """The reference solution of a problem this task drew."""
        return countdown.work_out(problem)


@dataclass(frozen=True, slots=True)
class GymScore:
    """The scorer's number and how running it ended; 0.0 unless the outcome is ok."""

    value: float
    outcome: Outcome


def get_gym_task(name: str) -> GymTask:
    """`gym/<task>`. Raises RequestError if there is no such task, it is refused, or reasoning-gym is missing."""
    gym_name = name.removeprefix(GYM_PREFIX)
    if gym_name in REFUSED:
        raise RequestError(f"{name} is refused: {REFUSED[gym_name]}")
    if gym_name not in GYM_TASKS:
        raise RequestError(f"reasoning-gym has no task {gym_name!r}{suggest(gym_name, GYM_TASKS)}")
    _require_reasoning_gym()
    return CountdownTask() if gym_name == "countdown" else GymTask(name)


def generate_items(gym_name: str, config: dict[str, Any], seeds: list[int]) -> list[list[Any]]:
    """[question, answer, metadata] for each seed. Raises RequestError if the task refuses its configuration."""
    execution = _run(
        GENERATE_LIMITS,
        call="generate",
        task=gym_name,
        config=config,
        seeds=seeds,
        is_seeded_by_dataset=gym_name in SEEDED_BY_DATASET,
    )
    if execution.outcome == "error" and config:
        raise RequestError(f"{GYM_PREFIX}{gym_name} with {config}: {execution.error}")
    if execution.outcome != "ok":
        raise WorkError(f"{GYM_PREFIX}{gym_name} could not generate: {execution.error}")
    items: list[list[Any]] = json.loads(execution.output)
    return items


def score_answer(problem: Problem, candidate: str) -> GymScore:
    """What the problem's own scorer says of a candidate answer."""
    if not is_well_formed(problem.meta["task"], candidate, problem.answer):
        return GymScore(0.0, "ok")
    if problem.meta["task"] == "countdown" and not countdown.makes_target(
        candidate, problem.meta["metadata"]
    ):
        return GymScore(0.0, "ok")
    execution = _run(
        SCORE_LIMITS,
        call="score",
        task=problem.meta["task"],
        config=problem.meta["config"],
        item=[problem.question, problem.answer, problem.meta["metadata"]],
        candidate=candidate,
    )
    if execution.outcome == "error":
        raise WorkError(f"scoring {problem.source} failed: {execution.error}")
    return GymScore(json.loads(execution.output) if execution.outcome == "ok" else 0.0, execution.outcome)


class GymVerifier:
    """The task's own scorer, run in the sandbox: 1.0 or wrong."""

    name = VERIFIER

    @property
    def version(self) -> str:
        return version("reasoning-gym")

    def verify(self, problem: Problem, answer: str | None, grader: Grader) -> Verdict:
        signature = f"{self.name}@{self.version}"
        if answer is None:
            return Verdict(False, "no_answer", signature)
        score = score_answer(problem, answer)
        if score.outcome == "timeout":  # confirmed once: the machine may have been busy
            score = score_answer(problem, answer)
        if score.outcome in ("timeout", "memory", "output_limit", "crash"):
            return Verdict(False, score.outcome, signature)
        is_right = score.value >= 1.0
        return Verdict(is_right, "correct" if is_right else "wrong_answer", signature)


def _derive_item_seed(gym_name: str, seed: int, draw: int) -> int:
    return derive_seed("reasoning_gym", gym_name, seed, draw) % 2**32  # numpy takes 32 bits


def _require_reasoning_gym() -> None:
    if find_spec("reasoning_gym") is None:
        raise RequestError(
            "reasoning-gym is not installed; install the extra `gym` (in a clone: pip install -e '.[gym]')"
        )


def _run(limits: Limits, **request: Any) -> Execution:
    """One call in a fresh confined process."""
    _require_reasoning_gym()
    server, lock = _get_server()
    steps = [SOURCE.read_text("utf-8"), f"answer_request({json.dumps(request)!r})"]
    with lock:
        server.limits = limits
        return server.run(steps, preload=["reasoning_gym"])[-1]


@cache
def _get_server() -> tuple[ForkServer, threading.Lock]:
    server = ForkServer(SCORE_LIMITS)
    atexit.register(server.close)
    return server, threading.Lock()
