"""Many searches over one engine, one sandbox and one reward model.

Every problem's search is a generator; the driver answers their requests. Searches begin as slots become free, those that
another one gathered before new problems, so that what has begun goes on while the engine still knows its prefix, and no
search waits for another's tokens. While the engine runs a tick, the steps that the last
tick closed run in the sandbox, what was to be scored is scored and what was to be graded is graded, in one batch
each; their replies are taken up at the tick's end, always, so that no result depends on how fast anything was, and a step
that runs into the sandbox's time limit holds up all searches for so long.
Replies reach searches in the order of their requests.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar

from ponderosa.engines.protocol import GREEDY, Engine, GenerateRequest, Sampling, Scored, Scorer
from ponderosa.errors import WorkError
from ponderosa.formats import PromptFormat
from ponderosa.progress import SILENT, Progress, track
from ponderosa.records import Problem, Step, Verdict
from ponderosa.search.requests import (
    Execute,
    Execution,
    Gather,
    Judge,
    Reply,
    Request,
    Score,
    Search,
    Verify,
    view_problem,
)
from ponderosa.search.solution import Limits, SearchContext
from ponderosa.search.strategies import Searcher
from ponderosa.verify import answer_from_attempt, canonical_key

log = logging.getLogger(__name__)

NUM_THREADS = 3
"""Beside the engine's: one for each of executions, scores and verdicts."""


class StepRunner(Protocol):
    """What the driver needs of a sandbox: steps, each in the state its prefix leaves, in order."""

    def execute_many(self, requests: Sequence[tuple[Sequence[str], str]]) -> Sequence[Execution]: ...


@dataclass(slots=True)
class Meter:
    """How busy searches kept the engine.

    occupancy: share of its slot-steps that sampled a token, those counted in which it stood still because all searches
    waited for the sandbox or the reward model.
    """

    occupancy: float = 0.0


def build_context(
    engine: Engine,
    prompt_format: PromptFormat,
    *,
    seed: int = 0,
    sampling: Sampling = GREEDY,
    limits: Limits | None = None,
    scorer: Scorer | None = None,
) -> SearchContext:
    """The context of searches over an engine, with answers read as `ponderosa.verify` reads them."""
    return SearchContext(
        codec=engine.codec,
        prompt_format=prompt_format,
        read_answer=read_answer,
        model_id=engine.model_id,
        max_context=engine.max_context if scorer is None else min(engine.max_context, scorer.max_context),
        flops_per_token=engine.flops_per_token,
        seed=seed,
        sampling=sampling,
        limits=limits or Limits(),
        scorer_id=None if scorer is None else scorer.model_id,
        scorer_flops_per_token=0.0 if scorer is None else scorer.flops_per_token,
    )


def read_answer(text: str, steps: Sequence[Step]) -> tuple[str | None, str | None]:
    """The final answer of a solution and its canonical key."""
    answer = answer_from_attempt(text, steps)
    return answer, None if answer is None else canonical_key(answer)


def run_unit(
    engine: Engine,
    sandbox: StepRunner,
    problems: Sequence[Problem],
    strategy: Searcher,
    context: SearchContext,
    *,
    scorer: Scorer | None = None,
    judge: Judge | None = None,
    meter: Meter | None = None,
    progress: Progress = SILENT,
) -> list[Any]:
    """Search every problem of one unit of committed work, in problem order.

    Engine and scorer forget what came before, so the results depend on the unit alone and an unfinished unit can be
    redone identically.
    """
    engine.reset()
    if scorer is not None:
        scorer.reset()
    return run_searches(
        *(engine, sandbox, problems, strategy, context),
        scorer=scorer,
        judge=judge,
        meter=meter,
        progress=progress,
    )


