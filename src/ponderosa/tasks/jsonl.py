"""Problem files: JSON Lines in, problems and a list of refused rows out.

One JSON object a line, UTF-8, gzip if the name ends in .gz. `question`, and `answer` or `verifier`, are required;
`id`, `source`, `split`, `solution` and `meta` are optional; every other field goes to `meta`. A row that cannot be
used is quarantined (`ponderosa.tasks.quarantine`).

A named benchmark is looked for at a given path, then in $PONDEROSA_DATA, then on the Hugging Face hub.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ponderosa.errors import DataError, RequestError
from ponderosa.identity import content_hash, derive_seed, hash_file
from ponderosa.records import Problem
from ponderosa.tasks.custom import load_checker, register_checkers
from ponderosa.tasks.quarantine import QuarantinedRow, collect_items, read_items

FIELDS = frozenset({"question", "answer", "verifier", "id", "source", "split", "solution", "meta"})
HUB_TIMEOUT_S = 2.0


class Loaded(NamedTuple):
    """What a problem file held."""

    problems: list[Problem]
    quarantined: list[QuarantinedRow]


def load_jsonl(path: Path, *, source: str = "", split: str = "test") -> Loaded:
    """Every usable problem of a file, in its order, and every row that was refused.

    `source` (default: the file's stem) and `split` are for rows that do not say. Raises DataError if the file
    cannot be read at all.
    """
    source = source or path.name.removesuffix(".gz").removesuffix(".jsonl")
    return Loaded(*read_items(path, lambda row: parse_problem(row, source=source, split=split)))


def parse_problem(row: Any, *, source: str, split: str) -> Problem:
    """One decoded row as a Problem. Raises DataError with the reason it cannot be used."""
    if not isinstance(row, dict):
        raise DataError(f"a row must be a JSON object, seen {type(row).__name__}")
    answer = _parse_answer(row.get("answer"))
    verifier = _parse_text(row, "verifier")
    if answer is None and verifier is None:
        raise DataError("neither 'answer' nor 'verifier'")
    meta = row.get("meta") or {}
    if not isinstance(meta, dict):
        raise DataError(f"'meta' must be an object, seen {type(meta).__name__}")
    question = _parse_text(row, "question")
    if question is None:
        raise DataError("'question' is missing or empty")
    return Problem(
        question=question,
        answer=answer,
        verifier=verifier or "answer",
        source=_parse_text(row, "source") or source,
        split=_parse_text(row, "split") or split,
        solution=_parse_text(row, "solution"),
        meta={**{key: value for key, value in row.items() if key not in FIELDS}, **meta},
        id=_parse_id(row.get("id")),
    )


def _parse_answer(value: Any) -> str | None:
    """An answer as a string: 12 -> "12", 2.50 -> "2.5", true -> "True"; None or blank means there is none."""
    if value is None or isinstance(value, bool | int | float):
        return None if value is None else str(value)
    if isinstance(value, str):
        return value.strip() or None
    raise DataError(f"'answer' must be a string or a number, seen {type(value).__name__}")


def _parse_text(row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise DataError(f"{key!r} must be a string, seen {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{key!r} holds half a surrogate pair, which UTF-8 cannot spell") from None
    return value


def _parse_id(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"'id' must be a string or an integer, seen {type(value).__name__}")


@dataclass(frozen=True, slots=True)
class HubSource:
    """Where a benchmark is on the Hugging Face hub, and how its rows become our fields."""

    path: str
    config: str | None
    convert: Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class JsonlTask:
    """A problem file as a task: all its rows belong to the split they name.

    `files` (split -> stem, for a named benchmark) or `path` says where the rows are.
    """

    name: str
    path: Path | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    hub: HubSource | None = None

    @property
    def source_hash(self) -> str:
        """Hash of the file's content and of the checkers it names, or of a benchmark's files where they are at
        hand. Raises DataError if there is no such file, RequestError if it names a checker that is not there."""
        if self.path:
            named = {problem.verifier for problem in load_jsonl(self.path).problems}
            checkers = [load_checker(name, self.path.parent).version for name in sorted(named) if ":" in name]
            return content_hash([hash_file(self.path), checkers])
        found = {split: find_data_file(stem) for split, stem in self.files.items()}
        return content_hash({split: hash_file(path) for split, path in found.items() if path})

    def load(self, split: str) -> Loaded:
        """Every problem of a split in file order, and the refused rows of the whole file."""
        if self.path:
            loaded = _select_split(load_jsonl(self.path), split, self.name)
            register_checkers(loaded.problems, self.path.parent)
            return loaded
        if split not in self.files:
            raise RequestError(f"{self.name} has no split {split!r}; it has {', '.join(self.files)}")
        path = find_data_file(self.files[split])
        if path:
            return load_jsonl(path, source=self.name, split=split)
        return _load_from_hub(self, split)

    def list_quarantined(self, split: str) -> list[QuarantinedRow]:
        """The refused rows of the file that holds a split."""
        return self.load(split).quarantined

    def describe_other_splits(self, split: str) -> list[str]:
        """How many rows of the file are usable but of another split, a line for each of those. A named benchmark has
        files of its own for its splits."""
        if self.path is None:
            return []
        problems, quarantined = load_jsonl(self.path)
        others = Counter(problem.split for problem in problems if problem.split != split)
        num_rows = len(problems) + len(quarantined)
        return [
            f"{self.path.name}: {count} of {num_rows} rows are of split {other}, not {split}"
            for other, count in others.items()
        ]

    def generate(self, count: int, seed: int, split: str, **options: Any) -> Iterator[Problem]:
        """Up to `count` problems, chosen and ordered by the seed."""
        if options:
            raise RequestError(f"{self.name} takes no options, seen {', '.join(sorted(options))}")
        problems = self.load(split).problems
        yield from sorted(problems, key=lambda problem: derive_seed(self.name, seed, problem.id))[:count]


def _select_split(loaded: Loaded, split: str, name: str) -> Loaded:
    problems = [problem for problem in loaded.problems if problem.split == split]
    if not problems:
        seen = sorted({problem.split for problem in loaded.problems})
        said = f"its rows say {', '.join(seen)}" if seen else "no row of it can be used"
        for row in loaded.quarantined[:1]:
            said += f"; {len(loaded.quarantined)} were refused, the first in line {row.line}: {row.reason}"
        raise RequestError(f"{name} has no problem of split {split!r}; {said}")
    return Loaded(problems, loaded.quarantined)


def find_data_file(stem: str) -> Path | None:
    """`$PONDEROSA_DATA/<stem>.jsonl[.gz]`, if it is there."""
    folder = os.environ.get("PONDEROSA_DATA")
    if not folder:
        return None
    candidates = [Path(folder) / f"{stem}{suffix}" for suffix in (".jsonl", ".jsonl.gz")]
    return next((path for path in candidates if path.is_file()), None)


def describe_data_folder() -> str:
    """Why no data file was found, for an error message."""
    folder = os.environ.get("PONDEROSA_DATA")
    if not folder:
        return "PONDEROSA_DATA, the folder to look in, is not set"
    return f"it is not in PONDEROSA_DATA={folder}" + ("" if Path(folder).is_dir() else ", which is no folder")


def _load_from_hub(task: JsonlTask, split: str) -> Loaded:
    stem = task.files[split]
    absent = f"{task.name} needs {stem}.jsonl (or .jsonl.gz): {describe_data_folder()}"
    remedy = "put the file into a folder and set PONDEROSA_DATA to it"
    assert task.hub is not None
    try:
        rows = _load_hub_rows(task.hub, split)
    except ImportError:
        raise DataError(
            f"{absent}, and the package `datasets`, which asks the Hugging Face hub, is not installed; {remedy}, or "
            "install the extra `hub` (in a clone: pip install -e '.[hub]')"
        ) from None
    except Exception as error:  # the hub client raises a dozen unrelated types when there is no network
        (reason, *_) = str(error).splitlines() or [type(error).__name__]
        raise DataError(
            f"{absent}, and {task.hub.path} did not come from the Hugging Face hub ({reason}); {remedy}"
        ) from error
    convert = task.hub.convert
    return Loaded(
        *collect_items(
            enumerate(rows, start=1),
            lambda row: parse_problem(convert(row), source=task.name, split=split),
            file=task.hub.path,
        )
    )


def _load_hub_rows(hub: HubSource, split: str) -> Any:
    """A dataset's rows from the hub or, if the hub does not answer, from what its client has kept.

    The client asks a hub that does not answer for half a minute, so one request of our own goes before. Raises
    ImportError without the client, and whatever it raises.
    """
    import datasets
    from huggingface_hub import get_session

    settings = datasets.config
    try:
        get_session().head(settings.HF_ENDPOINT, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # of the HTTP library, which differs between the client's versions
        was_offline, settings.HF_HUB_OFFLINE = settings.HF_HUB_OFFLINE, True
        try:
            return datasets.load_dataset(hub.path, hub.config, split=split)
        except Exception:
            raise DataError(f"{settings.HF_ENDPOINT}: {error}") from error
        finally:
            settings.HF_HUB_OFFLINE = was_offline
    return datasets.load_dataset(hub.path, hub.config, split=split)


def _convert_gsm8k(row: Mapping[str, Any]) -> dict[str, Any]:
    _, _, answer = row["answer"].rpartition("####")
    return {"question": row["question"], "answer": answer.strip(), "solution": row["answer"]}


def _convert_svamp(row: Mapping[str, Any]) -> dict[str, Any]:
    body = row["Body"].strip()
    question = f"{body if body.endswith(('.', '?', '!')) else body + '.'} {row['Question'].strip()}"
    return {"question": question, "answer": row["Answer"], "id": row["ID"]}


def _convert_math500(row: Mapping[str, Any]) -> dict[str, Any]:
    fields = {"question": row["problem"], "answer": row["answer"], "solution": row["solution"]}
    return {**fields, "meta": {"level": row["level"], "type": row["subject"], "path": row["unique_id"]}}


GSM8K_FILES = {"train": "gsm8k_train", "test": "gsm8k_test"}
GSM8K_HUB = HubSource("openai/gsm8k", "main", _convert_gsm8k)
SVAMP = JsonlTask("svamp", files={"test": "svamp_test"}, hub=HubSource("ChilleD/SVAMP", None, _convert_svamp))
MATH500 = JsonlTask(
    "math500", files={"test": "math500"}, hub=HubSource("HuggingFaceH4/MATH-500", None, _convert_math500)
)
