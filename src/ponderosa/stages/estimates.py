"""What a stage will cost at most, from its configuration and what the stages it reads can leave. Nothing is run.

Every amount is an upper bound of what the stage's ledger will say, and UNKNOWN where nothing bounds it beforehand: how
many tokens a text has shows only when it is encoded. A kind of stage that is not in ESTIMATORS is unknown altogether.
"""

from collections.abc import Callable, Iterable, Mapping
from math import inf
from pathlib import Path
from typing import Any

from ponderosa.stages import dpo, evaluate, import_model, midtrain, pairs, pivotal, pretrain, rl, rollout, sft
from ponderosa.stages.bounds import (
    UNKNOWN,
    Estimate,
    Lengths,
    Pairs,
    Rollouts,
    Solutions,
    Trees,
    UnknownProduct,
    Upstream,
    Vocabulary,
    bound_lengths,
    count_asked,
    count_problems,
    count_suite,
    estimate_sampling,
    find_products,
    find_shape,
)
from ponderosa.stages.model_shape import ModelShape, plan_grown_shape, read_shape
from ponderosa.stages.solutions import Config as SolutionsConfig
from ponderosa.stages.tokenizer import Config as TokenizerConfig
from ponderosa.stages.training_data import SolutionData
from ponderosa.stages.tree_estimates import (
    estimate_comparison,
    estimate_reward_model,
    estimate_search,
    estimate_step_errors,
    estimate_tree_rl,
)


def estimate_stage(kind: str, config: Any, upstream: Upstream, base: Path) -> Estimate:
    """What a stage costs at most. base: the recipe's folder.

    Raises DataError for a problem file or a model directory that does not load.
    """
    try:
        return ESTIMATORS.get(kind, _estimate_unknown)(config, upstream, base)
    except UnknownProduct:
        return _estimate_unknown(config, upstream, base)


def _estimate_unknown(config: Any, upstream: Upstream, base: Path) -> Estimate:
    """Nothing is known of what it costs; if it trains a model, that keeps its shape."""
    trained = upstream.get(getattr(config, "model", ""))
    return Estimate(UNKNOWN, UNKNOWN, UNKNOWN, trained.product if trained else None)


def _estimate_solutions(config: SolutionsConfig, upstream: Upstream, base: Path) -> Estimate:
    counts = [count_problems(one.task, one.split, one.count, base) for one in config.sources]
    return Estimate(product=Solutions(sum(counts)))


def _estimate_tokenizer(config: TokenizerConfig, upstream: Upstream, base: Path) -> Estimate:
    return Estimate(product=Vocabulary(config.vocab_size))


def _estimate_import(config: import_model.Config, upstream: Upstream, base: Path) -> Estimate:
    if config.path is not None:
        return Estimate(product=read_shape(import_model.find_checkpoint(config.path, base)))
    assert config.expects is not None
    return Estimate(product=config.expects.build_shape())


def _estimate_pretrain(config: pretrain.Config, upstream: Upstream, base: Path) -> Estimate:
    (vocabulary,) = find_products(upstream, [config.tokenizer], Vocabulary)
    return Estimate(UNKNOWN, 0.0, UNKNOWN, plan_grown_shape(config.model, vocabulary.num_tokens))


def _estimate_training(config: midtrain.Config | sft.Config, upstream: Upstream, base: Path) -> Estimate:
    """Packed solutions that are longer than a row are cut into several documents, unpacked ones that are longer than
    the context left out."""
    shape = find_shape(upstream, config.model)
    row_length = config.row_length if isinstance(config, midtrain.Config) else None
    num_rows, longest = _bound_rows(config.data, upstream)
    length = longest if row_length else min(longest, shape.max_context)
    piece = min(length, row_length or length)
    num_tokens = config.epochs * num_rows * length
    return Estimate(num_tokens, 0.0, 3 * num_tokens / piece * shape.compute_document_flops(piece), shape)


def _bound_rows(data: SolutionData, upstream: Upstream) -> tuple[float, float]:
    """How many solutions are trained on, and tokens of the longest."""
    num_rows, longest = 0.0, 0.0
    for need in data.needs():
        match upstream[need.stage].product:
            case Solutions(num_problems):
                num_rows, longest = num_rows + num_problems, UNKNOWN
            case Rollouts(num_problems, num_attempts, lengths):
                num_rows += num_problems * min(num_attempts, data.select.per_problem or inf)
                longest = max(longest, lengths.whole)
            case Trees() as trees:
                taken = min(trees.solutions.num_attempts, data.trajectories.per_problem or inf)
                num_rows += trees.num_problems * taken
                longest = max(longest, UNKNOWN if data.rewrite_trees else trees.lengths.whole)
            case _:
                raise UnknownProduct
    return min(data.limit or inf, num_rows), longest


def _estimate_rollout(config: rollout.Config, upstream: Upstream, base: Path) -> Estimate:
    shape = find_shape(upstream, config.model)
    lengths = bound_lengths(config.max_tokens, shape)
    num_problems = count_asked(config, upstream, base)
    num_attempts = config.build_budget().max_attempts
    product = Rollouts(num_problems, num_attempts, lengths)
    return estimate_sampling(num_problems * num_attempts, lengths, shape, product)