def run_searches(
    engine: Engine,
    sandbox: StepRunner,
    problems: Sequence[Problem],
    strategy: Searcher,
    context: SearchContext,
    *,
    scorer: Scorer | None = None,
    judge: Judge | None = None,
    meter: Meter | None = None,
    progress: Progress = SILENT,
) -> list[Any]:
    """Search every problem; what the searches returned, in problem order.

    scorer: answers `Score`. judge: answers `Verify`, so give one only where solutions are labelled to train on. Both are
    called on other threads while the engine ticks. meter: is read when all are done.
    """
    with (
        track(progress, strategy.name, len(problems), unit="problems") as bar,
        ThreadPoolExecutor(NUM_THREADS, "beside-the-engine") as threads,
    ):
        by_id = {problem.id: problem for problem in problems}
        driver = _Driver(engine, sandbox, scorer, judge, threads, by_id)
        roots: dict[int, _Task] = {}
        waiting = deque(order_problems(problems))
        num_shown = 0
        while waiting or driver.num_outstanding:
            driver.begin_gathered()
            while waiting and driver.has_free_slots:
                place = waiting.popleft()
                roots[place] = driver.start(strategy.search(context, view_problem(problems[place])))
                driver.begin_gathered()
            driver.advance()
            if driver.num_done > num_shown:
                bar.advance(driver.num_done - num_shown, slots_busy=f"{driver.occupancy:.0%}")
                num_shown = driver.num_done
        log.debug(f"{strategy.name}: {len(problems)} problems, {driver.occupancy:.1%} of slot-steps busy")
        if meter is not None:
            meter.occupancy = driver.occupancy
    return [roots[place].result for place in range(len(problems))]


def order_problems(problems: Sequence[Problem]) -> list[int]:
    """The places of problems in the order they are begun: the longest questions first. They tend to have the longest
    solutions, so that the end, when nothing is left to fill free slots with, is a short one."""
    return sorted(range(len(problems)), key=lambda place: len(problems[place].question), reverse=True)


@dataclass(slots=True, eq=False)
class _Task:
    """A running search: the replies it waits for, and where somebody waits for its result."""

    search: Search
    parent: "tuple[_Task, int] | None" = None
    replies: list[Reply] = field(default_factory=list)
    num_missing: int = 0
    result: Any = None


_Place: TypeAlias = tuple[_Task, int]
"""Where a reply belongs: a task, and the index of the request in what it yielded."""
RequestT = TypeVar("RequestT")


