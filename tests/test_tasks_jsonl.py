"""Problem files: what is read, what is quarantined and why, where benchmarks are looked for."""

import gzip
import json
import socket
import sys
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ponderosa.errors import DataError, RequestError
from ponderosa.tasks import get_task
from ponderosa.tasks.gsm8k import GSM8K
from ponderosa.tasks.jsonl import MATH500, SVAMP, load_jsonl


def write(path: Path, *lines: str) -> Path:
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.jsonl.gz"])
def test_rows_become_problems_and_unknown_fields_go_to_meta(tmp_path: Path, name: str) -> None:
    row = {"question": "2+2?", "answer": 4, "level": "easy", "meta": {"page": 3}}
    problems, quarantined = load_jsonl(write(tmp_path / name, json.dumps(row)))
    assert quarantined == []
    assert [(p.question, p.answer, p.verifier, p.source) for p in problems] == [
        ("2+2?", "4", "answer", "mine")
    ]
    assert problems[0].meta == {"level": "easy", "page": 3}
    assert len(problems[0].id) == 16


def test_rows_end_at_newlines_only(tmp_path: Path) -> None:
    question = "one\u2028two\u0085three\x0bfour"
    line = json.dumps({"question": question, "answer": "x"}, ensure_ascii=False).replace("\\u000b", "\\u000b")
    problems, quarantined = load_jsonl(write(tmp_path / "a.jsonl", line, ""))
    assert ([p.question for p in problems], quarantined) == ([question], [])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{nope", "not JSON"),
        ("[1, 2]", "must be a JSON object, seen list"),
        ('{"answer": "1"}', "'question' is missing"),
        ('{"question": " ", "answer": "1"}', "'question' is missing"),
        ('{"question": 7, "answer": "1"}', "'question' must be a string, seen int"),
        ('{"question": "q"}', "neither 'answer' nor 'verifier'"),
        ('{"question": "q", "answer": ""}', "neither 'answer' nor 'verifier'"),
        ('{"question": "q", "answer": ["1"]}', "'answer' must be a string or a number, seen list"),
        ('{"question": "q", "answer": NaN}', "NaN is not a finite number"),
        ('{"question": "q", "answer": 1e999}', "1e999 is not a finite number"),
        ('{"question": "q", "answer": "1", "meta": 3}', "'meta' must be an object"),
        ('{"question": "q", "answer": "1", "id": 1.5}', "'id' must be"),
        ('{"question": "\\ud800", "answer": "1"}', "half a surrogate pair"),
        ("[" * 100_000, "nested too deeply"),
        ('{"question": "\udcff", "answer": "1"}', "not UTF-8"),
    ],
)
def test_a_malformed_row_is_quarantined_with_its_line_and_reason(
    tmp_path: Path, line: str, reason: str
) -> None:
    good = '{"question": "q", "answer": "1", "id": "a"}'
    problems, (refused,) = load_jsonl(write(tmp_path / "mixed.jsonl", good, "", line))
    assert len(problems) == 1
    assert (refused.file, refused.line) == ("mixed.jsonl", 3)
    assert reason in refused.reason


def test_a_duplicate_id_is_quarantined_naming_the_first(tmp_path: Path) -> None:
    row = '{"question": "q", "answer": "1"}'
    problems, (refused,) = load_jsonl(write(tmp_path / "twice.jsonl", row, row))
    assert len(problems) == 1
    assert refused.line == 2
    assert "first seen in line 1" in refused.reason


