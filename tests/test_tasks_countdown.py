"""Countdown: solutions the solver writes are run and taken by reasoning-gym's scorer, and puzzles never cross splits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("reasoning_gym.version_manager", reason="needs ponderosa[gym]")

from ponderosa.records import Problem, Step
from ponderosa.sandbox import Sandbox, tiers_available
from ponderosa.stages.solutions import load_solutions, work_out_problems
from ponderosa.tasks import get_task
from ponderosa.tasks.countdown import (
    Chain,
    Move,
    find_chain,
    makes_target,
    name_puzzle,
    render_code,
    render_prose,
)
from ponderosa.tasks.reasoning_gym import CountdownTask
from ponderosa.tasks.worked import Unsolved, WorkedSolution, WorkedTask
from ponderosa.verify import Grader, get_verifier
from tiny_runs import find_stage, run_tiny

pytestmark = pytest.mark.skipif(
    tiers_available()["cpython"] is not None, reason=f"needs the cpython tier: {tiers_available()['cpython']}"
)

EASIEST: dict[str, Any] = {
    "min_numbers": 3,
    "max_numbers": 3,
    "max_value": 20,
    "min_target": 1,
    "max_target": 100,
}
HARDER = {**EASIEST, "min_numbers": 4, "max_numbers": 5}


def draw(count: int, seed: int = 0, split: str = "train", options: dict[str, Any] = EASIEST) -> list[Problem]:
    return list(get_task("gym/countdown").generate(count, seed, split, **options))


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader() as grader:
        yield grader


def test_every_solution_of_the_solver_runs_and_is_taken_by_the_scorer() -> None:
    task = get_task("gym/countdown")
    assert isinstance(task, WorkedTask)
    problems = draw(40) + draw(12, options=HARDER)

    with Sandbox(workers=1) as sandbox:
        records = work_out_problems(task, problems, sandbox)

    assert [record["reason"] for record in records if "reason" in record] == []
    assert {record["verifier"] for record in records} == {"reasoning_gym"}


def test_a_solution_that_misses_its_target_is_dropped() -> None:
    class Careless(CountdownTask):
        def work_out(self, problem: Problem) -> WorkedSolution | Unsolved:
            chain = find_chain([4, 3], 7)
            assert chain is not None
            return WorkedSolution(tuple(Step(text, text) for text in render_code(chain, 7)), "")

    with Sandbox(workers=1) as sandbox:
        (record,) = work_out_problems(Careless(), draw(1), sandbox)

    assert record["reason"] == "wrong_answer"


def test_a_kept_solution_is_read_back_with_its_verifier(tmp_path: Path) -> None:
    source = {"task": "gym/countdown", "count": 3, "options": EASIEST}
    run_tiny(tmp_path / "run", {"name": "seeds", "use": "solutions", "sources": [source]})

    read = [problem for problem, _ in load_solutions(find_stage(tmp_path / "run", "seeds"))]

    assert [(one.verifier, one.meta["level"], one.split) for one in read] == [
        ("reasoning_gym", 3, "train")
    ] * 3


def test_the_gold_answer_is_right_and_a_changed_one_is_wrong(grader: Grader) -> None:
    verifier = get_verifier("reasoning_gym")
    for problem in draw(8) + draw(4, options=HARDER):
        assert problem.answer is not None
        largest = max(problem.meta["metadata"]["numbers"])
        changed = [
            problem.answer + " + 1",
            f"({problem.answer}) / 1",
            problem.answer.replace(str(largest), str(largest + 1)),
            str(problem.meta["metadata"]["target"]),
            f"{problem.answer} or {problem.answer}",
        ]
        assert verifier.verify(problem, problem.answer, grader).correct
        assert not any(verifier.verify(problem, text, grader).correct for text in changed), changed


def test_the_same_seed_gives_the_same_puzzles_and_no_puzzle_is_in_two_splits() -> None:
    drawn = {
        (seed, split): draw(30, seed, split) for seed in (1, 2) for split in ("train", "selection", "test")
    }
    puzzles = {
        split: {
            name_puzzle(one.meta["metadata"])
            for key, found in drawn.items()
            if key[1] == split
            for one in found
        }
        for split in ("train", "selection", "test")
    }

    assert [one.id for one in drawn[1, "train"]] == [one.id for one in draw(30, 1, "train")]
    assert {one.id for one in drawn[1, "train"]}.isdisjoint(one.id for one in drawn[2, "train"])
    assert puzzles["train"].isdisjoint(puzzles["selection"] | puzzles["test"])
    assert puzzles["selection"].isdisjoint(puzzles["test"])


def test_a_puzzle_in_other_words_or_another_order_is_the_same() -> None:
    task = CountdownTask()
    first = ["Make 9 of 2, 7, 11.", "(7 + 11)/2", {"numbers": [2, 7, 11], "target": 9}]
    second = ["Calculate 9 using 11, 2, 7.", "(11 + 7)/2", {"numbers": [11, 2, 7], "target": 9}]

    assert task.identify(first) == task.identify(second)
    assert task.identify(first) != task.identify([*first[:2], {"numbers": [2, 7, 11], "target": 10}])


def test_no_more_puzzles_are_drawn_than_were_asked_for() -> None:
    problems = draw(17)

    assert len({name_puzzle(one.meta["metadata"]) for one in problems}) == len(problems) == 17
    assert {one.meta["level"] for one in problems} == {3}
    assert {one.meta["level"] for one in draw(30, options=HARDER)} == {4, 5}


def test_steps_show_the_value_and_the_goal() -> None:
    chain = find_chain([4, 3, 25], 87)
    assert chain is not None

    with Sandbox(workers=1) as sandbox:
        (runs,) = sandbox.run_many([render_code(chain, 87)])

    shown = [run.output.strip() for run in runs]
    assert shown == ["25 87", "29 87", "87 87", "((25 + 4) * 3)"]


def test_larger_numbers_come_first_and_values_stay_whole() -> None:
    assert find_chain([2, 7, 11], 9) == Chain(11, (Move("+", 7, 18), Move("/", 2, 9)))
    assert find_chain([5, 5], 0) == Chain(5, (Move("-", 5, 0),))
    assert find_chain([7, 2], 3) is None


@given(st.lists(st.integers(1, 20), min_size=2, max_size=4), st.integers(0, 100))
def test_a_chain_makes_its_target_of_all_its_numbers(numbers: list[int], target: int) -> None:
    chain = find_chain(numbers, target)
    if chain is not None:
        expression = render_prose(chain).partition("#### ")[2]
        assert makes_target(expression, {"numbers": numbers, "target": target})
        assert not makes_target(expression, {"numbers": numbers, "target": target + 1})
        assert not makes_target(expression, {"numbers": [*numbers, 1], "target": target})


def test_what_is_no_arithmetic_makes_no_target() -> None:
    metadata = {"numbers": [8, 2], "target": 4}
    assert makes_target("8 / 2", metadata)
    assert [
        text for text in ("", "8 / 2 +", "8 // 2", "x = 8 / 2", "8 / (2 - 2)") if makes_target(text, metadata)
    ] == []