def _estimate_pivotal(config: pivotal.Config, upstream: Upstream, base: Path) -> Estimate:
    shape = find_shape(upstream, config.model)
    lengths = bound_lengths(config.max_tokens, shape)
    num_problems = count_asked(config, upstream, base)
    single_tokens = Lengths(lengths.whole - 1, 1, lengths.whole)
    product = Pairs(num_problems * config.search.max_candidates, single_tokens)
    return estimate_sampling(num_problems * config.search.max_rollouts, lengths, shape, product)


def _estimate_evaluate(config: evaluate.Config, upstream: Upstream, base: Path) -> Estimate:
    shape = find_shape(upstream, config.model)
    num_attempts = 0.0
    for item in config.suites:
        num_problems = count_suite(item, base)
        drawn = {"greedy": 1.0, "sample": item.samples, "majority": item.samples}
        num_attempts += num_problems * drawn.get(item.strategy, UNKNOWN)
    return estimate_sampling(num_attempts, bound_lengths(config.max_tokens, shape), shape)


def _estimate_pairs(config: pairs.Config, upstream: Upstream, base: Path) -> Estimate:
    shape = find_shape(upstream, config.reference)
    rolled = [
        *find_products(upstream, config.rollouts, Rollouts),
        *(trees.solutions for trees in find_products(upstream, config.trees, Trees)),
    ]
    num_attempts = sum(one.num_attempts for one in rolled)
    num_matches = (num_attempts // 2) * (num_attempts - num_attempts // 2)
    num_pairs = sum(one.num_problems for one in rolled) * min(config.rules.pairs_per_problem, num_matches)
    prompt, written, whole = (max(values) for values in zip(*(one.lengths for one in rolled), strict=True))
    longest = config.rules.max_length or inf
    lengths = Lengths(min(prompt, longest - 1), min(written, longest - 1), min(whole, longest))
    product = Pairs(min(config.rules.limit or inf, num_pairs), lengths)
    return Estimate(flops=_compute_pair_flops([product], shape), product=product)


def _estimate_dpo(config: dpo.Config, upstream: Upstream, base: Path) -> Estimate:
    shape = find_shape(upstream, config.model)
    found = find_products(upstream, config.pairs, Pairs)
    num_tokens = sum(one.num_pairs * (one.lengths.prompt + 2 * one.lengths.written) for one in found)
    flops = (3 * config.epochs + 1) * _compute_pair_flops(found, shape)
    if config.loss == "kto":
        mismatched = [one.num_pairs * shape.compute_document_flops(one.lengths.whole) for one in found]
        flops += (1 + config.epochs) * sum(mismatched)
    return Estimate(config.epochs * num_tokens, 0.0, flops, shape)


def _compute_pair_flops(found: Iterable[Pairs], shape: ModelShape) -> float:
    """One forward pass over every pair, its prompt computed once."""
    flops = 0.0
    for num_pairs, (prompt, written, _) in found:
        branch = shape.compute_document_flops(written, prefix=prompt)
        flops += num_pairs * (shape.compute_document_flops(prompt) + 2 * branch)
    return flops


def _estimate_rl(config: rl.Config, upstream: Upstream, base: Path) -> Estimate:
    """As if every wave asked all prompts anew, as often as it may, and as much were kept of it as can be."""
    shape = find_shape(upstream, config.model)
    lengths = bound_lengths(config.max_tokens, shape)
    plan = rl.build_plan(config)
    asked, kept = plan.samples, plan.samples
    if plan.rebalance:
        # A prompt is asked again only while it has no right attempt: no more than the last wave's are right.
        asked = max(plan.samples, plan.rebalance.max_samples)
        kept = min(asked, 2 * plan.samples)
    num_asked = config.iterations * plan.prompts * plan.max_waves * asked
    sampling = estimate_sampling(num_asked, lengths, shape)
    # An update for which nothing was kept goes through one group as it was asked.
    num_trained = config.iterations * max(plan.prompts * kept, plan.updates * asked)
    num_prompts = config.iterations * max(plan.prompts, plan.updates) if plan.shares_prompts else num_trained
    branch = shape.compute_document_flops(lengths.written, prefix=lengths.prompt)
    flops = num_prompts * shape.compute_document_flops(lengths.prompt) + num_trained * branch
    num_tokens = num_prompts * lengths.prompt + num_trained * lengths.written
    return Estimate(num_tokens, sampling.sampled_tokens, sampling.flops + 3 * flops, shape)


ESTIMATORS: Mapping[str, Callable[[Any, Upstream, Path], Estimate]] = {
    "solutions": _estimate_solutions,
    "textbook": lambda *_: Estimate(),
    "tokenizer": _estimate_tokenizer,
    "import_model": _estimate_import,
    "pretrain": _estimate_pretrain,
    "midtrain": _estimate_training,
    "sft": _estimate_training,
    "rollout": _estimate_rollout,
    "pairs": _estimate_pairs,
    "search": estimate_search,
    "reward_model": estimate_reward_model,
    "pivotal": _estimate_pivotal,
    "dpo": _estimate_dpo,
    "rl": _estimate_rl,
    "tree_rl": estimate_tree_rl,
    "evaluate": _estimate_evaluate,
    "compare_strategies": estimate_comparison,
    "step_errors": estimate_step_errors,
}
