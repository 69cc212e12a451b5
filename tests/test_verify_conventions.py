"""The conventions table of docs/grading.md and the labelled pairs are what the grader does."""

import json
import re
from pathlib import Path

import pytest

from ponderosa.verify import Grader

ROOT = Path(__file__).parent.parent
_ROW = re.compile(r"\| `(.+?)` \| `(.+?)` \| (yes|no) \|")
CONVENTIONS = [
    (match[1], match[2], match[3] == "yes")
    for match in map(_ROW.match, (ROOT / "docs" / "grading.md").read_text("utf-8").splitlines())
    if match
]
CASES = [
    json.loads(line)
    for line in (ROOT / "tests" / "data" / "grader_cases.jsonl").read_text("utf-8").split("\n")
    if line
]


@pytest.fixture(scope="module")
def grader():
    with Grader(num_workers=1) as grader:
        yield grader


def test_the_table_of_conventions_is_there():
    assert len(CONVENTIONS) > 50


@pytest.mark.parametrize(("gold", "candidate", "equal"), CONVENTIONS)
def test_the_documented_convention_holds(grader, gold, candidate, equal):
    assert grader.grade(gold, candidate).correct is equal


def test_every_labelled_pair_gets_its_label(grader):
    verdicts = grader.grade_many([(case["gold"], case["candidate"]) for case in CASES])
    wrong = [
        case for case, verdict in zip(CASES, verdicts, strict=True) if verdict.correct is not case["equal"]
    ]
    assert len(CASES) >= 300
    assert wrong == []


def test_equality_without_names_or_tolerances_is_symmetric(grader):
    symmetric = ("fractions", "roots", "constants", "algebra", "sets", "tuples", "matrices", "thousands")
    cases = [case for case in CASES if case["topic"] in symmetric]
    verdicts = grader.grade_many([(case["candidate"], case["gold"]) for case in cases])
    wrong = [
        case for case, verdict in zip(cases, verdicts, strict=True) if verdict.correct is not case["equal"]
    ]
    assert wrong == []
