"""The results sections: the headline, the stage table, accuracy by difficulty and by samples spent."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ponderosa.report.axes import NUM_COLOURS
from ponderosa.report.charts import (
    Point,
    Series,
    render_interval_bar,
    render_legend,
    render_whiskers,
)
from ponderosa.report.html import Html, join, tag
from ponderosa.report.numbers import (
    MISSING,
    as_number,
    format_amount,
    format_count,
    format_duration,
    format_interval,
    format_p,
    format_percent,
    format_points,
    format_range,
)
from ponderosa.report.provenance import describe_seeds
from ponderosa.report.run import Record, Run, as_record, as_records
from ponderosa.report.table import (
    ALL,
    StageLine,
    compute_difference,
    list_headline_rows,
    list_shown_rows,
    list_stage_lines,
    name_model,
)

_AT_K = re.compile(r"(pass|majority)@(\d+)")
SIGNIFICANT = 0.01
NUM_BESIDE = 4
"""Models whose table of slices has room beside its chart."""


def get_metric(run: Run) -> str:
    """The metric the recipe named beforehand."""
    return str(as_record(run.recipe.get("headline")).get("metric") or "pass@1")


def list_colours(rows: Sequence[Record]) -> dict[str, int]:
    """One colour for each model, in order of appearance, the same all over the page."""
    names = dict.fromkeys(name_model(row) for row in list_shown_rows(rows))
    return {name: rank % NUM_COLOURS for rank, name in enumerate(names)}


def render_headline(run: Run) -> Html:
    """First and last model on the suite the recipe named (else the first), in one sentence."""
    lines = list_stage_lines(run.rows, run.tests, get_metric(run))
    baseline = [line for line in lines if line.row["arms"][0] == lines[0].row["arms"][0]]
    named = str(as_record(run.recipe.get("headline")).get("suite", ""))
    lines = [line for line in baseline if line.suite == named] or baseline
    lines = [line for line in lines if (line.suite, line.strategy) == (lines[0].suite, lines[0].strategy)]
    if not lines:
        return tag("p", "No model has been evaluated yet.", class_="headline missing")
    first, last = lines[0], lines[-1]
    count = f"{format_count(last.row.get('n'))} problems of {last.suite}"
    metric = str(first.row.get("metric"))
    now = [tag("strong", format_percent(last.row.get("value"))), f" ({last.name})"]
    if first is last:
        return tag("p", now, f" {metric} on {count}.", class_="headline")
    before = [tag("strong", format_percent(first.row.get("value"))), f" ({first.name})"]
    return tag("p", f"{metric} on {count}: from ", before, " to ", now, ".", class_="headline")


def render_stage_tables(run: Run) -> Html:
    """One table per suite and strategy: value with interval, paired test, behaviour and cost of every stage."""
    lines = list_stage_lines(run.rows, run.tests, get_metric(run))
    if not lines:
        return tag("p", "No result rows.", class_="missing")
    colours = list_colours(run.rows)
    groups: dict[tuple[str, str], list[StageLine]] = {}
    for line in lines:
        groups.setdefault((line.suite, line.strategy), []).append(line)
    return join(
        _render_stage_table(members, colours, describe_seeds(run, members[0].row))
        for members in groups.values()
    )


def _render_stage_table(lines: Sequence[StageLine], colours: Mapping[str, int], seeds: Sequence[str]) -> Html:
    row = lines[0].row
    samples = as_number(row.get("samples")) or 1
    facts = [
        f"{format_count(row.get('n'))} problems",
        f"{lines[0].strategy}, {samples:.0f} sample{'s' if samples > 1 else ''} each",
        *seeds,
    ]
    caption = tag("caption", tag("b", lines[0].suite), tag("span", " · ".join(facts)))
    columns = (
        "stage",
        str(row.get("metric")),
        "95% interval",
        *(("seeds",) if any(line.seed_values for line in lines) else ()),
        "against the model before",
        "mean tokens",
        "truncated",
        "no answer",
        "trained in",
    )
    head = tag("thead", tag("tr", [tag("th", name, scope="col") for name in columns]))
    body = [_render_stage_row(line, columns, colours) for line in lines]
    return tag("table", caption, head, tag("tbody", body), class_="stages cards")


def _render_stage_row(line: StageLine, columns: Sequence[str], colours: Mapping[str, int]) -> Html:
    value = as_number(line.row.get("value"))
    low, high = as_number(line.row.get("low")), as_number(line.row.get("high"))
    colour = colours.get(line.name, 0)
    bar = None if value is None else render_interval_bar(value, low, high, colour)
    cells = (
        [tag("span", class_=f"swatch s{colour}"), line.label],
        tag("span", tag("b", format_percent(value)), bar, class_="valued"),
        format_interval(low, high),
        *((format_range(line.seed_values),) if "seeds" in columns else ()),
        render_test(line.test, f"vs {line.test.get('a', '')}" if line.test else ""),
        format_count(line.mean_tokens),
        format_percent(line.truncated_frac),
        format_percent(line.no_answer_frac),
        format_duration(line.compute_cost("stage_s")),
    )
    return tag("tr", [tag("td", cell, data_label=name) for cell, name in zip(cells, columns, strict=True)])


def render_test(test: Record | None, against: str) -> Html:
    """A paired test: the difference, coloured if it is clear, and its p-value. Over several seeds with the interval of
    the difference, which must not hold 0 to be clear, and each seed's own test in the tooltip."""
    if test is None:
        return tag("span", MISSING, class_="missing")
    p_value = as_number(test.get("p_value"))
    low, high = as_number(test.get("low")), as_number(test.get("high"))
    corrected = as_number(test.get("p_holm", p_value))
    is_clear = corrected is not None and corrected < SIGNIFICANT
    if test.get("seeds") and low is not None and high is not None:
        is_clear = is_clear and not low <= 0 <= high
    direction = "flat" if not is_clear else "up" if (compute_difference(test) or 0) > 0 else "down"
    label = f"{format_points(compute_difference(test))} points"
    interval = [tag("span", format_interval(low, high)), " "] if test.get("seeds") else []
    against = f" {against}" if against else ""
    return tag(
        "span",
        tag("b", label, class_=direction),
        " ",
        tag("small", interval, tag("span", format_p(p_value)), against),
        title=_explain_test(test),
        class_="test joint" if interval else "test",
    )


