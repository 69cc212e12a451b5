"""Rewards as a recipe names them: a weighted sum of named components.

    rewards:
      - {use: phi4_reasoning_plus}                               a shipped sum
      - {use: correctness, weight: 0.5, options: {wrong: 0.0}}   a shipped reward
      - {use: my_rewards.py:shorter, weight: 0.1}                a user's own, in a file beside the recipe
      - {use: package.module:shorter}                            or installed

A user's reward is a function `(attempt, verdict, context) -> number`, which gets `options` as keyword arguments, or
a class that makes one of them. Its source is part of a stage's hash.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, cast

from pydantic import Field

from ponderosa.config import Config, parse_config, suggest
from ponderosa.errors import ConfigError, InvalidReward
from ponderosa.records import Attempt, Verdict
from ponderosa.rewards.accuracy import Correctness, CosineAccuracy, LengthAwareAccuracy
from ponderosa.rewards.repetition import Repetition
from ponderosa.rewards.reward import Reward, RewardContext
from ponderosa.user_code import load_object

MAX_SHOWN_CHARS = 400
"""How much of an attempt an error message shows, half of it from either end."""


class RewardConfig(Config):
    """One reward and its weight in the sum."""

    use: str
    """A shipped reward, or a user's own `file.py:name` or `package.module:name`."""
    weight: float = Field(1.0, allow_inf_nan=False)
    """What its value is multiplied by."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The reward's own options."""


REWARDS: dict[str, type[Correctness | LengthAwareAccuracy | Repetition]] = {
    "correctness": Correctness,
    "length_aware_accuracy": LengthAwareAccuracy,
    "cosine_accuracy": CosineAccuracy,
    "repetition": Repetition,
}

SUMS: dict[str, tuple[RewardConfig, ...]] = {
    "phi4_reasoning_plus": (
        RewardConfig(use="length_aware_accuracy", weight=8 / 13),
        RewardConfig(use="repetition", weight=1 / 13),
    ),
    "phi4_cosine": (
        RewardConfig(use="cosine_accuracy", weight=8 / 13),
        RewardConfig(use="repetition", weight=1 / 13),
    ),
}
"""Phi-4-reasoning-plus's reward, and the same with a plain cosine. A weight multiplies those of the parts."""


class Score(NamedTuple):
    """total: the weighted sum. components: each reward's value by name, before its weight."""

    total: float
    components: dict[str, float]


@dataclass(frozen=True, slots=True)
class Component:
    """A reward under its name in the sum."""

    name: str
    weight: float
    reward: Reward


@dataclass(frozen=True, slots=True)
class RewardSum:
    """What a recipe asks for, ready to score attempts."""

    components: tuple[Component, ...]
    context: RewardContext

    def score(self, attempt: Attempt, verdict: Verdict) -> Score:
        """The reward of one graded attempt. Raises InvalidReward if a reward raises or gives no finite number."""
        values = {
            component.name: _compute(component, attempt, verdict, self.context)
            for component in self.components
        }
        total = math.fsum(component.weight * values[component.name] for component in self.components)
        return Score(total, values)


def build_reward_sum(configs: Sequence[RewardConfig], context: RewardContext, base: Path) -> RewardSum:
    """The weighted sum of a recipe's `rewards`; a user's files are looked for in `base`.

    Raises ConfigError for unknown names, wrong options and two components of one name; RequestError if a user's
    reward cannot be found.
    """
    if not configs:
        raise ConfigError(f"no rewards; name at least one{suggest('', [*REWARDS, *SUMS])}")
    components = tuple(_build_component(config, base) for config in _expand(configs))
    names = [component.name for component in components]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"rewards named twice: {', '.join(repeated)}; give one of them the option `name`")
    return RewardSum(components, context)


def hash_rewards(configs: Sequence[RewardConfig], base: Path) -> dict[str, str]:
    """Content hash of the source of each reward that is a user's own, by the name the recipe gives it."""
    return {config.use: load_object(config.use, base).source_hash for config in configs if ":" in config.use}


def _expand(configs: Sequence[RewardConfig]) -> list[RewardConfig]:
    expanded: list[RewardConfig] = []
    for config in configs:
        if config.use in SUMS and config.options:
            raise ConfigError(f"reward {config.use!r} is a sum and has no options; name its parts instead")
        parts = SUMS.get(config.use, (config,))
        factor = config.weight if config.use in SUMS else 1.0
        expanded += [part.model_copy(update={"weight": factor * part.weight}) for part in parts]
    return expanded


def _build_component(config: RewardConfig, base: Path) -> Component:
    if config.use in REWARDS:
        shipped = parse_config(REWARDS[config.use], config.options, where=f"reward {config.use!r}")
        return Component(shipped.name, config.weight, shipped)
    if ":" not in config.use:
        names = suggest(config.use, [*REWARDS, *SUMS])
        raise ConfigError(f"unknown reward {config.use!r}{names}; also FILE.py:NAME, package.module:NAME")
    reward = _build_own(config, load_object(config.use, base).value)
    return Component(str(getattr(reward, "name", config.use)), config.weight, reward)


def _build_own(config: RewardConfig, value: Any) -> Reward:
    if not callable(value):
        raise ConfigError(
            f"{config.use} is neither a function of an attempt, a verdict and a context nor a class"
        )
    if not inspect.isclass(value):
        return cast(Reward, partial(value, **config.options) if config.options else value)
    try:
        reward = value(**config.options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"reward {config.use!r} does not take the options {config.options}: {error}"
        ) from error
    if not callable(reward):
        raise ConfigError(
            f"{config.use} makes objects that cannot be called with an attempt, a verdict, a context"
        )
    return cast(Reward, reward)


def _compute(component: Component, attempt: Attempt, verdict: Verdict, context: RewardContext) -> float:
    try:
        value: object = component.reward(attempt, verdict, context)
    except Exception as error:  # a user's code: whatever it raises, the attempt that made it raise is shown
        raise _explain(
            component, attempt, f"raised {type(error).__name__}: {_shorten(str(error))}"
        ) from error
    if not isinstance(value, Real):
        raise _explain(component, attempt, f"gave {_shorten(repr(value))}, which is no number")
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond every float
        number = math.inf
    if not math.isfinite(component.weight * number):
        raise _explain(
            component, attempt, f"gave {_shorten(repr(value))}; a reward must be finite, its weight included"
        )
    return number


def _explain(component: Component, attempt: Attempt, complaint: str) -> InvalidReward:
    return InvalidReward(
        f"reward {component.name!r} {complaint}; problem {attempt.problem_id}, sample {attempt.sample}, "
        f"attempt {_shorten(attempt.text)}"
    )


def _shorten(text: str) -> str:
    """Text that a model may have written, quoted in printable ASCII: both ends of it if it is long."""
    half = MAX_SHOWN_CHARS // 2
    if len(text) <= MAX_SHOWN_CHARS:
        return ascii(text)
    return f"{text[:half]!a} ... {text[-half:]!a} ({len(text)} characters)"
