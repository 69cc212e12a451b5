"""Model text and result tables for terminals and Markdown."""

from collections.abc import Sequence
from typing import Literal

from rich.markup import escape as escape_tags

from ponderosa.report.escape import show_controls
from ponderosa.report.numbers import (
    format_count,
    format_duration,
    format_interval,
    format_p,
    format_percent,
    format_points,
)
from ponderosa.report.run import Record
from ponderosa.report.table import StageLine, list_stage_lines

HEADER = ("stage", "suite", "value", "95% interval", "n", "vs the stage before", "tokens", "time")
_RIGHT_ALIGNED = frozenset({"value", "n", "tokens", "time"})


def escape_terminal(text: str) -> str:
    """Text that can be printed: terminal control codes and other hidden characters are shown, not sent."""
    return show_controls(text)


def escape_markup(text: str) -> str:
    """Text that can be put into rich markup: hidden characters shown, `[tags]` literal."""
    return escape_tags(show_controls(text))


def render_stage_table(
    rows: Sequence[Record],
    tests: Sequence[Record],
    *,
    metric: str = "pass@1",
    layout: Literal["text", "markdown"] = "text",
) -> str:
    """The stage table as aligned text or as a Markdown table; a sentence when there is nothing to show."""
    lines = list_stage_lines(rows, tests, metric)
    if not lines:
        return f"No {metric} rows to show."
    body = [_list_cells(line) for line in lines]
    return _render_markdown(body) if layout == "markdown" else _render_text(body)


def _list_cells(line: StageLine) -> tuple[str, ...]:
    cells = (
        line.label,
        f"{line.suite} ({line.strategy})" if line.strategy else line.suite,
        format_percent(line.row.get("value")),
        format_interval(line.row.get("low"), line.row.get("high")),
        format_count(line.row.get("n")),
        f"{format_points(line.difference)} ({format_p(line.test.get('p_value'))})" if line.test else "",
        format_count(line.mean_tokens),
        format_duration(line.row.get("stage_s")),
    )
    return tuple(" ".join(show_controls(cell).split()) for cell in cells)


def _render_text(body: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in (HEADER, *body)) for i in range(len(HEADER))]
    rule = ["─" * width for width in widths]
    return "\n".join(
        "  ".join(
            _align(cell, width, name) for cell, width, name in zip(row, widths, HEADER, strict=True)
        ).rstrip()
        for row in (HEADER, rule, *body)
    )


def _render_markdown(body: Sequence[Sequence[str]]) -> str:
    rule = ["---:" if name in _RIGHT_ALIGNED else "---" for name in HEADER]
    escaped = [[cell.replace("\\", "\\\\").replace("|", "\\|") for cell in row] for row in body]
    return "\n".join("| " + " | ".join(row) + " |" for row in (HEADER, rule, *escaped))


def _align(cell: str, width: int, name: str) -> str:
    return cell.rjust(width) if name in _RIGHT_ALIGNED else cell.ljust(width)
