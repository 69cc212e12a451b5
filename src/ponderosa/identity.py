"""Content hashes and seeds.

A hash names content, never a path, a time or a worker count. A seed is derived from what it is for:
`derive_seed("rollout", seed, problem_id, sample)`. Seeds are never added to one another (seed + index makes
neighbouring seeds share all but one of their items) and Python's `hash()` is never used (it is salted).
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """The one JSON spelling of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_hash(value: Any, *, length: int = 16) -> str:
    """Hex BLAKE2b digest of a JSON-like value (or of raw bytes), `length` characters long."""
    data = value if isinstance(value, bytes) else canonical_json(value).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=32).hexdigest()[:length]


def hash_file(path: Path, *, length: int = 16) -> str:
    """Hex BLAKE2b digest of a file's bytes."""
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:length]


def hash_whole_file(path: Path) -> str:
    """The full digest of a file's bytes, 64 characters."""
    return hash_file(path, length=64)


def hash_directory(path: Path, *, hash_one: Callable[[Path], str] = hash_whole_file) -> str:
    """Digest of a directory: every file's relative name and bytes, in name order.

    hash_one: `hash_whole_file`, or something that knows what it would say.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return content_hash([[str(file.relative_to(path)), hash_one(file)] for file in files])


def derive_seed(purpose: str, *parts: str | int) -> int:
    """A 63-bit seed from a purpose and the coordinates of one use of it."""
    digest = hashlib.blake2b(
        canonical_json([purpose, *parts]).encode("utf-8", "surrogatepass"), digest_size=8
    )
    return int.from_bytes(digest.digest(), "little") >> 1


def split_bucket(value: Mapping[str, Any] | Sequence[Any] | str) -> float:
    """A number in [0, 1) that depends on the content alone, for splits that hold under every seed."""
    return int(content_hash(value, length=12), 16) / 16**12
