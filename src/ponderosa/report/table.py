"""The stage table as values, shared by the page, the terminal and the README: one line per model and suite."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ponderosa.report.numbers import as_number
from ponderosa.report.run import Record

ALL = "all"


@dataclass(frozen=True, slots=True)
class StageLine:
    """One model on one suite: its headline metric, its paired test against the model before it, and its cost.

    label: the stage, with the training seed where there are several.
    """

    stage: str
    label: str
    model: str
    suite: str
    strategy: str
    row: Record
    test: Record | None
    mean_tokens: float | None
    truncated_frac: float | None
    no_answer_frac: float | None

    @property
    def difference(self) -> float | None:
        """value_b - value_a of the paired test, this model being b."""
        if self.test is None:
            return None
        a, b = as_number(self.test.get("value_a")), as_number(self.test.get("value_b"))
        return None if a is None or b is None else b - a


def list_stage_lines(
    rows: Sequence[Record], tests: Sequence[Record], metric: str = "pass@1"
) -> list[StageLine]:
    """Lines in the order of the rows, grouped by suite and strategy; each training seed has its own."""
    overall = [row for row in rows if row.get("slice") == ALL]
    headline = [row for row in overall if row.get("metric") == metric]
    groups = list(dict.fromkeys(_group(row) for row in headline))
    lines: list[StageLine] = []
    for group in groups:
        members = [row for row in headline if _group(row) == group]
        for index, row in enumerate(members):
            others = {
                str(other.get("metric")): as_number(other.get("value"))
                for other in overall
                if _group(other) == group and _model(other) == _model(row)
            }
            lines.append(
                StageLine(
                    stage=str(row.get("stage", "")),
                    label=_label(row, members),
                    model=str(row.get("model", "")),
                    suite=group[0],
                    strategy=group[1],
                    row=row,
                    test=_find_test(tests, row, members[:index], metric),
                    mean_tokens=others.get("mean_generated_tokens"),
                    truncated_frac=others.get("truncated_frac"),
                    no_answer_frac=others.get("no_answer_frac"),
                )
            )
    return lines


def _find_test(tests: Sequence[Record], row: Record, earlier: Sequence[Record], metric: str) -> Record | None:
    """The test of this model against the nearest earlier one it was tested against."""
    candidates = [
        test
        for test in tests
        if test.get("suite") == row.get("suite")
        and test.get("strategy", row.get("strategy")) == row.get("strategy")
        and test.get("slice") == ALL
        and test.get("metric") == metric
        and str(test.get("b")) in _names(row)
    ]
    for previous in reversed(earlier):
        for test in candidates:
            if str(test.get("a")) in _names(previous):
                return test
    return None


def list_joint_rows(rows: Sequence[Record]) -> list[Record]:
    """The rows to draw: where a stage was trained from several seeds, those over all of them."""
    joint = {(str(row.get("stage")), *_group(row)) for row in rows if row.get("seeds")}
    return [row for row in rows if row.get("seeds") or (str(row.get("stage")), *_group(row)) not in joint]


def _label(row: Record, members: Sequence[Record]) -> str:
    name = str(row.get("stage") or row.get("model", ""))
    siblings = [other for other in members if other.get("stage") == row.get("stage")]
    if len(siblings) < 2:
        return name
    return f"{name}, all seeds" if row.get("seeds") else f"{name}, seed {row.get('seed')}"


def _group(row: Record) -> tuple[str, str]:
    return str(row.get("suite", "")), str(row.get("strategy", ""))


def _model(row: Record) -> tuple[Any, ...]:
    return row.get("stage"), row.get("model"), str(row.get("seed"))


def _names(row: Record) -> set[str]:
    """What a test may call this model."""
    return {str(row[key]) for key in ("stage", "model") if row.get(key)}
