"""Model text and result tables for terminals and Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.markup import escape as escape_tags

from ponderosa.report.arms import ArmLine, ArmTable, list_arm_tables
from ponderosa.report.coverage import CoverageLine, list_coverage
from ponderosa.report.escape import show_controls
from ponderosa.report.figures import list_keys, sort_values
from ponderosa.report.numbers import (
    MISSING,
    format_amount,
    format_count,
    format_duration,
    format_estimate,
    format_interval,
    format_p,
    format_percent,
    format_points,
    format_range,
)
from ponderosa.report.results import get_metric
from ponderosa.report.run import Record, as_list, load_run
from ponderosa.report.strategies import Answer, Comparison, list_comparisons, name_strategy
from ponderosa.report.table import StageLine, compute_difference, list_stage_lines

Layout = Literal["text", "markdown"]

STAGE_HEADER = (
    "stage",
    "suite",
    "value",
    "95% interval",
    "seeds",
    "n",
    "against the model before",
    "tokens",
    "time",
)
ROW_HEADER = ("slice", "metric", "value", "95% interval", "n", "samples")
_RIGHT_ALIGNED = frozenset({"value", "n", "samples", "tokens", "time"})


def escape_terminal(text: str) -> str:
    """Text that can be printed: terminal control codes and other hidden characters are shown, not sent."""
    return show_controls(text)


def escape_markup(text: str) -> str:
    """Text that can be put into rich markup: hidden characters shown, `[tags]` literal."""
    return escape_tags(show_controls(text))


def render_run_table(run_dir: Path, *, layout: Layout = "text") -> str:
    """The stage table of a run folder, by the metric its recipe named beforehand, or of a sweep the arms' tables; then
    what searches covered, and comparisons of strategies."""
    run = load_run(run_dir)
    covered = [render_coverage(lines, layout=layout)] if (lines := list_coverage(run.rows, run.tests)) else []
    compared = [render_comparison(one, layout=layout) for one in list_comparisons(run.rows, run.tests)]
    arms = [render_arm_table(table, layout=layout) for table in list_arm_tables(run.rows, run.sweep)]
    stages = render_stage_table(run.rows, run.tests, metric=get_metric(run), layout=layout)
    return "\n\n".join([*(arms or [stages]), *covered, *compared])


def render_stage_table(
    rows: Sequence[Record], tests: Sequence[Record], *, metric: str = "pass@1", layout: Layout = "text"
) -> str:
    """The stage table as aligned text or as a Markdown table; a sentence when there is nothing to show."""
    lines = list_stage_lines(rows, tests, metric)
    if not lines:
        return f"No {metric} rows to show."
    has_seeds = any(line.seed_values for line in lines)
    header = [name for name in STAGE_HEADER if name != "seeds" or has_seeds]
    return _render_table(header, [_list_stage_cells(line, has_seeds) for line in lines], layout)


def render_arm_table(table: ArmTable, *, layout: Layout = "text") -> str:
    """A line of what was measured, then each arm with its tests."""
    has_seeds = any(line.seed_values for line in table.lines)
    header = ["arm", "value", "95% interval", *(["seeds"] if has_seeds else []), "n", "truncated"]
    header += [table.heading, "p", "Holm p"]
    title = f"{table.stage} on {table.suite} ({table.strategy}), {table.metric}"
    if layout == "markdown":
        title = f"**{title}**\n"
    cells = [_list_arm_cells(line, table.name_other(line), has_seeds) for line in table.lines]
    return f"{show_controls(title)}\n{_render_table(header, cells, layout)}"


def render_coverage(lines: Sequence[CoverageLine], *, layout: Layout = "text") -> str:
    """What each search covered, over all problems and by slice, and its test against the last of the same problems."""
    named = [line.slices for line in lines]
    slices = [f"{key}={value}" for key in list_keys(named) for value in sort_values(named, key)]
    has_seeds = any(line.seed_values for line in lines)
    header = ["search", "by", "coverage", "95% interval", *(["seeds"] if has_seeds else []), "n"]
    header += [name.replace("=", " ") for name in slices]
    header += ["false positives", "tokens", "FLOP a problem", "against the search before"]
    cells = [
        [
            line.search,
            line.searcher,
            format_percent(line.row.get("value")),
            format_interval(line.row.get("low"), line.row.get("high")),
            *(
                ([_describe_seeds(line.row, line.seed_values)] if line.seed_values else [MISSING])
                if has_seeds
                else []
            ),
            format_count(line.row.get("n")),
            *(
                format_percent(line.slices[name].get("value")) if name in line.slices else MISSING
                for name in slices
            ),
            MISSING if line.false_positives is None else format_percent(line.false_positives.value),
            format_count(line.tokens),
            format_amount(line.flops),
            _describe_test(line.test),
        ]
        for line in lines
    ]
    return _render_table(header, cells, layout)


def _describe_test(test: Record | None) -> str:
    if test is None:
        return MISSING
    return (
        f"{format_points(compute_difference(test))} ({format_p(test.get('p_value'))}) against {test.get('a')}"
    )


def render_comparison(comparison: Comparison, *, layout: Layout = "text") -> str:
    """A line of what was compared, then each strategy with its accuracy under every budget and its test against the
    first; in Markdown with intervals and costs too."""
    title = f"{comparison.name}: {comparison.model}, {format_count(comparison.num_problems)} problems"
    title += f", {comparison.arm}" if comparison.arm else ""
    if layout == "markdown":
        title = f"**{title}**\n"
    budgets = [f"{format_count(budget)} tokens" for budget in comparison.budgets]
    cells = []
    for strategy, reward_model in comparison.contenders:
        found = [comparison.find((strategy, reward_model), budget) for budget in comparison.budgets]
        answers = [_describe_answer(one, layout) for one in found]
        cells.append([name_strategy(strategy), reward_model or MISSING, *answers])
    return f"{show_controls(title)}\n{_render_table(['strategy', 'reward model', *budgets], cells, layout)}"


def render_rows(rows: Sequence[Record], *, layout: Layout = "text") -> str:
    """Every result row of one evaluation: a line for each slice and metric."""
    if not rows:
        return "No rows to show."
    return _render_table(ROW_HEADER, [_list_row_cells(row) for row in rows], layout)


def _list_stage_cells(line: StageLine, has_seeds: bool) -> tuple[str, ...]:
    return (
        line.label,
        f"{line.suite} ({line.strategy})" if line.strategy else line.suite,
        format_percent(line.row.get("value")),
        format_interval(line.row.get("low"), line.row.get("high")),
        *((_describe_seeds(line.row, line.seed_values),) if has_seeds else ()),
        format_count(line.row.get("n")),
        f"{format_points(line.difference)} ({format_p(line.test.get('p_value'))})" if line.test else "",
        format_count(line.mean_tokens),
        format_duration(line.compute_cost("stage_s")),
    )


def _list_arm_cells(line: ArmLine, other: str, has_seeds: bool) -> tuple[str, ...]:
    test = line.test or {}
    return (
        line.arm,
        format_percent(line.row.get("value")),
        format_interval(line.row.get("low"), line.row.get("high")),
        *((_describe_seeds(line.row, line.seed_values),) if has_seeds else ()),
        format_count(line.row.get("n")),
        format_estimate(line.truncated),
        f"{format_points(line.difference)} {format_interval(test.get('low'), test.get('high'))} {other}".rstrip()
        if test
        else "",
        *(format_p(test.get(key)).removeprefix("p = ") for key in ("p_value", "p_holm")),
    )


def _describe_answer(answer: Answer | None, layout: Layout) -> str:
    if answer is None:
        return MISSING
    accuracy = format_percent(answer.accuracy.value)
    tests = [
        f"{format_points(compute_difference(test))}, {format_p(test.get('p_value'))}, "
        f"Holm {format_p(test.get('p_holm')).removeprefix('p = ')}"
        for test in answer.tests
    ]
    if layout == "text":
        return " ".join([accuracy, *(f"({test})" for test in tests)])
    is_range = answer.accuracy.num_seeds > 1
    ends = [end for end in (answer.accuracy.low, answer.accuracy.high) if end is not None]
    spread = format_range(ends) if is_range else format_interval(answer.accuracy.low, answer.accuracy.high)
    costs = (
        f"{format_count(answer.tokens)} tokens",
        format_amount(answer.flops, "FLOP"),
        format_amount(answer.seconds, "s"),
    )
    return "<br>".join([f"**{accuracy}** {spread}", *tests, ", ".join(costs)])


def _describe_seeds(row: Record, values: Sequence[float]) -> str:
    return f"{len(as_list(row.get('seeds')))} seeds, {format_range(values)}"


def _list_row_cells(row: Record) -> tuple[str, ...]:
    is_frac = "tokens" not in str(row.get("metric"))
    return (
        str(row.get("slice", "")),
        str(row.get("metric", "")),
        format_percent(row.get("value")) if is_frac else format_amount(row.get("value")),
        format_interval(row.get("low"), row.get("high"), is_frac=is_frac),
        format_count(row.get("n")),
        format_count(row.get("samples")),
    )


def _render_table(header: Sequence[str], body: Sequence[Sequence[str]], layout: Layout) -> str:
    clean = [[" ".join(show_controls(cell).split()) for cell in row] for row in body]
    return _render_markdown(header, clean) if layout == "markdown" else _render_text(header, clean)


def _render_text(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in (header, *body)) for i in range(len(header))]
    rule = ["─" * width for width in widths]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if name in _RIGHT_ALIGNED else cell.ljust(width)
            for cell, width, name in zip(row, widths, header, strict=True)
        ).rstrip()
        for row in (header, rule, *body)
    )


def _render_markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rule = ["---:" if name in _RIGHT_ALIGNED else "---" for name in header]
    escaped = [[cell.replace("\\", "\\\\").replace("|", "\\|") for cell in row] for row in body]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *escaped))
