"""Tree search where answers are known: values, when it stops, and what it calls the trees it leaves."""

from typing import Any

import pytest

from planted_trees import END, STEP, SeededPolicy, draw, grow
from ponderosa.errors import WorkError
from ponderosa.records import Attempt, GradedTree, Problem, Verdict
from ponderosa.search.labelling import TreeSearch
from ponderosa.search.solution import Limits
from search_fakes import PROBLEM, FakeScorer, judge_each

WRONG = {"Solution:": [f"x = {i}{STEP}" for i in range(8)], STEP: [f"So \\boxed{{4}}{END}"]}
RIGHT = {"Solution:": [f"x = {i}{STEP}" for i in range(8)], STEP: [f"So \\boxed{{5}}{END}"]}
SCRIPT = {
    "Solution:": [f"x = 5{STEP}", f"x = 4{STEP}", f"x = 5{STEP}"],
    f"x = 5{STEP}": [f"print(x){STEP}", f"fail(){STEP}", f"So \\boxed{{6}}{END}"],
    f"x = 4{STEP}": [f"So \\boxed{{4}}{END}"],
    "<|end_of_output|>": [f"done{END}"],
}


def label(config: TreeSearch, script: Any, **options: Any) -> GradedTree:
    (graded,) = grow(config, script, [PROBLEM], **options)
    return graded


def get_end(graded: GradedTree) -> tuple[str, int]:
    return graded.tree.end, graded.tree.num_simulations


def test_golden_tree_guided_by_right_and_wrong_ends() -> None:
    """First x = 5: one wrong, one failed; then x = 4, unvisited: wrong; then x = 5 again, whose other step is right."""
    graded = label(TreeSearch(simulations=3, candidates=3), SCRIPT)
    assert draw(graded.tree).splitlines() == [
        "x = 5 x2 N=5 Q=+0.20",
        "  print(x) x1 N=3 Q=+1.00",
        "    done x3 N=3 Q=+1.00 answer=5",
        "  fail() x1 N=1 Q=-1.00",
        "  So \\boxed{6} x1 N=1 Q=-1.00 answer=6",
        "x = 4 x1 N=3 Q=-1.00",
        "  So \\boxed{4} x3 N=3 Q=-1.00 answer=4",
    ]
    assert {place: verdict.reason for place, verdict in graded.verdicts.items()} == {
        3: "code_error",
        4: "wrong_answer",
        5: "wrong_answer",
        6: "correct",
    }


def test_with_a_reward_model_each_step_begins_with_its_score_and_ends_count_as_they_are() -> None:
    scorer = FakeScorer(lambda text: 0.5 if text.endswith("<|end_of_output|>") else 0.1)
    graded = label(TreeSearch(simulations=3, candidates=3), SCRIPT, scorer=scorer)
    assert draw(graded.tree).splitlines() == [
        "x = 5 x2 N=6 Q=+0.18 score=+0.10",
        "  print(x) x1 N=4 Q=+0.88 score=+0.50",
        "    done x3 N=3 Q=+1.00 score=+0.10 answer=5",
        "  fail() x1 N=1 Q=-1.00",
        "  So \\boxed{6} x1 N=1 Q=-1.00 score=+0.10 answer=6",
        "x = 4 x1 N=4 Q=-0.72 score=+0.10",
        "  So \\boxed{4} x3 N=3 Q=-1.00 score=+0.10 answer=4",
    ]


def test_what_a_failed_solution_printed_earlier_does_not_make_it_right() -> None:
    graded = label(TreeSearch(), {"Solution:": [f"print(5){STEP}"], "<|end_of_output|>": [f"fail(){STEP}"]})
    assert [verdict.reason for verdict in graded.verdicts.values()] == ["code_error"]
    assert [node.value for node in graded.tree.nodes] == [-1.0, -1.0]


def test_bootstrapping_may_let_a_policy_see_its_error_and_go_on() -> None:
    script = {"Solution:": [f"fail(){STEP}"], "<|end_of_output|>": [f"So \\boxed{{5}}{END}"]}
    config = TreeSearch(simulations=1)
    assert label(config, script, limits=Limits(max_errors=1)).verdicts[1].correct
    assert label(config, script).tree.nodes[0].finish == "stop"


def test_a_search_stops_when_it_has_the_right_solutions_it_looked_for() -> None:
    assert get_end(label(TreeSearch(target=3), RIGHT)) == ("solved", 3)
    assert get_end(label(TreeSearch(simulations=5), RIGHT)) == ("budget", 5)


@pytest.mark.parametrize("leaves", [1, 2, 8])
def test_unsolved_problems_get_extra_simulations_and_solved_ones_do_not(leaves: int) -> None:
    config = TreeSearch(simulations=2, extra_simulations=4, leaves=leaves)
    assert get_end(label(config, WRONG)) == ("budget", 6)
    assert get_end(label(config, RIGHT)) == ("budget", 2)


