"""Content hashes of large files, remembered between runs, so that a checkpoint is not read again for every plan.

A file counts as unchanged while its device, inode, size and time of last write stay what they were (so a write that
puts the old time back goes unnoticed). One written moments before it was hashed is not remembered: a second write
might leave the same time. What is remembered lies in the user's cache folder and may be lost, torn or unwritable; the
file is then read again.
"""

import json
import logging
import os
import re
import time
from pathlib import Path
from typing import Any

from ponderosa import identity
from ponderosa.artifacts import write_json
from ponderosa.identity import hash_whole_file

log = logging.getLogger(__name__)

REMEMBERED_BYTES = 1 << 20
"""Smaller files are read again: that costs nothing."""
SETTLED_S = 2.0
"""A file whose last write is this old gets another time by any further write, on every common file system."""
MAX_FILES = 10_000

_DIGEST = re.compile(r"[0-9a-f]{64}")


def hash_directory(folder: Path) -> str:
    """Digest of a directory, equal to `identity.hash_directory`, reading only large files that have changed."""
    file = find_cache_file()
    known = _load(file)
    used: dict[str, str] = {}

    def hash_one(path: Path) -> str:
        status = path.stat()
        if status.st_size < REMEMBERED_BYTES:
            return hash_whole_file(path)
        key = f"{status.st_dev}-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
        digest = known.get(key) or hash_whole_file(path)
        if time.time() - status.st_mtime >= SETTLED_S:
            used[key] = digest
        return digest

    digest = identity.hash_directory(folder, hash_one=hash_one)
    if used.keys() - known.keys():
        _save(file, known | used)
    return digest


def find_cache_file() -> Path | None:
    """The file in the user's cache folder; None if the user has no home."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    try:
        cache = Path(folder) if os.path.isabs(folder) else Path.home() / ".cache"
    except RuntimeError:
        return None
    return cache / "ponderosa" / "file_hashes.json"


def _load(file: Path | None) -> dict[str, str]:
    try:
        values: Any = json.loads(file.read_text("utf-8")) if file else {}
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {
        key: value for key, value in values.items() if isinstance(value, str) and _DIGEST.fullmatch(value)
    }


def _save(file: Path | None, digests: dict[str, str]) -> None:
    if file is None:
        return
    try:
        write_json(file, dict(list(digests.items())[-MAX_FILES:]))
    except OSError as error:
        log.debug(f"file hashes are not remembered: {error}")
