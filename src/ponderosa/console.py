"""What the command line shows: bars with rate and time left on a terminal, plain lines elsewhere; trees.

Plain output says at most one line every ten seconds, and one when work ends; work that takes less than two seconds is
not mentioned at all. The time left is not guessed before a tenth is done: many searches run side by side, so that a
while passes before the first of them ends.
"""

import io
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as RichProgress,
)
from rich.progress import (
    Task as RichTask,
)
from rich.text import Text

from ponderosa.progress import SILENT, Progress, Task
from ponderosa.records import Tree
from ponderosa.report.escape import show_controls
from ponderosa.report.numbers import format_duration
from ponderosa.report.tree_text import render_tree_text
from ponderosa.shown_trees import ShownTree

SHOW_AFTER_S = 2.0
LINE_EVERY_S = 10.0
DRAW_EVERY_S = 0.2
GUESS_FROM = 0.1
"""Share of the work that must be done before the time left is told."""
STDERR = 2


def build_progress(*, quiet: bool = False) -> Progress:
    """Bars if standard error is a terminal, plain lines if not, nothing if quiet."""
    if quiet:
        return SILENT
    console = Console(stderr=True)
    return RichBars(console) if console.is_terminal else PlainLines()


class PlainLines:
    """Progress for logs and pipes."""

    def start(self, label: str, total: float | None, unit: str, done: float) -> "PlainTask":
        return PlainTask(label, total, unit, done)

    def finish(self, task: Task, *, completed: bool = True) -> None:
        assert isinstance(task, PlainTask)
        seconds = time.monotonic() - task.started_at
        if seconds >= SHOW_AFTER_S:
            self.say(
                f"{task.describe()}, {'done in' if completed else 'stopped after'} {format_duration(seconds)}"
            )

    def say(self, line: str) -> None:
        print(show_controls(line), file=sys.stderr, flush=True)


class PlainTask:
    """One piece of work, told about now and then."""

    def __init__(self, label: str, total: float | None, unit: str, done: float) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.first = self.done = done
        self.fields: dict[str, float | int | str] = {}
        self.started_at = self.said_at = time.monotonic()

    def advance(self, count: float = 1, **fields: float | int | str) -> None:
        self.done += count
        self.fields = fields
        now = time.monotonic()
        if now - self.said_at >= LINE_EVERY_S:
            self.said_at = now
            print(self.describe(), file=sys.stderr, flush=True)

    def describe(self) -> str:
        rate = (self.done - self.first) / max(time.monotonic() - self.started_at, 1e-9)
        share = f"/{self.total:,.0f}" if self.total else ""
        parts = [f"  {self.label}: {self.done:,.0f}{share} {self.unit}"]
        if rate:
            parts.append(_describe_rate(rate))
        if self.total and _can_guess(self.first, self.done, self.total):
            parts.append(f"{format_duration((self.total - self.done) / rate)} left")
        return ", ".join([*parts, *(f"{name} {value}" for name, value in self.fields.items())])


class NamedLines(io.RawIOBase):
    """Standard error with a name before every line, each whole beside those of other processes."""

    def __init__(self, name: str) -> None:
        self._name, self._begun = name, b""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return STDERR

    def write(self, data: Any) -> int:
        *lines, self._begun = (self._begun + bytes(data)).split(b"\n")
        for line in lines:
            shown = show_controls(f"{self._name}: {line.decode('utf-8', 'replace')}")
            os.write(STDERR, f"{shown}\n".encode())
        return len(data)


class RichBars:
    """Progress for a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = RichProgress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            _RateColumn(),
            TimeElapsedColumn(),
            _TimeLeftColumn(),
            TextColumn("{task.fields[shown]}"),
            console=console,
            transient=True,
        )
        self.num_running = 0

    def start(self, label: str, total: float | None, unit: str, done: float) -> "RichBar":
        if self.num_running == 0:
            self.bars.start()
        self.num_running += 1
        task_id = self.bars.add_task(
            escape(label), total=total, completed=int(done), unit=unit, shown="", first=done
        )
        return RichBar(self.bars, task_id)

    def finish(self, task: Task, *, completed: bool = True) -> None:
        assert isinstance(task, RichBar)
        self.bars.remove_task(task.task_id)
        self.num_running -= 1
        if self.num_running == 0:
            self.bars.stop()

    def say(self, line: str) -> None:
        self.console.print(escape(show_controls(line)), highlight=False)


class RichBar:
    """One bar."""

    def __init__(self, bars: RichProgress, task_id: Any) -> None:
        self.bars, self.task_id = bars, task_id

    def advance(self, count: float = 1, **fields: float | int | str) -> None:
        shown = escape(" ".join(f"{name} {value}" for name, value in fields.items()))
        self.bars.update(self.task_id, advance=count, shown=shown)


class TreeDrawing:
    """A tree drawn anew as it grows, in place and only on a terminal; gone when the drawing is closed."""

    def __init__(self, question: str, console: Console | None = None) -> None:
        self.question = question
        self.console = console or Console(stderr=True)
        self.live = Live(console=self.console, transient=True, auto_refresh=False)
        self.drawn_at = -DRAW_EVERY_S

    def __enter__(self) -> "TreeDrawing":
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def draw(self, build: Callable[[], Tree]) -> None:
        """Show the tree as it is now, unless it was shown a moment ago."""
        if not self.console.is_terminal or time.monotonic() - self.drawn_at < DRAW_EVERY_S:
            return
        self.live.start()
        shown = ShownTree(self.question, build())
        text = render_tree_text(shown, most_lines=self.console.height - 1, is_growing=True)
        self.live.update(text, refresh=True)
        self.drawn_at = time.monotonic()


def print_tree(shown: ShownTree) -> None:
    """Draw a tree once, on standard output; a terminal cuts its lines off, a file has them whole."""
    console = Console()
    text = render_tree_text(shown)
    if console.is_terminal:
        console.print(text, no_wrap=True, overflow="ellipsis")
    else:
        console.print(text, soft_wrap=True)


class _RateColumn(ProgressColumn):
    def render(self, task: RichTask) -> Text:
        total = f"/{task.total:,.0f}" if task.total else ""
        rate = f" {_describe_rate(task.speed)}" if task.speed else ""
        return Text(f"{task.completed:,.0f}{total} {task.fields['unit']}{rate}")


class _TimeLeftColumn(TimeRemainingColumn):
    def render(self, task: RichTask) -> Text:
        if task.total and _can_guess(task.fields["first"], task.completed, task.total):
            return super().render(task)
        return Text("-:--:--", style="progress.remaining")


def _can_guess(first: float, done: float, total: float) -> bool:
    """Is enough done of what was to do, and something left?"""
    return done < total and done - first >= GUESS_FROM * (total - first)


def _describe_rate(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"
