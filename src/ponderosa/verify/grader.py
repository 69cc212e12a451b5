"""Verdicts on pairs of answers: the cheap layers in this process, the symbolic layer in workers.

    exact text → rational → numeric with a stated tolerance → math-verify in a killable process

`grade` is the first three, in-process. `Grader` adds the last and owns its workers. Both take whole solutions or bare
answers. Equality is counted only when some layer proved it; a pair no layer could settle is `undecided`, not equal.
"""

import re
import time
from collections.abc import Sequence
from types import TracebackType

from ponderosa.records import Reason, Verdict
from ponderosa.verify.equivalence import compare_answers, compare_plain
from ponderosa.verify.extraction import extract_answer, extract_gold
from ponderosa.verify.forms import is_unread
from ponderosa.verify.notation import clean_notation
from ponderosa.verify.reading import read_form
from ponderosa.verify.workers import Reply, WorkerPool

VERSION = "2"
ANSWER_VERIFIER = f"answer@{VERSION}"
_SYMBOLIC_CHARS = 1_000
_MISREAD = re.compile(r"\d\s*\}?\s*_|\\[lcv]?dots|\\p?mod")
"""What math-verify takes for equal when it is not: numerals in different bases, and texts with parts left out."""

_REASONS: dict[Reply, Reason] = {
    "equal": "correct", "different": "wrong_answer", "unread": "unparsable", "undecided": "undecided",
}  # fmt: skip


def verdict(reason: Reason, verifier: str = ANSWER_VERIFIER) -> Verdict:
    return Verdict(reason == "correct", reason, verifier)


def grade(gold: str, candidate: str | None, *, in_any_order: bool = False) -> Verdict:
    """Compare a candidate, bare or a whole solution, with the gold answer by the in-process layers alone."""
    return _grade_cheaply(gold, candidate, in_any_order)[0]


def _grade_cheaply(
    gold: str, candidate: str | None, in_any_order: bool
) -> tuple[Verdict, tuple[str, str] | None]:
    """The verdict so far, and the pair the symbolic layer should see if it may know better."""
    if not candidate:
        return verdict("no_answer"), None
    equal = compare_plain(gold.strip(), candidate.strip())
    if equal is not None:
        return verdict("correct" if equal else "wrong_answer"), None
    answer = extract_answer(candidate)
    if answer is None:
        return verdict("no_answer"), None
    reference = extract_gold(gold)
    if reference is None:
        return verdict("unparsable"), None
    equal = compare_answers(reference, answer, in_any_order=in_any_order)
    if equal is not None:
        return verdict("correct" if equal else "wrong_answer"), None
    if not (is_unread(read_form(reference)) or is_unread(read_form(answer))):
        return verdict("undecided"), None
    if len(reference) + len(answer) > _SYMBOLIC_CHARS or _MISREAD.search(reference + answer):
        return verdict("unparsable"), None
    return verdict("undecided"), (reference, answer)


class Grader:
    """Grades pairs; a context manager that owns the workers of the symbolic layer, started when first needed.

    num_workers: processes at once. timeout_s: wall seconds per pair in a worker. memory_mb: address space of each.
    """

    def __init__(self, num_workers: int = 2, timeout_s: float = 5.0, memory_mb: int = 2_048) -> None:
        self.pool = WorkerPool(num_workers, timeout_s, memory_mb)

    def __enter__(self) -> "Grader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.pool.close()

    def grade(self, gold: str, candidate: str | None, *, in_any_order: bool = False) -> Verdict:
        """The verdict on one pair. Raises WorkerLost."""
        return self.grade_many([(gold, candidate)], in_any_order=in_any_order)[0]

    def grade_many(
        self, pairs: Sequence[tuple[str, str | None]], *, in_any_order: bool = False
    ) -> list[Verdict]:
        """The verdicts on many pairs, in order. Raises WorkerLost."""
        return [verdict for verdict, _ in self.grade_many_timed(pairs, in_any_order=in_any_order)]

    def grade_many_timed(
        self, pairs: Sequence[tuple[str, str | None]], *, in_any_order: bool = False
    ) -> list[tuple[Verdict, float]]:
        """The verdicts and the seconds each took, without the time spent waiting for a free worker."""
        graded: list[tuple[Verdict, float]] = []
        questions: list[tuple[int, tuple[str, str]]] = []
        for place, (gold, candidate) in enumerate(pairs):
            start = time.perf_counter()
            result, question = _grade_cheaply(gold, candidate, in_any_order)
            graded.append((result, time.perf_counter() - start))
            if question is not None:
                questions.append((place, (clean_notation(question[0]), clean_notation(question[1]))))
        replies = self.pool.ask_many([question for _, question in questions])
        for (place, _), (reply, seconds) in zip(questions, replies, strict=True):
            graded[place] = (verdict(_REASONS[reply]), graded[place][1] + seconds)
        return graded
