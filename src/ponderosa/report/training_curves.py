"""The loss curve of every stage that learned from tokens or pairs.

A policy gradient's objective is not among them: it is near 0 whatever is learned (see `reinforcement`).
"""

from ponderosa.report.axes import NUM_COLOURS
from ponderosa.report.charts import Point, Series, render_curve
from ponderosa.report.figures import fold_seeds
from ponderosa.report.html import Html, tag
from ponderosa.report.numbers import as_number, format_amount, format_count, format_percent
from ponderosa.report.results import list_colours
from ponderosa.report.run import Record, Run, StageFolder, as_record

_LOSS_UNITS = {
    **dict.fromkeys(("pretrain", "midtrain", "sft"), "nats per token"),
    "dpo": "nats per pair",
}
_PHRASES = {
    "documents": "@ documents",
    "pairs": "@ pairs",
    "vocab_size": "vocabulary of @ tokens",
    "split": "@ documents longer than a row",
    "fill_frac": "rows @ full",
    "parameters": "@ parameters",
    "dtype": "matrix products in @",
}
"""How a fact of a manifest is said; @ is its value."""
_ELSEWHERE = frozenset({"final_loss", "steps", "accuracy", "margin", "length_correlation"})
"""Facts that the page says in another place."""


def render_training(run: Run) -> Html | None:
    """One figure per stage that wrote such metrics, folded by training seed; None if none did."""
    colours = list_colours(run.rows)
    trained = [
        stage
        for stage in run.stages
        if any("loss" in step for step in stage.metrics) and not stage.is_reinforcement
    ]
    return fold_seeds(
        [
            (stage, _render_stage(stage, colours.get(stage.model_name, rank % NUM_COLOURS)))
            for rank, stage in enumerate(trained)
        ]
    )


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
    """What a stage's training took and came to, in words."""
    rates = sorted(
        rate for step in stage.metrics if (rate := as_number(step.get("tokens_per_s"))) is not None
    )
    last = stage.metrics[-1]
    known = as_record(stage.manifest.get("facts"))
    phrases = [
        f"{format_count(last.get('step'))} optimizer steps over {format_amount(last.get('tokens'))} tokens",
        *([] if stage.is_reinforcement else _describe_loss(stage, known)),
        *(_describe_fact(name, value) for name, value in known.items() if name not in _ELSEWHERE),
    ]
    if rates:
        phrases.append(f"{format_count(rates[len(rates) // 2])} tokens a second (median of steps)")
    return tag("p", " · ".join(phrase for phrase in phrases if phrase), class_="note")


def _describe_loss(stage: StageFolder, known: Record) -> list[str]:
    unit = _LOSS_UNITS.get(stage.kind, "")
    if (mean := as_number(known.get("final_loss"))) is not None:
        return [f"loss {mean:.3g} {unit}".rstrip() + ", mean of the last 20 steps"]
    last = as_number(stage.metrics[-1].get("loss"))
    return [] if last is None else [f"loss {last:.3g} {unit}".rstrip() + " in the last step"]


def _describe_fact(name: str, value: object) -> str:
    """A fact of a manifest as a phrase, by its name if it has none of its own; empty for a table and for none of
    something."""
    number = as_number(value)
    if isinstance(value, dict | list) or number == 0:
        return ""
    if number is None:
        spelled = str(value)
    elif name.endswith("_frac"):
        spelled = format_percent(number)
    else:
        spelled = (
            format_count(number) if number == int(number) and abs(number) < 1e6 else format_amount(number)
        )
    return _PHRASES[name].replace("@", spelled) if name in _PHRASES else f"{name.replace('_', ' ')} {spelled}"