def _explain_test(test: Record) -> str:
    by_seed = [
        f"seed {one.get('seed')}: {format_points(compute_difference(one))}, {format_p(one.get('p_value'))}"
        for one in as_records(test.get("by_seed"))
    ]
    counts = f"right where the other is wrong: {format_count(test.get('only_b'))} · the reverse: {format_count(test.get('only_a'))}"
    return " · ".join(by_seed) or counts


class _Sliced(NamedTuple):
    """A result row of the slice `key=value`, and the chart it belongs in."""

    row: Record
    chart: tuple[str, str, str]
    value: str


def render_slices(run: Run) -> Html | None:
    """Accuracy against each slicing key (difficulty, level), one chart per suite and key; None without slices."""
    sliced: list[_Sliced] = []
    for row in list_headline_rows(list_shown_rows(run.rows), get_metric(run)):
        key, equals, value = _text(row, "slice").partition("=")
        if equals:
            sliced.append(_Sliced(row, (_text(row, "suite"), _text(row, "strategy"), key), value))
    charts = [
        _render_slice_chart(run, [item for item in sliced if item.chart == chart])
        for chart in dict.fromkeys(item.chart for item in sliced)
    ]
    return tag("div", charts, class_="charts pairs") if charts else None


def _render_slice_chart(run: Run, members: Sequence[_Sliced]) -> Html:
    suite, strategy, key = members[0].chart
    sizes = {item.value: item.row.get("n") for item in members}
    categories = list(sizes)
    series = _group_series(run, [(item.row, categories.index(item.value)) for item in members])
    title = f"{_text(members[0].row, 'metric')} on {suite} by {key}, {strategy}"
    chart = render_whiskers(series, categories, x_title=key, title=title)
    numbers = _render_slice_numbers(key, sizes, series)
    width = "wide" if len(series) > NUM_BESIDE else None
    return join([_frame(f"{suite}, {strategy}", chart, series), tag("figure", numbers, class_=width)])


