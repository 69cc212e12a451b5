"""Model text and result tables for terminals and Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.markup import escape as escape_tags

from ponderosa.report.escape import show_controls
from ponderosa.report.numbers import (
    format_amount,
    format_count,
    format_duration,
    format_interval,
    format_p,
    format_percent,
    format_points,
)
from ponderosa.report.results import get_metric
from ponderosa.report.run import Record, load_run
from ponderosa.report.table import StageLine, list_stage_lines

Layout = Literal["text", "markdown"]

STAGE_HEADER = ("stage", "suite", "value", "95% interval", "n", "vs the stage before", "tokens", "time")
ROW_HEADER = ("slice", "metric", "value", "95% interval", "n", "samples")
_RIGHT_ALIGNED = frozenset({"value", "n", "samples", "tokens", "time"})


def escape_terminal(text: str) -> str:
    """Text that can be printed: terminal control codes and other hidden characters are shown, not sent."""
    return show_controls(text)


def escape_markup(text: str) -> str:
    """Text that can be put into rich markup: hidden characters shown, `[tags]` literal."""
    return escape_tags(show_controls(text))


def render_run_table(run_dir: Path, *, layout: Layout = "text") -> str:
    """The stage table of a run folder, by the metric its recipe named beforehand."""
    run = load_run(run_dir)
    return render_stage_table(run.rows, run.tests, metric=get_metric(run), layout=layout)


def render_stage_table(
    rows: Sequence[Record], tests: Sequence[Record], *, metric: str = "pass@1", layout: Layout = "text"
) -> str:
    """The stage table as aligned text or as a Markdown table; a sentence when there is nothing to show."""
    lines = list_stage_lines(rows, tests, metric)
    if not lines:
        return f"No {metric} rows to show."
    return _render_table(STAGE_HEADER, [_list_stage_cells(line) for line in lines], layout)


def render_rows(rows: Sequence[Record], *, layout: Layout = "text") -> str:
    """Every result row of one evaluation: a line for each slice and metric."""
    if not rows:
        return "No rows to show."
    return _render_table(ROW_HEADER, [_list_row_cells(row) for row in rows], layout)


def _list_stage_cells(line: StageLine) -> tuple[str, ...]:
    return (
        line.label,
        f"{line.suite} ({line.strategy})" if line.strategy else line.suite,
        format_percent(line.row.get("value")),
        format_interval(line.row.get("low"), line.row.get("high")),
        format_count(line.row.get("n")),
        f"{format_points(line.difference)} ({format_p(line.test.get('p_value'))})" if line.test else "",
        format_count(line.mean_tokens),
        format_duration(line.row.get("stage_s")),
    )


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
