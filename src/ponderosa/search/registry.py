"""Strategies by name, and whether a reward model goes with one."""

from collections.abc import Mapping
from typing import Any

from ponderosa.config import parse_config, suggest
from ponderosa.errors import ConfigError
from ponderosa.search.best_of_n import BestOfN
from ponderosa.search.diverse_beam import DiverseBeam
from ponderosa.search.mcts import MCTS
from ponderosa.search.step_beam import StepBeam
from ponderosa.search.strategies import Greedy, Majority, Sample, Strategy
from ponderosa.search.weighted_vote import WeightedVote

STRATEGIES = {
    "greedy": "one attempt, always the likeliest token",
    "sample": "k independent attempts; the first one's answer",
    "majority": "k independent attempts; the answer most of them reach",
    "best_of_n": "k independent attempts; the one a reward model scores highest",
    "weighted_vote": "k independent attempts; a vote weighted by a reward model's scores",
    "beam": "the best partial solutions go on, step by step; with or without a reward model",
    "dvts": "independent sub-trees, each followed by a reward model's scores",
    "mcts": "Monte Carlo tree search over steps; with or without a reward model",
}
CLASSES: Mapping[str, type[Strategy]] = {
    cls.name: cls for cls in (Greedy, Sample, Majority, BestOfN, WeightedVote, StepBeam, DiverseBeam, MCTS)
}
SAMPLES_FIELDS = ("samples", "simulations")
"""What `samples` sets, by the name that strategies have for it."""


def get_strategy(name: str, samples: int = 8, parameters: Mapping[str, Any] | None = None) -> Strategy:
    """A strategy by name. samples: solutions per problem, for those that write several; `parameters` are its own, and
    go before. Raises ConfigError for another name, an unknown parameter or a value that is not allowed."""
    if name not in CLASSES:
        raise ConfigError(f"unknown strategy {name!r}{suggest(name, STRATEGIES)}")
    if samples < 1:
        raise ConfigError(f"samples is {samples}; at least 1 is needed")
    shared = {field: samples for field in SAMPLES_FIELDS if field in CLASSES[name].model_fields}
    return parse_config(CLASSES[name], {**shared, **(parameters or {})}, where=f"strategy {name!r}")


def check_reward_model(strategy: Strategy, *, is_given: bool) -> None:
    """Raises ConfigError if the strategy needs a reward model and none is given, or is given one that it does not
    use."""
    if strategy.reward_model == "required" and not is_given:
        others = _list_by_use("none", "optional")
        raise ConfigError(
            f"strategy {strategy.name!r} needs a reward model and none is given; name one (--reward-model DIR, in a "
            f"recipe reward_model: STAGE), or use one that does without: {others}"
        )
    if strategy.reward_model == "none" and is_given:
        raise ConfigError(
            f"strategy {strategy.name!r} does not use a reward model, and one is given; leave it out, or use one that "
            f"does: {_list_by_use('optional', 'required')}"
        )


def find_token_budget(strategy: Strategy) -> int | None:
    """Tokens of a problem after which its search ends; None if nothing but its samples ends it."""
    budget: int | None = getattr(strategy, "token_budget", None)
    return budget


def check_takes_budget(name: str) -> None:
    """Raises ConfigError for a strategy that knows no token budget."""
    budgeted = [name for name, cls in CLASSES.items() if "token_budget" in cls.model_fields]
    if name in CLASSES and name not in budgeted:
        raise ConfigError(
            f"strategy {name!r} takes no token_budget; use one that does: {', '.join(budgeted)}"
        )


def check_grows_tree(name: str) -> None:
    """Raises ConfigError for a strategy that grows no tree to look at."""
    strategy = get_strategy(name)
    if not strategy.grows_tree:
        growing = ", ".join(name for name, cls in CLASSES.items() if cls.grows_tree)
        raise ConfigError(f"strategy {name!r} grows no tree to show; use one that does: {growing}")


def _list_by_use(*uses: str) -> str:
    return ", ".join(name for name, cls in CLASSES.items() if cls.reward_model in uses)
