"""Verifiers by name, and the verdict on a whole attempt.

A problem names its verifier. One takes the problem, the final answer and a `Grader`, and says whether the answer is
right; why an attempt has no answer at all (cut short, code that failed) is decided here, once for every verifier.
"""

import re
from collections.abc import Callable, Sequence
from typing import Protocol

from ponderosa.config import suggest
from ponderosa.errors import RequestError
from ponderosa.records import Attempt, Finish, Outcome, Problem, Reason, Step, Verdict
from ponderosa.verify.extraction import extract_answer
from ponderosa.verify.grader import VERSION, Grader, verdict
from ponderosa.verify.notation import clean_notation
from ponderosa.verify.reading import choice_letter

_ANY_ORDER = re.compile(
    r"separated by (?:a )?commas?|\b(?:find|list|give|enter|what are|determine)\b[^.?]{0,60}\ball\b"
    r"|\ball (?:the |real |possible |integer |positive |complex )*(?:solutions|roots|values|zeros)\b",
    re.IGNORECASE,
)
_FAILURES: dict[Outcome, Reason] = {
    "error": "code_error", "timeout": "timeout", "memory": "memory", "output_limit": "output_limit", "crash": "crash",
}  # fmt: skip


class Verifier(Protocol):
    """A named, versioned checker of final answers."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    def verify(self, problem: Problem, answer: str | None, grader: Grader) -> Verdict: ...


class AnswerVerifier:
    """Equality with the gold answer by the rules of docs/grading.md: mathematics, numbers, sets, words.

    A question that asks for all of several values takes them in any order.
    """

    name, version = "answer", VERSION

    def verify(self, problem: Problem, answer: str | None, grader: Grader) -> Verdict:
        in_any_order = _ANY_ORDER.search(problem.question) is not None
        return grader.grade(_gold(problem), answer, in_any_order=in_any_order)


class ExactVerifier:
    """Equality of text after notation, outer spaces and a final full stop are made uniform; case counts."""

    name, version = "exact", VERSION

    def verify(self, problem: Problem, answer: str | None, grader: Grader) -> Verdict:
        same = answer is not None and clean_notation(answer) == clean_notation(_gold(problem))
        return verdict(_reason(answer, same), f"{self.name}@{self.version}")


class ChoiceVerifier:
    """Equality of the letter of a multiple-choice answer; the text of the option, if given, does not count."""

    name, version = "choice", VERSION

    def verify(self, problem: Problem, answer: str | None, grader: Grader) -> Verdict:
        stated = extract_answer(answer) if answer else None
        letter = choice_letter(stated.upper() if len(stated) == 1 else stated) if stated else None
        if stated is not None and letter is None:
            return verdict("unparsable", f"{self.name}@{self.version}")
        same = letter is not None and letter == choice_letter(_gold(problem))
        return verdict(_reason(letter, same), f"{self.name}@{self.version}")


def _gold(problem: Problem) -> str:
    if problem.answer is None:
        raise RequestError(f"problem {problem.id} has no answer; it needs a verifier that can do without one")
    return problem.answer


def _reason(answer: str | None, same: bool) -> Reason:
    if answer is None:
        return "no_answer"
    return "correct" if same else "wrong_answer"


_REGISTRY: dict[str, Callable[[], Verifier]] = {
    "answer": AnswerVerifier,
    "exact": ExactVerifier,
    "choice": ChoiceVerifier,
}


def register_verifier(name: str, build: Callable[[], Verifier]) -> None:
    """Make a verifier known by name; `build` is called when it is first needed. Registering again replaces it."""
    _REGISTRY[name] = build


def get_verifier(name: str) -> Verifier:
    """A verifier by name. Raises RequestError naming the nearest one."""
    if name not in _REGISTRY:
        raise RequestError(f"unknown verifier {name!r}{suggest(name, list(_REGISTRY))}")
    return _REGISTRY[name]()


def list_verifiers() -> list[str]:
    return sorted(_REGISTRY)


def verdict_for(problem: Problem, attempt: Attempt, grader: Grader) -> Verdict:
    """The verdict on an attempt by its problem's verifier. Raises RequestError for an unknown verifier, WorkerLost."""
    return judge(problem, attempt.answer, attempt.finish, attempt.steps, grader)


def judge(
    problem: Problem, answer: str | None, finish: Finish, steps: Sequence[Step], grader: Grader
) -> Verdict:
    """The verdict on an answer, or the reason there is none: cut short first, else what the last code step met."""
    verifier = get_verifier(problem.verifier)
    if answer is not None:
        return verifier.verify(problem, answer, grader)
    signature = f"{verifier.name}@{verifier.version}"
    executed = [step.outcome for step in steps if step.outcome is not None]
    if executed and executed[-1] != "ok":
        return verdict(_FAILURES[executed[-1]], signature)
    return verdict("truncated" if finish == "length" else "no_answer", signature)
