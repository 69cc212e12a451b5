"""What reward models know of trees they did not learn from: which of a pair is better, and what a score is worth."""

from ponderosa.report.axes import NUM_COLOURS
from ponderosa.report.charts import Point, Series, render_signed
from ponderosa.report.figures import fold_seeds
from ponderosa.report.html import Html, join, tag
from ponderosa.report.numbers import MISSING, as_number, format_count, format_interval, format_percent
from ponderosa.report.run import Record, Run, StageFolder, as_record, as_records

LEVELS = {"step": "pairs of steps", "solution": "pairs of solutions", "all": "all pairs"}
ERRORS = {"squared_error": "squared error", "baseline": "that of a constant", "error": "calibration error"}


def render_reward_models(run: Run) -> Html | None:
    """A table of all reward models and a calibration curve of each; None if none was measured."""
    measured = [stage for stage in run.stages if stage.held_out]
    if not measured:
        return None
    curves = [(stage, _render_curve(stage, rank % NUM_COLOURS)) for rank, stage in enumerate(measured)]
    return join([_render_table(measured), fold_seeds(curves)])


def _render_table(stages: list[StageFolder]) -> Html:
    names = ("reward model", *LEVELS.values(), "nodes", *ERRORS.values(), "explained")
    head = tag("thead", tag("tr", [tag("th", name, scope="col") for name in names]))
    body = tag("tbody", [_render_line(stage) for stage in stages])
    return tag("figure", tag("div", tag("table", head, body, class_="numbers"), class_="scroll"))


def _render_line(stage: StageFolder) -> Html:
    pairs, calibration = (as_record(stage.held_out.get(key)) for key in ("pairs", "calibration"))
    kind = str(as_record(stage.manifest.get("facts")).get("kind") or stage.kind)
    return tag(
        "tr",
        tag("td", tag("b", stage.label), tag("small", kind.replace("_", " "))),
        [_render_ranking(as_record(pairs.get(level))) for level in LEVELS],
        tag("td", format_count(calibration.get("nodes"))),
        [tag("td", _format_error(calibration.get(name))) for name in ERRORS],
        tag("td", _say_worth(calibration)),
    )


def _say_worth(calibration: Record) -> Html:
    """Is the score worth more than no score at all?"""
    error, baseline = (as_number(calibration.get(key)) for key in ("squared_error", "baseline"))
    if error is None or not baseline:
        return tag("span", MISSING, class_="missing")
    gain = 1 - error / baseline
    direction = "up" if gain > 0 else "down"
    return tag("span", tag("b", f"{100 * gain:+.0f}%".replace("-", "−"), class_=direction), class_="test")


def _render_ranking(ranking: Record) -> Html:
    """The share ranked rightly, and of how many."""
    spread = (
        f"{format_interval(ranking.get('low'), ranking.get('high'))} of {format_count(ranking.get('pairs'))}"
    )
    return tag("td", tag("b", format_percent(ranking.get("accuracy"))), tag("small", spread))


def _format_error(value: object) -> str:
    number = as_number(value)
    return MISSING if number is None else f"{number:.3f}"


def _render_curve(stage: StageFolder, colour: int) -> Html:
    bins = as_records(as_record(stage.held_out.get("calibration")).get("bins"))
    points = [point for one in bins if (point := _read_point(one)) is not None]
    chart = render_signed(
        Series(stage.label, tuple(points), colour),
        x_title="success that the score says",
        title=f"Calibration of {stage.label}",
        has_diagonal=True,
    )
    return tag("figure", tag("figcaption", tag("b", stage.label), tag("span", "success seen")), chart)


def _read_point(one: Record) -> Point | None:
    """A bin of nodes: what their scores say against how they ended, with its interval."""
    predicted, observed = as_number(one.get("predicted")), as_number(one.get("observed"))
    if predicted is None or observed is None:
        return None
    return Point(predicted, observed, as_number(one.get("low")), as_number(one.get("high")))
