"""Run folders: nothing half-written is ever seen, and nothing finished is ever lost.

- `write_bytes`, `write_json`, `write_table`: complete or absent (temporary file, fsync, atomic rename).
- `Journal`: one checksummed line per finished record, in units; a torn or unfinished unit is dropped on opening.
- `spent_seconds`: a clock that goes on where a killed run's stood.
- `lock_folder`: an OS lock, so a dead process never blocks a resume.
- DONE is written last; a stage folder without it is unfinished.
"""

import fcntl
import json
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ponderosa.errors import RequestError, RunLocked
from ponderosa.identity import canonical_json

SAVE_SECONDS_EVERY_S = 2.0


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON Lines file, split on newline alone (str.splitlines breaks rows that hold U+2028)."""
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], *, schema: Any = None) -> None:
    """Rows as one Parquet file. schema: an Arrow schema of their columns; unset reads it off the rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())


def read_table(path: Path) -> list[dict[str, Any]]:
    """Rows of a Parquet file, or of every numbered part in a folder, in order."""
    import pyarrow.parquet as pq

    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


class Journal:
    """Finished records, appended in units.

    A unit is the work whose result depends on nothing outside it. Its records become visible together, when the
    unit's closing line is on disk; opening a journal cuts off whatever follows the last closing line.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.units: dict[str, list[dict[str, Any]]] = {}
        self._file: IO[bytes] = path.open("a+b")
        self._file.truncate(self._replay())

    def append(self, unit: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Commit one unit's records durably."""
        assert unit not in self.units, unit
        lines = [_checksummed({"record": record}) for record in records]
        lines.append(_checksummed({"unit": unit, "records": len(records)}))
        self._file.write(b"".join(lines))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.units[unit] = [dict(record) for record in records]

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _replay(self) -> int:
        """Read back every closed unit; the byte offset behind the last of them."""
        self._file.seek(0)
        good_until = 0
        pending: list[dict[str, Any]] = []
        for line in self._file:
            entry = _parse_checksummed(line)
            if entry is None:
                break
            if "record" in entry:
                pending.append(entry["record"])
                continue
            if entry["records"] != len(pending):
                break
            self.units[entry["unit"]] = pending
            pending = []
            good_until = self._file.tell()
        return good_until


def _checksummed(entry: Mapping[str, Any]) -> bytes:
    body = canonical_json(entry).encode("utf-8", "surrogatepass")
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _parse_checksummed(line: bytes) -> dict[str, Any] | None:
    checksum, _, body = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(body):
        return None
    entry: dict[str, Any] = json.loads(body.decode("utf-8", "surrogatepass"))
    return entry


@contextmanager
def spent_seconds(path: Path) -> Iterator[Callable[[], float]]:
    """Reads the seconds spent on a piece of work so far, interrupted runs included; `path` keeps them as it goes on."""
    earlier_s = float(read_json(path)) if path.exists() else 0.0
    started_at = time.monotonic()
    is_over = threading.Event()

    def read() -> float:
        return earlier_s + time.monotonic() - started_at

    def keep_saving() -> None:
        while not is_over.wait(SAVE_SECONDS_EVERY_S):
            write_json(path, read())

    saver = threading.Thread(target=keep_saving, name="seconds", daemon=True)
    saver.start()
    try:
        yield read
    finally:
        is_over.set()
        saver.join()
        write_json(path, read())


@contextmanager
def lock_folder(folder: Path) -> Iterator[int]:
    """Hold a folder for this process, and for every other that is given the descriptor, as long as it has it open.
    Raises RunLocked if another live process holds it, RequestError if it is a file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise RequestError(f"{folder} is no folder, or is inside a file; choose another with --out") from None
    with (folder / ".lock").open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunLocked(
                f"another process is running in {folder}; wait for it, end it, or choose another folder with --out"
            ) from None
        yield file.fileno()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
