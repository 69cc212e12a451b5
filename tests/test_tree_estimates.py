"""What a plan says that search trees, and what is made of them, cost at most."""

from dataclasses import asdict
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import pytest

from planted_trees import SeededPolicy, grow
from ponderosa.artifacts import write_json
from ponderosa.config import parse_config
from ponderosa.data.step_pairs import StepPairRules
from ponderosa.engines.codec import load_codec
from ponderosa.formats import PLAIN_CODE
from ponderosa.hash_cache import hash_directory
from ponderosa.pipeline import estimate_stages
from ponderosa.planning import RECIPES, load_recipe, plan_runs
from ponderosa.progress import SILENT
from ponderosa.records import GradedTree, Problem
from ponderosa.search.labelling import TreeSearch
from ponderosa.search.solution import Limits
from ponderosa.stages.bounds import UNKNOWN, Estimate, Lengths, Rollouts, Solutions, Trees, bound_lengths
from ponderosa.stages.model_shape import read_shape
from ponderosa.stages.policy import describe_policy
from ponderosa.stages.rollout import POLICY
from ponderosa.stages.stage import Context, get_stage
from ponderosa.stages.tree_estimates import bound_comparisons, bound_tree, count_simulations
from ponderosa.stages.tree_tables import save_trees
from search_fakes import FakeScorer
from test_estimates import SHAPE, covers, estimate
from test_stages_reward_model import draw_tree
from tiny_pairs import save_tiny_model
from tiny_runs import FAMILY

PLANTED = Trees(40, 1, num_parents=3, num_nodes=6, lengths=Lengths(2, 6, 8))
"""Of the trees that `draw_tree` draws: a prompt of two tokens, two steps of four, two solutions behind each of two."""
LENGTHS = Lengths(prompt=10, written=5, whole=15)
SEARCH: dict[str, Any] = {"simulations": 3, "candidates": 2}
SEARCHED: dict[str, Any] = {
    "model": "sft",
    "sources": [{"task": "quantities", "count": 4, "options": FAMILY}],
    "search": SEARCH,
    "max_tokens": 20,
    "max_steps": 3,
    "num_slots": 8,
}
COMPARED: dict[str, Any] = {
    "model": "sft",
    "suite": {"suite": "quantities", "limit": 4, "options": FAMILY},
    "strategies": [
        {"strategy": "majority", "samples": 3},
        {"strategy": "dvts", "samples": 4, "search": {"subtrees": 2}, "reward_models": ["ppm"]},
        {"strategy": "mcts", "samples": 2, "search": {"candidates": 2}, "reward_models": [None, "ppm"]},
    ],
    "token_budgets": [1, 60],
    "max_tokens": 20,
    "num_slots": 8,
}
LEARNED: dict[str, Any] = {
    "model": "sft",
    "trees": ["trees"],
    "rules": {"min_edit_distance": 0},
    "held_out_frac": 0.3,
    "epochs": 2,
}
ADAPTED = {**LEARNED, "trunk": "shared", "lora_rank": 64}
"""Of a rank that makes it cost more than the policy it sits on."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A policy of random weights, planted trees as if it had grown them, and reward models trained on these."""
    root = tmp_path_factory.mktemp("costs")
    folders = {"sft": save_tiny_model(root / "sft", context=512), "trees": root / "trees"}
    save_trees(folders["trees"], [draw_tree(number) for number in range(PLANTED.num_problems)])
    model = folders["sft"] / "model"
    policy = describe_policy(load_codec(model), PLAIN_CODE, hash_directory(model))
    write_json(folders["trees"] / POLICY, asdict(policy))
    write_json(folders["trees"] / "config.json", {"top_p": 1.0, "temperature": 1.0})
    folders["ppm"] = root / "ppm"
    run_stage("reward_model", LEARNED, folders, folders["ppm"])
    folders["adapted"] = root / "adapted"
    run_stage("reward_model", ADAPTED, folders, folders["adapted"])
    for name in ("sft", "ppm", "adapted"):
        write_json(folders[name] / "manifest.json", {"ledger": {"train_flops": 0.0, "seconds": 0.0}})
    return folders


