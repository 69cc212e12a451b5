"""Preferences between steps, worked by hand, and the rows in which a reward model reads trees."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponderosa.data.reward_rows import (
    IS_CHOSEN,
    MAX_ROW_TOKENS,
    TARGET,
    build_comparison_row,
    build_node_rows,
    list_readings,
)
from ponderosa.data.step_pairs import Comparison, StepPairRules, group_pairs, select_step_pairs
from ponderosa.data.tree_outcomes import (
    compute_success,
    judge_ends,
    list_scored,
    tally_nodes,
)
from ponderosa.records import GradedTree, Row
from tiny_trees import PROMPT, Line, build_tree, spell

ANY_TEXT = StepPairRules(min_edit_distance=0)

MIXED = build_tree(
    [
        Line(None, "add", 0.6),  # 0
        Line(None, "take", -0.4),  # 1
        Line(None, "drop", -1.0),  # 2
        Line(0, "four", 1.0, "correct"),  # 3
        Line(0, "five", -1.0, "refuted"),  # 4
        Line(1, "six", -1.0, "wrong_answer"),  # 5
        Line(1, "seven", 0.2, "correct"),  # 6
        Line(2, "eight", -1.0, "wrong_answer"),  # 7
        Line(2, "nine", -1.0, "code_error"),  # 8
    ]
)


def select(tree: GradedTree, max_length: int | None = None, **rules: Any) -> Any:
    return select_step_pairs([tree], ANY_TEXT.model_copy(update=rules), max_length=max_length)


def spell_pairs(comparisons: tuple[Comparison, ...], level: str) -> list[tuple[str, str, str]]:
    """prefix, chosen, rejected of every pair, without what was shown."""

    def read(ids: tuple[int, ...]) -> str:
        return "".join(map(chr, ids)).replace("!", " ").strip()

    return [
        (read(one.prefix_ids), read(chosen), read(rejected))
        for one in comparisons
        if one.level == level
        for chosen in one.chosen
        for rejected in one.rejected
    ]


# Outcomes


def test_solutions_are_tallied_at_every_node_they_go_through() -> None:
    ends = judge_ends(MIXED, "answered")
    tally = [(one.right, one.wrong) for one in tally_nodes(MIXED.tree, ends)]
    assert tally == [(1, 1), (1, 1), (0, 1), (1, 0), (0, 1), (0, 1), (1, 0), (0, 1), (0, 0)]
    assert tally_nodes(MIXED.tree, judge_ends(MIXED, "any"))[2].wrong == 2


def test_success_is_the_mean_over_children_as_often_as_they_were_written() -> None:
    tree = build_tree(
        [
            Line(None, "a", 0.0),
            Line(0, "right", 0.0, "correct", multiplicity=3),
            Line(0, "wrong", 0.0, "wrong_answer"),
            Line(0, "goes on", 0.0, multiplicity=9),
            Line(None, "dead", 0.0, "undecided"),
        ]
    )
    assert compute_success(tree) == {0: 0.5, 1: 1.0, 2: -1.0}
    assert compute_success(MIXED)[2] == compute_success(MIXED)[8] == -1.0


def test_dead_ends_are_not_what_a_reward_model_is_asked_about() -> None:
    assert list_scored(MIXED) == [0, 1, 2, 3, 4, 5, 6, 7]


# The paper's rule


def test_the_best_children_that_can_end_right_are_preferred_to_the_worst_that_can_end_wrong() -> None:
    pairs = spell_pairs(select(MIXED).comparisons, "step")
    assert pairs == [
        ("Q:", "add", "drop"),
        ("Q:", "add", "take"),
        ("Q:", "take", "drop"),
        ("Q:add", "four", "five"),
        ("Q:take", "seven", "six"),
    ]


def test_whole_solutions_of_highest_mean_q_are_preferred_to_those_of_lowest() -> None:
    """Means of Q: four 0.8, seven -0.1; six -0.7, five -0.2, eight -1."""
    pairs = spell_pairs(select(MIXED).comparisons, "solution")
    assert set(pairs) == {
        ("Q:", "add four", "drop eight"),
        ("Q:", "add four", "take six"),
        ("Q:", "take seven", "drop eight"),
    }  # seven over six is a pair of steps already


def test_solutions_of_two_trees_of_one_problem_are_set_against_each_other() -> None:
    right = build_tree([Line(None, "yes", 1.0, "correct")])
    wrong = build_tree([Line(None, "no", -1.0, "wrong_answer")])
    other = build_tree([Line(None, "nay", -1.0, "wrong_answer")], "q")
    selection = select_step_pairs([right, other, wrong], ANY_TEXT)
    assert spell_pairs(selection.comparisons, "solution") == [("Q:", "yes", "no")]
    assert selection.nodes == {"all_right": 1, "all_wrong": 2}
    assert selection.problems == {"all_wrong": 1}


MANY = build_tree(
    [
        *(Line(None, f"right {n}", 1.0 - 0.01 * n, "correct") for n in range(6)),
        *(Line(None, f"wrong {n}", -1.0 + 0.01 * n, "wrong_answer") for n in range(6)),
    ]
)
ONE_RIGHT = build_tree([Line(None, "right", 1.0, "correct"), *[Line(None, "no", -1.0, "wrong_answer")] * 6])


@pytest.mark.parametrize(
    ("tree", "rules", "shape"),
    [
        (MANY, {}, (2, 2)),
        (MANY, {"positives": 3, "negatives": 1}, (3, 1)),
        (MANY, {"against_one": 4}, (2, 2)),
        (ONE_RIGHT, {}, (1, 2)),
        (ONE_RIGHT, {"against_one": 4}, (1, 4)),
    ],
)
def test_a_node_gives_so_many_of_each_side(
    tree: GradedTree, rules: dict[str, int], shape: tuple[int, int]
) -> None:
    comparison = select(tree, **rules).comparisons[0]
    assert (len(comparison.chosen), len(comparison.rejected)) == shape
    assert comparison.chosen[0][:5] == spell("right")


BOTH = [Line(None, "left", 0.4), Line(0, "y", 1.0, "correct"), Line(0, "n", -1.0, "wrong_answer")]


@pytest.mark.parametrize(
    ("lines", "rules", "reason"),
    [
        ([Line(None, "a", 1.0, "correct"), Line(None, "b", 1.0, "correct")], {}, "all_right"),
        ([Line(None, "a", 1.0, "wrong_answer"), Line(None, "b", -1.0, "truncated")], {}, "all_wrong"),
        ([Line(None, "a", 1.0, "correct"), Line(None, "b", -1.0, "truncated")], {}, "all_right"),
        ([Line(None, "a", 0.0), Line(None, "b", 0.0, "undecided")], {"failures": "any"}, "unjudged"),
        (BOTH, {}, "no_counterpart"),
        ([Line(None, "a", 0.2, "correct"), Line(None, "b", -0.2, "wrong_answer")], {}, "q_gap"),
        (
            [Line(None, "a", 0.0, "correct"), Line(None, "b", 0.0, "wrong_answer")],
            {"min_q_gap": 0.0},
            "q_gap",
        ),
        (
            [Line(None, "a = 5", 1.0, "correct"), Line(None, "a = 6", -1.0, "wrong_answer")],
            {"min_edit_distance": 2},
            "too_alike",
        ),
    ],
)
def test_a_node_without_a_pair_has_a_reason(lines: list[Line], rules: dict[str, Any], reason: str) -> None:
    selection = select(build_tree(lines), **rules)
    assert selection.nodes[reason] == 1
    assert all(one.prefix_ids != spell(PROMPT) for one in selection.comparisons if one.level == "step")


def test_what_gave_no_answer_is_wrong_only_if_the_rules_say_so() -> None:
    tree = build_tree([Line(None, "a", 1.0, "correct"), Line(None, "b", -1.0, "truncated")])
    assert spell_pairs(select(tree, failures="any").comparisons, "step") == [("Q:", "a", "b")]


def test_the_edit_distance_counts_characters_or_tokens_that_the_model_wrote() -> None:
    tree = build_tree([Line(None, "a = 5", 1.0, "correct"), Line(None, "a = 66", -1.0, "wrong_answer")])
    for unit in ("characters", "tokens"):
        assert "too_alike" not in select(tree, min_edit_distance=2, edit_unit=unit).nodes
        assert select(tree, min_edit_distance=3, edit_unit=unit).nodes["too_alike"] == 1


def test_continuations_that_do_not_fit_the_context_are_in_no_pair() -> None:
    whole = len(MIXED.tree.join_tokens(3))
    selection = select(MIXED, max_length=whole - 1)
    assert selection.nodes == {"longer_than_context": 2, "all_wrong": 1}
    assert selection.problems == {"longer_than_context": 1}


def test_a_step_that_nothing_was_backed_up_through_has_no_q_to_go_by() -> None:
    graded = build_tree([Line(None, "a", 1.0, "correct"), Line(None, "b", 0.0, "truncated")])
    left, right = graded.tree.nodes
    tree = replace(graded.tree, nodes=(left, replace(right, visits=0)))
    selection = select(GradedTree(tree, graded.verdicts), failures="any")
    assert selection.nodes == selection.problems == {"all_right": 1}


def test_a_dead_end_that_nothing_was_backed_up_from_takes_no_wrong_solutions_place() -> None:
    """Its value says 0, which with the steps before it would be a lower mean of Q than that of the wrong solution."""
    graded = build_tree(
        [
            Line(None, "right", 1.0, "correct"),
            Line(None, "half", 0.2),
            Line(1, "wrong", 0.6, "wrong_answer"),
            Line(None, "dead", 0.0, "truncated"),
        ]
    )
    *others, dead = graded.tree.nodes
    tree = replace(graded.tree, nodes=(*others, replace(dead, visits=0)))
    pairs = select(GradedTree(tree, graded.verdicts), failures="any", final_negatives=1).comparisons
    assert spell_pairs(pairs, "solution") == [("Q:", "right", "half wrong")]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(4, 7)), unique=True))
def test_grouping_keeps_every_pair_and_makes_no_other(pairs: list[tuple[int, int]]) -> None:
    grouped = group_pairs(pairs)
    again = [(a, b) for chosen, rejected in grouped for a in chosen for b in rejected]
    assert sorted(again) == sorted(pairs)


# Rows


def test_a_comparison_is_read_at_the_end_of_each_continuation() -> None:
    comparison = Comparison("p", "step", spell("Q:"), (spell("ab"), spell("c")), (spell("def"),))
    row = build_comparison_row(comparison)
    assert row == Row(
        token_ids=spell("Q:abcdef"),
        loss_weights=(0, 0, 0, 1, 1, 0, 0, 1),
        document_ids=(0, 0, 1, 1, 2, 3, 3, 3),
        is_tree=True,
        columns={IS_CHOSEN: (0, 0, 0, 1, 1, 0, 0, 0)},
    )
    assert list_readings(row, range(8)) == [3, 4, 7]


def test_every_node_with_a_target_is_read_once_along_as_few_solutions_as_hold_them() -> None:
    targets = {0: 0.1, 3: 0.2, 4: 0.3, 1: 0.4}
    (found,) = build_node_rows(MIXED.tree, targets, max_length=100)
    assert "".join(map(chr, found.row.token_ids)) == "Q:" + "take!" + "add!four!" + "add!five!"
    assert found.places == (1, 0, 3, 4)
    assert list_readings(found.row, found.row.columns[TARGET]) == [targets[place] for place in found.places]
    assert [chr(found.row.token_ids[t]) for t, weight in enumerate(found.row.loss_weights) if weight] == list(
        "!!!!"
    )


def test_a_tree_too_large_for_a_row_goes_on_in_another_and_what_is_too_long_is_left_out() -> None:
    wide = build_tree([Line(None, str(n % 10) * 300, 0.0) for n in range(7)])
    rows = build_node_rows(wide.tree, dict.fromkeys(range(7), 0.0), max_length=400)
    assert [one.places for one in rows] == [(0, 1, 2), (3, 4, 5), (6,)]
    assert all(len(one.row.token_ids) <= MAX_ROW_TOKENS for one in rows)
    assert build_node_rows(wide.tree, {0: 0.0}, max_length=302) == []
