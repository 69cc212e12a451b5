"""Step-labelled solutions: public sets, what is quarantined of them, and errors planted in the textbook."""

import ast
import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ponderosa.errors import DataError, RequestError
from ponderosa.records import Problem, Step
from ponderosa.sandbox import Sandbox
from ponderosa.tasks.quantities.planted_errors import ERROR_KINDS, ErrorKind, label_solution, plant_error
from ponderosa.tasks.quantities.task import QUANTITIES
from ponderosa.tasks.step_labels import LabelledSolution, load_labelled, parse_labelled
from ponderosa.verify import answer_from_attempt, compare_answers

QUICKSTART = ("more", "fewer", "times", "half", "sum", "difference", "price", "shared")


def rate(*ratings: int, chosen: int | None = None) -> dict[str, Any]:
    """One PRM800K step: continuations with these ratings, and which of them the path takes."""
    completions = [{"text": f"says {place}", "rating": rating} for place, rating in enumerate(ratings)]
    return {"completions": completions, "human_completion": None, "chosen_completion": chosen}


def record_prm(*steps: dict[str, Any], finish: str = "solution", **asked: Any) -> dict[str, Any]:
    question = {"problem": "2 + 2?", "ground_truth_answer": "4", **asked}
    return {"labeler": "x", "question": question, "label": {"steps": list(steps), "finish_reason": finish}}


# Public sets


def test_a_right_path_is_a_right_solution_and_a_neutral_step_no_error() -> None:
    solution = parse_labelled("prm800k", record_prm(rate(1, chosen=0), rate(-1, 0, chosen=1)))
    assert [step.text for step in solution.steps] == ["says 0", "says 1"]
    assert solution.first_error is None
    assert solution.problem.question == "2 + 2?"


def test_a_path_ends_with_the_first_step_that_its_model_got_wrong() -> None:
    record = record_prm(rate(1, chosen=0), rate(-1, -1), rate(1, chosen=0))
    solution = parse_labelled("prm800k", record)
    assert (len(solution.steps), solution.first_error) == (2, 1)
    chosen_all_the_same = parse_labelled("prm800k", record_prm(rate(-1, chosen=0)))
    assert chosen_all_the_same.first_error == 0


def test_a_solution_that_was_written_before_it_was_rated_is_taken_whole() -> None:
    whole = ["says 0", "says 0", "so it is 5"]
    record = record_prm(rate(1, chosen=0), rate(-1, 1), finish="found_error", pre_generated_steps=whole)
    solution = parse_labelled("prm800k", record)
    assert [step.text for step in solution.steps] == whole
    assert solution.first_error == 1


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("prm800k", record_prm(rate(1, chosen=0), finish="give_up"), "was not finished: 'give_up'"),
        ("prm800k", record_prm(rate(1, 1)), "no continuation was chosen"),
        ("prm800k", record_prm({"completions": None, "chosen_completion": 0}), "'completions' must be"),
        ("prm800k", record_prm("a step"), "'completions' is missing"),  # type: ignore[arg-type]
        (
            "prm800k",
            record_prm({"completions": [{"text": "x", "rating": None}]}),
            "'rating' must be of type int",
        ),
        ("prm800k", record_prm(), "there are no steps"),
        ("prm800k", {"question": "2 + 2?", "label": {}}, "'question' must be of type dict, seen str"),
        ("prm800k", [], "must be a JSON object, seen list"),
        (
            "big_bench_mistake",
            {"input": "q", "target": "1", "answer": "1", "steps": ["a"]},
            "'mistake_index'",
        ),
        (
            "big_bench_mistake",
            {"input": "q", "target": "1", "answer": "1", "steps": ["a"], "mistake_index": 1},
            "said to be 1 of 1",
        ),
        (
            "big_bench_mistake",
            {"input": "q", "target": "1", "answer": "1", "steps": ["a", 3], "mistake_index": 1},
            "a step is no text",
        ),
        (
            "big_bench_mistake",
            {"input": "q", "target": "1", "answer": "1", "steps": ["a", " "], "mistake_index": None},
            "empty ones",
        ),
        (
            "processbench",
            {"problem": "q\ud800", "steps": ["a"], "label": -1, "final_answer_correct": True},
            "not of UTF-8",
        ),
        ("processbench", {"problem": "q", "steps": ["a"], "label": True}, "'label' must be of type int"),
    ],
)
def test_a_row_that_does_not_say_what_is_wrong_is_refused_with_its_reason(
    name: str, row: Any, reason: str
) -> None:
    with pytest.raises(DataError) as refused:
        parse_labelled(name, row)
    assert reason in str(refused.value)


