"""Strategies at equal budget: what each settled on under each token budget, what it cost, and how it compares.

The values are shared by the page, the tables of the documentation and the plot beside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from statistics import fmean
from typing import Literal

from ponderosa.report.axes import HEIGHT, NUM_COLOURS, WIDTH
from ponderosa.report.budget_curves import Frame, build_frame, render_budget_curves
from ponderosa.report.charts import Point, Series
from ponderosa.report.figures import Figure, render_share, sum_up
from ponderosa.report.html import Html, join, tag
from ponderosa.report.numbers import MISSING, as_number, format_amount, format_count, format_p
from ponderosa.report.results import render_test
from ponderosa.report.run import Record, Run
from ponderosa.report.table import ALL

Cost = Literal["tokens", "flops"]
ACCURACY_AT_BUDGET = "accuracy_at_budget"
UNSCORED = "no reward model"
COMPUTED = ("prefill_tokens", "generated_tokens", "scored_tokens")
GAP = 16
HEADING = 26


@dataclass(frozen=True, slots=True)
class Answer:
    """What a strategy with one reward model, or none, came to under one budget. tokens, flops, seconds: for a problem,
    the mean over seeds. tests: against the first strategy under that budget, one of each seed."""

    strategy: str
    reward_model: str
    budget: float
    accuracy: Figure
    tokens: float | None
    flops: float | None
    seconds: float | None
    tests: Sequence[Record]

    @property
    def contender(self) -> tuple[str, str]:
        return self.strategy, self.reward_model


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison of strategies, by the name of its stage; its answers in the order they were measured."""

    name: str
    arm: str
    model: str
    num_problems: float | None
    answers: Sequence[Answer]

    @property
    def budgets(self) -> list[float]:
        return list(dict.fromkeys(one.budget for one in self.answers))

    @property
    def contenders(self) -> list[tuple[str, str]]:
        """Strategy and reward model, the one that others are tested against first."""
        return list(dict.fromkeys(one.contender for one in self.answers))

    def find(self, contender: tuple[str, str], budget: float) -> Answer | None:
        found = [one for one in self.answers if (one.contender, one.budget) == (contender, budget)]
        return found[0] if found else None


