"""What running code gives back, and the limits it runs under."""

from dataclasses import dataclass
from typing import Literal, get_args

from ponderosa.records import Outcome

Tier = Literal["monty", "cpython"]
"""Which interpreter ran the code; docs/sandbox.md says what each guarantees."""

TIERS: tuple[Tier, ...] = get_args(Tier)

_DESCRIPTIONS: dict[Outcome, str] = {
    "timeout": "TimeoutError: the step ran too long",
    "memory": "MemoryError: the step needed too much memory",
    "output_limit": "OutputLimitError: the step wrote too much",
    "crash": "SystemError: the interpreter crashed",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one step may take; a prefix's steps have the same limits each.

    wall_s: seconds of wall-clock time per step.
    memory_bytes: memory the code may take beyond the interpreter's own.
    max_output_bytes: UTF-8 bytes one step may print; more is output_limit.
    max_scratch_bytes: disk the code may fill in its scratch folder (cpython only).
    """

    wall_s: float = 2.0
    memory_bytes: int = 256 << 20
    max_output_bytes: int = 4_000
    max_scratch_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        for name in ("wall_s", "memory_bytes", "max_output_bytes", "max_scratch_bytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")


@dataclass(frozen=True, slots=True)
class Execution:
    """How one step ended.

    output: exactly what the step printed on standard output; cut where the outcome is output_limit. The value
        of a last bare expression is not printed, as in a script.
    error: None when ok, else one line "TypeName: message" that can be shown to a model.
    ms: wall-clock milliseconds of this step alone.
    tier: the interpreter that settled the outcome.
    """

    outcome: Outcome
    output: str
    error: str | None
    ms: float
    tier: Tier


def describe_outcome(outcome: Outcome) -> str | None:
    """The line shown for an outcome that brings no exception text of its own."""
    return _DESCRIPTIONS.get(outcome)
