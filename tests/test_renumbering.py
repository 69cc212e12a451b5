"""False positives: which right answers re-numbering refutes, and how a search is summed up with them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ponderosa.evaluation.renumbering import RENUMBERING, can_renumber, find_refuted
from ponderosa.evaluation.summary import RowContext
from ponderosa.evaluation.tree_summary import (
    SearchedTree,
    build_tree_rows,
    strip_nodes,
    summarise_trees,
)
from ponderosa.records import Attempt, Cost, GradedTree, Problem, Step, Verdict
from ponderosa.sandbox import Execution, Sandbox
from ponderosa.stages.labelling import catch_false_positives, open_labelling
from ponderosa.tasks.quantities.graph import Graph, Quantity
from ponderosa.tasks.quantities.task import QUANTITIES, build_problem
from test_stages import build_context
from tree_records import RIGHT, WRONG, build_node, build_tree

EIGHTEEN = build_problem(
    Graph(
        (
            Quantity("Tom", "apples", "given", literals=(6,)),
            Quantity("Bo", "apples", "given", literals=(12,)),
            Quantity("Ana", "apples", "times", (0,), (3,)),
        ),
        2,
    ),
    "Tom has 6 apples. Bo has 12 apples. Ana has 3 times as many apples as Tom. How many apples does Ana have?",
    "train",
)
"""Three times six, and by chance also six and twelve."""
TRUE = ("tom = 6", "ana = tom * 3\nprint(ana)")
BY_CHANCE = ("tom = 6", "ana = tom + 12\nprint(ana)")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as opened:
        yield opened


def show(codes: Sequence[str], printed: str = "18", outcome: str = "ok") -> list[Step]:
    """A solution's steps, the last of which printed something."""
    last = Step(codes[-1], codes[-1], printed, outcome)  # type: ignore[arg-type]
    return [*(Step(code, code, None, "ok") for code in codes[:-1]), last]


def refute(sandbox: Sandbox, steps: Sequence[Step], problem: Problem = EIGHTEEN) -> bool | None:
    (is_refuted,) = find_refuted([(problem, steps)], sandbox.run_many, num_renumberings=3)
    return is_refuted


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        pytest.param(TRUE, False, id="the true program"),
        pytest.param(BY_CHANCE, True, id="a sum that equals a product"),
        pytest.param(("print(18)",), True, id="the answer as a number"),
        pytest.param(
            ("tom = 6", "assert tom == 5 + 1", "print(tom * 3)"), True, id="one that fails on other numbers"
        ),
        pytest.param(("# 3 times 6", "print(6 * 3)  # not 12"), False, id="the true sum without names"),
    ],
)
def test_a_right_answer_is_false_if_its_program_is_wrong_on_other_numbers(
    codes: Sequence[str], expected: bool, sandbox: Sandbox
) -> None:
    assert refute(sandbox, show(codes)) is expected


def test_a_right_answer_that_its_program_did_not_print_is_false(sandbox: Sandbox) -> None:
    assert refute(sandbox, [*show(("print(17)",), "17"), Step("So the answer is \\boxed{18}.")]) is True


def test_the_programs_of_all_solutions_are_run_in_one_batch(sandbox: Sandbox) -> None:
    def run_programs(programs: Sequence[Sequence[str]]) -> list[list[Execution]]:
        sizes.append(len(programs))
        return sandbox.run_many(programs)

    sizes: list[int] = []
    solutions = [(EIGHTEEN, show(TRUE)), (EIGHTEEN, [Step("It is 18.")]), (EIGHTEEN, show(BY_CHANCE))]
    assert find_refuted(solutions, run_programs, num_renumberings=3) == [False, None, True]
    assert sizes == [6]


def test_every_worked_solution_stands_up_to_other_numbers(sandbox: Sandbox) -> None:
    for problem in QUANTITIES.generate(24, 5, "train", min_operations=1, max_operations=8):
        codes = [step.code or "" for step in QUANTITIES.work_out(problem).steps]
        assert refute(sandbox, show(codes, problem.answer or ""), problem) is False, problem.question


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([Step("It is 18.")], id="prose"),
        pytest.param([*show(TRUE)[:1], Step("So 18.")], id="code that prints nothing"),
    ],
)
def test_a_solution_whose_program_does_not_print_the_answer_cannot_be_asked(
    steps: list[Step], sandbox: Sandbox
) -> None:
    assert refute(sandbox, steps) is None


def test_failed_steps_are_not_part_of_the_program(sandbox: Sandbox) -> None:
    failed = Step("tom = six", "tom = six", "NameError", "error")
    assert refute(sandbox, [failed, *show(TRUE)]) is False


