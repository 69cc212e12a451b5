"""Rounds in a recipe: a `repeat` block becomes the stages of each round, written out.

Written-out stages are stages like any other: they are keyed, set, swept and shown one by one.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from ponderosa.config import Config, parse_config, set_value
from ponderosa.errors import ConfigError


class Repeat(Config):
    """Stages that are run once a round; {round} and {previous} in any of their texts are the round's number and that
    of the round before."""

    rounds: int = Field(ge=1, description="how many rounds")
    first: int = Field(1, ge=0, description="the number of the first one")
    previous: str = Field(description="what {previous} stands for in the first round")
    stages: tuple[dict[str, Any], ...] = Field(min_length=1, description="the stages of a round")
    set: dict[int, dict[str, Any]] = Field(
        default_factory=dict, description="by round: values that differ in it, by path as with --set"
    )

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.rounds)


def expand_rounds(entries: Iterable[Any], *, where: str) -> list[Any]:
    """A recipe's stages with every `repeat` block written out. where: what errors call the recipe."""
    stages: list[Any] = []
    for entry in entries:
        is_block = isinstance(entry, Mapping) and "repeat" in entry
        stages += _write_out(_parse(entry, where), where) if is_block else [entry]
    return stages


def _parse(entry: Mapping[str, Any], where: str) -> Repeat:
    if len(entry) > 1 or not isinstance(entry["repeat"], Mapping):
        raise ConfigError(
            f"{where}: `repeat:` stands alone and has rounds, previous and stages below it; seen {dict(entry)!r}"
        )
    repeat = parse_config(Repeat, entry["repeat"], where=f"{where}: repeat")
    for stage in repeat.stages:
        if "{round}" not in str(stage.get("name", "")):
            raise ConfigError(
                f"{where}: a repeated stage needs a name of its own in each round: write {{round}} into it, for "
                f"example trees-{{round}}; seen {stage.get('name')!r}"
            )
    for number in repeat.set:
        if number not in repeat.numbers:
            rounds = ", ".join(map(str, repeat.numbers))
            raise ConfigError(f"{where}: repeat sets values of round {number}; its rounds are {rounds}")
    return repeat


def _write_out(repeat: Repeat, where: str) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    previous = repeat.previous
    for number in repeat.numbers:
        words = {"round": str(number), "previous": previous}
        stages = [_substitute(stage, words) for stage in repeat.stages]
        for path, value in _substitute(repeat.set.get(number, {}), words).items():
            what = f"{where}: round {number} sets {path!r}"
            if not re.match(r"stages\.[^.]+\.", path):
                raise ConfigError(f"{what}; allowed: stages.NAME.KEY of the round's stages")
            set_value({"stages": stages}, path, value, where=what)
        written += stages
        previous = str(number)
    return written


def _substitute(value: Any, words: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {_substitute(key, words): _substitute(item, words) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_substitute(item, words) for item in value]
    if isinstance(value, str):
        return re.sub(r"\{(round|previous)\}", lambda found: words[found[1]], value)
    return value
