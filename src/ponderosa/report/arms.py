"""A sweep's arms as values, shared by the page, the terminal and the README: a table for each model and suite."""

from collections.abc import Sequence
from dataclasses import dataclass

from ponderosa.report.run import Record, as_records
from ponderosa.report.table import ALL, compute_difference, list_seed_values

TRUNCATED = "truncated_frac"


@dataclass(frozen=True, slots=True)
class ArmLine:
    """One arm: its value, the share of its solutions that were cut off, and a paired test against another arm."""

    arm: str
    row: Record
    truncated: Record | None
    test: Record | None
    seed_values: tuple[float, ...]

    @property
    def difference(self) -> float | None:
        return compute_difference(self.test)


@dataclass(frozen=True, slots=True)
class ArmTable:
    """The arms that were tested on one suite: a line for each of an arm's tests, one without for an arm of none."""

    stage: str
    suite: str
    strategy: str
    metric: str
    lines: tuple[ArmLine, ...]

    @property
    def baseline(self) -> str | None:
        """The arm that all others were tested against; None if there are several."""
        names = {str(line.test.get("a")) for line in self.lines if line.test}
        return names.pop() if len(names) == 1 else None

    @property
    def heading(self) -> str:
        """Of the column of tests."""
        return f"vs {self.baseline}" if self.baseline else "against another arm"

    def name_other(self, line: ArmLine) -> str:
        """What the line's test is against, where the heading does not say it."""
        return "" if self.baseline or line.test is None else f"vs {line.test.get('a')}"


def list_arm_tables(rows: Sequence[Record], sweep: Record) -> list[ArmTable]:
    """Tables in the order of the sweep's tests, which say what was compared; none before they were made."""
    tests = as_records(sweep.get("tests"))
    arms = [str(arm.get("arm")) for arm in as_records(sweep.get("arms"))]
    tables: list[ArmTable] = []
    for key in dict.fromkeys(_group(test) for test in tests):
        here = [row for row in rows if row.get("slice") == ALL and _group(row)[:-1] == key[:-1]]
        compared = [test for test in tests if _group(test) == key]
        lines = [line for arm in arms for line in _list_lines(arm, key[-1], here, compared)]
        if lines:
            stage, suite, strategy, metric = key
            tables.append(ArmTable(stage, suite, strategy, metric, tuple(lines)))
    return tables


def _list_lines(arm: str, metric: str, rows: Sequence[Record], tests: Sequence[Record]) -> list[ArmLine]:
    """An arm's lines, from rows of whole suites; none if no test names it."""
    row, truncated = (_find_row(rows, arm, name) for name in (metric, TRUNCATED))
    if row is None or not any(arm in (str(test.get("a")), str(test.get("b"))) for test in tests):
        return []
    mine: list[Record | None] = [test for test in tests if str(test.get("b")) == arm]
    return [ArmLine(arm, row, truncated, test, list_seed_values(rows, row)) for test in mine or [None]]


def _find_row(rows: Sequence[Record], arm: str, metric: str) -> Record | None:
    """The row over all training seeds if there is one."""
    mine = [row for row in rows if str(row.get("arm")) == arm and str(row.get("metric")) == metric]
    return next((row for row in mine if row.get("seeds")), mine[0] if mine else None)


def _group(record: Record) -> tuple[str, str, str, str]:
    stage, suite, strategy, metric = (
        str(record.get(name, "")) for name in ("stage", "suite", "strategy", "metric")
    )
    return stage, suite, strategy, metric
