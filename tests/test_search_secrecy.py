"""What is known of a problem's answer is out of every strategy's reach."""

import gc
from collections.abc import Iterator
from dataclasses import replace
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import pytest

from ponderosa.engines.scripted import ScriptedEngine
from ponderosa.formats import PLAIN_CODE
from ponderosa.records import Attempt, Problem, Verdict
from ponderosa.search import get_strategy
from ponderosa.search.driver import build_context, run_searches
from ponderosa.search.labelling import TreeSearch
from ponderosa.search.registry import CLASSES
from ponderosa.search.requests import ProblemView, Search
from ponderosa.search.solution import SearchContext
from ponderosa.search.strategies import Searcher
from search_fakes import FakeSandbox, FakeScorer, judge_each

PROBLEM = Problem(
    "What is 2 + 3?",
    answer="secret answer",
    verifier="answer",
    solution="secret solution",
    meta={"secret key": 1, "arguments": [{"entry": "secret argument"}]},
)
SCRIPT = {
    "Solution:": ["x = 5<|end_of_step|>"],
    "<|end_of_step|>": ["print(x)<|end_of_step|>"],
    "<|end_of_output|>": ["done<|endoftext|>"],
}


def walk(root: object) -> Iterator[object]:
    """Everything that can be reached from an object without reading modules: attributes, items, locals, closures."""
    seen: dict[int, object] = {}
    waiting = [root]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, (ModuleType, type, CodeType, FrameType)):
            continue
        seen[id(item)] = item
        yield item
        if isinstance(item, FunctionType):
            waiting += [item.__closure__, item.__defaults__, item.__kwdefaults__]
        else:
            waiting += gc.get_referents(item)
        if isinstance(item, dict):
            waiting += item


def list_secrets(root: object) -> set[str]:
    return {item for item in walk(root) if isinstance(item, str) and "secret" in item}


class Watched:
    """A strategy that is looked through before and after everything it is given."""

    def __init__(self, strategy: Searcher) -> None:
        self.strategy, self.name = strategy, strategy.name
        self.found: set[str] = set()
        self.num_looks = 0

    def search(self, context: SearchContext, problem: ProblemView) -> Search:
        search = self.strategy.search(context, problem)
        self.look((context, problem, search))
        replies: Any = None
        while True:
            try:
                requests = search.send(replies)
            except StopIteration as end:
                return end.value
            replies = yield requests
            self.look((requests, replies, search))

    def look(self, root: object) -> None:
        self.found |= list_secrets(root)
        self.num_looks += 1


def run(
    strategy: Searcher, scorer: FakeScorer | None = None, **changes: Any
) -> tuple[Watched, ScriptedEngine, FakeSandbox]:
    watched, engine, sandbox = Watched(strategy), ScriptedEngine(SCRIPT), FakeSandbox()
    context = replace(build_context(engine, PLAIN_CODE, scorer=scorer), **changes)
    run_searches(engine, sandbox, [PROBLEM], watched, context, scorer=scorer, judge=judge)
    return watched, engine, sandbox


@judge_each
def judge(problem: Problem, attempt: Attempt) -> Verdict:
    return Verdict(False, "wrong_answer", "v")


USES = [
    (name, is_scored)
    for name, strategy in CLASSES.items()
    for is_scored in (False, True)
    if strategy.reward_model in ("optional", "required" if is_scored else "none")
]


@pytest.mark.parametrize(("name", "is_scored"), USES)
def test_nothing_a_strategy_can_reach_holds_answer_solution_or_meta(name: str, is_scored: bool) -> None:
    scorer = FakeScorer(lambda _: 0.0) if is_scored else None
    watched, engine, sandbox = run(get_strategy(name, 4), scorer)

    assert watched.num_looks > 1
    assert watched.found == set()
    assert list_secrets((engine.requests, sandbox.requests)) == set()
    if scorer is not None:
        assert scorer.batches
        assert list_secrets(scorer.batches) == set()


@pytest.mark.parametrize(("name", "is_scored"), USES)
def test_no_strategy_asks_for_a_verdict(name: str, is_scored: bool) -> None:
    """There is nobody to give one here, so asking would be an error."""
    scorer = FakeScorer(lambda _: 0.0) if is_scored else None
    engine = ScriptedEngine(SCRIPT)
    context = build_context(engine, PLAIN_CODE, scorer=scorer)
    strategy = get_strategy(name, 4)
    (result,) = run_searches(engine, FakeSandbox(), [PROBLEM], strategy, context, scorer=scorer)
    assert result.attempts


@pytest.mark.parametrize("is_scored", [False, True])
def test_a_search_that_labels_learns_right_and_wrong_and_no_more(is_scored: bool) -> None:
    scorer = FakeScorer(lambda _: 0.0) if is_scored else None
    watched, engine, sandbox = run(TreeSearch(simulations=4, candidates=2), scorer)
    assert watched.found == set()
    assert list_secrets((engine.requests, sandbox.requests)) == set()


def test_the_look_through_finds_a_leak_wherever_it_is() -> None:
    everything = {"secret answer", "secret solution", "secret key", "secret argument"}

    def read_answer(*_: object, leak: Problem = PROBLEM) -> tuple[None, None]:
        return None, None

    assert list_secrets(PROBLEM) == everything
    assert list_secrets(generator for generator in [PROBLEM]) == everything
    assert run(get_strategy("greedy"), read_answer=read_answer)[0].found == everything
