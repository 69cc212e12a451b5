"""Arms of a sweep: the variants of a recipe, and which of them are tested against which."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from ponderosa.config import Config, suggest
from ponderosa.errors import ConfigError


class Arm(Config):
    """One variant of a recipe in a sweep."""

    arm: str = Field(min_length=1, description="what results call it; the first arm is the baseline")
    until: str | tuple[str, ...] = Field(
        (), description="only these stages and what they read; unset takes every stage"
    )
    against: str | tuple[str, ...] = Field(
        (), description="the arms before it that it is tested against; unset takes the first"
    )
    set: dict[str, Any] = Field(
        default_factory=dict, description="values that differ from the recipe's, by path as with --set"
    )

    @property
    def ends(self) -> tuple[str, ...]:
        return (self.until,) if isinstance(self.until, str) else self.until

    @property
    def baselines(self) -> tuple[str, ...]:
        """What `against` names."""
        return (self.against,) if isinstance(self.against, str) else self.against


def check_arms(arms: Sequence[Arm]) -> None:
    """Raises ConfigError for two arms of one name, and for an `against` that allows no test."""
    for what, names in [
        ("the arms", [arm.arm for arm in arms]),
        *((f"arm {arm.arm!r}: against", arm.baselines) for arm in arms),
    ]:
        if len(set(names)) < len(names):
            raise ConfigError(f"{what} {list(names)} name one twice")
    earlier: dict[str, Arm] = {}
    for arm in arms:
        for name in arm.baselines:
            _check_baseline(arm, name, earlier)
        earlier[arm.arm] = arm


def _check_baseline(arm: Arm, name: str, earlier: dict[str, Arm]) -> None:
    if not earlier:
        raise ConfigError(f"arm {arm.arm!r} is the first, the baseline; leave out its against: {name}")
    if name not in earlier:
        raise ConfigError(
            f"arm {arm.arm!r} is against {name!r}, which is no arm before it{suggest(name, earlier)}"
        )
    other = earlier[name]
    if arm.ends and other.ends and not set(arm.ends) & set(other.ends):
        raise ConfigError(
            f"arm {arm.arm!r} runs until {', '.join(arm.ends)} and {name!r}, which it is against, until "
            f"{', '.join(other.ends)}; arms are tested in stages that both run until"
        )


def name_arms(arms: Sequence[str]) -> str:
    """Which arms share a stage: up to three by name, more by their number."""
    return " + ".join(arms) if len(arms) <= 3 else f"{len(arms)} arms"