def list_comparisons(rows: Sequence[Record], tests: Sequence[Record]) -> list[Comparison]:
    """Every comparison of every arm, from the rows and tests of a run."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for row in rows:
        is_whole = row.get("metric") == ACCURACY_AT_BUDGET and row.get("slice") == ALL
        is_known = as_number(row.get("value")) is not None
        if is_whole and is_known and 0 < (as_number(row.get("token_budget")) or 0) < 1e100:
            groups.setdefault((str(row.get("arm", "")), str(row.get("suite"))), []).append(row)
    return [
        Comparison(
            name=name,
            arm=arm,
            model=str(mine[0].get("stage")),
            num_problems=as_number(mine[0].get("n")),
            answers=_list_answers(mine, [test for test in tests if _is_of(test, arm, name)]),
        )
        for (arm, name), mine in groups.items()
    ]


def _is_of(test: Record, arm: str, name: str) -> bool:
    found = (test.get("metric"), str(test.get("arm", "")), str(test.get("suite")))
    return found == (ACCURACY_AT_BUDGET, arm, name)


def _list_answers(rows: Sequence[Record], tests: Sequence[Record]) -> list[Answer]:
    seeds: dict[tuple[str, str, float], list[Record]] = {}
    for row in rows:
        seeds.setdefault(_identify(row), []).append(row)
    return [
        Answer(
            *key,
            accuracy=sum_up(mine),
            tokens=_average(mine, COMPUTED),
            flops=_average(mine, ("eval_flops",)),
            seconds=_average(mine, ("eval_s",)),
            tests=[test for test in tests if _identify(test) == key],
        )
        for key, mine in seeds.items()
    ]


def _identify(record: Record) -> tuple[str, str, float]:
    """Strategy, reward model and budget of a row or test."""
    budget = as_number(record.get("token_budget")) or 0.0
    return str(record.get("strategy")), str(record.get("reward_model") or ""), budget


def _average(rows: Sequence[Record], keys: Sequence[str]) -> float | None:
    """The sum of some costs of a problem, the mean over seeds; None if a row does not say."""
    values = []
    for row in rows:
        n, amounts = as_number(row.get("n")), [as_number(row.get(key)) for key in keys]
        if not n or None in amounts:
            return None
        values.append(sum(amount for amount in amounts if amount is not None) / n)
    return fmean(values)


def name_strategy(name: str) -> str:
    """A strategy in words."""
    return name.replace("_", " ")


# Charts


def list_panels(comparison: Comparison, cost: Cost = "tokens") -> dict[str, list[Series]]:
    """The lines of each reward model's chart over a cost, after that of the strategy they are tested against; one colour
    for each strategy in all of them."""
    colours = {name: rank % NUM_COLOURS for rank, name in enumerate(dict(comparison.contenders))}
    first = comparison.contenders[0]
    panels: dict[str, list[Series]] = {}
    for contender in comparison.contenders:
        strategy, reward_model = contender
        series = _build_series(comparison, contender, colours[strategy], cost)
        start = [] if contender == first else [_build_series(comparison, first, colours[first[0]], cost)]
        panels.setdefault(reward_model or UNSCORED, start).append(series)
    return panels


def _build_series(
    comparison: Comparison, contender: tuple[str, str], colour: int, cost: Cost = "tokens"
) -> Series:
    found = [comparison.find(contender, budget) for budget in comparison.budgets]
    points = [
        Point(spent, one.accuracy.value, one.accuracy.low, one.accuracy.high)
        for one in found
        if one is not None and (spent := one.tokens if cost == "tokens" else one.flops) is not None
    ]
    return Series(name_strategy(contender[0]), tuple(sorted(points, key=lambda point: point.x)), colour)


def draw_plot(comparison: Comparison) -> Html:
    """All charts of a comparison as one drawing for a file of its own, two in a row."""
    panels = list_panels(comparison)
    frame = build_frame([one for series in panels.values() for one in series], comparison.budgets)
    cell = HEIGHT + HEADING + GAP
    width, height = 2 * (WIDTH + GAP) + GAP, cell * ((len(panels) + 1) // 2) + GAP
    drawn: list[Html] = []
    for place, (title, series) in enumerate(panels.items()):
        x, y = GAP + (place % 2) * (WIDTH + GAP), GAP + (place // 2) * cell
        drawn.append(tag("text", title, x=x + 4, y=y + 16, class_="heading"))
        drawn.append(render_budget_curves(series, frame, title=title, place=(x, y + HEADING)))
    style = files("ponderosa.report").joinpath("charts.css").read_text("utf-8")
    return tag(
        "svg",
        tag("title", f"Accuracy of {comparison.model} by strategy and reward model, over tokens computed"),
        tag("style", Html(style)),
        tag("rect", width=width, height=height, rx=10, class_="paper"),
        drawn,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
    )


# The section of the page


def render_strategies(run: Run) -> Html | None:
    """The charts and the tables of every comparison; None if there is none."""
    comparisons = list_comparisons(run.rows, run.tests)
    return join(_render_comparison(one) for one in comparisons) if comparisons else None


def _render_comparison(comparison: Comparison) -> Html:
    panels = list_panels(comparison)
    frame = build_frame([one for series in panels.values() for one in series], comparison.budgets)
    heading = f"{comparison.name}, {comparison.arm}" if comparison.arm else comparison.name
    facts = f"{comparison.model} · {format_count(comparison.num_problems)} problems"
    caption = tag("figcaption", tag("b", heading), tag("span", facts))
    tables = [_render_table(comparison, budget) for budget in comparison.budgets]
    return tag("figure", caption, _render_charts(panels, frame), _render_flops(comparison), tables)


def _render_charts(panels: Mapping[str, Sequence[Series]], frame: Frame) -> Html:
    charts = [
        tag("div", tag("p", tag("b", title)), render_budget_curves(series, frame, title=title))
        for title, series in panels.items()
    ]
    return tag("div", charts, class_="charts panels")


def _render_flops(comparison: Comparison) -> Html | None:
    """The same charts over FLOPs, folded; marked where the strategy that others are tested against stands."""
    panels = list_panels(comparison, "flops")
    every = [one for series in panels.values() for one in series]
    marks = [point.x for point in next((one.points for one in every), ()) if 0 < point.x < 1e100]
    if not marks:
        return None
    charts = _render_charts(panels, build_frame(every, marks, "FLOP"))
    return tag(
        "details", tag("summary", tag("b", "By FLOPs"), "the same answers over what was computed"), charts
    )


def _render_table(comparison: Comparison, budget: float) -> Html:
    """Every strategy under one budget, folded but for the largest."""
    first = name_strategy(comparison.contenders[0][0])
    costs = ("tokens a problem", "FLOP a problem", "seconds a problem")
    columns = ("strategy", "accuracy", f"against {first}", "Holm p", *costs)
    head = tag("thead", tag("tr", [tag("th", name, scope="col") for name in columns]))
    found = [comparison.find(contender, budget) for contender in comparison.contenders]
    body = [_render_answer(one) for one in found if one is not None]
    table = tag("table", head, tag("tbody", body), class_="numbers")
    summary = tag("summary", tag("b", f"{format_count(budget)} tokens for a problem"), "accuracy and costs")
    is_open = "open" if budget == max(comparison.budgets) else None
    return tag("details", summary, tag("div", table, class_="scroll"), open=is_open)


def _render_answer(answer: Answer) -> Html:
    tests = [tag("div", render_test(test, _name_seed(test))) for test in answer.tests]
    corrected = [tag("div", format_p(test.get("p_holm")).removeprefix("p = ")) for test in answer.tests]
    name = tag("b", name_strategy(answer.strategy))
    return tag(
        "tr",
        tag("td", name, tag("small", answer.reward_model or UNSCORED)),
        render_share(answer.accuracy),
        tag("td", tests or MISSING),
        tag("td", corrected or MISSING),
        tag("td", format_count(answer.tokens)),
        tag("td", format_amount(answer.flops)),
        tag("td", format_amount(answer.seconds)),
    )


def _name_seed(test: Mapping[str, object]) -> str:
    return f"seed {test['seed']}" if "seed" in test else ""
