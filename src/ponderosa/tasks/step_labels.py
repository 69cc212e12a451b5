"""Solutions whose first wrong step is known: what they are, and the public sets of them.

    prm800k             "Let's Verify Step by Step" (Lightman et al. 2023, arXiv 2305.20050), its records as released
    big_bench_mistake   BIG-Bench Mistake (Tyen et al. 2023, arXiv 2311.08516)
    processbench        ProcessBench (Zheng et al. 2024, arXiv 2412.06559)

A set is a JSON Lines file in $PONDEROSA_DATA; a row is a released record, or a problem row (`question`,
`answer`) that holds it in `meta`. `ponderosa.tasks.quantities.planted_errors` makes more such solutions.

A PRM800K record is a tree of rated continuations with one path through it. It gives one solution: the path, up to the
first step that its model got wrong and with it, and where the record holds the whole solution it rated, all of that.
Records that do not say whether the path is right (abandoned problems, unrated steps) are quarantined. A neutral rating
(0) is no error.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ponderosa.config import suggest
from ponderosa.errors import DataError, RequestError
from ponderosa.identity import content_hash
from ponderosa.records import Problem, Step
from ponderosa.tasks.jsonl import describe_data_folder, find_data_file
from ponderosa.tasks.quarantine import QuarantinedRow, read_items

Record = dict[str, Any]
ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class LabelledSolution:
    """A solution and its first wrong step.

    first_error: the step's place, from 0; None if every step is right.
    kind: what sort of error was planted, or which part of its set this is; "" if nothing tells.
    is_answer_right: does the solution end in the right answer? None if it has no end, or nobody says.
    """

    id: str
    problem: Problem
    steps: tuple[Step, ...]
    first_error: int | None
    kind: str = ""
    is_answer_right: bool | None = None

    def __post_init__(self) -> None:
        if not self.steps or any(not step.text.strip() for step in self.steps):
            raise DataError("there are no steps, or empty ones")
        if self.first_error is not None and not 0 <= self.first_error < len(self.steps):
            raise DataError(f"the first wrong step is said to be {self.first_error} of {len(self.steps)}")


class StepSet(NamedTuple):
    """A public set: stems of the files it may be in, the first found being taken, and what one of its records says."""

    stems: tuple[str, ...]
    parse: Callable[[Record], LabelledSolution]


def load_labelled(name: str) -> tuple[list[LabelledSolution], list[QuarantinedRow]]:
    """Every usable solution of a set, and the refused rows. Raises RequestError for an unknown set, DataError if its
    file is not to be had."""
    path = find_labelled(name)
    if path is None:
        raise DataError(
            f"{name} needs {STEP_SETS[name].stems[0]}.jsonl (or .jsonl.gz): {describe_data_folder()}; put the file "
            "into a folder and set PONDEROSA_DATA to it"
        )
    return read_items(path, lambda row: parse_labelled(name, row))


def find_labelled(name: str) -> Path | None:
    """Where a set's file is, if it is there. Raises RequestError for an unknown set."""
    if name not in STEP_SETS:
        raise RequestError(f"no step-labelled set {name!r}{suggest(name, STEP_SETS)}")
    return next(filter(None, map(find_data_file, STEP_SETS[name].stems)), None)


def parse_labelled(name: str, row: Any) -> LabelledSolution:
    """One row of a set. Raises DataError with the reason it cannot be used."""
    if not isinstance(row, dict):
        raise DataError(f"a row must be a JSON object, seen {type(row).__name__}")
    held = row.get("meta")
    record = {**row, **held} if isinstance(held, dict) else row
    solution = STEP_SETS[name].parse(record)
    return replace(solution, id=_read(row, "id", str)) if "id" in row else solution


def _parse_prm800k(record: Record) -> LabelledSolution:
    asked, label = _read(record, "question", dict), _read(record, "label", dict)
    texts: list[str] = []
    first_error: int | None = None
    for step in _read(label, "steps", list):
        text, is_wrong = _follow_path(step)
        texts.append(text)
        if is_wrong:
            first_error = len(texts) - 1
            break
    if first_error is None and label.get("finish_reason") != "solution":
        raise DataError(f"no step is wrong, and it was not finished: {label.get('finish_reason')!r}")
    whole = asked.get("pre_generated_steps")
    if isinstance(whole, list) and whole[: len(texts)] == texts:
        texts = whole
    return _build("prm800k", _read(asked, "problem", str), texts, first_error)


def _follow_path(step: Record) -> tuple[str, bool]:
    """The continuation that the labelled path takes, and whether it is wrong: the one chosen, else (all were wrong, or
    labelling ended here) the first wrong one."""
    completions = _read(step, "completions", list)
    chosen = step.get("chosen_completion")
    if isinstance(chosen, int) and 0 <= chosen < len(completions):
        taken = completions[chosen]
    else:
        wrong = [one for one in completions if _read(one, "rating", int) < 0]
        if not wrong:
            raise DataError("no continuation was chosen, and none is wrong")
        taken = wrong[0]
    return _read(taken, "text", str), _read(taken, "rating", int) < 0


def _parse_big_bench_mistake(record: Record) -> LabelledSolution:
    is_released = "target" in record
    question, gold, given = (
        ("input", "target", "answer") if is_released else ("question", "answer", "model_answer")
    )
    index = None if record.get("mistake_index", 0) is None else _read(record, "mistake_index", int)
    return _build(
        "big_bench_mistake",
        _read(record, question, str),
        _read(record, "steps", list),
        index,
        kind=str(record.get("task", "")),
        is_answer_right=_read(record, given, str).strip() == _read(record, gold, str).strip(),
    )


def _parse_processbench(record: Record) -> LabelledSolution:
    label = _read(record, "label", int)
    return _build(
        "processbench",
        _read(record, "problem", str),
        _read(record, "steps", list),
        None if label == -1 else label,
        kind=str(record.get("generator", "")),
        is_answer_right=_read(record, "final_answer_correct", bool),
    )


def _build(
    source: str,
    question: str,
    texts: list[Any],
    first_error: int | None,
    *,
    kind: str = "",
    is_answer_right: bool | None = None,
) -> LabelledSolution:
    try:
        "".join([question, *texts]).encode("utf-8")
    except (TypeError, UnicodeEncodeError):
        raise DataError("a step is no text, or not of UTF-8") from None
    steps = tuple(Step(text) for text in texts)
    problem = Problem(question, source=source)
    row_id = content_hash([source, question, texts, first_error])
    return LabelledSolution(row_id, problem, steps, first_error, kind, is_answer_right)


def _read(record: Record, key: str, kind: type[ValueT]) -> ValueT:
    if not isinstance(record, dict) or key not in record:
        raise DataError(f"{key!r} is missing")
    value = record[key]
    if type(value) is not kind:
        raise DataError(f"{key!r} must be of type {kind.__name__}, seen {type(value).__name__}")
    return value


STEP_SETS = {
    "prm800k": StepSet(("prm800k", "prm800k_sample"), _parse_prm800k),
    "big_bench_mistake": StepSet(("big_bench_mistake",), _parse_big_bench_mistake),
    "processbench": StepSet(("processbench",), _parse_processbench),
}