def test_released_records_and_problem_rows_that_hold_them_say_the_same() -> None:
    released = {"input": "q", "steps": ["a", "b"], "answer": "1 ", "target": "1", "mistake_index": 1}
    row = {
        "id": "held",
        "question": "q",
        "answer": "1",
        "meta": {"steps": ["a", "b"], "model_answer": "1", "mistake_index": 1, "task": "sums"},
    }
    a, b = parse_labelled("big_bench_mistake", released), parse_labelled("big_bench_mistake", row)
    assert (a.problem, a.steps, a.first_error, a.is_answer_right) == (
        b.problem,
        b.steps,
        b.first_error,
        b.is_answer_right,
    )
    assert (b.id, b.kind, b.is_answer_right) == ("held", "sums", True)


def test_processbench_rows_say_minus_one_where_nothing_is_wrong() -> None:
    row = {"id": "gsm8k-0", "generator": "m", "problem": "q", "steps": ["a", "b"], "label": -1}
    right = parse_labelled("processbench", {**row, "final_answer_correct": True})
    wrong = parse_labelled("processbench", {**row, "final_answer_correct": False, "label": 0})
    assert (right.id, right.kind, right.first_error, wrong.first_error) == ("gsm8k-0", "m", None, 0)


def test_a_file_is_read_with_its_malformed_rows_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = record_prm(rate(1, chosen=0)), record_prm(rate(1, 1))
    lines = [json.dumps(good), json.dumps(bad), "{nope", json.dumps(good)]
    (tmp_path / "prm800k.jsonl").write_text("\n".join(lines))
    monkeypatch.setenv("PONDEROSA_DATA", str(tmp_path))
    solutions, quarantined = load_labelled("prm800k")
    assert len(solutions) == 1
    assert [row.line for row in quarantined] == [2, 3, 4]
    assert "duplicate id" in quarantined[2].reason
    with pytest.raises(DataError, match=r"needs big_bench_mistake\.jsonl .*PONDEROSA_DATA"):
        load_labelled("big_bench_mistake")
    with pytest.raises(RequestError, match="did you mean 'prm800k'"):
        load_labelled("prm8k")