class _Driver:
    """Advances tasks from request to reply. num_done: searches at an end that nobody waits for."""

    def __init__(
        self,
        engine: Engine,
        sandbox: StepRunner,
        scorer: Scorer | None,
        judge: Judge | None,
        threads: ThreadPoolExecutor,
        problems: Mapping[str, Problem],
    ) -> None:
        self._engine = engine
        self._sandbox = sandbox
        self._scorer = scorer
        self._judge = judge
        self._threads = threads
        self._problems = problems
        self.num_done = self._num_advances = self._num_ticks = 0
        self._gathered: deque[tuple[Search, _Place]] = deque()
        self._generating: dict[int, _Place] = {}
        self._to_execute: list[tuple[_Place, Execute]] = []
        self._to_score: list[tuple[_Place, Score]] = []
        self._to_verify: list[tuple[_Place, Verify]] = []

    @property
    def has_free_slots(self) -> bool:
        """Could the engine run more requests at once than it has?"""
        return len(self._generating) < self._engine.num_slots

    @property
    def num_outstanding(self) -> int:
        """Requests whose replies are still to come, and gathered searches that have not begun."""
        asked = len(self._generating) + len(self._to_execute) + len(self._to_score) + len(self._to_verify)
        return asked + len(self._gathered)

    @property
    def occupancy(self) -> float:
        """As a `Meter`'s."""
        return self._engine.occupancy * self._num_ticks / max(1, self._num_advances)

    def start(self, search: Search, parent: _Place | None = None) -> _Task:
        task = _Task(search, parent)
        self._resume(task, None)
        return task

    def begin_gathered(self) -> None:
        """Begin searches that others gathered, in the order they were asked for, while slots are free."""
        while self._gathered and self.has_free_slots:
            self.start(*self._gathered.popleft())

    def advance(self) -> None:
        """One tick of the engine, with what waits run, scored and graded beside it; then everybody's replies, in order."""
        beside = (
            self._begin(self._to_execute, self._execute),
            self._begin(self._to_score, self._score),
            self._begin(self._to_verify, self._verify),
        )
        self._num_advances += 1
        self._num_ticks += bool(self._generating)
        generations = self._engine.tick() if self._generating else []
        for ticket, generation in generations:
            self._reply(self._generating.pop(ticket), generation)
        for wait in beside:
            for place, reply in wait():
                self._reply(place, reply)

    def _begin(
        self,
        waiting: list[tuple[_Place, RequestT]],
        answer: Callable[[Sequence[RequestT]], Sequence[Reply]],
    ) -> Callable[[], Iterable[tuple[_Place, Reply]]]:
        """Answer all that waits on another thread; a function that waits for the replies, each with its place."""
        if not waiting:
            return tuple
        places, requests = zip(*waiting, strict=True)
        waiting.clear()
        future = self._threads.submit(answer, requests)
        return lambda: zip(places, future.result(), strict=True)

    def _execute(self, requests: Sequence[Execute]) -> Sequence[Execution]:
        return self._sandbox.execute_many([(request.prefix, request.code) for request in requests])

    def _score(self, requests: Sequence[Score]) -> Sequence[Scored]:
        assert self._scorer is not None, "refused when it was asked for"
        return self._scorer.score([request.token_ids for request in requests])

    def _verify(self, requests: Sequence[Verify]) -> Sequence[Verdict]:
        assert self._judge is not None, "refused when it was asked for"
        attempts = [request.attempt for request in requests]
        return self._judge([(self._problems[attempt.problem_id], attempt) for attempt in attempts])

    def _reply(self, place: _Place, reply: Reply) -> None:
        """Give one reply; the search goes on when it has all it asked for."""
        task, index = place
        task.replies[index] = reply
        task.num_missing -= 1
        if not task.num_missing:
            self._resume(task, task.replies)

    def _resume(self, task: _Task, replies: list[Reply] | None) -> None:
        """Run a search up to its next requests, or to its end."""
        try:
            requests = next(task.search) if replies is None else task.search.send(replies)
        except StopIteration as end:
            task.result = end.value
            if task.parent is None:
                self.num_done += 1
            else:
                self._reply(task.parent, end.value)
            return
        assert requests, "a search yielded no requests"
        task.replies = [None] * len(requests)
        task.num_missing = len(requests)
        for index, request in enumerate(requests):
            self._dispatch((task, index), request)

    def _dispatch(self, place: _Place, request: Request) -> None:
        if isinstance(request, GenerateRequest):
            self._generating[self._engine.submit(request)] = place
        elif isinstance(request, Execute):
            self._to_execute.append((place, request))
        elif isinstance(request, Score):
            if self._scorer is None:
                raise WorkError("a search asked for a reward model's score where no reward model was given")
            self._to_score.append((place, request))
        elif isinstance(request, Verify):
            if self._judge is None:
                raise WorkError(
                    "a search asked for a verdict where there is none to be had: gold answers are reachable only where "
                    "solutions are labelled to train on, never under evaluate or solve"
                )
            self._to_verify.append((place, request))
        else:
            assert isinstance(request, Gather), request
            self._gather(place, request)

    def _gather(self, place: _Place, request: Gather) -> None:
        """Let the searches begin under a task of their own, whose replies are what they return."""
        assert request.searches, "a search gathered nothing"
        num_searches = len(request.searches)
        group = _Task(_collect(), place, [None] * num_searches, num_searches)
        next(group.search)
        self._gathered += [(search, (group, index)) for index, search in enumerate(request.searches)]


def _collect() -> Search:
    """A search that returns whatever it is given."""
    replies = yield []
    return replies
