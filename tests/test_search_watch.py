"""Watching a tree grow: what is shown, when, and that no search depends on it."""

from dataclasses import replace

import pytest

from ponderosa.engines.protocol import Sampling
from ponderosa.engines.scripted import ScriptedEngine
from ponderosa.formats import PLAIN_CODE
from ponderosa.records import Tree
from ponderosa.search.driver import build_context, run_unit
from ponderosa.search.mcts import MCTS
from ponderosa.search.requests import SearchResult
from ponderosa.search.step_beam import StepBeam
from search_fakes import PROBLEM, FakeSandbox

STEP, END = "<|end_of_step|>", "<|endoftext|>"
SCRIPT = {
    "Solution:": [f"x = 5{STEP}", f"x = 4{STEP}"],
    f"x = 5{STEP}": [f"print(x){STEP}", f"So \\boxed{{6}}{END}"],
    f"x = 4{STEP}": [f"So \\boxed{{4}}{END}"],
    "<|end_of_output|>": [f"done{END}"],
}


def search(strategy: MCTS | StepBeam, watched: list[Tree] | None) -> SearchResult:
    engine = ScriptedEngine(SCRIPT)
    context = build_context(engine, PLAIN_CODE, sampling=Sampling())
    context = replace(context, watch=None if watched is None else lambda build: watched.append(build()))
    (result,) = run_unit(engine, FakeSandbox(), [PROBLEM], strategy, context)
    return result


@pytest.mark.parametrize("strategy", [MCTS(simulations=3, candidates=2), StepBeam(samples=4, width=2)])
def test_a_tree_is_shown_before_each_time_it_grows_and_is_the_same_unwatched(
    strategy: MCTS | StepBeam,
) -> None:
    watched: list[Tree] = []
    tree = search(strategy, watched).tree

    assert tree is not None
    assert tree == search(strategy, None).tree
    sizes = [len(one.nodes) for one in watched]
    assert sizes[0] == 0
    assert sizes == sorted(set(sizes)), "it has grown from one time to the next"
    assert sizes[-1] < len(tree.nodes)
    for one in watched:
        assert [node.step for node in one.nodes] == [node.step for node in tree.nodes[: len(one.nodes)]]


def test_what_is_shown_has_all_visits_up_to_then() -> None:
    watched: list[Tree] = []
    search(MCTS(simulations=3, candidates=2), watched)

    for one in watched:
        begun = [node.visits for node in one.nodes if node.parent is None]
        ended = [node.multiplicity for node in one.nodes if node.finish is not None]
        assert sum(begun) == sum(ended)
    assert ended
