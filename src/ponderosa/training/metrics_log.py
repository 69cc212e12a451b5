"""`metrics.jsonl`: one line for each optimizer step, in step with the checkpoint beside it."""

import json
import os
from pathlib import Path
from typing import Any

from ponderosa.errors import DataError


class MetricsLog:
    """An append-only file whose lines after the checkpoint's step are cut off on opening."""

    def __init__(self, path: Path, *, num_steps: int) -> None:
        """Open the log of a run that has done `num_steps` steps. Raises DataError if it has fewer lines."""
        self._path = path
        self._file = path.open("a+b")
        self._file.seek(0)
        lines = [self._file.readline() for _ in range(num_steps)]
        if not all(line.endswith(b"\n") for line in lines):
            self._file.close()
            raise DataError(
                f"{path.name} has fewer lines than the checkpoint has steps; remove both to start over"
            )
        self.entries: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self._file.truncate(sum(map(len, lines)))

    def append(self, entry: dict[str, Any]) -> None:
        self.entries.append(entry)
        self._file.write(json.dumps(entry, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Make every line durable; call before the checkpoint that counts them."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