def test_an_unreadable_file_is_an_error_of_the_request(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_jsonl(tmp_path / "absent.jsonl")
    (tmp_path / "broken.jsonl.gz").write_bytes(gzip.compress(b"{}" * 1000)[:20])
    with pytest.raises(DataError, match=r"broken\.jsonl\.gz"):
        load_jsonl(tmp_path / "broken.jsonl.gz")


def test_a_file_is_a_task_whose_hash_is_its_content(tmp_path: Path) -> None:
    rows = [json.dumps({"question": f"{n}?", "answer": n, "split": "train"}) for n in range(20)]
    write(tmp_path / "mine.jsonl", *rows)
    task = get_task("mine.jsonl", tmp_path)
    first = [p.id for p in task.generate(5, 1, "train")]
    assert first == [p.id for p in task.generate(5, 1, "train")]
    assert first != [p.id for p in task.generate(5, 2, "train")]
    assert len(list(task.generate(99, 1, "train"))) == 20
    with pytest.raises(RequestError, match="its rows say train"):
        list(task.generate(1, 1, "test"))
    before = task.source_hash
    write(tmp_path / "mine.jsonl", *rows[1:])
    assert task.source_hash != before


def test_a_file_without_a_usable_row_says_what_is_wrong_with_them(tmp_path: Path) -> None:
    write(tmp_path / "mine.jsonl", '{"answer": 1}', "{")
    with pytest.raises(
        RequestError, match=r"no row of it can be used; 2 were refused, the first in line 1: 'question'"
    ):
        get_task("mine.jsonl", tmp_path).load("test")  # type: ignore[attr-defined]


def test_an_absent_benchmark_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PONDEROSA_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"svamp_test\.jsonl .*PONDEROSA_DATA.*\.\[hub\]"):
        SVAMP.load("test")


HUB_ROW = {"question": "How many?", "answer": "It is 5+2=<<5+2=7>>7.\n#### 7"}


class HubClient(ModuleType):
    """`datasets` at an endpoint, with rows that the hub has and rows that were kept of an earlier visit."""

    def __init__(self, endpoint: str, *, on_hub: Sequence[Any] = (), kept: Sequence[Any] = ()) -> None:
        super().__init__("datasets")
        self.config = SimpleNamespace(HF_ENDPOINT=endpoint, HF_HUB_OFFLINE=False)
        self.on_hub, self.kept = on_hub, kept

    def load_dataset(self, path: str, config: str | None, split: str) -> Sequence[Any]:
        rows = self.kept if self.config.HF_HUB_OFFLINE else self.on_hub
        if not rows:
            raise FileNotFoundError("not kept" if self.config.HF_HUB_OFFLINE else "retried in vain")
        return rows


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def endpoint(online: None) -> Iterator[str]:
    """Where something answers, if only to say that it does not know the method."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def dead_endpoint(online: None) -> str:
    """Where nothing answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_hub_rows_are_converted_to_our_fields(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", HubClient(endpoint, on_hub=[HUB_ROW, HUB_ROW]))
    monkeypatch.setenv("PONDEROSA_DATA", str(tmp_path))
    problems, quarantined = GSM8K.load("test")
    assert [(p.answer, p.solution, p.split) for p in problems] == [("7", HUB_ROW["answer"], "test")]
    assert len(quarantined) == 1


def test_a_hub_that_does_not_answer_is_not_asked_again_and_again(
    dead_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    client = HubClient(dead_endpoint)
    monkeypatch.setitem(sys.modules, "datasets", client)
    monkeypatch.setenv("PONDEROSA_DATA", str(tmp_path))
    with pytest.raises(DataError, match=rf"hub \({dead_endpoint}: .*refused.*PONDEROSA_DATA"):
        GSM8K.load("test")
    assert not client.config.HF_HUB_OFFLINE


def test_what_was_kept_of_an_earlier_visit_serves_where_the_hub_does_not_answer(
    dead_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", HubClient(dead_endpoint, kept=[HUB_ROW]))
    monkeypatch.setenv("PONDEROSA_DATA", str(tmp_path))
    assert [problem.answer for problem in GSM8K.load("test").problems] == ["7"]


def test_the_real_benchmarks_load_whole(benchmark_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PONDEROSA_DATA", str(benchmark_data))
    sizes = {
        (task.name, split): task.load(split)
        for task, splits in (
            (GSM8K, ("train", "selection", "test")),
            (SVAMP, ("test",)),
            (MATH500, ("test",)),
        )
        for split in splits
    }
    assert {key: (len(loaded.problems), len(loaded.quarantined)) for key, loaded in sizes.items()} == {
        ("gsm8k", "train"): (6973, 0),
        ("gsm8k", "selection"): (500, 0),
        ("gsm8k", "test"): (1319, 0),
        ("svamp", "test"): (1000, 0),
        ("math500", "test"): (500, 0),
    }
    assert sizes["math500", "test"].problems[0].answer == "2000"
