"""Small charts of what a training stage logged besides its loss, against its optimizer steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ponderosa.report.axes import NUM_COLOURS
from ponderosa.report.charts import Point, Series, render_legend, render_lines
from ponderosa.report.html import Html, tag
from ponderosa.report.numbers import as_number
from ponderosa.report.run import Record, StageFolder

Read = Callable[[Record], Mapping[str, Any]]
"""A step's record to the values drawn in one panel, by name."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One small chart. detail: what exactly is drawn, with its unit. is_noisy: a running mean helps to see it."""

    title: str
    detail: str
    read: Read
    format: Callable[[float], str]
    is_noisy: bool = True


def pick(*keys: str, **named: str) -> Read:
    """Values that a step's record has under these keys, by their keys or by the names given."""
    names = {key: key for key in keys} | {key: name for name, key in named.items()}
    return lambda step: {name: step[key] for key, name in names.items() if key in step}


def format_share(share: float) -> str:
    """Three figures at most, so that small shares show: `0.0824%`, `42.6%`, `60%`."""
    return f"{100 * share:.3g}%"


def render_panel(stage: StageFolder, panel: Panel, colour: int, *, names_stage: bool = False) -> Html | None:
    """A figure with how far each line went; None if the stage logged nothing of it.

    colour: of a line that is alone. names_stage: the stage is the heading, where the place does not say it.
    """
    series = _read_series(stage, panel, colour)
    if not series:
        return None
    is_alone = len(series) == 1
    chart = render_lines(
        series,
        x_title="optimizer steps",
        format_y=panel.format,
        title=f"{panel.title} of {stage.label}",
        is_noisy=panel.is_noisy,
    )
    heading, rest = panel.title, panel.detail
    if names_stage:
        heading, rest = stage.label, f"{panel.title.lower()} {panel.detail}"
    caption = tag(
        "figcaption", tag("b", heading), tag("span", rest), None if is_alone else render_legend(series)
    )
    ends = [f"{'' if is_alone else one.name} {_spell_ends(one, panel)}" for one in series]
    return tag("figure", caption, chart, tag("p", " · ".join(ends), class_="note"))


def describe_ends(stage: StageFolder, panel: Panel) -> str:
    """How far the panel's first line went; empty if the stage logged nothing of it."""
    series = _read_series(stage, panel, 0)
    return _spell_ends(series[0], panel) if series else ""


def _read_series(stage: StageFolder, panel: Panel, colour: int) -> list[Series]:
    points: dict[str, list[Point]] = {}
    for step in stage.metrics:
        number = as_number(step.get("step"))
        for name, value in panel.read(step).items():
            if number is not None and (seen := as_number(value)) is not None:
                points.setdefault(name, []).append(Point(number, seen))
    colours = [colour] if len(points) == 1 else [rank % NUM_COLOURS for rank in range(1, len(points) + 1)]
    return [Series(name, tuple(points[name]), colour) for name, colour in zip(points, colours, strict=True)]


def _spell_ends(one: Series, panel: Panel) -> str:
    """From the mean of the first tenth of the steps to that of the last; of what is exact, from first to last."""
    values = [point.y for point in one.points]
    num_ends = max(1, len(values) // 10) if panel.is_noisy else 1
    first, last = (sum(end) / num_ends for end in (values[:num_ends], values[-num_ends:]))
    return f"{panel.format(first)} → {panel.format(last)}"