def test_only_problems_that_carry_their_graph_can_be_renumbered(sandbox: Sandbox) -> None:
    assert can_renumber(EIGHTEEN)
    for problem in (Problem("3 times 6?", "18"), Problem("3 times 6?", "18", source="quantities")):
        assert not can_renumber(problem)
        assert refute(sandbox, show(BY_CHANCE), problem) is None


def write_attempt(steps: Sequence[Step], answer: str = "18") -> Attempt:
    return Attempt(
        *(
            EIGHTEEN.id,
            0,
            (1,),
            (2,),
            (True,),
            (0.0,),
            (0.0,),
            "stop",
            "",
            tuple(steps),
            answer,
            answer,
            Cost(),
        ),
        *("search", "m", 0),
    )


def test_the_judge_refutes_a_false_positive_and_says_who_found_it(tmp_path: Path) -> None:
    with open_labelling(build_context(tmp_path)) as labelling:
        judge = catch_false_positives(labelling, 3)
        verdicts = judge(
            [
                (EIGHTEEN, write_attempt(steps, answer))
                for steps, answer in ((show(TRUE), "18"), (show(BY_CHANCE), "18"), (show(TRUE, "17"), "17"))
            ]
        )
        (unchecked,) = catch_false_positives(labelling, 0)([(EIGHTEEN, write_attempt(show(BY_CHANCE)))])
    assert [verdict.reason for verdict in verdicts] == ["correct", "refuted", "wrong_answer"]
    assert [verdict.verifier.endswith(RENUMBERING) for verdict in verdicts] == [True, True, False]
    assert unchecked.correct
    assert not unchecked.verifier.endswith(RENUMBERING)


# Summing up


def search(problem_id: str, *verdicts: Verdict, num_simulations: int = 4, **changes: Any) -> SearchedTree:
    nodes = [build_node(finish="stop") for _ in verdicts]
    tree = build_tree(*nodes, problem_id=problem_id, num_simulations=num_simulations, **changes)
    return strip_nodes(GradedTree(tree, dict(enumerate(verdicts))))


def summarise(problems: Sequence[Problem], trees: Sequence[SearchedTree]) -> dict[str, Any]:
    context = RowContext("policy", "policy", "m", "search", "hash", "tree_search", 0)
    rows = build_tree_rows(context, problems, trees, simulations=4, occupancy=1.0, seed=0)
    return summarise_trees(trees, rows, simulations=4)


ASKED = Verdict(True, "correct", f"answer@1+{RENUMBERING}")
REFUTED = Verdict(False, "refuted", f"answer@1+{RENUMBERING}")
PROBLEMS = [Problem("q", id=name, meta={"operations": int(name[0])}) for name in ("1a", "1b", "2a", "2b")]


def test_coverage_counts_problems_and_leaves_extra_simulations_apart() -> None:
    trees = [
        search("1a", RIGHT, RIGHT, WRONG),
        search("1b", WRONG, end="hopeless"),
        search("2a", WRONG, RIGHT, num_simulations=7),
        search("2b", WRONG, num_simulations=8, end="suspicious"),
    ]
    facts = summarise(PROBLEMS, trees)
    assert {name: row["value"] for name, row in facts["coverage"].items()} == {
        "all": 0.5,
        "operations=1": 0.5,
        "operations=2": 0.5,
    }
    assert {name: row["value"] for name, row in facts["coverage_without_extra"].items()} == {
        "all": 0.25,
        "operations=1": 0.5,
        "operations=2": 0.0,
    }
    whole = facts["coverage"]["all"]
    assert 0 < whole["low"] < 0.5 < whole["high"] < 1
    assert whole["n"] == 4
    assert (facts["simulations"], facts["extra_simulations"]) == (23, 7)
    assert facts["ends"] == {"budget": 2, "hopeless": 1, "suspicious": 1}
    assert facts["reasons"] == {"wrong_answer": 4, "correct": 3}


def test_a_problem_is_solved_by_any_of_its_trees() -> None:
    facts = summarise(PROBLEMS[:1], [search("1a", WRONG), search("1a", RIGHT)])
    assert facts["coverage"]["all"]["value"] == 1.0
    assert (facts["problems"], facts["trees"], facts["nodes"]) == (1, 2, 2)


def test_the_rate_of_false_positives_is_a_mean_over_problems_with_a_right_answer() -> None:
    trees = [search("1a", ASKED, REFUTED, REFUTED, REFUTED), search("1b", ASKED, WRONG), search("2a", WRONG)]
    rate = summarise(PROBLEMS, trees)["false_positives"]
    assert rate["value"] == pytest.approx((3 / 4 + 0) / 2)
    assert (rate["n"], rate["solutions"]) == (2, 5)
    assert rate["low"] <= rate["value"] <= rate["high"]


def test_where_nothing_was_renumbered_there_is_no_rate() -> None:
    facts = summarise(PROBLEMS, [search("1a", RIGHT)])
    assert facts["false_positives"] is None
