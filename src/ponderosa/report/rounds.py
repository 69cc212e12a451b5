"""Self-evolution, round by round: what each search solved, and what the policies that learned from it can do.

A round is a search; its policies are the stages that were trained on its trees. Over several training seeds a figure
is their mean, with their range in place of an interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from ponderosa.report.charts import NUM_COLOURS, Point, Series, render_legend, render_whiskers
from ponderosa.report.html import Html, join, tag
from ponderosa.report.numbers import (
    MISSING,
    as_number,
    format_amount,
    format_interval,
    format_percent,
    format_range,
)
from ponderosa.report.results import get_metric
from ponderosa.report.run import Record, Run, as_list, as_record
from ponderosa.report.table import ALL, list_headline_rows

COVERAGE = "coverage"
WITHOUT_EXTRA = "coverage_without_extra"


class Figure(NamedTuple):
    """A value with its interval, or the mean of several seeds with their range."""

    value: float
    low: float | None
    high: float | None
    num_seeds: int


@dataclass(frozen=True, slots=True)
class Line:
    """One share by slice: the coverage of a search, or the accuracy of a policy. tokens: computed for each problem.
    flops: of the search, or of training the policy, at one seed."""

    name: str
    measured: str
    by_slice: Mapping[str, Figure]
    false_positives: Figure | None = None
    tokens: Figure | None = None
    flops: float | None = None
    is_search: bool = False


def render_rounds(run: Run) -> Html | None:
    """A table and a chart for each arm that searched; None if nothing did."""
    rows = [row for row in run.rows if not row.get("seeds")]
    arms = dict.fromkeys(str(row.get("arm", "")) for row in rows if row.get("metric") == COVERAGE)
    rendered = [
        _render_arm(arm, list_lines(run, [row for row in rows if str(row.get("arm", "")) == arm]))
        for arm in arms
    ]
    return join(rendered) if rendered else None


def list_lines(run: Run, rows: Sequence[Record]) -> list[Line]:
    """The lines of one arm: each search, after the policy that it began with and before those that learned from it."""
    searches = dict.fromkeys(str(row.get("suite")) for row in rows if row.get("metric") == COVERAGE)
    learners = {search: _list_learners(run, search) for search in searches}
    shown = {name for names in learners.values() for name in names}
    lines: list[Line] = []
    for search, policies in learners.items():
        mine = [row for row in rows if str(row.get("suite")) == search]
        searcher = str(mine[0].get("stage"))
        before = [] if searcher in shown else [searcher]
        shown.update(before)
        lines += [line for policy in before for line in _list_accuracy(policy, run, rows)]
        lines += _list_coverage(search, mine)
        lines += [line for policy in policies for line in _list_accuracy(policy, run, rows)]
    return lines


def _list_coverage(search: str, rows: Sequence[Record]) -> list[Line]:
    """What the search solved; without extra simulations too, where these solved anything."""
    policy, judge = (rows[0].get(key) for key in ("stage", "reward_model"))
    whole, plain = _read_slices(rows, COVERAGE), _read_slices(rows, WITHOUT_EXTRA)
    line = Line(
        search,
        f"coverage by {policy} with {judge}" if judge else f"coverage by {policy}",
        whole,
        false_positives=_read_slices(rows, "false_positive_frac").get(ALL),
        tokens=_read_slices(rows, "mean_computed_tokens").get(ALL),
        flops=_average_cost(rows, "eval_flops"),
        is_search=True,
    )
    return [line, *([Line("", "without extra simulations", plain)] if plain and plain != whole else [])]


def _list_accuracy(policy: str, run: Run, rows: Sequence[Record]) -> list[Line]:
    """The policy on the suite that the recipe named (else the first), by the first strategy it was asked by."""
    metric = get_metric(run)
    named = as_record(run.recipe.get("headline")).get("suite")
    mine = [row for row in list_headline_rows(rows, metric) if str(row.get("stage")) == policy]
    first = next((row for row in mine if row.get("suite") == named), mine[0] if mine else {})
    same = [row for row in mine if all(row.get(key) == first.get(key) for key in ("suite", "strategy"))]
    if not same:
        return []
    measured = f"{first.get('metric')} on {first.get('suite')}, {first.get('strategy')}"
    by_slice = _read_slices(same, str(first.get("metric")))
    return [Line(policy, measured, by_slice, flops=_average_cost(same, "train_flops"))]


def _list_learners(run: Run, search: str) -> list[str]:
    """The stages that were trained on a search's trees."""
    return list(
        dict.fromkeys(
            stage.name
            for stage in run.stages
            for config in (stage.config, as_record(stage.config.get("data")))
            if search in as_list(config.get("trees"))
        )
    )