def _render_slice_numbers(key: str, sizes: Mapping[str, object], series: Sequence[Series]) -> Html:
    """The chart's values as a table: a row for each slice, a column for each stage."""
    names = (key, *(one.name for one in series))
    by_position = [{int(point.x): point for point in one.points} for one in series]
    rows = [
        tag(
            "tr",
            tag("td", value, " ", tag("small", f"n = {format_count(n)}")),
            [_render_estimate(points.get(i)) for points in by_position],
        )
        for i, (value, n) in enumerate(sizes.items())
    ]
    head = tag("thead", tag("tr", [tag("th", name, scope="col") for name in names]))
    return tag("div", tag("table", head, tag("tbody", rows), class_="numbers"), class_="scroll")


def _render_estimate(point: Point | None) -> Html:
    if point is None:
        return tag("td", MISSING)
    return tag(
        "td", tag("b", format_percent(point.y)), " ", tag("small", format_interval(point.low, point.high))
    )


def render_samples_curve(run: Run) -> Html | None:
    """pass@k and majority@k against k, one chart per suite; None when every problem has one sample."""
    found = [
        (row, match[1], int(match[2]))
        for row in list_shown_rows(run.rows)
        if row.get("slice") == ALL
        and (as_number(row.get("samples")) or 1) > 1
        and (match := _AT_K.fullmatch(str(row.get("metric"))))
    ]
    charts: list[Html] = []
    for suite, kind in dict.fromkeys((_text(row, "suite"), kind) for row, kind, _ in found):
        members = [(row, k) for row, name, k in found if (_text(row, "suite"), name) == (suite, kind)]
        ks = sorted({k for _, k in members})
        series = _group_series(run, [(row, ks.index(k)) for row, k in members])
        chart = render_whiskers(
            series, [str(k) for k in ks], x_title="k samples", title=f"{kind}@k on {suite}"
        )
        charts.append(
            _frame(f"{suite}, {kind}@k", chart, series, f"{format_count(members[0][0].get('n'))} problems")
        )
    return tag("div", charts, class_="charts") if charts else None


def _group_series(run: Run, placed: Sequence[tuple[Record, int]]) -> list[Series]:
    colours = list_colours(run.rows)
    points: dict[str, list[Point]] = {}
    for row, position in placed:
        value = as_number(row.get("value"))
        if value is not None:
            point = Point(position, value, as_number(row.get("low")), as_number(row.get("high")))
            points.setdefault(name_model(row), []).append(point)
    return [
        Series(name, tuple(sorted(some, key=lambda point: point.x)), colours[name])
        for name, some in points.items()
    ]


def _frame(heading: str, chart: Html, series: Sequence[Series], note: str | None = None) -> Html:
    caption = tag("figcaption", tag("b", heading), render_legend(series))
    return tag("figure", caption, chart, tag("p", note, class_="note") if note else None)


def _text(row: Record, key: str) -> str:
    return str(row.get(key, ""))


def render_totals(run: Run) -> Html:
    """The run in four figures."""
    ledgers = [stage.ledger for stage in run.stages]
    figures = (
        ("time", format_duration(_total(ledgers, "seconds"))),
        ("tokens trained", format_amount(_total(ledgers, "train_tokens"))),
        ("tokens generated", format_amount(_total(ledgers, "generated_tokens"))),
        ("training compute", format_amount(_total(ledgers, "train_flops"), "FLOP")),
    )
    return tag(
        "dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in figures], class_="totals"
    )


def _total(ledgers: Sequence[Record], key: str) -> float | None:
    known = [number for ledger in ledgers if (number := as_number(ledger.get(key))) is not None]
    return sum(known) if known else None
