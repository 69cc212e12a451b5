"""What searches covered, a line each: rounds of self-evolution, one under the other.

A line is of all training seeds together where all had the same problems; else each seed has a line of its own, named by it.
Trees to learn from differ in their problems from round to round; only searches of the same problems are tested against each
other.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ponderosa.report.figures import Figure, read_slices
from ponderosa.report.numbers import as_number
from ponderosa.report.run import Record
from ponderosa.report.table import ALL

COVERAGE = "coverage"


class CoverageLine(NamedTuple):
    """One search. row: of all problems. slices: the others, by name. seed_values: each seed's coverage, if there are
    several. tokens, flops: a problem's, over all seeds."""

    search: str
    searcher: str
    row: Record
    slices: dict[str, Record]
    seed_values: list[float]
    false_positives: Figure | None
    tokens: float | None
    flops: float | None
    test: Record | None


def list_coverage(rows: Sequence[Record], tests: Sequence[Record]) -> list[CoverageLine]:
    """The lines of every search and arm, in the order of the rows."""
    searches: dict[tuple[str, str], list[Record]] = {}
    for row in rows:
        searches.setdefault((str(row.get("arm", "")), str(row.get("suite"))), []).append(row)
    lines = []
    for (arm, search), of_search in searches.items():
        if all(row.get("metric") != COVERAGE for row in of_search):
            continue
        is_joint = any(row.get("seeds") for row in of_search)
        for seed in [None] if is_joint else dict.fromkeys(row.get("seed") for row in of_search):
            shown = of_search if is_joint else [row for row in of_search if row.get("seed") == seed]
            name = search if len(shown) == len(of_search) else f"{search}, seed {seed}"
            found = [test for test in tests if _is_of(test, arm, search) and test.get("seed") == seed]
            lines.append(_read_line(shown, f"{name} ({arm})" if arm else name, found))
    return lines


def _read_line(rows: Sequence[Record], name: str, tests: Sequence[Record]) -> CoverageLine:
    single = [row for row in rows if not row.get("seeds")]
    shown = [row for row in rows if row.get("metric") == COVERAGE and row.get("seeds")]
    shown = shown or [row for row in single if row.get("metric") == COVERAGE]
    by_slice = {str(row.get("slice")): row for row in reversed(shown)}
    row = by_slice.pop(ALL)
    of_all = [one for one in single if one.get("metric") == COVERAGE and one.get("slice") == ALL]
    values = [value for one in of_all if (value := as_number(one.get("value"))) is not None]
    policy, reward_model = row.get("stage"), row.get("reward_model")
    found = [test for test in tests if test.get("seeds") == row.get("seeds")]
    num_asked = len(values) * (as_number(row.get("n")) or 0.0)
    flops = sum(as_number(one.get("eval_flops")) or 0.0 for one in of_all)
    tokens = read_slices(single, "mean_computed_tokens").get(ALL)
    return CoverageLine(
        search=name,
        searcher=f"{policy} with {reward_model}" if reward_model else str(policy),
        row=row,
        slices=dict(reversed(by_slice.items())),
        seed_values=values if row.get("seeds") else [],
        false_positives=read_slices(single, "false_positive_frac").get(ALL),
        tokens=tokens.value if tokens else None,
        flops=flops / num_asked if num_asked else None,
        test=found[0] if found else None,
    )


def _is_of(test: Record, arm: str, search: str) -> bool:
    """Is a test of all of this search's problems against the search before it?"""
    of = (test.get("metric"), test.get("slice"), str(test.get("arm", "")), test.get("b"))
    return of == (COVERAGE, ALL, arm, search)
