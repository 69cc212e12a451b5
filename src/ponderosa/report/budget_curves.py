"""Shares over budgets on a logarithmic axis, each line with its name at its end. Values in, markup out.

The first line is what the others are set against: its intervals are drawn, as a band. Those of the others are in tooltips.
"""

from collections.abc import Sequence
from math import ceil, floor
from typing import NamedTuple

from ponderosa.report.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    TOP,
    WIDTH,
    Scale,
    build_linear_scale,
    build_log_scale,
    choose_ticks,
    draw_chart,
    draw_x_tick,
    draw_x_title,
    draw_y_tick,
    spell_path,
)
from ponderosa.report.charts import Point, Series
from ponderosa.report.html import Html, tag
from ponderosa.report.numbers import format_amount, format_count, format_interval, format_percent

NAMES = 104
"""Units kept free on the right, for the names of lines."""
NAME_HEIGHT = 14.0
EDGE = 8


class Frame(NamedTuple):
    """What charts side by side have in common: the unit that is spent, marked amounts of it, and the ends of both axes."""

    unit: str
    budgets: Sequence[float]
    lowest: float
    highest: float
    left: float
    right: float


def build_frame(series: Sequence[Series], budgets: Sequence[float], unit: str = "tokens") -> Frame:
    """A frame that holds every line, from and to a whole multiple of five percent."""
    points = [point for one in series for point in _list_drawable(one)]
    ends = [end for point in points for end in (point.y, point.low, point.high) if end is not None]
    values = [min(1.0, max(0.0, end)) for end in ends] or [0.0]
    lowest, highest = floor(20 * min(values)) / 20, ceil(20 * max(values)) / 20
    places = [*budgets, *(point.x for point in points)] or [1.0]
    return Frame(unit, budgets, lowest, max(highest, lowest + 0.1), min(places), max(places))


def render_budget_curves(
    series: Sequence[Series], frame: Frame, *, title: str, place: tuple[float, float] | None = None
) -> Html:
    """The chart; place: where in a larger drawing, if it is part of one."""
    right = WIDTH - NAMES
    x = build_log_scale(frame.left, frame.right, LEFT + EDGE, right - EDGE)
    y = build_linear_scale(frame.lowest, frame.highest, HEIGHT - BOTTOM, TOP)
    lines = [(one, _list_drawable(one)) for one in series]
    lines = [(one, points) for one, points in lines if points]
    ends = [y(points[-1].y) for _, points in lines]
    heights = spread(ends, NAME_HEIGHT, TOP, HEIGHT - BOTTOM)
    return draw_chart(
        title,
        [
            draw_y_tick(y(value), f"{100 * value:g}%", right)
            for value in choose_ticks(frame.lowest, frame.highest, 6)
        ],
        [_draw_budget(x(budget), budget) for budget in frame.budgets],
        draw_x_title(f"{frame.unit} computed for a problem", right),
        [_draw_band(series[0], x, y)] if series else [],
        [_draw_line(one, points, x, y, frame.unit) for one, points in reversed(lines)],
        [
            _draw_name(one, x(points[-1].x), y(points[-1].y), right, height)
            for (one, points), height in zip(lines, heights, strict=True)
        ],
        place=place,
    )


def spread(wanted: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
    """Heights near those wanted, in the same order from the top, `gap` apart, within the ends as far as they fit."""
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    heights = list(wanted)
    floor_at = top
    for place in order:
        heights[place] = max(wanted[place], floor_at)
        floor_at = heights[place] + gap
    ceiling = bottom
    for place in reversed(order):
        heights[place] = min(heights[place], ceiling)
        ceiling = heights[place] - gap
    return heights


def _list_drawable(series: Series) -> list[Point]:
    return [point for point in series.points if 0 < point.x < 1e100 and 0 <= point.y <= 1]


def _draw_budget(at: float, budget: float) -> Html:
    line = tag("line", x1=at, x2=at, y1=TOP, y2=HEIGHT - BOTTOM, class_="grid")
    return tag("g", line, draw_x_tick(at, format_amount(budget)))


def _draw_band(series: Series, x: Scale, y: Scale) -> Html:
    spans = [(x(p.x), p.low, p.high) for p in _list_drawable(series)]
    low = [(at, y(end)) for at, end, _ in spans if end is not None]
    high = [(at, y(end)) for at, _, end in spans if end is not None]
    return tag("polygon", points=spell_path([*low, *reversed(high)]), class_=f"band s{series.colour}")


def _draw_line(series: Series, points: Sequence[Point], x: Scale, y: Scale, unit: str) -> Html:
    placed = [(x(point.x), y(point.y)) for point in points]
    dots = [
        tag("circle", tag("title", _spell(series, point, unit)), cx=at, cy=height, r=3.4, class_="dot")
        for point, (at, height) in zip(points, placed, strict=True)
    ]
    line = tag("polyline", points=spell_path(placed), class_="mean")
    return tag("g", line, dots, class_=f"s{series.colour}")


def _draw_name(series: Series, at: float, end: float, right: float, height: float) -> Html:
    """The name of a line, and what leads to it from the line's end."""
    path = spell_path([(at + 4, end), (right, height), (right + 6, height)])
    leader = tag("polyline", points=path, class_=f"leader s{series.colour}")
    return tag("g", leader, tag("text", series.name, x=right + 10, y=height + 4))


def _spell(series: Series, point: Point, unit: str) -> str:
    interval = "" if point.low is None else f" {format_interval(point.low, point.high)}"
    spent = f"{format_count(point.x)} tokens" if unit == "tokens" else format_amount(point.x, unit)
    return f"{series.name}, {spent}: {format_percent(point.y)}{interval}"
