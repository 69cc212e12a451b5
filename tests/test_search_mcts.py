"""Monte Carlo tree search at test time: golden trees, budgets, answers, and independence of all else that runs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_models import build_engine, build_tiny_model
from planted_trees import END, STEP, SeededPolicy, draw, grow, judge
from ponderosa.engines.protocol import Sampling
from ponderosa.formats import PromptFormat
from ponderosa.records import Problem, Tree
from ponderosa.search.driver import build_context, run_unit
from ponderosa.search.labelling import TreeSearch
from ponderosa.search.mcts import MCTS
from ponderosa.search.requests import SearchResult
from ponderosa.search.selection import SelectionRule
from ponderosa.search.solution import Limits
from ponderosa.steps import Delimiters
from search_fakes import PROBLEM, FakeSandbox, FakeScorer
from test_engine_scorer import build_classifier, build_scorer

PROBLEMS = [Problem(f"q{i}", str(i % 4)) for i in range(256)]
SCRIPT = {
    "Solution:": [f"x = 5{STEP}", f"x = 4{STEP}", f"x = 5{STEP}"],
    f"x = 5{STEP}": [f"print(x){STEP}", f"fail(){STEP}", f"So \\boxed{{6}}{END}"],
    f"x = 4{STEP}": [f"So \\boxed{{4}}{END}"],
    "<|end_of_output|>": [f"done{END}"],
}
SCORES = {
    f"x = 5{STEP}": 0.2,
    f"x = 4{STEP}": 0.3,
    "<|end_of_output|>": 0.8,
    "{4}" + END: -0.5,
    "{6}" + END: 0.1,
}


def score(text: str) -> float:
    return next((value for key, value in SCORES.items() if text.endswith(key)), 0.9)


def search(config: MCTS, script: Mapping[str, Any] = SCRIPT, **options: Any) -> SearchResult:
    (result,) = grow(config, script, [PROBLEM], judge=None, **options)
    return result


def get_tree(result: SearchResult) -> Tree:
    assert result.tree is not None
    return result.tree


def test_golden_tree_with_a_reward_model() -> None:
    """Pseudo-visits of open steps, scores of solutions backed up as often as they were drawn, -1 for the failed step.

    First x = 4, the better one by its score, which ends badly (3 x -0.5); then x = 5, where one candidate fails, one
    answers 6 and one prints.
    """
    result = search(MCTS(simulations=3, candidates=3), scorer=FakeScorer(score))
    tree = get_tree(result)
    assert draw(tree).splitlines() == [
        "x = 5 x2 N=6 Q=+0.33 score=+0.20",
        "  print(x) x1 N=4 Q=+0.88 score=+0.80",
        "    done x3 N=3 Q=+0.90 score=+0.90 answer=5",
        "  fail() x1 N=1 Q=-1.00",
        "  So \\boxed{6} x1 N=1 Q=+0.10 score=+0.10 answer=6",
        "x = 4 x1 N=4 Q=-0.30 score=+0.30",
        "  So \\boxed{4} x3 N=3 Q=-0.50 score=-0.50 answer=4",
    ]
    assert (tree.end, tree.num_simulations, tree.scorer_id) == ("budget", 3, "fake-scorer")
    assert (result.answer, result.answer_key) == ("5", "5")


def test_golden_tree_without_a_reward_model() -> None:
    """Unvisited steps first, in the order they were drawn; solutions are worth nothing, the failed step -1."""
    result = search(MCTS(simulations=3, candidates=3))
    assert draw(get_tree(result)).splitlines() == [
        "x = 5 x2 N=5 Q=-0.20",
        "  print(x) x1 N=3 Q=+0.00",
        "    done x3 N=3 Q=+0.00 answer=5",
        "  fail() x1 N=1 Q=-1.00",
        "  So \\boxed{6} x1 N=1 Q=+0.00 answer=6",
        "x = 4 x1 N=3 Q=+0.00",
        "  So \\boxed{4} x3 N=3 Q=+0.00 answer=4",
    ]


def test_golden_tree_by_puct() -> None:
    """First x = 5, which two of three candidates wrote: 0.2 + 2 * 2/3 / 2 against 0.3 + 2 * 1/3 / 2 of x = 4, the better
    one by its score alone. Then (0.2 - 1 + 0.1) / 3."""
    config = MCTS(simulations=1, candidates=3, selection=SelectionRule(rule="puct"))
    assert draw(get_tree(search(config, scorer=FakeScorer(score)))).splitlines() == [
        "x = 5 x2 N=3 Q=-0.23 score=+0.20",
        "  print(x) x1 N=1 Q=+0.80 score=+0.80",
        "  fail() x1 N=1 Q=-1.00",
        "  So \\boxed{6} x1 N=1 Q=+0.10 score=+0.10 answer=6",
        "x = 4 x1 N=1 Q=+0.30 score=+0.30",
    ]


def test_golden_tree_of_two_leaves_in_flight() -> None:
    """The better one by its score is chosen first; its virtual loss sends the second simulation to the other. Both are
    expanded in one round and backed up in that order."""
    tree = get_tree(search(MCTS(simulations=2, candidates=3, leaves=2), scorer=FakeScorer(score)))
    assert [(node.parent, node.step.text) for node in tree.nodes] == [
        (None, "x = 5"),
        (None, "x = 4"),
        (1, "So \\boxed{4}"),
        (0, "print(x)"),
        (0, "fail()"),
        (0, "So \\boxed{6}"),
    ]
    assert draw(tree).splitlines() == [
        "x = 5 x2 N=3 Q=-0.23 score=+0.20",
        "  print(x) x1 N=1 Q=+0.80 score=+0.80",
        "  fail() x1 N=1 Q=-1.00",
        "  So \\boxed{6} x1 N=1 Q=+0.10 score=+0.10 answer=6",
        "x = 4 x1 N=4 Q=-0.30 score=+0.30",
        "  So \\boxed{4} x3 N=3 Q=-0.50 score=-0.50 answer=4",
    ]


def test_failures_may_be_left_out_of_the_values() -> None:
    result = search(MCTS(simulations=3, candidates=3, count_failures=False))
    assert draw(get_tree(result)).splitlines()[:4] == [
        "x = 5 x2 N=4 Q=+0.00",
        "  print(x) x1 N=3 Q=+0.00",
        "    done x3 N=3 Q=+0.00 answer=5",
        "  fail() x1 N=0 Q=+0.00",
    ]


def test_a_tree_with_nothing_left_to_expand_is_closed() -> None:
    tree = get_tree(search(MCTS(simulations=99, candidates=3)))
    assert (tree.end, tree.num_simulations) == ("closed", 3)


def test_a_simulation_goes_on_past_failures_to_an_answer() -> None:
    engine = SeededPolicy(length=3, num_texts=50, fail=0.4)
    tree = get_tree(grow(MCTS(simulations=1, candidates=8), engine, [PROBLEM], judge=None)[0])
    assert tree.num_simulations == 1
    assert [node.finish for node in tree.nodes].count("stop") > 8
    assert any(node.answer is not None for node in tree.nodes)


@pytest.mark.parametrize("leaves", [1, 3, 16])
def test_a_search_makes_as_many_simulations_as_it_may(leaves: int) -> None:
    result = search(MCTS(simulations=7, candidates=4, leaves=leaves), SeededPolicy(length=3, num_texts=99))
    assert (get_tree(result).num_simulations, get_tree(result).end) == (7, "budget")


def test_several_leaves_are_expanded_side_by_side() -> None:
    engine = SeededPolicy(length=1, num_texts=10**6)
    grow(MCTS(simulations=8, candidates=8, leaves=8), engine, [PROBLEM], judge=None)
    assert len(engine.requests) == 8 + 64
    assert engine.occupancy == pytest.approx((8 + 64) / (2 * 64))


def test_no_round_begins_after_the_token_budget() -> None:
    engine = SeededPolicy(length=1, num_texts=10**6)
    tree = get_tree(grow(MCTS(simulations=99, token_budget=1000), engine, [PROBLEM], judge=None)[0])
    assert tree.end == "budget"
    assert 1000 <= tree.cost.generated_tokens + len(tree.prompt_ids) < 1000 + 8 * 20
    assert 0 < tree.num_simulations < 99


def test_a_spent_budget_still_pays_for_one_solution() -> None:
    engine = SeededPolicy(length=3, num_texts=10**6)
    result = search(MCTS(token_budget=100, leaves=4), engine)
    assert len(engine.requests) == 8 + 3
    assert (len(result.attempts), get_tree(result).end, get_tree(result).num_simulations) == (1, "budget", 1)
    assert result.answer is not None


def test_a_step_is_left_after_so_many_visits() -> None:
    def count_visits(max_visits: int | None) -> list[int]:
        config = MCTS(simulations=40, candidates=4, max_visits=max_visits)
        tree = get_tree(search(config, SeededPolicy(length=3, num_texts=99), scorer=FakeScorer(prefer)))
        return [node.visits for node in tree.nodes if node.parent is None]

    def prefer(text: str) -> float:
        return 0.9 if "x = 5" in text or "x = 8" in text else -0.9

    assert max(count_visits(None)) > 20
    assert max(count_visits(12)) <= 12 + 4


def test_every_sibling_is_visited_though_all_are_worth_the_same() -> None:
    """Forty-eight simulations behind eight first steps that all lead to wrong answers."""
    engine = SeededPolicy(length=3, num_texts=10**6)
    (graded,) = grow(TreeSearch(simulations=48, candidates=8), engine, [PROBLEM])
    first = [node.visits for node in graded.tree.nodes if node.parent is None]
    assert (len(first), {node.value for node in graded.tree.nodes if node.visits}) == (8, {-1.0})
    assert min(first) >= 8


@pytest.mark.parametrize(
    ("answer_by", "is_scored", "expected"),
    [
        ("score", True, "5"),
        ("vote", True, "4"),
        ("weighted_vote", True, "5"),
        ("score", False, "7"),
        ("vote", False, "4"),
        ("weighted_vote", False, "7"),
    ],
)
def test_the_answer_is_the_best_solutions_or_a_votes(answer_by: str, is_scored: bool, expected: str) -> None:
    """Three of six candidates answer 7 alike; 4 is reached twice in different words, 5 once with the highest score."""
    texts = ["So \\boxed{7}"] * 3 + ["So \\boxed{4}", "It is \\boxed{4}", "So \\boxed{5}"]
    scores = {"7": -0.9, "4": -0.6, "5": 0.5}
    scorer = FakeScorer(lambda text: scores[text.split("boxed{")[1][0]])
    config = MCTS.model_validate({"simulations": 1, "candidates": 6, "answer_by": answer_by})
    result = search(
        config, {"Solution:": [text + END for text in texts]}, scorer=scorer if is_scored else None
    )
    assert result.answer == expected
    assert [attempt.answer for attempt in result.attempts] == ["7", "4", "4", "5"]
    assert [attempt.sample for attempt in result.attempts] == [0, 1, 2, 3]


def test_a_search_without_an_answer_says_so() -> None:
    result = search(MCTS(), {"Solution:": [f"fail(){STEP}"]})
    assert (result.answer, result.answer_key, get_tree(result).end) == (None, None, "closed")
    assert len(result.attempts) == 1


def prefer_small(text: str) -> float:
    return 0.5 - text.count("3") / 10


@settings(max_examples=10, deadline=None)
@given(
    delays=st.dictionaries(st.integers(0, 200), st.integers(1, 9)),
    num_slots=st.integers(1, 64),
    leaves=st.sampled_from([1, 4]),
    is_scored=st.booleans(),
    chosen=st.sampled_from([PROBLEMS[:1], PROBLEMS[3:6], PROBLEMS[5:0:-1]]),
)
def test_trees_depend_neither_on_the_order_of_replies_nor_on_what_else_runs(
    delays: dict[int, int], num_slots: int, leaves: int, is_scored: bool, chosen: list[Problem]
) -> None:
    for config in (
        MCTS(simulations=6, candidates=4, leaves=leaves),
        TreeSearch(simulations=6, leaves=leaves),
    ):
        scorer = FakeScorer(prefer_small) if is_scored else None

        def run(
            problems: list[Problem], config: Any = config, scorer: Any = scorer, **options: Any
        ) -> list[Any]:
            engine = SeededPolicy(length=2, fail=0.2, stop=0.1, **options)
            return grow(config, engine, problems, seed=3, scorer=scorer)

        together = run(chosen, delays=delays, num_slots=num_slots)
        assert together == [run([problem])[0] for problem in chosen]


def test_a_tree_alone_is_the_tree_among_256() -> None:
    config = TreeSearch(simulations=2, candidates=4, leaves=2)
    together = grow(config, SeededPolicy(fail=0.2), PROBLEMS)
    for number in (0, 100, 255):
        assert grow(config, SeededPolicy(fail=0.2), [PROBLEMS[number]]) == [together[number]]
    assert len({draw(graded.tree) for graded in together}) > 200


def test_another_seed_grows_another_tree() -> None:
    one, other = (search(MCTS(simulations=4), SeededPolicy(num_texts=99), seed=seed) for seed in (1, 2))
    assert draw(get_tree(one)) != draw(get_tree(other))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    config=st.builds(
        TreeSearch,
        simulations=st.integers(1, 12),
        candidates=st.integers(1, 6),
        leaves=st.integers(1, 4),
        max_visits=st.sampled_from([None, 5]),
        selection=st.sampled_from(
            [{}, {"rule": "puct"}, {"rule": "puct", "first_play": 0.0, "prior": "logprob"}]
        ),
    ),
    is_scored=st.booleans(),
)
def test_in_every_tree_visits_add_up_and_values_are_values(
    seed: int, config: TreeSearch, is_scored: bool
) -> None:
    scorer = FakeScorer(prefer_small) if is_scored else None
    engine = SeededPolicy(length=3, fail=0.2, stop=0.1)
    (graded,) = grow(config, engine, [PROBLEM], seed=seed, scorer=scorer, limits=Limits(max_steps=3))
    nodes = graded.tree.nodes
    own = [int(node.finish is None and node.score is not None) for node in nodes]
    for place, node in enumerate(nodes):
        below = [child for child, other in enumerate(nodes) if other.parent == place]
        assert node.visits - own[place] == (
            node.multiplicity if node.finish else sum(nodes[child].visits - own[child] for child in below)
        )
        assert -1 - 1e-9 <= node.value <= 1 + 1e-9
        assert sum(nodes[child].prior for child in below) == pytest.approx(1 if below else 0)
        assert sum(nodes[child].multiplicity for child in below) % config.candidates == 0
    assert set(graded.verdicts) == {place for place, node in enumerate(nodes) if node.finish is not None}
    assert sum(node.multiplicity for node in nodes) == len(engine.requests)


@pytest.mark.parametrize("is_scored", [False, True])
def test_a_real_policy_grows_the_same_tree_again(is_scored: bool) -> None:
    """With a real reward model, too, which must not know the prefixes of earlier units: what a score costs is in the tree."""
    engine = build_engine(build_tiny_model("qwen3"), num_slots=4)
    scorer = build_scorer(build_classifier("qwen3")) if is_scored else None
    letters = Delimiters(are_special=False, start_of_code="", end_of_step="h", output="", end_of_output="")
    prompt_format = PromptFormat(
        name="letters", solution="code", question_prefix="", solution_prefix="abcd", delimiters=letters
    )
    context = build_context(
        engine,
        prompt_format,
        seed=3,
        sampling=Sampling(1.0),
        limits=Limits(max_tokens=40, max_steps=4),
        scorer=scorer,
    )
    context = replace(context, read_answer=lambda text, steps: (text[-1:], text[-1:]))
    problems = [Problem(text, "a") for text in ("hello", "thisisaquestion", "andanother")]
    config = TreeSearch(simulations=2, candidates=3, leaves=2)

    def run(asked: list[Problem]) -> Any:
        return run_unit(engine, FakeSandbox(), asked, config, context, scorer=scorer, judge=judge)

    first = run(problems)
    run(problems[1:])
    assert run(problems) == first
    assert max(len(graded.tree.nodes) for graded in first) > 6
    assert any(node.parent is not None for graded in first for node in graded.tree.nodes)
    scores = {node.score for graded in first for node in graded.tree.nodes} - {None}
    assert len(scores) > 6 if is_scored else not scores
    assert all((graded.tree.cost.scored_tokens > 0) == is_scored for graded in first)
