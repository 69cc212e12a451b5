"""Expansion: candidates side by side, each distinct one run and scored once, and what is read off a tree."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from planted_trees import END, STEP, SeededPolicy
from ponderosa.engines.protocol import Sampling
from ponderosa.engines.scripted import LOGPROB, ScriptedEngine
from ponderosa.formats import PLAIN_CODE
from ponderosa.records import Cost, Step
from ponderosa.search.driver import build_context, run_searches
from ponderosa.search.requests import ProblemView
from ponderosa.search.selection import Prior
from ponderosa.search.solution import Limits, SearchContext, write_solution
from ponderosa.search.tree import SearchNode, SearchTree
from search_fakes import PROBLEM, FakeSandbox, FakeScorer

ROOT = "Solution:"


@dataclass(frozen=True)
class Expand:
    """Expands the root, and then every node that can go on, level by level."""

    widths: Sequence[int]
    prior: Prior = "multiplicity"
    name = "expand"

    def search(
        self, context: SearchContext, problem: ProblemView
    ) -> Generator[list[Any], list[Any], SearchTree]:
        tree = SearchTree(context, problem, strategy=self.name, prior=self.prior)
        level: list[SearchNode] = [tree.root]
        for width in self.widths:
            if not level:
                break
            grown = yield from tree.expand(level, width)
            level = [child for children in grown for child in children if child.is_open]
        return tree


def expand(
    script: Mapping[str, Sequence[str]] | ScriptedEngine,
    *widths: int,
    seed: int = 0,
    prior: Prior = "multiplicity",
    scorer: FakeScorer | None = None,
    limits: Limits | None = None,
) -> tuple[SearchTree, ScriptedEngine, FakeSandbox]:
    engine = script if isinstance(script, ScriptedEngine) else ScriptedEngine(script)
    sandbox = FakeSandbox()
    context = build_context(engine, PLAIN_CODE, seed=seed, sampling=Sampling(), scorer=scorer, limits=limits)
    (tree,) = run_searches(engine, sandbox, [PROBLEM], Expand(widths, prior), context, scorer=scorer)
    return tree, engine, sandbox


def test_candidates_with_the_same_text_become_one_node_that_is_run_once() -> None:
    tree, engine, sandbox = expand({ROOT: ["x = 1" + STEP, "x = 2" + STEP, "x = 1" + STEP]}, 3)
    assert [(node.draft.steps[-1].text, node.multiplicity) for node in tree.nodes] == [
        ("x = 1", 2),
        ("x = 2", 1),
    ]
    assert [node.prior for node in tree.nodes] == [pytest.approx(2 / 3), pytest.approx(1 / 3)]
    assert sandbox.requests == [((), "x = 1"), ((), "x = 2")]
    assert len(engine.requests) == 3


def test_a_step_is_run_behind_its_own_steps_alone() -> None:
    script = {ROOT: ["x = 1" + STEP, "y = 2" + STEP], STEP: ["print(y)" + STEP]}
    tree, _, sandbox = expand(script, 2, 1)
    assert sandbox.requests[2:] == [(("x = 1",), "print(y)"), (("y = 2",), "print(y)")]
    assert [node.draft.steps[-1].observation for node in tree.nodes[2:]] == ["y", "2"]


def test_expansions_are_generated_and_run_side_by_side() -> None:
    script = {ROOT: ["x = 1" + STEP, "x = 2" + STEP], STEP: ["print(x)" + STEP]}
    _, _, sandbox = expand(script, 2, 4)
    assert sandbox.batch_sizes == [2, 2]


def test_a_step_that_fails_kills_its_node_and_whatever_was_printed_before_is_no_answer() -> None:
    tree, *_ = expand({ROOT: ["print(5)" + STEP], "<|end_of_output|>": ["fail()" + STEP]}, 1, 1, 1)
    first, second = tree.nodes
    assert first.is_open
    assert second.is_dead
    assert (second.draft.finish, second.answer) == ("stop", None)
    attempt = tree.read_attempt(second)
    assert (attempt.answer, attempt.answer_key) == (None, None)
    assert attempt.steps[-1].outcome == "error"


def test_where_errors_are_allowed_a_solution_goes_on_behind_them() -> None:
    script = {
        ROOT: ["fail()" + STEP],
        "<|end_of_output|>": ["fail()" + STEP, "print(5)" + STEP, "So 5." + END],
    }
    tree, *_ = expand(script, 1, 2, 1, limits=Limits(max_errors=1))
    assert [node.is_dead for node in tree.nodes] == [False, True, False, False]
    assert tree.nodes[-1].answer == "5"


def test_where_two_errors_in_a_row_are_allowed_the_third_is_the_end() -> None:
    script = {
        ROOT: ["fail()" + STEP],
        "<|end_of_output|>": ["fail()" + STEP],
    }
    tree, *_ = expand(script, 1, 1, 1, limits=Limits(max_errors=2))
    assert [node.is_dead for node in tree.nodes] == [False, False, True]


def test_a_step_that_times_out_kills_its_node_and_no_sibling() -> None:
    tree, *_ = expand({ROOT: ["loop()" + STEP, "print(5)" + STEP]}, 2)
    assert [(node.draft.steps[-1].outcome, node.is_dead) for node in tree.nodes] == [
        ("timeout", True),
        ("ok", False),
    ]


def test_a_solution_that_is_cut_short_or_refused_is_dead() -> None:
    cut, *_ = expand({ROOT: ["print(5)" + STEP]}, 1, limits=Limits(max_steps=1))
    assert [(node.draft.finish, node.is_dead) for node in cut.nodes] == [("length", True)]
    full, *_ = expand({ROOT: ["x = 5" + STEP]}, 1, limits=Limits(max_tokens=6))
    assert [(node.draft.finish, node.is_dead) for node in full.nodes] == [("length", True)]
    refused, *_ = expand(ScriptedEngine({ROOT: ["x"]}, max_context=5), 2)
    assert [(node.draft.finish, node.multiplicity) for node in refused.nodes] == [("error", 2)]
    assert refused.read_attempt(refused.nodes[0]).error is not None


def test_only_what_can_go_on_or_came_to_an_answer_is_scored() -> None:
    scorer = FakeScorer(lambda text: 0.25 if text.endswith(STEP) else -0.5)
    texts = ["x = 1" + STEP, "fail()" + STEP, "So \\boxed{4}" + END, "x = 1" + STEP, "So \\boxed{4" + END]
    tree, *_ = expand({ROOT: texts}, 5, scorer=scorer)
    assert [node.score for node in tree.nodes] == [0.25, None, -0.5, None]
    assert [node.is_dead for node in tree.nodes] == [False, True, False, True]
    assert sum(map(len, scorer.batches)) == 2
    assert (
        tree.cost.scored_tokens
        == 2 * len(tree.root.draft.prompt_ids) + len("x = 1") + 1 + len("So \\boxed{4}") + 1
    )


def test_the_prior_may_be_the_length_normalised_likelihood_of_the_step() -> None:
    class Unsure(ScriptedEngine):
        def _reply(self, request: Any) -> Any:
            reply = super()._reply(request)
            is_long = len(reply.token_ids) > 8
            return replace(
                reply, model_logprobs=(3 * LOGPROB if is_long else LOGPROB,) * len(reply.token_ids)
            )

    engine = Unsure({ROOT: ["x = 1" + STEP, "x = 123456" + STEP, "x = 1" + STEP]})
    tree, *_ = expand(engine, 3, prior="logprob")
    short, long = (node.prior for node in tree.nodes)
    assert short / long == pytest.approx(2.718281828)


def test_the_cost_of_a_tree_counts_every_token_and_every_execution_once() -> None:
    script = {ROOT: ["x = 1" + STEP, "x = 2" + STEP, "x = 1" + STEP], STEP: ["print(x)" + STEP]}
    tree, engine, sandbox = expand(script, 3, 2)
    assert tree.cost == Cost(
        prompt_tokens=len(tree.root.draft.prompt_ids),
        prefill_tokens=sum(len(request.prompt_ids) for request in engine.requests),
        generated_tokens=3 * 6 + 4 * 9,
        executions=len(sandbox.requests),
        flops=tree.cost.prefill_tokens + 3 * 5 + 4 * 8,
    )


def test_a_budget_counts_each_token_that_has_to_be_computed_and_not_what_a_cache_dropped() -> None:
    script = {ROOT: ["print(1)" + STEP, "print(2)" + STEP], "<|end_of_output|>": ["So 1." + END]}
    tree, *_ = expand(script, 2, 2)
    prompt, step, shown, answer = len(tree.root.draft.prompt_ids), len("print(1)") + 1, 3, len("So 1.") + 1
    assert tree.count_tokens() == prompt + 2 * step + 2 * shown + 4 * answer
    assert tree.cost.computed_tokens > tree.count_tokens()
    scored, *_ = expand(script, 2, 2, scorer=FakeScorer(lambda text: 0.0))
    assert scored.count_tokens() == tree.count_tokens() + prompt + 2 * (step + shown) + 2 * answer
    assert scored.has_spent(scored.count_tokens())
    assert not scored.has_spent(scored.count_tokens() + 1)
    assert not scored.has_spent(None)


def test_a_solution_read_off_a_tree_is_the_one_that_would_have_been_written_alone() -> None:
    script = ["x = 5" + STEP, "print(x)" + STEP, "So \\boxed{5}" + END]

    @dataclass(frozen=True)
    class Alone:
        name = "expand"

        def search(self, context: SearchContext, problem: ProblemView) -> Any:
            return (yield from write_solution(context, problem, sample=3, strategy=self.name))

    engine = ScriptedEngine(script)
    (alone,) = run_searches(engine, FakeSandbox(), [PROBLEM], Alone(), build_context(engine, PLAIN_CODE))
    tree, *_ = expand(ScriptedEngine(script), 1, 1, 1)
    (end,) = tree.list_ended()
    attempt = tree.read_attempt(end, 3)
    assert attempt.seed == tree.seed
    for name in (
        "token_ids",
        "sampled",
        "model_logprobs",
        "text",
        "steps",
        "answer",
        "answer_key",
        "finish",
        "cost",
    ):
        assert getattr(attempt, name) == getattr(alone, name)
    nodes = tree.build_record("budget").nodes
    assert tuple(token for node in nodes for token in node.token_ids) == alone.token_ids
    assert tuple(node.step for node in nodes) == alone.steps == (*alone.steps[:2], Step("So \\boxed{5}"))
    assert [node.parent for node in nodes] == [None, 0, 1]


def test_an_open_node_is_read_as_cut_short() -> None:
    tree, *_ = expand({ROOT: ["print(5)" + STEP]}, 1)
    attempt = tree.read_attempt(tree.nodes[0])
    assert (attempt.finish, attempt.answer) == ("length", None)


def test_a_prefix_draws_the_same_candidates_however_it_was_reached_and_the_same_first_of_more() -> None:
    def list_texts(width: int, seed: int) -> list[list[str]]:
        tree, *_ = expand(SeededPolicy(num_texts=1000), 2, width, seed=seed)
        return [[child.draft.steps[-1].text for child in node.children] for node in tree.nodes[:2]]

    few, many = list_texts(3, 1), list_texts(5, 1)
    assert [texts[:3] for texts in many] == few
    assert few[0] != few[1]
    assert list_texts(3, 2) != few


def test_a_solution_that_ended_is_not_expanded() -> None:
    tree, *_ = expand({ROOT: ["So 1." + END]}, 1)
    with pytest.raises(AssertionError, match="cannot go on"):
        next(tree.expand(tree.nodes, 2))


def test_expanding_again_draws_further_candidates_and_only_counts_those_it_knows() -> None:
    @dataclass(frozen=True)
    class Twice:
        name = "expand"

        def search(self, context: SearchContext, problem: ProblemView) -> Any:
            tree = SearchTree(context, problem, strategy=self.name)
            (first,) = yield from tree.expand([tree.root], 2)
            (more,) = yield from tree.expand([tree.root], 3)
            return tree, first, more

    engine, sandbox = ScriptedEngine({ROOT: [f"x = {i}{STEP}" for i in (1, 2, 1, 3, 1)]}), FakeSandbox()
    context = build_context(engine, PLAIN_CODE)
    ((tree, first, more),) = run_searches(engine, sandbox, [PROBLEM], Twice(), context)
    assert tree.root.children == [*first, *more] == tree.nodes
    assert [(node.draft.steps[-1].text, node.multiplicity, node.prior) for node in tree.nodes] == [
        ("x = 1", 3, 0.6),
        ("x = 2", 1, 0.2),
        ("x = 3", 1, 0.2),
    ]
    assert sandbox.requests == [((), "x = 1"), ((), "x = 2"), ((), "x = 3")]
    assert len({request.seed for request in engine.requests}) == 5
    assert tree.cost.generated_tokens == 5 * 6
