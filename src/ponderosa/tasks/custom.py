"""A user's own task or checker, named `package.module:name`, or `file.py:name` beside the recipe."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ponderosa.errors import RequestError
from ponderosa.records import Problem, Verdict
from ponderosa.tasks.worked import Unsolved, WorkedSolution
from ponderosa.user_code import load_object
from ponderosa.verify import Grader, register_verifier


@dataclass(frozen=True, slots=True)
class CustomTask:
    """A task made of one generator function `(count, seed, split, **options) -> problems`.

    base: the folder that checkers named by its problems are looked for in.
    """

    name: str
    source_hash: str
    function: Callable[..., Iterable[Problem]]
    base: Path

    def generate(self, count: int, seed: int, split: str, **options: Any) -> Iterator[Problem]:
        """At most `count` of the function's problems, their checkers made known."""
        for problem in islice(self.function(count, seed, split, **options), count):
            if not isinstance(problem, Problem):
                raise RequestError(
                    f"{self.name} must yield ponderosa.records.Problem, seen {type(problem).__name__}"
                )
            register_checkers([problem], self.base)
            yield replace(problem, split=split)


@dataclass(frozen=True, slots=True)
class WorkedCustomTask(CustomTask):
    """A user's task that can work its problems out."""

    solve: Callable[[Problem], WorkedSolution | Unsolved]

    def work_out(self, problem: Problem) -> WorkedSolution | Unsolved:
        return self.solve(problem)


@dataclass(frozen=True, slots=True)
class CustomVerifier:
    """A verifier made of one function `(problem, answer) -> bool`; its version is the hash of its source.

    A ValueError means that the answer could not be read; any other exception is the checker's own fault.
    """

    name: str
    version: str
    function: Callable[[Problem, str], bool]

    def verify(self, problem: Problem, answer: str | None, grader: Grader) -> Verdict:
        signature = f"{self.name}@{self.version}"
        if answer is None:
            return Verdict(False, "no_answer", signature)
        try:
            is_right = self.function(problem, answer)
        except ValueError:
            return Verdict(False, "unparsable", signature)
        return Verdict(is_right, "correct" if is_right else "wrong_answer", signature)


def load_task(reference: str, base: Path) -> CustomTask:
    """A user's task: a generator function, or an object with `generate` and perhaps `work_out`."""
    loaded = load_object(reference, base)
    function = getattr(loaded.value, "generate", loaded.value)
    if not callable(function):
        raise RequestError(f"{reference} is neither a generator function nor an object with .generate")
    parts = (Path(reference).name, loaded.source_hash, function, base)
    solve = getattr(loaded.value, "work_out", None)
    return WorkedCustomTask(*parts, solve) if solve else CustomTask(*parts)


def load_checker(reference: str, base: Path) -> CustomVerifier:
    """A user's checker: a function `(problem, answer) -> bool`."""
    loaded = load_object(reference, base)
    if not callable(loaded.value):
        raise RequestError(f"{reference} is not a function of a problem and an answer")
    return CustomVerifier(reference, loaded.source_hash, loaded.value)


def register_checkers(problems: Iterable[Problem], base: Path) -> None:
    """Make known every checker that these problems name as `file.py:name` or `module:name`."""
    for reference in {problem.verifier for problem in problems if ":" in problem.verifier}:
        checker = load_checker(reference, base)
        register_verifier(reference, lambda checker=checker: checker)  # type: ignore[misc]
