"""What charts are drawn on: a frame of one size, scales from values to places in it, and ticks at round values.

A chart is 360 units wide and is laid out at that width or less, so its text keeps its size on a phone. Colours
are classes (`s0`, `s1`, …), so that light and dark are the style sheet's business.
"""

import math
from collections.abc import Callable, Sequence

from ponderosa.report.html import Html, tag

WIDTH, HEIGHT = 360, 225
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 40
NUM_COLOURS = 6

Scale = Callable[[float], float]


def draw_chart(
    title: str, *children: Html | Sequence[Html], place: tuple[float, float] | None = None
) -> Html:
    """A chart of its own; with a place, one at that place of a larger drawing."""
    placed = {"x": place[0], "y": place[1], "width": WIDTH, "height": HEIGHT} if place else {}
    return tag(
        "svg",
        tag("title", title),
        children,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        class_="chart",
        **placed,
    )


def draw_y_tick(at: float, label: str, right: float = WIDTH - RIGHT) -> Html:
    """A line across the chart as far as `right`, and its label."""
    line = tag("line", x1=LEFT, x2=right, y1=at, y2=at, class_="grid")
    return tag("g", line, tag("text", label, x=LEFT - 7, y=at + 4, class_="tick end"))


def draw_x_tick(at: float, label: str) -> Html:
    return tag("text", label, x=at, y=HEIGHT - BOTTOM + 17, class_="tick middle")


def draw_x_title(text: str, right: float = WIDTH - RIGHT) -> Html:
    return tag("text", text, x=(LEFT + right) / 2, y=HEIGHT - 5, class_="axis middle")


def spell_path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def build_linear_scale(low: float, high: float, start: float, end: float) -> Scale:
    span = (high - low) or 1.0
    return lambda value: start + (end - start) * (value - low) / span


def build_log_scale(low: float, high: float, start: float, end: float) -> Scale:
    scale = build_linear_scale(math.log(low), math.log(high), start, end)
    return lambda value: scale(math.log(value))


def choose_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values within [low, high]."""
    rough = (high - low) / count or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def choose_log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 times powers of ten within [low, high]; round linear values where that gives fewer than three."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [tick for tick in ticks if low <= tick <= high]
    if len(inside) > 7:
        inside = [tick for tick in inside if math.isclose(math.log10(tick), round(math.log10(tick)))]
    return inside if len(inside) > 2 else [tick for tick in choose_ticks(low, high, 4) if tick > 0]
