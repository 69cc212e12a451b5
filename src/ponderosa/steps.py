"""The step format: how code-augmented reasoning is written down, and how it is read back.

A solution is a sequence of steps. A code step is a comment that says why, then Python; the interpreter runs it
in the state the earlier steps left, and what it prints is appended as an observation before the model goes on.
A solution that never closes a code step is prose.

    # Tom has 4 more apples than Bo.        text the model writes
    tom = bo + 4<|end_of_step|>             the delimiter the model writes
    <|output|>9<|end_of_output|>            what the interpreter appends, only when the step printed something

Grown models use single special tokens as delimiters, foreign models plain strings (a fenced block). Rendering
gives segments rather than one string, so that a delimiter spelled inside somebody's text stays text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from ponderosa.records import Step


class Special(str):
    """A string that encodes to one special token; any other `str` never does."""

    __slots__ = ()


class Segment(NamedTuple):
    """A piece of a solution and whether the model writes it (observations are written for it)."""

    text: str
    is_sampled: bool


class Delimiters(BaseModel):
    """What opens and closes steps and observations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    are_special: bool
    start_of_code: str
    end_of_step: str
    output: str
    end_of_output: str

    def spell(self, delimiter: str) -> str:
        """The delimiter as a segment text: a `Special` for grown models."""
        return Special(delimiter) if self.are_special else delimiter


SPECIAL_DELIMITERS = Delimiters(
    are_special=True,
    start_of_code="",
    end_of_step="<|end_of_step|>",
    output="<|output|>",
    end_of_output="<|end_of_output|>",
)
FENCED_DELIMITERS = Delimiters(
    are_special=False,
    start_of_code="```python\n",
    end_of_step="\n```\n",
    output="```output\n",
    end_of_output="\n```\n",
)


@dataclass(frozen=True, slots=True)
class Example:
    """A worked example shown in a prompt."""

    question: str
    solution: str


def parse_code(text: str, delimiters: Delimiters) -> str | None:
    """The code of one closed step (its text without the closing delimiter); None if it holds no code."""
    if not delimiters.start_of_code:
        return text.strip("\n") or None
    _, opened, code = text.rpartition(delimiters.start_of_code)
    return code if opened and code.strip() else None


def render_observation(observation: str | None, delimiters: Delimiters) -> list[str]:
    """What the interpreter appends after a step: nothing when the step showed nothing."""
    if not observation:
        return []
    return [delimiters.spell(delimiters.output), observation, delimiters.spell(delimiters.end_of_output)]


def render_steps(steps: Sequence[Step], delimiters: Delimiters) -> list[Segment]:
    """A worked solution as segments, each marked by who writes it, on a line of its own behind the prompt.

    The end-of-text token is the caller's.
    """
    segments = [Segment("\n", True)]
    for step in steps:
        if step.code is None:
            segments.append(Segment(step.text, True))
            continue
        is_opened = delimiters.start_of_code in step.text
        segments.append(Segment(step.text if is_opened else delimiters.start_of_code + step.text, True))
        segments.append(Segment(delimiters.spell(delimiters.end_of_step), True))
        segments += [Segment(text, False) for text in render_observation(step.observation, delimiters)]
    return segments
