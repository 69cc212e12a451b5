"""Grading with workers, verifiers by name, attempts and files."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponderosa.errors import DataError, RequestError, WorkerLost
from ponderosa.records import REASONS, Problem, Step
from ponderosa.verify import (
    Grader,
    canonical_key,
    extract_answer,
    get_verifier,
    grade,
    grade_file,
    list_verifiers,
    register_verifier,
)
from ponderosa.verify.evaluation import precise
from ponderosa.verify.verifiers import judge
from ponderosa.verify.workers import WorkerPool

SUM = (r"\sum_{k=0}^{n} F_k G_k", r"\sum_{k=0}^{n} G_k F_k")


@pytest.fixture(scope="module")
def grader():
    with Grader(num_workers=1) as grader:
        yield grader


def test_no_worker_starts_until_the_symbolic_layer_is_needed():
    with Grader() as grader:
        assert grader.grade(r"\frac{1}{2}", "0.5").correct
        assert grader.grade(r"2\pi", "6").reason == "wrong_answer"
        assert grader.pool.num_started == 0


def test_the_symbolic_layer_settles_what_the_others_cannot_read(grader):
    assert grade(*SUM).reason == "undecided"
    assert grader.grade(*SUM).correct
    assert grader.grade(SUM[0], r"\sum_{k=0}^{n} G_k").reason == "wrong_answer"


def test_a_question_that_takes_too_long_is_undecided_and_the_pool_goes_on():
    with WorkerPool(size=1, timeout_s=0.01) as pool:
        reply, seconds = pool.ask_many([(r"\int_0^1 x^{x} dx", r"\int_0^1 y^{y} dy + 1")])[0]
        assert reply == "undecided"
        assert seconds >= 0.02  # asked once more, alone
        pool.timeout_s = 60.0
        assert pool.ask_many([("x+1", "1+x")])[0][0] == "equal"


def test_threads_that_compare_at_once_have_a_precision_each():
    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(precise).result()
    assert other is not precise()
    assert other.dps == precise().dps


def test_a_worker_that_dies_twice_is_our_failure():
    with WorkerPool(size=1, python="/bin/false") as pool, pytest.raises(WorkerLost):
        pool.ask_many([("1", "2")])


def test_a_killed_worker_is_replaced_once_without_a_word():
    with WorkerPool(size=1, timeout_s=60.0) as pool:
        assert pool.ask_many([("x+1", "1+x")])[0][0] == "equal"
        pool._started[0].process.kill()
        assert pool.ask_many([("x+2", "2+x")])[0][0] == "equal"


def test_workers_end_when_their_owner_is_killed():
    code = (
        "from ponderosa.verify.workers import WorkerPool\n"
        "import time; pool = WorkerPool(size=1); pool.ask_many([('x', 'x')])\n"
        "print(pool._started[0].process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        worker = int(owner.stdout.readline())
        owner.kill()
    for _ in range(100):
        if not _is_running(worker):
            return
        time.sleep(0.05)
    pytest.fail("the worker outlived its owner")


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.exists("/proc/self/limits"), reason="reads /proc")
def test_a_worker_runs_under_its_memory_limit():
    with WorkerPool(size=1, timeout_s=60.0, memory_mb=900) as pool:
        pool.ask_many([("x", "x")])
        with open(f"/proc/{pool._started[0].process.pid}/limits") as limits:
            assert f"Max address space         {900 << 20} " in limits.read()


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_two_texts_get_a_verdict_from_the_closed_list(gold, candidate):
    assert grade(gold, candidate).reason in REASONS


@given(st.text(alphabet=r"0123456789+-*/^(){}[]\frac|sqrt,.%$ =<>xπ√", max_size=60))
def test_every_bare_answer_equals_itself(text):
    if extract_answer(text) == text and any(c.isalnum() for c in text) and canonical_key(text):
        assert grade(text, text).correct


@given(st.integers(), st.integers(min_value=1))
def test_equal_rationals_have_one_key(numerator, denominator):
    doubled = rf"\frac{{{2 * numerator}}}{{{2 * denominator}}}"
    assert canonical_key(f"{numerator}/{denominator}") == canonical_key(doubled)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.5", r"\frac12"),
        ("1,000", "1000"),
        (r"\{1,2\}", r"\{2, 1\}"),
        ("x=5", "5"),
        ("10 cm", r"10\text{ cm}"),
        ("Yes.", "yes"),
    ],
)
def test_answers_that_are_the_same_vote_together(one, other):
    assert canonical_key(one) == canonical_key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("1", "2"), ("(1,2)", "(2,1)"), ("50%", "51%"), ("x", "y"), ("1/3", "0.333")]
)
def test_answers_that_differ_vote_apart(one, other):
    assert canonical_key(one) != canonical_key(other)


def test_verifiers_are_found_by_name(grader):
    assert {"answer", "exact", "choice"} <= set(list_verifiers())
    choice = Problem("Which?", "B", verifier="choice")
    assert get_verifier("choice").verify(choice, "The answer is (B).", grader).correct
    assert get_verifier("choice").verify(choice, "C", grader).reason == "wrong_answer"
    exact = Problem("Spell it.", "Abc", verifier="exact")
    assert get_verifier("exact").verify(exact, "Abc.", grader).correct
    assert get_verifier("exact").verify(exact, "abc", grader).reason == "wrong_answer"
    with pytest.raises(RequestError, match="answer"):
        get_verifier("anwser")


def test_a_question_that_asks_for_all_values_takes_them_in_any_order(grader):
    asked = Problem("Find all roots, separated by commas.", "1, -2")
    assert get_verifier("answer").verify(asked, "-2, 1", grader).correct
    assert not get_verifier("answer").verify(Problem("Name the sequence.", "1, -2"), "-2, 1", grader).correct


def test_a_registered_verifier_is_found(grader):
    class Anything:
        name, version = "anything", "1"

        def verify(self, problem, answer, grader):
            return get_verifier("exact").verify(Problem("", answer), answer, grader)

    register_verifier("anything", Anything)
    assert get_verifier("anything").verify(Problem("?", None, verifier="anything"), "x", grader).correct


@pytest.mark.parametrize(
    ("answer", "finish", "outcomes", "reason"),
    [
        ("4", "stop", ["ok"], "correct"),
        ("5", "length", ["ok"], "wrong_answer"),
        (None, "length", [], "truncated"),
        (None, "stop", ["ok"], "no_answer"),
        (None, "length", ["error"], "code_error"),
        (None, "stop", ["ok", "timeout"], "timeout"),
        (None, "stop", ["memory"], "memory"),
        (None, "stop", ["output_limit"], "output_limit"),
        (None, "stop", ["crash"], "crash"),
    ],
)
def test_an_attempt_without_an_answer_says_why(grader, answer, finish, outcomes, reason):
    steps = [Step("", "pass", None, outcome) for outcome in outcomes]
    verdict = judge(Problem("2 + 2?", "4"), answer, finish, steps, grader)
    assert (verdict.reason, verdict.verifier) == (reason, "answer@2")


def test_a_file_is_graded_line_by_line_in_order(tmp_path, grader):
    rows = [
        {"gold": "1/2", "candidate": "0.5", "id": 1},
        {"gold": 72, "candidate": "#### 73"},
        {"gold": "5", "candidate": None},
    ]
    source, out = tmp_path / "pairs.jsonl", tmp_path / "graded.jsonl"
    source.write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + 'oops\n["a"]\n{"gold": [1], "candidate": "1"}\n'
    )
    report = grade_file(source, out, grader=grader)
    graded = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row.get("equal") for row in graded] == [True, False, False, None, None, None]
    assert graded[0]["id"] == 1
    assert graded[2]["reason"] == "no_answer"
    assert all(row["ms"] >= 0 for row in graded[:3])
    assert (report.num_rows, report.num_equal) == (3, 1)
    assert [(bad.file, bad.line) for bad in report.bad_lines] == [
        ("pairs.jsonl", 4),
        ("pairs.jsonl", 5),
        ("pairs.jsonl", 6),
    ]
    assert sorted(os.listdir(tmp_path)) == ["graded.jsonl", "pairs.jsonl"]


def test_grading_a_file_onto_itself_is_refused(tmp_path):
    source = tmp_path / "pairs.jsonl"
    source.write_text('{"gold": "1", "candidate": "1"}\n')
    with pytest.raises(DataError, match="input"):
        grade_file(source, source)
    with pytest.raises(DataError, match="not a file"):
        grade_file(tmp_path / "absent.jsonl", source)
    with pytest.raises(DataError, match="is a folder"):
        grade_file(source, tmp_path)
