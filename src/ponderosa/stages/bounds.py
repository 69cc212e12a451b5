"""Amounts that plans are made of: what a stage costs at most, and what it leaves as far as that decides the cost of others.

Three things are taken for granted: a prompt has at most PROMPT_TOKENS tokens (a shorter context makes sure of it), no
prefix is computed twice but where LongRoPE makes it, and no step prints beyond its attempt's token limit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

from ponderosa.evaluation.suites import find_suite
from ponderosa.ledger import Ledger
from ponderosa.stages.model_shape import ModelShape
from ponderosa.stages.problem_sources import ProblemConfig
from ponderosa.stages.suite_config import DrawnSuite
from ponderosa.tasks.jsonl import JsonlTask
from ponderosa.tasks.registry import get_task

UNKNOWN = inf
PROMPT_TOKENS = 1024
"""Taken for the longest prompt; Phi-4-reasoning keeps as much of its context free (arXiv 2504.21318, section 4.1)."""


class Solutions(NamedTuple):
    """What a solutions stage leaves."""

    num_problems: float


class Vocabulary(NamedTuple):
    """What a tokenizer stage leaves."""

    num_tokens: int


class Lengths(NamedTuple):
    """Tokens of a prompt, of what is written behind it, and of both together."""

    prompt: float
    written: float
    whole: float


class Rollouts(NamedTuple):
    """What a rollout stage leaves: so many attempts at each problem."""

    num_problems: float
    num_attempts: float
    lengths: Lengths


class Trees(NamedTuple):
    """What a search stage leaves: of each problem so many trees, each of so many nodes, so many of which have children."""

    num_problems: float
    num_trees: int
    num_parents: float
    num_nodes: float
    lengths: Lengths

    @property
    def solutions(self) -> Rollouts:
        """As if every node ended one."""
        return Rollouts(self.num_problems, self.num_trees * self.num_nodes, self.lengths)


class Pairs(NamedTuple):
    """What a stage of pairs leaves: two continuations of one prompt each."""

    num_pairs: float
    lengths: Lengths


Product = ModelShape | Solutions | Vocabulary | Rollouts | Trees | Pairs
ProductT = TypeVar("ProductT", ModelShape, Solutions, Vocabulary, Rollouts, Trees, Pairs)


@dataclass(frozen=True, slots=True)
class Estimate:
    """At most so many tokens trained on and sampled, and FLOPs of these and of scoring.

    product: what the stage leaves for others, as far as it decides what they cost.
    """

    train_tokens: float = 0.0
    sampled_tokens: float = 0.0
    flops: float = 0.0
    product: Product | None = None

    def settle(self, ledger: Ledger) -> "Estimate":
        """What it came to instead; what was left for others is still bounded as before."""
        flops = ledger.train_flops + ledger.eval_flops
        return Estimate(ledger.train_tokens, ledger.generated_tokens, flops, self.product)


Upstream = Mapping[str, Estimate]
"""The estimates of the stages that a stage reads, by name."""


class UnknownProduct(Exception):
    """A stage reads one that leaves nobody knows how much."""


def find_products(upstream: Upstream, names: Iterable[str], kind: type[ProductT]) -> list[ProductT]:
    """What these stages leave. Raises UnknownProduct if one of them leaves something else, or nobody knows what."""
    products = [upstream[name].product for name in names]
    if not all(isinstance(product, kind) for product in products):
        raise UnknownProduct
    return cast(list[ProductT], products)


def find_shape(upstream: Upstream, name: str) -> ModelShape:
    """The shape of the model that a stage leaves; of a reward model that of the policy it began as."""
    return find_products(upstream, [name], ModelShape)[0]


def count_problems(task: str, split: str, count: int | None, base: Path) -> float:
    """So many problems at most: those asked for, or all of a finite task."""
    if count is not None:
        return count
    found = get_task(task, base)
    return len(found.load(split).problems) if isinstance(found, JsonlTask) else UNKNOWN


def count_suite(item: DrawnSuite, base: Path) -> float:
    """How many problems a suite has at most."""
    suite = find_suite(item.suite)
    return count_problems(*item.describe_draw(), suite.limit if item.limit is None else item.limit, base)


def count_asked(config: ProblemConfig, upstream: Upstream, base: Path) -> float:
    """How many problems a stage draws at most."""
    drawn = [count_problems(one.task, one.split, one.count, base) for one in config.sources]
    told = [one.num_problems for one in find_products(upstream, config.solutions, Solutions)]
    return sum(drawn) + min(config.limit or inf, sum(told))


def bound_lengths(max_tokens: int, shape: ModelShape) -> Lengths:
    """Of an attempt, which must fit the context, as must a prompt with one token behind it."""
    prompt = min(PROMPT_TOKENS, shape.max_context - 1)
    written = min(max_tokens, shape.max_context - 1)
    return Lengths(prompt, written, min(prompt + written, shape.max_context))


def estimate_sampling(
    num_attempts: float, lengths: Lengths, shape: ModelShape, product: Product | None = None
) -> Estimate:
    """What so many attempts cost that share nothing."""
    flops = num_attempts * shape.compute_attempt_flops(lengths.whole)
    return Estimate(0.0, num_attempts * lengths.written, flops, product)
