"""The loss curve of every stage that learned from tokens or pairs.

A policy gradient's objective is not among them: it is near 0 whatever is learned (see `reinforcement`).
"""

from ponderosa.report.charts import NUM_COLOURS, Point, Series, render_curve
from ponderosa.report.html import Html, tag
from ponderosa.report.numbers import as_number, format_amount, format_count
from ponderosa.report.results import list_colours
from ponderosa.report.run import Run, StageFolder, as_record


def render_training(run: Run) -> Html | None:
    """One figure per stage that wrote such metrics; None if none did."""
    colours = list_colours(run.rows)
    trained = [
        stage
        for stage in run.stages
        if any("loss" in step for step in stage.metrics) and not stage.is_reinforcement
    ]
    figures = [
        _render_stage(stage, colours.get(stage.model_name, rank % NUM_COLOURS))
        for rank, stage in enumerate(trained)
    ]
    return tag("div", figures, class_="charts") if figures else None


def _render_stage(stage: StageFolder, colour: int) -> Html:
    seen = [(as_number(step.get("tokens")), as_number(step.get("loss"))) for step in stage.metrics]
    points = tuple(Point(tokens, loss) for tokens, loss in seen if tokens is not None and loss is not None)
    series = Series(stage.label, points, colour)
    chart = render_curve(
        series, x_title="tokens trained", format_x=format_amount, title=f"Loss of {stage.label}"
    )
    return tag(
        "figure",
        tag("figcaption", tag("b", stage.label), tag("span", stage.kind)),
        chart,
        describe_training(stage),
    )


def describe_training(stage: StageFolder) -> Html:
    """What a stage's training took and came to, in one line."""
    rates = sorted(
        rate for step in stage.metrics if (rate := as_number(step.get("tokens_per_s"))) is not None
    )
    last = stage.metrics[-1]
    facts = [f"{format_count(last.get('step'))} steps", f"{format_amount(last.get('tokens'))} tokens"]
    if (loss := as_number(last.get("loss"))) is not None and not stage.is_reinforcement:
        facts.append(f"last loss {loss:.3g} nats")
    if rates:
        facts.append(f"{format_count(rates[len(rates) // 2])} tokens/s (median)")
    known = as_record(stage.manifest.get("facts"))
    facts += [
        f"{name.replace('_', ' ')} {_spell(value)}"
        for name, value in known.items()
        if not isinstance(value, dict | list) and not (name == "final_loss" and stage.is_reinforcement)
    ]
    return tag("p", " · ".join(facts), class_="note")


def _spell(value: object) -> str:
    return format_amount(value) if as_number(value) is not None else str(value)
