"""What each stage cost, and what each stage dropped and why."""

from collections.abc import Sequence

from ponderosa.report.html import Html, tag
from ponderosa.report.numbers import (
    MISSING,
    as_number,
    format_amount,
    format_count,
    format_duration,
    format_percent,
)
from ponderosa.report.run import Run, StageFolder, as_record

_SELECTED = {"solutions": "problems", "textbook": "documents", "pairs": "attempts"}
"""What is counted by stages whose kept and dropped records are of one kind."""
_COLUMNS = (
    ("trained tokens", ("train_tokens",)),
    ("prompt tokens", ("prompt_tokens",)),
    ("generated tokens", ("generated_tokens",)),
    ("executions", ("executions",)),
    ("FLOP", ("train_flops", "eval_flops")),
)


def render_costs(run: Run) -> Html | None:
    """Tokens, executions, FLOPs and seconds of every stage, and their totals."""
    if not run.stages:
        return None
    total_s = sum(_sum(stage, ("seconds",)) or 0.0 for stage in run.stages)
    names = ("stage", *(name for name, _ in _COLUMNS), "time", "share of time")
    head = tag("thead", tag("tr", [tag("th", name, scope="col") for name in names]))
    rows = [_render_row(stage.label, [stage], total_s, names) for stage in run.stages]
    foot = tag("tfoot", _render_row("total", run.stages, total_s, names))
    return tag("table", head, tag("tbody", rows), foot, class_="costs cards")


def _render_row(label: str, stages: Sequence[StageFolder], total_s: float, names: Sequence[str]) -> Html:
    amounts = [_sum_over(stages, keys) for _, keys in _COLUMNS]
    seconds = _sum_over(stages, ("seconds",))
    share = None if seconds is None or not total_s else seconds / total_s
    meter = None if share is None else tag("span", class_="meter", style=f"--share:{100 * share:.1f}%")
    cells = (
        label,
        *(format_amount(amount) if amount else MISSING for amount in amounts),
        format_duration(seconds),
        [meter, format_percent(share, 0)],
    )
    return tag(
        "tr",
        [
            tag("td", cell, data_label=name, class_="empty" if cell == MISSING else None)
            for cell, name in zip(cells, names, strict=True)
        ],
    )


def render_yields(run: Run) -> Html | None:
    """What every stage that selects records kept, and what any stage dropped, by reason; None if there is neither."""
    figures = [figure for stage in run.stages if (figure := _render_yield(stage))]
    return tag("div", figures, class_="charts") if figures else None


def _render_yield(stage: StageFolder) -> Html | None:
    """None for a stage that dropped nothing and whose product is no selection of records."""
    kept = as_number(stage.counts.get("kept"))
    unit = _SELECTED.get(stage.kind)
    dropped = {
        reason: count
        for reason, value in as_record(stage.counts.get("dropped")).items()
        if (count := as_number(value)) is not None
    }
    if not dropped and (unit is None or kept is None):
        return None
    total = sum(dropped.values())
    rows = []
    if unit is None or kept is None:
        summary = f"{format_count(total)} left out"
    elif not dropped:
        summary = f"{format_count(kept)} {unit}, none dropped"
    else:
        total += kept
        summary = f"{format_count(kept)} of {format_count(total)} {unit} kept ({format_percent(kept / total if total else None)})"
        rows.append(_render_share("kept", kept, total, "kept"))
    rows += [
        _render_share(reason.replace("_", " "), count, total, "dropped")
        for reason, count in sorted(dropped.items(), key=lambda item: -item[1])
    ]
    caption = tag("figcaption", tag("b", stage.label), tag("span", summary))
    return tag("figure", caption, tag("table", tag("tbody", rows), class_="yield") if rows else None)


def _render_share(label: str, count: float, total: float, kind: str) -> Html:
    share = count / total if total else 0.0
    meter = tag("span", class_=f"meter {kind}", style=f"--share:{100 * share:.1f}%")
    return tag("tr", tag("td", label), tag("td", format_count(count)), tag("td", meter))


def _sum_over(stages: Sequence[StageFolder], keys: Sequence[str]) -> float | None:
    known = [amount for stage in stages if (amount := _sum(stage, keys)) is not None]
    return sum(known) if known else None


def _sum(stage: StageFolder, keys: Sequence[str]) -> float | None:
    known = [number for key in keys if (number := as_number(stage.ledger.get(key))) is not None]
    return sum(known) if known else None
