"""A user's own task or checker, named `package.module:name`, or `file.py:name` beside the recipe.

The file is the user's own code and runs with the user's rights, unlike anything a model writes. Its source is
hashed, so a stage that used it is done again when it changes; modules that it imports are not part of the hash.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from ponderosa.errors import RequestError
from ponderosa.identity import content_hash, hash_file
from ponderosa.records import Problem, Verdict
from ponderosa.tasks.worked import Unsolved, WorkedSolution
from ponderosa.verify import Grader, register_verifier


@dataclass(frozen=True, slots=True)
class LoadedObject:
    """What a reference names, and the hash of the source it came from."""

    value: Any
    source_hash: str


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


def load_object(reference: str, base: Path) -> LoadedObject:
    """The object that `module:name` or `file.py:name` refers to; a file is looked for in `base`.

    Raises RequestError if the module, the file or the name does not exist.
    """
    where, colon, name = reference.rpartition(":")
    if not (colon and where and name):
        raise RequestError(f"{reference!r}: write package.module:name or file.py:name")
    module = _load_file(base / where) if where.endswith(".py") else _load_module(where)
    if not hasattr(module, name):
        raise RequestError(f"{where} defines no {name!r}")
    if not module.__file__:
        raise RequestError(f"{where} has no source file")
    return LoadedObject(getattr(module, name), hash_file(Path(module.__file__)))


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


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise RequestError(f"no such file: {path}")
    name = f"ponderosa_user_{path.stem}_{content_hash(path.read_bytes())}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load_module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise RequestError(f"no module named {error.name!r} (from {name!r}); is it installed?") from None
