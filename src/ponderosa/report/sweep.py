"""The arms of a sweep: one table for each model and suite, every arm against the first or those it names."""

from collections.abc import Mapping

from ponderosa.report.arms import ArmLine, ArmTable, list_arm_tables
from ponderosa.report.charts import render_interval_bar
from ponderosa.report.html import Html, join, tag
from ponderosa.report.numbers import (
    MISSING,
    as_number,
    format_count,
    format_estimate,
    format_interval,
    format_p,
    format_percent,
    format_range,
)
from ponderosa.report.provenance import describe_seeds
from ponderosa.report.results import list_colours, render_test
from ponderosa.report.run import Run, as_list


def render_arm_tables(run: Run) -> Html | None:
    """Tables in the order of the tests; None without a sweep, or before its tests were made."""
    tables = list_arm_tables(run.rows, run.sweep)
    colours = list_colours(run.rows)
    return join(_render_table(run, table, colours) for table in tables) if tables else None


def _render_table(run: Run, table: ArmTable, colours: Mapping[str, int]) -> Html:
    row = table.lines[0].row
    has_seeds = bool(as_list(row.get("seeds")))
    facts = [
        table.suite,
        f"{format_count(row.get('n'))} problems",
        table.strategy,
        *describe_seeds(run, row),
    ]
    caption = tag("caption", tag("b", table.stage), tag("span", " · ".join(facts)))
    columns = ("arm", table.metric, "95% interval", *(("seeds",) if has_seeds else ()))
    columns += ("truncated", table.heading, "Holm p")
    head = tag("thead", tag("tr", [tag("th", name, scope="col") for name in columns]))
    body = [
        _render_line(line, table.name_other(line), colours.get(f"{table.stage}, {line.arm}", 0), columns)
        for line in table.lines
    ]
    return tag("table", caption, head, tag("tbody", body), class_="stages cards")


def _render_line(line: ArmLine, other: str, colour: int, columns: tuple[str, ...]) -> Html:
    value = as_number(line.row.get("value"))
    low, high = as_number(line.row.get("low")), as_number(line.row.get("high"))
    bar = None if value is None else render_interval_bar(value, low, high, colour)
    cells = (
        [tag("span", class_=f"swatch s{colour}"), line.arm],
        tag("span", tag("b", format_percent(value)), bar, class_="valued"),
        format_interval(low, high),
        *((format_range(line.seed_values),) if "seeds" in columns else ()),
        format_estimate(line.truncated),
        render_test(line.test, other),
        format_p(line.test.get("p_holm")).removeprefix("p = ") if line.test else MISSING,
    )
    return tag("tr", [tag("td", cell, data_label=name) for cell, name in zip(cells, columns, strict=True)])