def run_stage(kind: str, values: dict[str, Any], inputs: dict[str, Path], folder: Path) -> Any:
    config = parse_config(get_stage(kind).Config, values, where=kind)
    return get_stage(kind).run(
        config, Context("stage", folder, inputs, folder, 0, "cpu", "float32", 1, SILENT)
    )


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("reward_model", LEARNED),
        ("reward_model", {**LEARNED, "kind": "orm"}),
        ("reward_model", {**LEARNED, "kind": "q_regression", "held_out_frac": 0.9}),
        ("reward_model", ADAPTED),
        ("tree_rl", {"model": "sft", "trees": ["trees"], "epochs": 2}),
        ("search", {**SEARCHED, "trees": 2, "search": {**SEARCH, "token_budget": 60}}),
        ("search", {**SEARCHED, "reward_model": "ppm", "search": {**SEARCH, "leaves": 2}}),
        ("search", {**SEARCHED, "reward_model": "adapted"}),
        ("compare_strategies", COMPARED),
        ("step_errors", {"reward_model": "ppm", "planted": {"count": 16, "options": FAMILY}}),
        ("step_errors", {"reward_model": "adapted", "planted": {"count": 16, "options": FAMILY}}),
    ],
)
def test_stages_around_trees_cost_no_more_than_was_estimated(
    kind: str, values: dict[str, Any], inputs: dict[str, Path], tmp_path: Path
) -> None:
    shape = read_shape(inputs["sft"] / "model")
    adapted = estimate("reward_model", ADAPTED, sft=shape, trees=PLANTED).product
    bound = estimate(kind, values, sft=shape, ppm=shape, adapted=adapted, trees=PLANTED)
    ledger = run_stage(kind, values, inputs, tmp_path).ledger
    assert covers(bound, ledger)
    assert max(bound.train_tokens, bound.sampled_tokens, bound.flops) < inf
    assert ledger.train_flops + ledger.eval_flops > 0


@pytest.mark.parametrize("seed", range(40))
def test_no_tree_outgrows_its_bound(seed: int) -> None:
    source = Random(seed)
    tree_search = TreeSearch(
        simulations=source.randint(1, 6),
        candidates=source.randint(1, 4),
        leaves=source.randint(1, 3),
        extra_simulations=source.choice([0, 4]),
        hopeless_after=source.choice([None, 2, 8]),
        token_budget=source.choice([None, 1, 80, 200]),
    )
    limits = Limits(max_tokens=source.choice([12, 40]), max_steps=source.randint(1, 5))
    policy = SeededPolicy(length=source.randint(0, 4), num_texts=source.choice([1, 3, 9]), fail=0.2, stop=0.1)
    scorer = source.choice([None, FakeScorer(lambda text: len(text) % 7 / 7)])
    problem = Problem("q?", "1")
    (graded,) = grow(tree_search, policy, [problem], seed=seed, limits=limits, scorer=scorer)
    prompt = len(graded.tree.prompt_ids)
    lengths = Lengths(prompt, limits.max_tokens, prompt + limits.max_tokens)
    bound = bound_tree(tree_search, limits.max_steps, lengths, num_models=1 if scorer is None else 2)
    assert graded.tree.num_simulations <= count_simulations(tree_search)
    assert len({node.parent for node in graded.tree.nodes}) <= bound.num_parents
    assert len(graded.tree.nodes) <= bound.num_nodes
    assert graded.tree.cost.generated_tokens <= bound.num_sampled
    assert count_computed(graded) <= bound.num_computed


def count_computed(graded: GradedTree) -> int:
    """The prompt, what was drawn, what was shown to steps that followed, and all of that again where it was scored."""
    tree = graded.tree
    parents = {node.parent for node in tree.nodes}
    shown = sum(node.sampled.count(False) for place, node in enumerate(tree.nodes) if place in parents)
    scored = [len(node.token_ids) for node in tree.nodes if node.score is not None]
    num_prompts = 2 if scored else 1
    return num_prompts * len(tree.prompt_ids) + tree.cost.generated_tokens + shown + sum(scored)


# Amounts worked out by hand


@pytest.mark.parametrize(
    ("values", "num_simulations"),
    [
        ({}, 8),
        ({"extra_simulations": 6}, 14),
        ({"extra_simulations": 6, "hopeless_after": 10}, 10),
        ({"extra_simulations": 6, "hopeless_after": 3}, 8),
        ({"hopeless_after": 20}, 8),
    ],
)
def test_extra_simulations_end_when_a_problem_is_given_up(
    values: dict[str, Any], num_simulations: int
) -> None:
    assert count_simulations(TreeSearch(simulations=8, **values)) == num_simulations


def test_a_tree_is_bounded_by_its_simulations_or_by_its_token_budget() -> None:
    """3 simulations of 4 expansions, 2 candidates of 5 tokens each; behind 40 tokens one expansion and one way on."""
    free = TreeSearch(simulations=3, candidates=2)
    assert bound_tree(free, 4, LENGTHS, num_models=1) == (12, 24, 120, 130)
    assert bound_tree(free, 4, LENGTHS, num_models=2) == (12, 24, 120, 260)
    held = free.model_copy(update={"token_budget": 40})
    assert bound_tree(held, 4, LENGTHS, num_models=1) == (12, 24, 55, 55)
    assert bound_tree(held, 4, LENGTHS, num_models=2) == (12, 24, 55, 40 + 10 + 2 * 15)
    tight = free.model_copy(update={"token_budget": 3})
    assert bound_tree(tight, 4, LENGTHS, num_models=1) == (12, 18, 18, 25)


