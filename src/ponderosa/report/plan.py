"""What a dry run shows: the stages of a plan, what is done of them, and what each costs at most."""

from collections.abc import Sequence
from typing import NamedTuple

from ponderosa.report.escape import show_controls
from ponderosa.report.numbers import MISSING, as_number, format_amount

COST_NAMES = ("training tokens", "sampled tokens", "FLOPs")
NOTE = (
    "costs: upper bounds, as if everything sampled were as long as it may be (what is spent is often a tenth or less); "
    f"{MISSING} where nothing bounds them beforehand (docs/recipes.md, Planning costs)"
)


class PlanLine(NamedTuple):
    """A stage. costs: one for each of COST_NAMES; not finite where it is not known."""

    name: str
    kind: str
    state: str
    folder: str
    costs: tuple[float, ...]


def render_plan(lines: Sequence[PlanLine]) -> str:
    """An aligned line for each stage, and their sum."""
    totals = [_add(column) for column in zip(*(line.costs for line in lines), strict=True)]
    body = [[*line[:4], *map(format_amount, line.costs)] for line in lines]
    rows = [["stage", "kind", "state", "folder", *COST_NAMES], *body, ["total", "", "", "", *totals]]
    widths = [max(len(show_controls(row[i])) for row in rows) for i in range(len(rows[0]))]
    shown = [
        [
            show_controls(cell).ljust(width) if place < 4 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
    return "\n".join([*("  ".join(row).rstrip() for row in shown), NOTE])


def _add(costs: Sequence[float]) -> str:
    """The sum of what is known, and a sign that there is more."""
    known = [cost for cost in costs if as_number(cost) is not None]
    total = format_amount(sum(known))
    return total if len(known) == len(costs) else f"{total} + {MISSING}"
