"""Small SVG charts, drawn by hand: a line chart and a dot-and-whisker chart. Values in, markup out.

Points that are not finite are left out, never drawn somewhere else.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ponderosa.report.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    build_linear_scale,
    build_log_scale,
    choose_log_ticks,
    choose_ticks,
    draw_chart,
    draw_x_tick,
    draw_x_title,
    draw_y_tick,
    spell_path,
)
from ponderosa.report.html import Html, tag
from ponderosa.report.numbers import format_interval, format_percent, format_tick


@dataclass(frozen=True, slots=True)
class Point:
    """A value at a position, with its interval where there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Named points of one colour, in order of x."""

    name: str
    points: tuple[Point, ...]
    colour: int = 0


def render_curve(series: Series, *, x_title: str, format_x: Callable[[float], str], title: str) -> Html:
    """One quantity against work done, on a logarithmic vertical axis: each step faint, their running mean on top."""
    points = [
        point for point in series.points if point.y > 0 and math.isfinite(point.y) and math.isfinite(point.x)
    ]
    if len(points) < 2:
        return tag("p", "Fewer than two finite points.", class_="missing")
    smooth = _smooth([point.y for point in points])
    low, high = min(min(smooth), _quantile(points, 0.01)), max(point.y for point in points)
    y = build_log_scale(low, high, HEIGHT - BOTTOM, TOP)
    x = build_linear_scale(points[0].x, points[-1].x, LEFT, WIDTH - RIGHT)
    kept = _thin(len(points))
    raw = [(x(points[i].x), y(max(points[i].y, low))) for i in kept]
    mean = [(x(points[i].x), y(smooth[i])) for i in kept]
    return draw_chart(
        title,
        [draw_y_tick(y(value), format_tick(value)) for value in choose_log_ticks(low, high)],
        [draw_x_tick(x(value), format_x(value)) for value in choose_ticks(points[0].x, points[-1].x, 4)],
        draw_x_title(x_title),
        tag("polyline", points=spell_path(raw), class_=f"raw s{series.colour}"),
        tag("polyline", points=spell_path(mean), class_=f"mean s{series.colour}"),
    )


def render_lines(
    series: Sequence[Series],
    *,
    x_title: str,
    format_y: Callable[[float], str],
    title: str,
    is_noisy: bool = True,
) -> Html:
    """Quantities against whole steps, zero always in sight. Of noisy ones each step is faint, a running mean on top."""
    lines = [(one.colour, [point for point in one.points if _is_drawable(point)]) for one in series]
    xs = [point.x for _, points in lines for point in points]
    ys = [point.y for _, points in lines for point in points]
    if len(set(xs)) < 2:
        return tag("p", "Fewer than two finite points.", class_="missing")
    low, high = min(0.0, *ys), max(0.0, *ys)
    x = build_linear_scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y = build_linear_scale(low, high, HEIGHT - BOTTOM, TOP)
    return draw_chart(
        title,
        [draw_y_tick(y(value), format_y(value)) for value in choose_ticks(low, high, 4)],
        [draw_x_tick(x(at), f"{at:,.0f}") for at in choose_ticks(min(xs), max(xs), 4) if at == round(at)],
        draw_x_title(x_title),
        [mark for colour, points in lines for mark in _draw_line(points, colour, x, y, is_noisy)],
    )


def render_whiskers(
    series: Sequence[Series], categories: Sequence[str], *, x_title: str, title: str, is_joined: bool = True
) -> Html:
    """Fractions by category, a dot with its interval per series; a point's x is its category's index."""
    slot = (WIDTH - LEFT - RIGHT) / max(1, len(categories))
    step = min(12.0, 0.7 * slot / max(1, len(series)))
    top = _choose_top(series)
    y = build_linear_scale(0.0, top, HEIGHT - BOTTOM, TOP)
    marks: list[Html] = []
    for rank, one in enumerate(series):
        shift = (rank - (len(series) - 1) / 2) * step
        placed = [
            (LEFT + slot * (point.x + 0.5) + shift, point) for point in one.points if math.isfinite(point.y)
        ]
        if is_joined and len(placed) > 1:
            path = spell_path([(at, y(point.y)) for at, point in placed])
            marks.append(tag("polyline", points=path, class_=f"join s{one.colour}"))
        marks += [
            _draw_whisker(
                at, point, f"{one.name}, {categories[int(point.x)]}: {_spell(point)}", one.colour, y
            )
            for at, point in placed
        ]
    return draw_chart(
        title,
        [draw_y_tick(y(top * share), f"{100 * top * share:g}%") for share in (0.0, 0.25, 0.5, 0.75, 1.0)],
        [draw_x_tick(LEFT + slot * (i + 0.5), label) for i, label in enumerate(categories)],
        draw_x_title(x_title),
        marks,
    )


def render_signed(series: Series, *, x_title: str, title: str, has_diagonal: bool = False) -> Html:
    """A quantity of either sign against another: dots with their intervals, joined; zero is always in sight.

    has_diagonal: both are of one unit, and where they are equal is drawn.
    """
    points = [point for point in series.points if math.isfinite(point.x) and math.isfinite(point.y)]
    if not points:
        return tag("p", "No finite points.", class_="missing")
    ends = [end for point in points for end in (point.y, point.low, point.high, 0.0) if end is not None]
    left, right = (choose(0.0, *(point.x for point in points)) for choose in (min, max))
    if has_diagonal:
        ends += [left, right]
    x = build_linear_scale(left, right, LEFT + 8, WIDTH - RIGHT - 8)
    y = build_linear_scale(min(ends), max(ends), HEIGHT - BOTTOM, TOP)
    return draw_chart(
        title,
        [draw_y_tick(y(value), format_tick(value)) for value in choose_ticks(min(ends), max(ends), 4)],
        [draw_x_tick(x(value), f"{value:g}") for value in choose_ticks(left, right, 5)],
        draw_x_title(x_title),
        tag("line", x1=x(0), x2=x(0), y1=TOP, y2=HEIGHT - BOTTOM, class_="grid"),
        tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(0), y2=y(0), class_="whisker"),
        [tag("line", x1=x(left), x2=x(right), y1=y(left), y2=y(right), class_="diagonal")] * has_diagonal,
        tag(
            "polyline",
            points=spell_path([(x(point.x), y(point.y)) for point in points]),
            class_=f"join s{series.colour}",
        ),
        [
            _draw_whisker(x(point.x), point, f"{series.name}, {point.x:g}: {point.y:.3g}", series.colour, y)
            for point in points
        ],
    )


def render_interval_bar(value: float, low: float | None, high: float | None, colour: int) -> Html:
    """A fraction as a bar with its interval on it, for table cells."""
    span = 100.0
    marks = [
        tag("rect", x=0, y=3, width=span, height=8, rx=2, class_="track"),
        tag("rect", x=0, y=3, width=max(0.5, span * value), height=8, rx=2, class_=f"fill s{colour}"),
    ]
    if low is not None and high is not None:
        marks.append(tag("line", x1=span * low, x2=span * high, y1=7, y2=7, class_="whisker"))
        marks += [
            tag("line", x1=span * end, x2=span * end, y1=4, y2=10, class_="whisker") for end in (low, high)
        ]
    return tag("svg", marks, viewBox="-1 0 102 14", class_="bar", aria_hidden="true")


def render_legend(series: Sequence[Series]) -> Html:
    """What the colours mean."""
    items = [tag("li", tag("span", class_=f"swatch s{one.colour}"), one.name) for one in series]
    return tag("ul", items, class_="legend")


def _spell(point: Point) -> str:
    """A fraction and its interval, in percent."""
    whole = "" if point.low is None or point.high is None else f" {format_interval(point.low, point.high)}"
    return f"{format_percent(point.y)}{whole}"


def _is_drawable(point: Point) -> bool:
    """Finite, and far from where a difference of two values is not."""
    return abs(point.x) < 1e100 and abs(point.y) < 1e100


def _draw_line(points: Sequence[Point], colour: int, x: Scale, y: Scale, is_noisy: bool) -> list[Html]:
    values = [point.y for point in points]
    kept = _thin(len(points))
    drawn = [("raw", values), ("mean", _average(values))] if is_noisy else [("mean", values)]
    return [
        tag(
            "polyline",
            points=spell_path([(x(points[i].x), y(heights[i])) for i in kept]),
            class_=f"{kind} s{colour}",
        )
        for kind, heights in drawn
    ]


def _draw_whisker(at: float, point: Point, label: str, colour: int, y: Scale) -> Html:
    whisker = None
    if point.low is not None and point.high is not None:
        whisker = tag("line", x1=at, x2=at, y1=y(point.low), y2=y(point.high), class_=f"reach s{colour}")
    dot = tag("circle", cx=at, cy=y(point.y), r=3.6, class_=f"dot s{colour}")
    return tag("g", tag("title", label), whisker, dot)


def _choose_top(series: Sequence[Series]) -> float:
    """The end of a fraction axis that starts at 0: the smallest round one above every whisker."""
    reach = max((point.high or point.y for one in series for point in one.points), default=1.0)
    return next((top for top in (0.04, 0.1, 0.2, 0.4, 0.6) if reach <= top), 1.0)


def _smooth(values: Sequence[float]) -> list[float]:
    """Exponential running mean over about a fortieth of the curve, corrected for its start."""
    keep = 1 - 1 / max(1.0, len(values) / 40)
    total = weight = 0.0
    smooth: list[float] = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        smooth.append(total / weight)
    return smooth


def _average(values: Sequence[float]) -> list[float]:
    """Running mean over about a tenth of a short curve, half of it ahead, so that it does not lag behind."""
    sums = [0.0, *itertools.accumulate(values)]
    reach = math.ceil(len(values) / 20)
    spans = [(max(0, i - reach), min(len(values), i + reach + 1)) for i in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def _quantile(points: Sequence[Point], share: float) -> float:
    ordered = sorted(point.y for point in points)
    return ordered[int(share * (len(ordered) - 1))]


def _thin(count: int, most: int = 400) -> list[int]:
    """At most `most` + 1 indices spread over the curve, both ends included."""
    step = max(1, math.ceil(count / most))
    return sorted({*range(0, count, step), count - 1})