def test_the_real_samples_load(benchmark_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PONDEROSA_DATA", str(benchmark_data))
    prm, refused = load_labelled("prm800k")
    assert [(len(one.steps), one.first_error) for one in prm] == [
        (2, 1),
        (13, 6),
        (5, None),
        (7, None),
        (8, 7),
        (12, None),
    ]
    mistakes, empty = load_labelled("big_bench_mistake")
    assert (len(refused), len(mistakes), [row.reason for row in empty]) == (
        0,
        1890,
        ["there are no steps, or empty ones"],
    )
    assert Counter(one.first_error is None for one in mistakes) == {False: 1414, True: 476}
    assert Counter(one.kind for one in mistakes)["word_sorting"] == 300


# Planted errors


def draw(count: int, operations: int, **options: Any) -> list[Problem]:
    chosen = {"min_operations": operations, "max_operations": operations, **options}
    return list(QUANTITIES.generate(count, 11, "test", **chosen))


PROBLEMS = [problem for operations in (1, 2, 3, 5) for problem in draw(12, operations)]


def run_steps(solution: LabelledSolution, sandbox: Sandbox) -> str | None:
    runs = sandbox.run_steps([step.code or "" for step in solution.steps])
    assert [run.outcome for run in runs] == ["ok"] * len(solution.steps)
    steps = [
        Step(step.text, step.code, run.output, run.outcome)
        for step, run in zip(solution.steps, runs, strict=True)
    ]
    return answer_from_attempt("", steps)


@pytest.fixture(scope="module")
def planted() -> dict[ErrorKind, list[LabelledSolution]]:
    return {
        kind: [one for problem in PROBLEMS if (one := plant_error(problem, kind, Random(problem.id)))]
        for kind in ERROR_KINDS
    }


def list_differing(solution: LabelledSolution) -> list[int]:
    true = QUANTITIES.work_out(solution.problem).steps
    return [place for place, (a, b) in enumerate(zip(true, solution.steps, strict=True)) if a.text != b.text]


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_a_planted_solution_runs_and_its_answer_is_wrong(
    kind: ErrorKind, planted: dict[ErrorKind, list[LabelledSolution]]
) -> None:
    assert len(planted[kind]) > 20
    with Sandbox(workers=1) as sandbox:
        for solution in planted[kind]:
            answer = run_steps(solution, sandbox)
            assert answer is not None
            assert solution.problem.answer is not None
            assert not compare_answers(solution.problem.answer, answer)
            assert solution.is_answer_right is False


@pytest.mark.parametrize("kind", ["operator", "operand", "number"])
def test_a_wrong_line_of_code_is_in_the_one_step_that_differs_from_the_true_solution(
    kind: ErrorKind, planted: dict[ErrorKind, list[LabelledSolution]]
) -> None:
    for solution in planted[kind]:
        assert list_differing(solution) == [solution.first_error]
        assert solution.first_error is not None
        true, wrong = (
            ast.parse(step.code or "")
            for step in (
                QUANTITIES.work_out(solution.problem).steps[solution.first_error],
                solution.steps[solution.first_error],
            )
        )
        changed = [
            (a, b)
            for a, b in zip(ast.walk(true), ast.walk(wrong), strict=True)
            if _describe(a) != _describe(b)
        ]
        assert len(changed) == 1
        ((before, after),) = changed
        if kind == "number":
            assert abs(before.value - after.value) == 1  # type: ignore[attr-defined]


def _describe(node: ast.AST) -> object:
    return (
        type(node).__name__,
        getattr(node, "id", None),
        getattr(node, "value", None) if isinstance(node, ast.Constant) else None,
    )


def test_a_wrong_quote_is_of_no_sentence_of_the_problem_and_the_code_follows_it(
    planted: dict[ErrorKind, list[LabelledSolution]],
) -> None:
    for solution in planted["quote"]:
        first = solution.first_error
        assert first == list_differing(solution)[0]
        assert first is not None
        quotes = [line[2:] for line in solution.steps[first].text.split("\n") if line.startswith("# ")]
        assert sum(quote not in solution.problem.question for quote in quotes) == 1
        assert len(list_differing(solution)) <= 2


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_an_error_in_a_definition_is_in_that_step_alone(kind: ErrorKind) -> None:
    problems = QUANTITIES.generate(40, 5, "test", min_operations=3, max_operations=5, step_unit="definition")
    planted = [one for problem in problems if (one := plant_error(problem, kind, Random(problem.id)))]
    assert len(planted) > 10
    with Sandbox(workers=1) as sandbox:
        for solution in planted:
            assert list_differing(solution) == [solution.first_error]
            answer = run_steps(solution, sandbox)
            assert answer is not None
            assert not compare_answers(solution.problem.answer or "", answer)


def test_half_of_the_solutions_are_left_true_and_every_kind_of_error_occurs() -> None:
    problems = draw(120, 3)

    def label_all(seed: int) -> list[LabelledSolution]:
        return [one for problem in problems if (one := label_solution(problem, seed))]

    solutions = label_all(0)
    kinds = Counter(one.kind for one in solutions)
    assert 40 <= kinds[""] <= 80
    assert set(kinds) == {"", *ERROR_KINDS}
    assert all((one.first_error is None) == one.is_answer_right for one in solutions)
    assert solutions == label_all(0)
    assert solutions != label_all(1)


def test_a_wrong_quote_says_only_relations_that_it_may() -> None:
    problems = draw(40, 2, relations=QUICKSTART)
    said = [plant_error(problem, "quote", Random(0), QUICKSTART) for problem in problems]
    explained = {
        line.rpartition(": ")[2]
        for one in said
        if one
        for step in one.steps
        for line in step.text.split("\n")
        if line.startswith("# ") and ": " in line
    }
    assert explained <= set(QUICKSTART)