def test_extra_simulations_end_with_the_first_right_solution() -> None:
    config = TreeSearch(simulations=2, extra_simulations=4)
    late = {**WRONG, f"x = 2{STEP}": [f"So \\boxed{{5}}{END}"]}
    assert get_end(label(config, late)) == ("budget", 3)


def test_a_hopeless_problem_is_given_up() -> None:
    config = TreeSearch(simulations=4, extra_simulations=99, hopeless_after=6)
    assert get_end(label(config, WRONG)) == ("hopeless", 6)
    assert get_end(label(config, RIGHT)) == ("budget", 4)


@pytest.mark.parametrize(
    ("config", "end"),
    [
        (TreeSearch(simulations=4), "budget"),
        (TreeSearch(simulations=4, suspicious_solutions=4), "suspicious"),
        (TreeSearch(simulations=4, suspicious_solutions=5), "budget"),
        (TreeSearch(simulations=9, hopeless_after=4, suspicious_solutions=4), "suspicious"),
    ],
)
def test_many_solutions_that_agree_on_a_wrong_answer_make_its_label_suspicious(
    config: TreeSearch, end: str
) -> None:
    assert get_end(label(config, WRONG)) == (end, 4)


def test_nothing_is_suspicious_where_a_solution_is_right_or_wrong_ones_disagree() -> None:
    config = TreeSearch(simulations=8, suspicious_solutions=2)
    late = {**WRONG, f"x = 7{STEP}": [f"So \\boxed{{5}}{END}"]}
    assert label(config, late).tree.end == "budget"
    scattered = {**WRONG, **{f"x = {i}{STEP}": [f"So \\boxed{{{10 + i}}}{END}"] for i in range(5)}}
    assert label(config, scattered).tree.end == "budget"


@pytest.mark.parametrize(("num_wrong", "end"), [(3, "budget"), (4, "suspicious")])
def test_refuted_solutions_have_the_gold_answer_and_do_not_make_it_suspicious(
    num_wrong: int, end: str
) -> None:
    """The eight solutions of a tree: those that are not wrong came to the right answer by a wrong program."""
    script = {**RIGHT, **{f"x = {i}{STEP}": [f"So \\boxed{{4}}{END}"] for i in range(num_wrong)}}

    @judge_each
    def refute(problem: Problem, attempt: Attempt) -> Verdict:
        return Verdict(False, "refuted" if attempt.answer == problem.answer else "wrong_answer", "fake@1")

    graded = label(TreeSearch(simulations=8, suspicious_solutions=3), script, judge=refute)
    assert len(graded.verdicts) == 8
    assert graded.tree.end == end


def test_where_nothing_is_left_to_expand_an_unsolved_tree_is_widened() -> None:
    """The policy writes the same wrong solution four times over, and then at its second step something else."""
    script = {
        "Solution:": [f"x = 4{STEP}"],
        f"x = 4{STEP}": [f"y = 1{STEP}"] * 2 + [f"y = 1{STEP}", f"y = 2{STEP}"],
        f"y = 1{STEP}": [f"So \\boxed{{4}}{END}"],
        f"y = 2{STEP}": [f"So \\boxed{{5}}{END}"],
    }
    graded = label(TreeSearch(simulations=9, candidates=2), script)
    assert draw(graded.tree).splitlines() == [
        "x = 4 x4 N=4 Q=+0.00",
        "  y = 1 x3 N=2 Q=-1.00",
        "    So \\boxed{4} x2 N=2 Q=-1.00 answer=4",
        "  y = 2 x1 N=2 Q=+1.00",
        "    So \\boxed{5} x2 N=2 Q=+1.00 answer=5",
    ]
    assert get_end(graded) == ("closed", 2)
    assert get_end(label(TreeSearch(widen=False, candidates=2), script)) == ("closed", 1)


def test_a_solution_that_is_written_again_is_backed_up_again_and_graded_once() -> None:
    script = {"Solution:": [f"x = 4{STEP}"], STEP: [f"So \\boxed{{4}}{END}"]}
    graded = label(TreeSearch(simulations=3, candidates=2), script)
    assert draw(graded.tree).splitlines() == [
        "x = 4 x6 N=6 Q=-1.00",
        "  So \\boxed{4} x6 N=6 Q=-1.00 answer=4",
    ]
    assert get_end(graded) == ("budget", 3)


def test_several_leaves_in_flight_are_backed_up_in_the_order_they_were_asked_for() -> None:
    one = label(TreeSearch(simulations=8, leaves=8), SeededPolicy(length=1, num_texts=10**6))
    late = label(
        TreeSearch(simulations=8, leaves=8),
        SeededPolicy(length=1, num_texts=10**6, delays={i: 80 - i for i in range(72)}),
    )
    assert one == late


def test_a_search_that_labels_is_refused_where_nobody_judges() -> None:
    with pytest.raises(WorkError, match="never under evaluate or solve"):
        label(TreeSearch(), RIGHT, judge=None)
