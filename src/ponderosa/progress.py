"""How long work reports itself, without knowing who is watching.

Work takes a `Progress` and calls `start`, `advance`, `finish`; the command line passes one that draws, tests and
libraries use `SILENT`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

Observer = Callable[[Mapping[str, Any]], None]
"""Shown every line of a training log in order, those of an interrupted run again when it is continued."""


def ignore_line(line: Mapping[str, Any]) -> None:
    """The observer when nobody watches."""


class Task(Protocol):
    """One bar. Fields are short name/value pairs shown beside it (loss, accuracy)."""

    def advance(self, count: float = 1, **fields: float | int | str) -> None: ...


class Progress(Protocol):
    """Something that can show a bar and say a line."""

    def start(self, label: str, total: float | None, unit: str, done: float) -> Task: ...
    def finish(self, task: Task, *, completed: bool = True) -> None: ...
    def say(self, line: str) -> None: ...


class _SilentTask:
    def advance(self, count: float = 1, **fields: float | int | str) -> None:
        pass


class _Silent:
    def start(self, label: str, total: float | None, unit: str, done: float) -> Task:
        return _SilentTask()

    def finish(self, task: Task, *, completed: bool = True) -> None:
        pass

    def say(self, line: str) -> None:
        pass


SILENT: Progress = _Silent()


@contextmanager
def track(
    progress: Progress, label: str, total: float | None = None, *, unit: str = "items", done: float = 0
) -> Iterator[Task]:
    """Show one bar for the length of a block; `done` is what an earlier, interrupted run had finished."""
    task = progress.start(label, total, unit, done)
    try:
        yield task
    except BaseException:
        progress.finish(task, completed=False)
        raise
    progress.finish(task)
