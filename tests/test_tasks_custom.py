"""A user's own task and checker: the document's example works as printed."""

import json
import re
from pathlib import Path

import pytest

from ponderosa.errors import RequestError
from ponderosa.records import Problem
from ponderosa.tasks import get_task
from ponderosa.tasks.worked import WorkedTask
from ponderosa.user_code import load_object
from ponderosa.verify import Grader, get_verifier

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "own_task.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that holds the document's mytask.py."""
    code = re.search(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    assert code
    (tmp_path / "mytask.py").write_text(code[1], "utf-8")
    return tmp_path


def verify(problem: Problem, answer: str | None) -> str:
    with Grader() as grader:
        return get_verifier(problem.verifier).verify(problem, answer, grader).reason


def test_the_documented_task_takes_about_twenty_lines(folder: Path) -> None:
    assert len((folder / "mytask.py").read_text("utf-8").splitlines()) <= 23


def test_the_documented_task_gives_the_same_problems_for_the_same_seed(folder: Path) -> None:
    task = get_task("mytask.py:coins", folder)
    problems = list(task.generate(20, 7, "train", largest=300))
    assert len(problems) == 20
    assert problems == list(task.generate(20, 7, "train", largest=300))
    assert {p.split for p in problems} == {"train"}
    other = {p.question for p in task.generate(60, 8, "test", largest=300)}
    assert not other & {p.question for p in task.generate(60, 9, "train", largest=300)}


def test_the_documented_checker_judges_its_problems(folder: Path) -> None:
    (problem,) = get_task("mytask.py:coins", folder).generate(1, 7, "train", largest=30)
    assert problem.answer is None
    right = " ".join("1" for _ in range(problem.meta["cents"]))
    assert verify(problem, right) == "correct"
    assert verify(problem, right + " 1") == "wrong_answer"
    assert verify(problem, "a quarter") == "unparsable"
    assert verify(problem, None) == "no_answer"


def test_a_problem_file_may_name_a_checker_beside_it(folder: Path) -> None:
    row = {"question": "3 cents?", "verifier": "mytask.py:makes_change", "meta": {"cents": 3}}
    (folder / "rows.jsonl").write_text(json.dumps(row), "utf-8")
    (problem,) = get_task("rows.jsonl", folder).generate(1, 0, "test")
    assert verify(problem, "1 1 1") == "correct"


def test_the_source_is_part_of_the_hash(folder: Path) -> None:
    before = get_task("mytask.py:coins", folder).source_hash
    source = (folder / "mytask.py").read_text("utf-8")
    (folder / "mytask.py").write_text(source.replace("500", "900"), "utf-8")
    after = get_task("mytask.py:coins", folder)
    assert after.source_hash != before
    questions = [p.question for p in after.generate(50, 7, "train")]
    assert max(int(re.findall(r"(\d+) cents", question)[0]) for question in questions) > 500


def test_an_object_that_works_its_problems_out_is_a_worked_task(folder: Path) -> None:
    (folder / "sums.py").write_text(
        "from ponderosa.records import Problem\n"
        "from ponderosa.tasks.worked import Unsolved\n"
        "class Sums:\n"
        "    def generate(self, count, seed, split):\n"
        "        yield Problem('1+1?', '2')\n"
        "    def work_out(self, problem):\n"
        "        return Unsolved('hard')\n"
        "sums = Sums()\n",
        "utf-8",
    )
    assert isinstance(get_task("sums.py:sums", folder), WorkedTask)
    assert not isinstance(get_task("mytask.py:coins", folder), WorkedTask)


def test_a_module_can_be_named_instead_of_a_file() -> None:
    loaded = load_object("ponderosa.identity:derive_seed", Path())
    assert loaded.value("a", 1) == loaded.value("a", 1)
    assert len(loaded.source_hash) == 16


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("absent.py:coins", "no such file"),
        ("mytask.py:gone", "defines no 'gone'"),
        ("no_such_module_here:coins", "no module named 'no_such_module_here'"),
        ("mytask.py:", "write package.module:name or file.py:name"),
        ("mytask.py:__doc__", "neither a generator function nor an object"),
        ("quantites", "did you mean 'quantities'"),
    ],
)
def test_a_wrong_name_is_explained(folder: Path, reference: str, message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        get_task(reference, folder)


def test_a_task_that_yields_something_else_is_told_what_to_yield(folder: Path) -> None:
    (folder / "bad.py").write_text("def bad(count, seed, split):\n    yield {'question': 'q'}\n", "utf-8")
    with pytest.raises(RequestError, match=r"must yield ponderosa\.records\.Problem, seen dict"):
        list(get_task("bad.py:bad", folder).generate(1, 0, "train"))
