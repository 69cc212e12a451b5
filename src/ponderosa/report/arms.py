"""A sweep's arms as values, shared by the page, the terminal and the README: a table for each model and suite."""

from collections.abc import Sequence
from dataclasses import dataclass

from ponderosa.report.run import Record, as_records
from ponderosa.report.table import ALL, compute_difference, list_seed_values


@dataclass(frozen=True, slots=True)
class ArmLine:
    """One arm: its value and, but for the baseline, its paired test against the baseline."""

    arm: str
    row: Record
    test: Record | None
    seed_values: tuple[float, ...]

    @property
    def difference(self) -> float | None:
        return compute_difference(self.test)


@dataclass(frozen=True, slots=True)
class ArmTable:
    """Every arm of a sweep on one suite; the first line is the baseline."""

    stage: str
    suite: str
    strategy: str
    metric: str
    lines: tuple[ArmLine, ...]


def list_arm_tables(rows: Sequence[Record], sweep: Record) -> list[ArmTable]:
    """Tables in the order of the sweep's tests, which say what was compared; none before they were made."""
    tests = as_records(sweep.get("tests"))
    arms = [str(arm.get("arm")) for arm in as_records(sweep.get("arms"))]
    tables: list[ArmTable] = []
    for key in dict.fromkeys(_group(test) for test in tests):
        here = [row for row in rows if row.get("slice") == ALL and _group(row) == key]
        against = {str(test.get("b")): test for test in tests if _group(test) == key}
        lines: list[ArmLine] = []
        for arm in arms:
            mine = [row for row in here if str(row.get("arm")) == arm]
            for row in [row for row in mine if row.get("seeds")] or mine[:1]:
                lines.append(ArmLine(arm, row, against.get(arm), list_seed_values(here, row)))
        if lines:
            stage, suite, strategy, metric = key
            tables.append(ArmTable(stage, suite, strategy, metric, tuple(lines)))
    return tables


def _group(record: Record) -> tuple[str, str, str, str]:
    stage, suite, strategy, metric = (
        str(record.get(name, "")) for name in ("stage", "suite", "strategy", "metric")
    )
    return stage, suite, strategy, metric