def test_a_search_costs_its_trees_at_the_price_of_its_models_and_leaves_them() -> None:
    values = {
        "model": "sft",
        "solutions": ["problems"],
        "trees": 2,
        "max_tokens": 5,
        "max_steps": 4,
        "search": SEARCH,
    }
    one = estimate("search", values, sft=SHAPE, problems=Solutions(7))
    lengths = bound_lengths(5, SHAPE)
    assert one.sampled_tokens == 7 * 2 * 120
    assert one.flops == 7 * 2 * (120 + 63) * SHAPE.compute_attempt_flops(1)
    assert one.product == Trees(7, 2, 12, 24, lengths)
    values["search"] = {**SEARCH, "token_budget": 40}
    assert estimate("search", values, sft=SHAPE, problems=Solutions(7)).product == Trees(
        7, 2, inf, inf, lengths
    )


def test_what_longrope_has_computed_again_in_a_tree_is_unknown() -> None:
    for threshold, is_known in ((63, False), (64, True)):
        shape = type(SHAPE)(**{**asdict(SHAPE), "long_rope_after": threshold})
        one = estimate("search", {**SEARCHED, "max_tokens": 64}, sft=shape)
        assert one.sampled_tokens < inf
        assert (one.flops < inf) == is_known


def test_trajectories_and_pairs_are_bounded_by_problems_and_by_nodes() -> None:
    trees = Trees(50, 2, 12, 24, bound_lengths(10, SHAPE))
    data: dict[str, Any] = {"trees": ["trees"]}

    def train(**changes: Any) -> Estimate:
        return estimate("sft", {"model": "base", "data": {**data, **changes}}, base=SHAPE, trees=trees)

    assert train().train_tokens == 50 * 2 * 64
    assert train(trajectories={"per_problem": None}).train_tokens == 50 * 48 * 64
    paired = estimate("pairs", {**data, "reference": "base"}, base=SHAPE, trees=trees)
    rollouts = Rollouts(50, 48, trees.lengths)
    assert paired == estimate("pairs", {"rollouts": ["r"], "reference": "base"}, base=SHAPE, r=rollouts)


def test_a_nodes_pairs_are_rows_of_a_prefix_with_what_is_set_against_each_other_behind_it() -> None:
    def bound(**values: Any) -> float:
        return bound_comparisons(StepPairRules(**values), LENGTHS)

    assert bound(positives=2, negatives=3) == 2 * (10 + 4 * 5)
    assert bound(positives=1, negatives=1, against_one=4) == 10 + 5 * 5


def test_a_whole_public_set_has_no_bound() -> None:
    def measure(**values: Any) -> float:
        return estimate("step_errors", {"reward_model": "ppm", **values}, ppm=SHAPE).flops

    per_solution = SHAPE.compute_attempt_flops(64)
    assert measure() == 1000 * per_solution
    assert measure(planted=None, sets=["prm800k", "processbench"], limit=30) == 60 * per_solution
    assert measure(sets=["prm800k"]) == UNKNOWN


@pytest.mark.parametrize("name", ["self-evolution", "self-evolution-tiny"])
def test_of_self_evolution_only_what_is_not_encoded_or_not_searched_yet_has_no_bound(
    name: str, tmp_path: Path
) -> None:
    stages = plan_runs(load_recipe(RECIPES / f"{name}.yaml", ()), Path())
    found = estimate_stages(stages, Path(), tmp_path)
    unknown = {
        stage.kind
        for stage, one in zip(stages, found, strict=True)
        if inf in (one.train_tokens, one.sampled_tokens, one.flops)
    }
    assert unknown == {"pretrain", "midtrain", "reward_model"}


def test_the_papers_self_evolution_gives_up_and_doubts_labels_after_the_last_of_its_simulations() -> None:
    stages = plan_runs(load_recipe(RECIPES / "rstar-math-paper.yaml", ()), Path())
    searches: dict[str, Any] = {stage.name: stage.config for stage in stages if stage.kind == "search"}
    assert list(searches) == ["trees-1", "trees-2", "trees-3", "trees-4"]
    assert [one.max_errors for one in searches.values()] == [1, 0, 0, 0]
    assert [one.search.hopeless_after for one in searches.values()] == [None, None, None, 128]
    assert [count_simulations(one.search) for one in searches.values()] == [8, 32, 32, 128]
    assert {one.search.suspicious_solutions for one in searches.values()} == {3}
