"""How well reward models find the first wrong step of solutions whose steps are labelled."""

from collections.abc import Sequence

from ponderosa.report.figures import read_slices, render_share
from ponderosa.report.html import Html, join, tag
from ponderosa.report.numbers import format_count
from ponderosa.report.results import render_test
from ponderosa.report.run import Record, Run
from ponderosa.report.table import ALL

FOUND = "erroneous_accuracy"
METRICS = {
    FOUND: "first wrong step found",
    "correct_accuracy": "right solution left alone",
    "first_error_f1": "F1",
}


def render_first_errors(run: Run) -> Html | None:
    """A table for each arm and set of solutions; None if nothing was measured."""
    rows = [row for row in run.rows if str(row.get("metric")) in METRICS]
    sets = dict.fromkeys((str(row.get("arm", "")), str(row.get("suite"))) for row in rows)
    figures = [
        _render_set(run, arm, suite, [row for row in rows if _is_of(row, arm=arm, suite=suite)])
        for arm, suite in sets
    ]
    return join(figures) if figures else None


def _render_set(run: Run, arm: str, suite: str, rows: Sequence[Record]) -> Html:
    """A line for each reward model and rule; how many first wrong steps it found, by slice too."""
    slices = [name for name in read_slices(rows, FOUND) if name != ALL]
    names = ("reward model", "rule", *METRICS.values(), "all classified rightly")
    names += tuple(f"found, {name.replace('=', ' ').replace('_', ' ')}" for name in slices)
    body: list[Html] = []
    for stage, rule in dict.fromkeys((str(row.get("stage")), str(row.get("strategy"))) for row in rows):
        mine = [row for row in rows if _is_of(row, stage=stage, strategy=rule)]
        found = read_slices(mine, FOUND)
        cells = [
            tag("td", tag("b", stage)),
            tag("td", rule),
            *(render_share(read_slices(mine, metric).get(ALL)) for metric in METRICS),
            tag("td", _render_test(run, arm, suite, stage, rule)),
            *(render_share(found.get(name)) for name in slices),
        ]
        body.append(tag("tr", cells))
    head = tag("thead", tag("tr", [tag("th", name, scope="col") for name in names]))
    table = tag("table", head, tag("tbody", body), class_="numbers")
    counts = f"{_count(rows, 'correct_accuracy')} right solutions · {_count(rows, FOUND)} with an error"
    caption = tag("figcaption", tag("b", f"{suite}, {arm}" if arm else suite), tag("span", counts))
    return tag("figure", caption, tag("div", table, class_="scroll"))


def _render_test(run: Run, arm: str, suite: str, stage: str, rule: str) -> Html:
    """The paired test against an earlier reward model, where there is one and no seed has its own."""
    found = [
        test
        for test in run.tests
        if _is_of(test, arm=arm, suite=suite, strategy=rule, metric="first_error_accuracy", b=stage)
    ]
    test = found[0] if len(found) == 1 else None
    return render_test(test, f"vs {test.get('a')}" if test else "")


def _count(rows: Sequence[Record], metric: str) -> str:
    """How many solutions a metric is over."""
    return format_count(next((row.get("n") for row in rows if _is_of(row, metric=metric, slice=ALL)), None))


def _is_of(record: Record, **values: str) -> bool:
    return all(str(record.get(key, "")) == value for key, value in values.items())
