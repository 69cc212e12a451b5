"""Grading a file: one pair per line in, the same line with its verdict out, in the same order.

A line is a JSON object with `gold` and `candidate` (strings, numbers or null; null and a missing candidate are no
answer) and any other keys, which are kept. Written beside them: `equal`, `reason`, `ms`. A line that is not such an
object is written as `{"error", "line"}` in its place, counted and returned.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ponderosa.config import suggest_path
from ponderosa.errors import DataError
from ponderosa.progress import SILENT, Progress, track
from ponderosa.verify.grader import Grader

_BATCH = 256


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that could not be graded, and why. Lines count from 1."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class FileReport:
    """What grading a file came to."""

    num_rows: int
    num_equal: int
    num_undecided: int
    bad_lines: tuple[BadLine, ...]


def grade_file(
    in_path: Path, out_path: Path, progress: Progress = SILENT, grader: Grader | None = None
) -> FileReport:
    """Grade every line of a JSONL file; the output appears whole or not at all.

    Raises DataError for a file that cannot be read or an output that would overwrite it, WorkerLost.
    """
    if not in_path.is_file():
        near = "" if in_path.exists() else suggest_path(in_path)
        raise DataError(f'{in_path} is not a file; give JSON Lines with "gold" and "candidate"{near}')
    if out_path.is_dir():
        raise DataError(f"{out_path} is a folder; give the path of a file for the output")
    if out_path.exists() and out_path.samefile(in_path):
        raise DataError(f"{out_path} is the input; give another path for the output")
    out_path.parent.mkdir(parents=True, exist_ok=True)
    owned = Grader() if grader is None else grader
    temporary = out_path.with_name(out_path.name + ".partial")
    num_rows, num_equal, num_undecided = 0, 0, 0
    bad: list[BadLine] = []
    try:
        with (
            in_path.open("rb") as lines,
            temporary.open("w", encoding="utf-8") as out,
            track(progress, "grade", in_path.stat().st_size, unit="bytes") as task,
        ):
            for batch in _batches(enumerate(lines, 1)):
                for row in _grade_batch(batch, in_path.name, owned, bad):
                    out.write(json.dumps(row, ensure_ascii=False) + "\n")
                    num_rows += "error" not in row or "equal" in row
                    num_equal += row.get("equal") is True
                    num_undecided += row.get("reason") == "undecided"
                task.advance(sum(len(line) for _, line in batch), equal=num_equal)
        os.replace(temporary, out_path)
    finally:
        temporary.unlink(missing_ok=True)
        if grader is None:
            owned.close()
    return FileReport(num_rows, num_equal, num_undecided, tuple(bad))


def _batches(lines: Iterable[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    iterator = iter(lines)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _grade_batch(
    batch: list[tuple[int, bytes]], file: str, grader: Grader, bad: list[BadLine]
) -> Iterator[dict[str, Any]]:
    rows: list[dict[str, Any] | BadLine] = []
    for number, line in batch:
        if line.strip():
            rows.append(_parse_line(line, file, number))
    good = [row for row in rows if isinstance(row, dict)]
    pairs = [(_as_text(row["gold"]) or "", _as_text(row.get("candidate"))) for row in good]
    graded = iter(grader.grade_many_timed(pairs))
    for row in rows:
        if isinstance(row, BadLine):
            bad.append(row)
            yield {"error": row.reason, "line": row.line}
        else:
            verdict, seconds = next(graded)
            yield {**row, "equal": verdict.correct, "reason": verdict.reason, "ms": round(1_000 * seconds, 3)}


def _parse_line(line: bytes, file: str, number: int) -> dict[str, Any] | BadLine:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadLine(file, number, f"not JSON: {error}")
    if not isinstance(row, dict) or "gold" not in row:
        return BadLine(file, number, 'not an object with "gold" and "candidate"')
    for key in ("gold", "candidate"):
        if isinstance(row.get(key), list | dict):
            return BadLine(
                file, number, f"{key} is a {type(row[key]).__name__}; allowed: string, number, null"
            )
    return row


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else str(value)
