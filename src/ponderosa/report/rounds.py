"""Self-evolution, round by round: what each search solved, and what the policies that learned from it can do.

A round is a search; its policies are the stages that were trained on its trees, and on those of no later search.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from ponderosa.report.figures import (
    BySlice,
    Figure,
    draw_slices,
    list_keys,
    read_slices,
    render_share,
    sort_values,
)
from ponderosa.report.html import Html, join, tag
from ponderosa.report.numbers import MISSING, as_number, format_amount, format_percent
from ponderosa.report.results import get_metric, render_test
from ponderosa.report.run import Record, Run, as_list, as_record
from ponderosa.report.table import ALL, list_headline_rows

COVERAGE = "coverage"
WITHOUT_EXTRA = "coverage_without_extra"


@dataclass(frozen=True, slots=True)
class Line:
    """One share by slice: the coverage of a search, or the accuracy of a policy. tokens: computed for each problem.
    flops: of the search, or of training the policy, at one seed. simulations: of a tree. occupancy: of the engine's slots. teaches: some stage was trained on the trees of this
    search. tests: of a search against the one before it of the same problems, by slice and seed."""

    name: str
    measured: str
    by_slice: BySlice
    false_positives: Figure | None = None
    tokens: Figure | None = None
    simulations: Figure | None = None
    occupancy: Figure | None = None
    flops: float | None = None
    is_search: bool = False
    teaches: bool = False
    tests: Mapping[str, Sequence[Record]] = field(default_factory=dict)


def render_rounds(run: Run) -> Html | None:
    """A table and a chart for each arm that searched; None if nothing did."""
    rows = [row for row in run.rows if not row.get("seeds")]
    arms = dict.fromkeys(str(row.get("arm", "")) for row in rows if row.get("metric") == COVERAGE)
    rendered = [
        _render_arm(arm, list_lines(run, [row for row in rows if str(row.get("arm", "")) == arm]))
        for arm in arms
    ]
    return join(rendered) if rendered else None


def list_lines(run: Run, rows: Sequence[Record]) -> list[Line]:
    """The lines of one arm: each search, after the policy that it began with and before those that learned from it."""
    searches = dict.fromkeys(str(row.get("suite")) for row in rows if row.get("metric") == COVERAGE)
    learners = {search: _list_learners(run, search) for search in searches}
    shown = {name for names in learners.values() for name in names}
    lines: list[Line] = []
    for search, policies in learners.items():
        mine = [row for row in rows if str(row.get("suite")) == search]
        searcher = str(mine[0].get("stage"))
        before = [] if searcher in shown else [searcher]
        shown.update(before)
        lines += [line for policy in before for line in _list_accuracy(policy, run, rows)]
        lines += _list_coverage(search, mine, run)
        lines += [line for policy in policies for line in _list_accuracy(policy, run, rows)]
    return lines


def _list_coverage(search: str, rows: Sequence[Record], run: Run) -> list[Line]:
    """What the search solved; without extra simulations too, where these solved anything."""
    policy, reward_model = (rows[0].get(key) for key in ("stage", "reward_model"))
    whole, plain = read_slices(rows, COVERAGE), read_slices(rows, WITHOUT_EXTRA)
    line = Line(
        search,
        f"coverage by {policy} with {reward_model}" if reward_model else f"coverage by {policy}",
        whole,
        false_positives=read_slices(rows, "false_positive_frac").get(ALL),
        tokens=read_slices(rows, "mean_computed_tokens").get(ALL),
        simulations=read_slices(rows, "mean_simulations").get(ALL),
        occupancy=read_slices(rows, "occupancy").get(ALL),
        flops=_average_cost(rows, "eval_flops"),
        is_search=True,
        teaches=any(search in trees for _, trees in _list_trees(run)),
        tests=_list_tests(search, run, arm=str(rows[0].get("arm", ""))),
    )
    return [line, *([Line("", "without extra simulations", plain)] if plain and plain != whole else [])]


def _list_tests(search: str, run: Run, *, arm: str) -> dict[str, list[Record]]:
    """By slice; where there are tests over all seeds, those alone."""
    of = (COVERAGE, search, arm)
    found = [
        test for test in run.tests if (test.get("metric"), test.get("b"), str(test.get("arm", ""))) == of
    ]
    tests: dict[str, list[Record]] = {}
    for test in [test for test in found if test.get("seeds")] or found:
        tests.setdefault(str(test.get("slice")), []).append(test)
    return tests


def _list_accuracy(policy: str, run: Run, rows: Sequence[Record]) -> list[Line]:
    """The policy on the suite that the recipe named (else the first), by the first strategy it was asked by."""
    metric = get_metric(run)
    named = as_record(run.recipe.get("headline")).get("suite")
    mine = [row for row in list_headline_rows(rows, metric) if str(row.get("stage")) == policy]
    first = next((row for row in mine if row.get("suite") == named), mine[0] if mine else {})
    same = [row for row in mine if all(row.get(key) == first.get(key) for key in ("suite", "strategy"))]
    if not same:
        return []
    measured = f"{first.get('metric')} on {first.get('suite')}, {first.get('strategy')}"
    by_slice = read_slices(same, str(first.get("metric")))
    return [Line(policy, measured, by_slice, flops=_average_cost(same, "train_flops"))]


def _list_learners(run: Run, search: str) -> list[str]:
    """The stages for whose training a search is the last that they took trees from."""
    return list(dict.fromkeys(stage for stage, trees in _list_trees(run) if trees[-1] == search))


def _list_trees(run: Run) -> list[tuple[str, list[str]]]:
    """Every stage that takes trees, with the searches it takes them from."""
    return [
        (stage.name, trees)
        for stage in run.stages
        for config in (stage.config, as_record(stage.config.get("data")))
        if (trees := [str(name) for name in as_list(config.get("trees"))])
    ]


def _average_cost(rows: Sequence[Record], key: str) -> float | None:
    """What a row on all problems says of a cost; the mean over seeds."""
    costs = {str(row.get("seed")): as_number(row.get(key)) for row in rows if row.get("slice") == ALL}
    known = [cost for cost in costs.values() if cost is not None]
    return fmean(known) if known else None


def _render_arm(arm: str, lines: Sequence[Line]) -> Html:
    """The chart of what the searches covered, and the table of all lines, for each key that searches are sliced by.

    Where there are searches that nothing was trained on, the chart has these alone.
    """
    searches = [line for line in lines if line.is_search]
    shown = [line for line in searches if not line.teaches] or searches
    covered = {line.name: line.by_slice for line in shown}
    parts: list[Html | None] = [tag("p", tag("b", arm)) if arm else None]
    for key in list_keys([line.by_slice for line in searches]) or [""]:
        parts += [draw_slices(covered, key, f"coverage by {key}"), _render_table(lines, key)]
    return tag("figure", parts)


def _render_table(lines: Sequence[Line], key: str) -> Html:
    """A row for each line, and one for the tests of a search; a column for each slice that was searched."""
    values = sort_values([line.by_slice for line in lines if line.is_search], key)
    columns = ("stage", "all", *(f"{key} {value}" for value in values))
    columns += ("false positives", "tokens a problem", "simulations a tree", "slots busy", "FLOP")
    slices = [ALL, *(f"{key}={value}" for value in values)]
    head = tag("thead", tag("tr", [tag("th", name, scope="col") for name in columns]))
    body = [
        [_render_line(line, slices), _render_tests(line.tests, slices) if line.tests else None]
        for line in lines
    ]
    return tag("div", tag("table", head, tag("tbody", body), class_="numbers"), class_="scroll")


def _render_line(line: Line, slices: Sequence[str]) -> Html:
    return tag(
        "tr",
        tag("td", tag("b", line.name), tag("small", line.measured)),
        [render_share(line.by_slice.get(name)) for name in slices],
        render_share(line.false_positives),
        tag("td", MISSING if line.tokens is None else format_amount(line.tokens.value)),
        tag("td", MISSING if line.simulations is None else format_amount(line.simulations.value)),
        tag("td", MISSING if line.occupancy is None else format_percent(line.occupancy.value, 0)),
        tag("td", format_amount(line.flops)),
    )


def _render_tests(tests: Mapping[str, Sequence[Record]], slices: Sequence[str]) -> Html:
    """Under each share what it gained, by a test over all seeds or one for each."""
    first = next(iter(tests.values()))[0]
    against = f"against {first.get('a')}{', over all seeds' if first.get('seeds') else ''}"
    cells = [
        tag(
            "td", [tag("div", render_test(test, _name_seed(test))) for test in tests.get(name, ())] or MISSING
        )
        for name in slices
    ]
    return tag("tr", tag("td", tag("small", against)), cells, [tag("td")] * 5)


def _name_seed(test: Record) -> str:
    return f"seed {test['seed']}" if "seed" in test and not test.get("seeds") else ""
