"""The stage table as values, shared by the page, the terminal and the README: one line per model and suite.

Where a stage was trained from several seeds the line is over all of them, and where arms of a sweep share a stage it
has one line for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ponderosa.arms import name_arms
from ponderosa.report.numbers import as_number
from ponderosa.report.run import Record, as_list

ALL = "all"
ACCURACY = "accuracy"


@dataclass(frozen=True, slots=True)
class StageLine:
    """One model on one suite: its headline metric, its paired test against the model before it, and its cost.

    name: the stage, with its arm where not all arms share it; label: with the training seed too, where seeds have
    lines of their own. seed_values: the metric at each training seed, if the line is over several.
    """

    stage: str
    name: str
    label: str
    model: str
    suite: str
    strategy: str
    row: Record
    test: Record | None
    seed_values: tuple[float, ...]
    mean_tokens: float | None
    truncated_frac: float | None
    no_answer_frac: float | None

    @property
    def difference(self) -> float | None:
        """value_b - value_a of the paired test, this model being b."""
        return compute_difference(self.test)

    def compute_cost(self, key: str) -> float | None:
        """`stage_s` or `train_flops` of one trained model: the mean over seeds, if there are several."""
        total = as_number(self.row.get(key))
        return None if total is None else total / max(1, len(as_list(self.row.get("seeds"))))


def list_stage_lines(
    rows: Sequence[Record], tests: Sequence[Record], metric: str = "pass@1"
) -> list[StageLine]:
    """Lines in the order of the rows, grouped by suite and strategy."""
    overall = [row for row in list_shown_rows(rows) if row.get("slice") == ALL]
    headline = list_headline_rows(overall, metric)
    lines: list[StageLine] = []
    for group in dict.fromkeys(_group(row) for row in headline):
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
                    name=name_model(row),
                    label=_label(row, members),
                    model=str(row.get("model", "")),
                    suite=group[0],
                    strategy=group[1],
                    row=row,
                    test=_find_test(tests, row, members[:index]),
                    seed_values=list_seed_values(rows, row),
                    mean_tokens=others.get("mean_generated_tokens"),
                    truncated_frac=others.get("truncated_frac"),
                    no_answer_frac=others.get("no_answer_frac"),
                )
            )
    return lines


def list_shown_rows(rows: Sequence[Record]) -> list[Record]:
    """The rows to draw. Where there are rows over several seeds, only those. Rows that arms share once, with the
    `arms` that have them; `arm` then names them, and is None where all do."""
    joint = {_trained(row) for row in rows if row.get("seeds")}
    shown = [row for row in rows if row.get("seeds") or _trained(row) not in joint]
    num_arms = len({str(row["arm"]) for row in shown if row.get("arm")})
    merged: dict[str, Record] = {}
    for row in shown:
        content = repr({key: value for key, value in row.items() if key != "arm"})
        merged.setdefault(content, {**row, "arms": []})["arms"].append(str(row.get("arm", "")))
    for row in merged.values():
        row["arm"] = name_arms(row["arms"]) if len(row["arms"]) < num_arms else None
    return list(merged.values())


def list_headline_rows(rows: Sequence[Record], metric: str) -> list[Record]:
    """The rows of a metric; of a suite and strategy without it, the accuracy of what the strategy settled on."""
    with_metric = {_group(row) for row in rows if row.get("metric") == metric}
    return [row for row in rows if row.get("metric") == (metric if _group(row) in with_metric else ACCURACY)]


def list_seed_values(rows: Sequence[Record], joint: Record) -> tuple[float, ...]:
    """The values a row over several seeds is the mean of, in the order of the seeds; none for another row."""
    if not joint.get("seeds"):
        return ()
    arms = as_list(joint.get("arms")) or [str(joint.get("arm", ""))]
    same = ("stage", "model", "suite", "strategy", "slice", "metric")
    values = {
        str(row.get("seed")): as_number(row.get("value"))
        for row in rows
        if not row.get("seeds")
        and str(row.get("arm", "")) in arms
        and all(row.get(key) == joint.get(key) for key in same)
    }
    return tuple(value for value in values.values() if value is not None)


def name_model(row: Record) -> str:
    """What tables and charts call the model of a shown row."""
    name = str(row.get("stage") or row.get("model", ""))
    return f"{name}, {row['arm']}" if row.get("arm") else name


def compute_difference(test: Record | None) -> float | None:
    """value_b - value_a of a paired test."""
    if test is None:
        return None
    a, b = as_number(test.get("value_a")), as_number(test.get("value_b"))
    return None if a is None or b is None else b - a


def _find_test(tests: Sequence[Record], row: Record, earlier: Sequence[Record]) -> Record | None:
    """The test of this model against the nearest earlier one it was tested against."""
    candidates = [
        test
        for test in tests
        if test.get("suite") == row.get("suite")
        and test.get("strategy", row.get("strategy")) == row.get("strategy")
        and test.get("slice") == ALL
        and test.get("metric") == row.get("metric")
        and test.get("seed", row.get("seed")) == row.get("seed")
        and str(test.get("arm", "")) in row["arms"]
        and str(test.get("b")) in _names(row)
    ]
    for previous in reversed(earlier):
        for test in candidates:
            if str(test.get("a")) in _names(previous):
                return test
    return None


def _label(row: Record, members: Sequence[Record]) -> str:
    siblings = [other for other in members if name_model(other) == name_model(row)]
    return name_model(row) if len(siblings) < 2 else f"{name_model(row)}, seed {row.get('seed')}"


def _group(row: Record) -> tuple[str, str]:
    return str(row.get("suite", "")), str(row.get("strategy", ""))


def _trained(row: Record) -> tuple[str, ...]:
    """What the rows of one model have in common over its training seeds."""
    return str(row.get("stage")), str(row.get("arm", "")), *_group(row)


def _model(row: Record) -> tuple[Any, ...]:
    return row.get("stage"), row.get("model"), str(row.get("seed")), row.get("arm")


def _names(row: Record) -> set[str]:
    """What a test may call this model."""
    return {str(row[key]) for key in ("stage", "model") if row.get(key)}
