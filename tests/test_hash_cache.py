"""Remembered hashes are those of the content, whatever became of the files or of the memory."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ponderosa import identity
from ponderosa.hash_cache import REMEMBERED_BYTES, find_cache_file, hash_directory

LONG_AGO = 1_600_000_000 * 10**9
"""A time of last write, in nanoseconds."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache file of an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ponderosa" / "file_hashes.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint with one file that is large and was written long ago."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    write(tmp_path / "model" / "weights", b"a")
    return tmp_path / "model"


def write(path: Path, byte: bytes, written_at: int = LONG_AGO) -> None:
    path.write_bytes(byte * REMEMBERED_BYTES)
    os.utime(path, ns=(written_at, written_at))


def test_a_remembered_hash_is_the_hash_of_the_content(folder: Path, cache: Path) -> None:
    expected = identity.hash_directory(folder)

    assert [hash_directory(folder) for _ in range(2)] == [expected, expected]
    assert len(json.loads(cache.read_text())) == 1


def test_an_unchanged_large_file_is_not_read_again(folder: Path) -> None:
    before = hash_directory(folder)
    write(folder / "weights", b"b")

    assert hash_directory(folder) == before != identity.hash_directory(folder)


def rewrite(path: Path) -> None:
    write(path, b"b", LONG_AGO + 1)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"b")
    os.utime(path, ns=(LONG_AGO, LONG_AGO))


def replace(path: Path) -> None:
    other = path.with_name("other")
    write(other, b"b")
    os.replace(other, path)


def change_a_small_file(path: Path) -> None:
    path.with_name("config.json").write_text("[]")


@pytest.mark.parametrize("change", [rewrite, grow, replace, change_a_small_file])
def test_a_change_of_time_size_inode_or_of_a_small_file_is_noticed(
    change: Callable[[Path], None], folder: Path
) -> None:
    before = hash_directory(folder)
    change(folder / "weights")

    assert hash_directory(folder) == identity.hash_directory(folder) != before


def test_a_file_written_just_now_is_not_remembered(folder: Path, cache: Path) -> None:
    (folder / "weights").touch()

    assert hash_directory(folder) == identity.hash_directory(folder)
    assert not cache.exists()


def test_a_hard_link_is_the_same_file(folder: Path, cache: Path, tmp_path: Path) -> None:
    hash_directory(folder)
    (tmp_path / "linked").mkdir()
    os.link(folder / "weights", tmp_path / "linked" / "weights")

    assert hash_directory(tmp_path / "linked") == identity.hash_directory(tmp_path / "linked")
    assert len(json.loads(cache.read_text())) == 1


@pytest.mark.parametrize("spoiled", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"null"])
def test_a_spoiled_cache_is_as_good_as_none(spoiled: bytes, folder: Path, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(spoiled)

    assert hash_directory(folder) == identity.hash_directory(folder)
    assert len(json.loads(cache.read_text())) == 1


@pytest.mark.parametrize("value", [3, None, "", "abc", "g" * 64, ["0" * 64]])
def test_what_is_no_digest_is_not_believed(value: object, folder: Path, cache: Path) -> None:
    hash_directory(folder)
    (key,) = json.loads(cache.read_text())
    cache.write_text(json.dumps({key: value}))

    assert hash_directory(folder) == identity.hash_directory(folder)


def test_a_cache_that_cannot_be_written_changes_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")

    assert hash_directory(folder) == identity.hash_directory(folder)


def test_the_cache_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for setting in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", setting)
        assert find_cache_file() == tmp_path / ".cache" / "ponderosa" / "file_hashes.json"