def _read_slices(rows: Sequence[Record], metric: str) -> dict[str, Figure]:
    """A metric by slice, from a row for each seed."""
    seeds: dict[str, dict[str, Record]] = {}
    for row in rows:
        if row.get("metric") == metric and as_number(row.get("value")) is not None:
            seeds.setdefault(str(row.get("slice")), {}).setdefault(str(row.get("seed")), row)
    return {name: _sum_up(list(by_seed.values())) for name, by_seed in seeds.items()}


def _sum_up(rows: Sequence[Record]) -> Figure:
    values = [number for row in rows if (number := as_number(row.get("value"))) is not None]
    if len(values) == 1:
        return Figure(values[0], as_number(rows[0].get("low")), as_number(rows[0].get("high")), 1)
    return Figure(fmean(values), min(values), max(values), len(values))


def _average_cost(rows: Sequence[Record], key: str) -> float | None:
    """What a row on all problems says of a cost; the mean over seeds."""
    costs = {str(row.get("seed")): as_number(row.get(key)) for row in rows if row.get("slice") == ALL}
    known = [cost for cost in costs.values() if cost is not None]
    return fmean(known) if known else None


def _render_arm(arm: str, lines: Sequence[Line]) -> Html:
    """The chart of what the searches covered, and the table of all lines, for each key that searches are sliced by."""
    searches = [line for line in lines if line.is_search]
    keys = dict.fromkeys(name.partition("=")[0] for line in searches for name in line.by_slice if "=" in name)
    parts: list[Html | None] = [tag("p", tag("b", arm)) if arm else None]
    for key in keys or [""]:
        parts.append(_render_chart(searches, key, _sort_values(searches, key)))
        parts.append(_render_table(lines, key, _sort_values(lines, key)))
    return tag("figure", parts)


def _render_chart(searches: Sequence[Line], key: str, values: Sequence[str]) -> Html | None:
    series = [
        Series(
            line.name,
            tuple(
                Point(x, figure.value, figure.low, figure.high)
                for x, value in enumerate(values)
                if (figure := line.by_slice.get(f"{key}={value}"))
            ),
            rank % NUM_COLOURS,
        )
        for rank, line in enumerate(searches)
    ]
    if not any(one.points for one in series):
        return None
    title = f"coverage by {key}"
    chart = render_whiskers(series, values, x_title=key, title=title)
    return join([tag("figcaption", tag("b", title), render_legend(series)), chart])


def _render_table(lines: Sequence[Line], key: str, values: Sequence[str]) -> Html:
    """A row for each line, a column for each slice."""
    columns = ("stage", "", "all", *(f"{key} {value}" for value in values))
    columns += ("false positives", "tokens a problem", "FLOP")
    head = tag("thead", tag("tr", [tag("th", name, scope="col") for name in columns]))
    body = [
        tag(
            "tr",
            tag("td", tag("b", line.name)),
            tag("td", line.measured),
            [
                _render_share(line.by_slice.get(name))
                for name in (ALL, *(f"{key}={value}" for value in values))
            ],
            _render_share(line.false_positives),
            tag("td", MISSING if line.tokens is None else format_amount(line.tokens.value)),
            tag("td", format_amount(line.flops)),
        )
        for line in lines
    ]
    return tag("div", tag("table", head, tag("tbody", body), class_="numbers"), class_="scroll")


def _render_share(figure: Figure | None) -> Html:
    if figure is None:
        return tag("td", MISSING)
    spread = format_interval(figure.low, figure.high)
    if figure.num_seeds > 1:
        spread = format_range([end for end in (figure.low, figure.high) if end is not None])
    return tag("td", tag("b", format_percent(figure.value)), " ", tag("small", spread))


def _sort_values(lines: Sequence[Line], key: str) -> list[str]:
    """The values of a slicing key, numbers by size and before words."""
    names = {name for line in lines for name in line.by_slice if name.partition("=")[0] == key != name}
    values = [name.partition("=")[2] for name in names]
    return sorted(
        values, key=lambda value: (not value.isdecimal(), float(value) if value.isdecimal() else 0, value)
    )
