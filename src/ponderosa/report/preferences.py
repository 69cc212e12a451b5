"""Training on pairs, of policies (DPO) and of reward models: margins by step, and those of policies against length
differences: how much of a preference is one for length."""

from ponderosa.report.axes import NUM_COLOURS
from ponderosa.report.charts import Point, Series, render_signed
from ponderosa.report.figures import fold_seeds
from ponderosa.report.html import Html, tag
from ponderosa.report.numbers import as_number, format_count, format_percent
from ponderosa.report.run import Record, Run, StageFolder, as_record, as_records
from ponderosa.report.step_curves import Panel, format_share, pick, render_panel

_PANELS = (
    Panel("Accuracy", "by step", pick("accuracy"), format_share),
    Panel("Margin", "by step", pick("margin"), "{:.3g}".format),
    Panel(
        "Implicit reward",
        "by step",
        pick(chosen="chosen_reward", rejected="rejected_reward"),
        "{:.3g}".format,
    ),
)
_CURVES = (
    ("trained", "margin after training"),
    ("reference", "log-probability difference before (nats)"),
)


def render_preferences(run: Run) -> Html | None:
    """What each stage that was trained on pairs logged by step and by length; None if none was."""
    trained = [
        stage for stage in run.stages if stage.margins or any("margin" in step for step in stage.metrics)
    ]
    return fold_seeds(
        [
            (stage, figure)
            for rank, stage in enumerate(trained)
            for figure in _list_figures(stage, rank % NUM_COLOURS)
        ]
    )


def _list_figures(stage: StageFolder, colour: int) -> list[Html]:
    by_step = [render_panel(stage, panel, colour, names_stage=True) for panel in _PANELS]
    by_length = [
        _render_curve(stage, as_record(stage.margins.get(key)), title, colour)
        for key, title in _CURVES
        if stage.margins
    ]
    return [*(figure for figure in by_step if figure), *by_length]


def _render_curve(stage: StageFolder, summary: Record, title: str, colour: int) -> Html:
    points = [point for one in as_records(summary.get("bins")) if (point := _read_point(one)) is not None]
    chart = render_signed(
        Series(title, tuple(points), colour),
        x_title="length difference, chosen less rejected (tokens)",
        title=f"{title} of {stage.label}, by length difference",
    )
    caption = tag("figcaption", tag("b", stage.label), tag("span", title))
    return tag("figure", caption, chart, _describe(summary))


def _read_point(one: Record) -> Point | None:
    """A bin's mean with its interval, at its mean length difference."""
    difference, margin = as_number(one.get("length_difference")), as_number(one.get("margin"))
    if difference is None or margin is None:
        return None
    return Point(difference, margin, as_number(one.get("low")), as_number(one.get("high")))


def _describe(summary: Record) -> Html:
    correlation = as_number(summary.get("length_correlation"))
    mean = as_number(summary.get("margin"))
    facts = [
        f"{format_count(summary.get('pairs'))} pairs",
        f"above 0 in {format_percent(summary.get('accuracy'))}",
        *([] if mean is None else [f"mean {mean:.3g}"]),
        *([] if correlation is None else [f"correlation with length {correlation:.2f}".replace("-", "−")]),
    ]
    return tag("p", " · ".join(facts), class_="note")
