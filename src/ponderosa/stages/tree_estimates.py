"""What search trees, what is made of them, and answers under a token budget cost at most.

Of a tree only its limits are known: every simulation is taken to go down as many steps as it may, past nothing but new
candidates, each of which fills what its solution has left; a token budget bounds it better. What is made of trees is
bounded as if all their nodes were of use, each behind the longest prefix.
"""

from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import NamedTuple

from ponderosa.data.step_pairs import StepPairRules
from ponderosa.search.labelling import TreeSearch
from ponderosa.search.mcts import MCTS
from ponderosa.search.strategies import Strategy
from ponderosa.stages import compare_strategies, reward_model, search, step_errors, tree_rl
from ponderosa.stages.bounds import (
    UNKNOWN,
    Estimate,
    Lengths,
    Trees,
    Upstream,
    bound_lengths,
    count_asked,
    count_suite,
    find_products,
    find_shape,
)
from ponderosa.stages.model_shape import ModelShape


class GrownTree(NamedTuple):
    """Of one tree: nodes with children, all nodes, tokens sampled, and tokens that models had to compute."""

    num_parents: float
    num_nodes: float
    num_sampled: float
    num_computed: float


def bound_tree(tree_search: TreeSearch, max_steps: int, lengths: Lengths, *, num_models: int) -> GrownTree:
    """The largest tree there can be. num_models: 2 if a reward model reads every step, 1 if there is none.

    What is counted towards the budget is looked at between expansions, so those in flight come on top of it, and the
    first simulation may go on behind it, one candidate at a time.
    """
    num_parents = count_simulations(tree_search) * min(max_steps, lengths.written)
    num_nodes = num_parents * tree_search.candidates
    num_sampled = num_nodes * lengths.written
    num_computed = num_models * (lengths.prompt + num_sampled)
    if tree_search.token_budget is not None:
        side_by_side = tree_search.leaves * tree_search.candidates
        sampled, computed = bound_spending(
            tree_search.token_budget, side_by_side + 1, lengths, num_models=num_models
        )
        num_sampled, num_computed = min(num_sampled, sampled), min(num_computed, computed)
    return GrownTree(min(num_parents, num_sampled), min(num_nodes, num_sampled), num_sampled, num_computed)


def bound_spending(
    token_budget: int, num_beyond: int, lengths: Lengths, *, num_models: int
) -> tuple[float, float]:
    """Tokens sampled and computed until a search ends, if behind its budget it writes so many solutions' worth."""
    beyond = num_beyond * lengths.written
    prompts = max(token_budget, lengths.prompt) + (num_models - 1) * lengths.prompt
    return token_budget + beyond, prompts + num_models * beyond


def bound_answer(
    strategy: Strategy, token_budget: int, lengths: Lengths, *, num_models: int
) -> tuple[float, float]:
    """Tokens sampled and computed for one answer under a budget.

    Of independent attempts nobody knows how many a budget pays for, only how many there are at most. Beams may end a
    round of candidates behind it, and then each of the partial solutions that they kept.
    """
    if not strategy.grows_tree:
        num_sampled = strategy.num_attempts * lengths.written
        return num_sampled, num_models * (lengths.prompt + num_sampled)
    num_beyond = 2 * strategy.num_attempts
    if isinstance(strategy, MCTS):
        num_beyond = strategy.leaves * strategy.candidates + 1
    return bound_spending(token_budget, num_beyond, lengths, num_models=num_models)


def count_simulations(tree_search: TreeSearch) -> int:
    """The most that are begun: extra ones only while nothing is right, until the problem is given up."""
    most = tree_search.simulations + tree_search.extra_simulations
    return max(tree_search.simulations, min(most, tree_search.hopeless_after or most))


def estimate_search(config: search.Config, upstream: Upstream, base: Path) -> Estimate:
    """Every token at the price of the dearer model. Where LongRoPE has prefixes computed again, nobody knows how often; nor
    how many steps a token budget buys."""
    names = [config.model, *([config.reward_model] if config.reward_model else [])]
    shapes = [find_shape(upstream, name) for name in names]
    lengths = bound_lengths(config.max_tokens, shapes[0])
    tree = bound_tree(config.search, config.max_steps, lengths, num_models=len(shapes))
    num_problems = count_asked(config, upstream, base)
    num_trees = num_problems * config.trees
    token_flops = price_token(shapes, lengths)
    num_parents, num_nodes = tree.num_parents, tree.num_nodes
    if config.search.token_budget is not None:
        # All that is known is that a step has one token: a bound of no use to anybody.
        num_parents = num_nodes = UNKNOWN
    product = Trees(num_problems, config.trees, num_parents, num_nodes, lengths)
    return Estimate(0.0, num_trees * tree.num_sampled, num_trees * tree.num_computed * token_flops, product)


