"""Advantages of a tree's steps against numbers worked out by hand, and the rows they become."""

from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponderosa.data.tree_advantages import build_advantage_rows, compute_step_advantages
from ponderosa.records import GradedTree, Node, Verdict
from tree_records import RIGHT, WRONG, build_node, build_tree

UNDECIDED = Verdict(False, "undecided", "answer@1")


def write(parent: int | None, token_id: int, multiplicity: int = 1, *, ends: bool = False) -> Node:
    """A step of one sampled token, shown another."""
    return build_node(
        parent,
        token_ids=(token_id, 90),
        sampled=(True, False),
        model_logprobs=(-1.0, 0.0),
        sampling_logprobs=(-token_id / 100, 0.0),
        multiplicity=multiplicity,
        finish="stop" if ends else None,
    )


FORKED = GradedTree(
    build_tree(
        write(None, 10, 3),
        write(None, 20, 1, ends=True),
        write(0, 11, 1, ends=True),
        write(0, 12, 3, ends=True),
        prompt_ids=(1, 2),
    ),
    {1: WRONG, 2: RIGHT, 3: WRONG},
)
"""The first step was drawn three times; of its four continuations one is right. Success: -1/2 and, at once, -1."""


def test_a_steps_advantage_is_its_success_less_that_of_the_question() -> None:
    baseline = (3 * -0.5 + 1 * -1.0) / 4
    assert compute_step_advantages(FORKED) == pytest.approx(
        {0: -0.5 - baseline, 1: -1.0 - baseline, 2: 1.0 - baseline, 3: -1.0 - baseline}
    )


def test_rows_are_solutions_and_a_shared_step_carries_loss_in_the_first_alone() -> None:
    rows, num_steps, dropped = build_advantage_rows([FORKED], temperature=0.7)
    assert [row.token_ids for row in rows] == [
        (1, 2, 20, 90),
        (1, 2, 10, 90, 11, 90),
        (1, 2, 10, 90, 12, 90),
    ]
    assert [row.loss_weights for row in rows] == [
        (0.0, 0.0, 1.0, 0.0),
        (0.0, 0.0, 3.0, 0.0, 1.0, 0.0),
        (0.0, 0.0, 0.0, 0.0, 3.0, 0.0),
    ]
    assert (num_steps, dropped) == (4, {})
    advantages = compute_step_advantages(FORKED)
    assert rows[1].columns["advantages"] == (0, 0, *[advantages[0]] * 2, *[advantages[2]] * 2)
    assert rows[1].columns["sampling_logprobs"] == (0, 0, -0.1, 0, -0.11, 0)
    assert rows[1].columns["old_logprobs"] == rows[1].columns["sampling_logprobs"]
    assert set(rows[1].columns["temperatures"]) == {0.7}


def test_trees_that_say_nothing_are_dropped_with_their_reason() -> None:
    flat = FORKED._replace(verdicts={1: WRONG, 2: WRONG, 3: WRONG})
    unjudged = FORKED._replace(verdicts={2: UNDECIDED})
    assert build_advantage_rows([flat, unjudged, FORKED], temperature=1.0).dropped == {
        "flat": 1,
        "unjudged": 1,
    }


def test_what_the_grader_could_not_decide_is_neither_praised_nor_blamed() -> None:
    graded = FORKED._replace(verdicts={**FORKED.verdicts, 3: UNDECIDED})
    rows = build_advantage_rows([graded], temperature=1.0).rows
    assert [row.token_ids[-2] for row in rows] == [20, 11]
    assert compute_step_advantages(graded) == pytest.approx({0: 0.5, 1: -1.5, 2: 0.5})


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=6))
def test_advantages_of_one_expansion_sum_to_nothing_and_have_the_order_of_the_verdicts(
    drawn: list[tuple[int, bool]],
) -> None:
    nodes = [write(None, 10 + place, count, ends=True) for place, (count, _) in enumerate(drawn)]
    verdicts = {place: RIGHT if is_right else WRONG for place, (_, is_right) in enumerate(drawn)}
    advantages = compute_step_advantages(GradedTree(build_tree(*nodes), verdicts))
    total = sum(count * advantages[place] for place, (count, _) in enumerate(drawn))
    assert total == pytest.approx(0.0, abs=1e-9)
    right = [advantages[place] for place, (_, is_right) in enumerate(drawn) if is_right]
    wrong = [advantages[place] for place, (_, is_right) in enumerate(drawn) if not is_right]
    if right and wrong:
        assert fmean(right) > 0 > fmean(wrong)
