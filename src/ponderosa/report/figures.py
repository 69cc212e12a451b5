"""Shares by slice, read from result rows and drawn: of one training seed with their intervals, of several their mean
with the range of the seeds."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from ponderosa.report.axes import NUM_COLOURS
from ponderosa.report.charts import Point, Series, render_legend, render_whiskers
from ponderosa.report.html import Html, join, tag
from ponderosa.report.numbers import MISSING, as_number, format_interval, format_percent, format_range
from ponderosa.report.run import Record, StageFolder


class Figure(NamedTuple):
    """A value with its interval, or the mean of several seeds with their range."""

    value: float
    low: float | None
    high: float | None
    num_seeds: int = 1


BySlice = Mapping[str, Figure]


def read_slices(rows: Sequence[Record], metric: str) -> dict[str, Figure]:
    """A metric by slice, from a row for each slice and seed."""
    seeds: dict[str, dict[str, Record]] = {}
    for row in rows:
        if row.get("metric") == metric and as_number(row.get("value")) is not None:
            seeds.setdefault(str(row.get("slice")), {}).setdefault(str(row.get("seed")), row)
    return {name: sum_up(list(by_seed.values())) for name, by_seed in seeds.items()}


def sum_up(rows: Sequence[Record]) -> Figure:
    """One figure from the rows of all seeds, which have values."""
    values = [number for row in rows if (number := as_number(row.get("value"))) is not None]
    if len(values) == 1:
        return Figure(values[0], as_number(rows[0].get("low")), as_number(rows[0].get("high")))
    return Figure(fmean(values), min(values), max(values), len(values))


def list_keys(lines: Sequence[Iterable[str]]) -> list[str]:
    """What the slices of each line go by, in order of appearance."""
    return list(dict.fromkeys(name.partition("=")[0] for line in lines for name in line if "=" in name))


def sort_values(lines: Sequence[Iterable[str]], key: str) -> list[str]:
    """The values of a slicing key, numbers by size and before words."""
    names = {name for line in lines for name in line if name.partition("=")[0] == key != name}
    values = [name.partition("=")[2] for name in names]
    return sorted(
        values, key=lambda value: (not value.isdecimal(), float(value) if value.isdecimal() else 0, value)
    )


def draw_slices(lines: Mapping[str, BySlice], key: str, title: str) -> Html | None:
    """A chart of named lines over the values of a slicing key, under its title and legend; None if none has any."""
    values = sort_values(list(lines.values()), key)
    series = [
        Series(
            name,
            tuple(
                Point(x, figure.value, figure.low, figure.high)
                for x, value in enumerate(values)
                if (figure := line.get(f"{key}={value}"))
            ),
            rank % NUM_COLOURS,
        )
        for rank, (name, line) in enumerate(lines.items())
    ]
    if not values:
        return None
    chart = render_whiskers(series, values, x_title=key, title=title)
    return join([tag("figcaption", tag("b", title), render_legend(series)), chart])


def render_share(figure: Figure | None) -> Html:
    """A table cell."""
    if figure is None:
        return tag("td", MISSING)
    spread = format_interval(figure.low, figure.high)
    if figure.num_seeds > 1:
        spread = format_range([end for end in (figure.low, figure.high) if end is not None])
    return tag("td", tag("b", format_percent(figure.value)), " ", tag("small", spread))


def fold_seeds(figures: Sequence[tuple[StageFolder, Html]]) -> Html | None:
    """Figures of stages side by side: those of the first training seed in sight, a fold for each other one."""
    seeds: dict[str, list[Html]] = {}
    for stage, figure in figures:
        seeds.setdefault(str(stage.manifest.get("seed")), []).append(figure)
    charts = [(seed, tag("div", shown, class_="charts")) for seed, shown in seeds.items()]
    if not charts:
        return None
    folds = [tag("details", tag("summary", f"seed {seed}"), chart) for seed, chart in charts[1:]]
    return join([charts[0][1], *folds])
