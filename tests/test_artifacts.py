"""Files are whole or absent, and a journal gives back exactly the units that were finished."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponderosa.artifacts import (
    Journal,
    read_json,
    read_jsonl,
    read_table,
    spent_seconds,
    write_bytes,
    write_json,
    write_table,
    write_text,
)

UNITS = {"a": [{"n": 1}, {"n": 2}], "b": [], "c": [{"text": "line\u2028break\n"}], "d": [{"n": 4}]}


def fill_journal(path: Path, units: dict[str, list[dict[str, object]]] | None = None) -> None:
    with Journal(path) as journal:
        for unit, records in (units or UNITS).items():
            journal.append(unit, records)


def read_units(path: Path) -> dict[str, list[dict[str, object]]]:
    with Journal(path) as journal:
        return journal.units


def test_a_journal_gives_back_its_units(tmp_path: Path) -> None:
    fill_journal(tmp_path / "journal.jsonl")

    assert read_units(tmp_path / "journal.jsonl") == UNITS


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400))
def test_a_journal_cut_anywhere_gives_back_only_whole_units(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    fill_journal(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])

    units = read_units(path)

    assert list(units) == list(UNITS)[: len(units)]
    assert all(units[name] == UNITS[name] for name in units)
    assert whole.startswith(path.read_bytes())


def test_work_goes_on_behind_a_torn_tail(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    fill_journal(path, {"a": [{"n": 1}]})
    with path.open("ab") as file:
        file.write(b'deadbeef {"record":{"n":2}}\n0000')

    with Journal(path) as journal:
        journal.append("b", [{"n": 3}])

    assert read_units(path) == {"a": [{"n": 1}], "b": [{"n": 3}]}


def test_records_of_a_unit_that_was_not_closed_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    fill_journal(path, {"a": [{"n": 1}], "b": [{"n": 2}, {"n": 3}]})
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))

    assert read_units(path) == {"a": [{"n": 1}]}
    assert path.read_bytes() == b"".join(lines[:2])


def test_a_line_whose_checksum_is_wrong_ends_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    fill_journal(path)
    path.write_bytes(path.read_bytes().replace(b'{"n":2}', b'{"n":7}'))

    assert read_units(path) == {}


def test_a_unit_is_committed_once(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append("a", [])
        with pytest.raises(AssertionError):
            journal.append("a", [])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"n": 1})

    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"n": float("nan")})

    assert read_json(path) == {"n": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["value.json"]


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "value.txt"
    write_text(path, "0" * 100_000)
    code = (
        "import sys; from pathlib import Path; from ponderosa.artifacts import write_text\n"
        "print(flush=True)\n"
        "while True:\n    for digit in '123456789': write_text(Path(sys.argv[1]), digit * 100_000)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    seen = {path.read_text() for _ in range(200)}
    writer.kill()
    writer.wait()
    writer.stdout.close()

    assert all(len(text) == 100_000 and len(set(text)) == 1 for text in {*seen, path.read_text()})


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    rows = [{"n": 1, "ids": [1, 2], "text": None}, {"n": 2, "ids": [], "text": "é\u2028"}]
    write_table(tmp_path / "rows.parquet", rows)

    assert read_table(tmp_path / "rows.parquet") == rows


def test_the_parts_of_a_folder_are_read_in_order(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        write_table(tmp_path / f"part-{number:05}.parquet", [{"n": number}])

    assert read_table(tmp_path) == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_json_lines_break_at_newlines_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "rows.jsonl", '{"a": "one\u2028two"}\n\n{"a": "three\x85"}\n')

    assert read_jsonl(tmp_path / "rows.jsonl") == [{"a": "one\u2028two"}, {"a": "three\x85"}]


def test_half_a_character_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "a\ud800b")

    assert (tmp_path / "text").read_bytes() == b"a\\ud800b"


def test_folders_are_made_for_a_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "file", b"x")

    assert os.listdir(tmp_path / "a" / "b") == ["file"]


# Seconds


def test_seconds_go_on_where_an_earlier_run_stood(tmp_path: Path) -> None:
    path = tmp_path / "seconds.json"
    with spent_seconds(path) as read_seconds:
        assert 0 <= read_seconds() < 60
    write_json(path, 1000.0)
    with spent_seconds(path) as read_seconds:
        assert 1000 <= read_seconds() < 1060

    assert 1000 <= read_json(path) < 1060


def test_seconds_before_a_kill_are_on_disk(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time\nfrom ponderosa import artifacts\n"
        "artifacts.SAVE_SECONDS_EVERY_S = 0.01\n"
        "with artifacts.spent_seconds(pathlib.Path(sys.argv[1])):\n"
        "    print(flush=True)\n    time.sleep(60)\n"
    )
    path = tmp_path / "seconds.json"
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        run.stdout.readline()
        until = time.monotonic() + 20
        while not path.exists() and time.monotonic() < until:
            time.sleep(0.01)
        run.kill()

    assert 0 < read_json(path) < 60