def estimate_comparison(config: compare_strategies.Config, upstream: Upstream, base: Path) -> Estimate:
    """Every strategy with each of its reward models under every budget, every token at the price of the dearer model."""
    lengths = bound_lengths(config.max_tokens, find_shape(upstream, config.model))
    num_problems = count_suite(config.suite, base)
    sampled, flops = 0.0, 0.0
    for one in config.list_contenders():
        names = [config.model, *([one.reward_model] if one.reward_model else [])]
        token_flops = price_token([find_shape(upstream, name) for name in names], lengths)
        for budget in config.token_budgets:
            strategy = one.entry.get_strategy(budget)
            num_sampled, num_computed = bound_answer(strategy, budget, lengths, num_models=len(names))
            sampled += num_problems * num_sampled
            flops += num_problems * num_computed * token_flops
    return Estimate(0.0, sampled, flops)


def price_token(shapes: Sequence[ModelShape], lengths: Lengths) -> float:
    """FLOPs of a token by the dearest of these models; unknown where LongRoPE has prefixes computed again."""
    is_computed_again = any(lengths.whole > (shape.long_rope_after or inf) for shape in shapes)
    return UNKNOWN if is_computed_again else max(shape.compute_attempt_flops(1) for shape in shapes)


def estimate_reward_model(config: reward_model.Config, upstream: Upstream, base: Path) -> Estimate:
    """A tree is either trained on or held out and scored, its pairs and all its nodes; all are taken to be what costs
    more."""
    shape = find_shape(upstream, config.model)
    if config.trunk == "shared":
        shape = shape.add_adapters(config.lora_rank)
    compared, read = 0.0, 0.0
    for trees in find_products(upstream, config.trees, Trees):
        lengths = trees.lengths
        num_trees = trees.num_problems * trees.num_trees
        of_steps = num_trees * trees.num_parents * bound_comparisons(config.rules, lengths)
        compared += of_steps + trees.num_problems * bound_final_comparisons(config.rules, lengths)
        read += num_trees * trees.num_nodes * lengths.whole
    num_tokens = config.epochs * (compared if config.kind == "ppm" else read)
    token_flops = shape.compute_document_flops(1, prefix=shape.max_context - 1)
    return Estimate(num_tokens, 0.0, max(3 * num_tokens, compared + read) * token_flops, shape)


def bound_comparisons(rules: StepPairRules, lengths: Lengths) -> float:
    """Tokens of the pairs of one node's children: a prefix for each that is preferred, every one of the others behind it."""
    return max(
        _bound_rows(rules.positives, rules.negatives, lengths),
        # Against one child alone, on either side, all others stand in one row with it.
        _bound_rows(1, rules.against_one or 0, lengths),
    )


def bound_final_comparisons(rules: StepPairRules, lengths: Lengths) -> float:
    """Tokens of the pairs of one problem's solutions."""
    return _bound_rows(rules.final_positives, rules.final_negatives, lengths)


def _bound_rows(num_chosen: int, num_rejected: int, lengths: Lengths) -> float:
    """The most tokens of rows in which each chosen continuation is set against all rejected ones. The prefix counts as part
    of one continuation: together they are no more than may be written."""
    return num_chosen * (lengths.prompt + (1 + num_rejected) * lengths.written)


def estimate_tree_rl(config: tree_rl.Config, upstream: Upstream, base: Path) -> Estimate:
    """Every solution written out in full, as if each node ended one."""
    shape = find_shape(upstream, config.model)
    found = [trees.solutions for trees in find_products(upstream, config.trees, Trees)]
    num_tokens, flops = 0.0, 0.0
    for num_problems, num_solutions, lengths in found:
        num_rows, length = num_problems * num_solutions, min(lengths.whole, shape.max_context)
        num_tokens += config.epochs * num_rows * length
        flops += 3 * config.epochs * num_rows * shape.compute_document_flops(length)
    return Estimate(num_tokens, 0.0, flops, shape)


def estimate_step_errors(config: step_errors.Config, upstream: Upstream, base: Path) -> Estimate:
    """Solutions that fill the reward model's context, each computed once; of a whole public set nobody knows how many."""
    shape = find_shape(upstream, config.reward_model)
    num_planted = config.planted.count if config.planted else 0
    num_public = len(config.sets) * (config.limit or UNKNOWN) if config.sets else 0
    return Estimate(flops=(num_planted + num_public) * shape.compute_attempt_flops(shape.max_context))
