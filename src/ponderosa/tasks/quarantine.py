"""Rows of a file as items. A row that cannot be used is quarantined with its file, line and reason, never dropped in
silence: the caller counts and shows them."""

import codecs
import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ponderosa.config import suggest_path
from ponderosa.errors import DataError


class Identified(Protocol):
    """What a row may become: anything with an id."""

    @property
    def id(self) -> str: ...


RowT = TypeVar("RowT")
ItemT = TypeVar("ItemT", bound=Identified)


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A row that was refused. `line` counts from 1; `file` is a name, not a path."""

    file: str
    line: int
    reason: str


def read_items(path: Path, parse: Callable[[Any], ItemT]) -> tuple[list[ItemT], list[QuarantinedRow]]:
    """What `parse` makes of every row of a file, in its order, and every row that it refused (by a DataError) or that
    repeats an id. Raises DataError if the file cannot be read at all."""
    # U+2028 and its kind are legal inside a JSON string, so rows end at "\n" and nowhere else.
    lines = _read_bytes(path).removeprefix(codecs.BOM_UTF8).split(b"\n")
    rows = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    return collect_items(rows, lambda line: parse(_decode_line(line)), file=path.name)


def collect_items(
    rows: Iterable[tuple[int, RowT]], parse: Callable[[RowT], ItemT], *, file: str
) -> tuple[list[ItemT], list[QuarantinedRow]]:
    """Numbered raw rows as items; whatever is wrong with one row stays with that row."""
    items: list[ItemT] = []
    quarantined: list[QuarantinedRow] = []
    first_line: dict[str, int] = {}
    for line, raw in rows:
        try:
            item = parse(raw)
            if item.id in first_line:
                raise DataError(f"duplicate id {item.id!r}, first seen in line {first_line[item.id]}")
        except DataError as error:
            quarantined.append(QuarantinedRow(file, line, str(error)))
            continue
        first_line[item.id] = line
        items.append(item)
    return items, quarantined


def _decode_line(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"), parse_float=_parse_finite, parse_constant=_parse_finite)
    except DataError:
        raise
    except UnicodeDecodeError:
        raise DataError("not UTF-8") from None
    except RecursionError:
        raise DataError("not JSON: nested too deeply") from None
    except ValueError as error:
        raise DataError(f"not JSON: {error}") from None


def _parse_finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise DataError(f"{text} is not a finite number")
    return value


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.name.endswith(".gz") else data
    except FileNotFoundError:
        raise DataError(f"no such file: {path}{suggest_path(path)}") from None
    except OSError as error:  # includes gzip.BadGzipFile
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: the gzip data is damaged ({error})") from error
