"""Advantages of a tree's steps against numbers worked out by hand, the rows they become, and the loss of a batch."""

from collections.abc import Sequence
from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ponderosa.data.tree_advantages import average_draws, build_advantage_rows, compute_step_advantages
from ponderosa.records import GradedTree, Node, Row, Verdict
from ponderosa.training.gradients import GradientComputer
from ponderosa.training.policy_gradient import get_preset
from ponderosa.training.policy_loss import PolicyGradient
from tiny_training import build_tiny_model
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


def test_a_solution_that_does_not_fit_leaves_the_steps_it_shares_to_those_that_do() -> None:
    """The first of the two that share a step is the longer one."""
    long = build_node(0, token_ids=(11, 12, 13), finish="stop")
    nodes = (*FORKED.tree.nodes[:2], long, *FORKED.tree.nodes[3:])
    graded = GradedTree(build_tree(*nodes, prompt_ids=(1, 2)), FORKED.verdicts)
    rows, num_steps, dropped = build_advantage_rows([graded], temperature=1.0, max_length=6)
    assert [row.loss_weights for row in rows] == [
        (0.0, 0.0, 1.0, 0.0),
        (0.0, 0.0, 3.0, 0.0, 3.0, 0.0),
    ]
    assert (num_steps, dropped) == (3, {"longer_than_context": 1})
    assert build_advantage_rows([graded], temperature=1.0, max_length=3).rows == []


def compute_gradient(rows: Sequence[Row]) -> tuple[float, torch.Tensor]:
    """The loss of an optimizer step on rows, and its gradient."""
    loss = PolicyGradient(get_preset("dapo", clip_low=None, clip_high=None))
    model = build_tiny_model()
    computer = GradientComputer(model, loss, dtype=torch.float32)
    with computer.running():
        means = computer.compute(rows, loss.compute_total(rows))
    gradients = [one.grad.flatten() for one in computer.parameters if one.grad is not None]
    return means["loss"], torch.cat(gradients)


def test_a_candidate_drawn_three_times_moves_the_policy_as_three_copies_of_it_do() -> None:
    once = FORKED.tree.nodes
    thrice = build_tree(*once[:3], *[write(0, 12, 1, ends=True)] * 3, prompt_ids=(1, 2))
    copied = FORKED._replace(tree=thrice, verdicts={**FORKED.verdicts, 4: WRONG, 5: WRONG})
    (loss, gradient), (copied_loss, copied_gradient) = (
        compute_gradient(average_draws(tuple(build_advantage_rows([one], temperature=1.0).rows)))
        for one in (FORKED, copied)
    )
    assert gradient.norm() > 0.001
    assert copied_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(copied_gradient, gradient, rtol=1e-4, atol=1e-6)


def test_a_batch_is_a_mean_over_drawn_tokens() -> None:
    """A token each was drawn 1, 3, 1 and 3 times: 8 in all, 4 of them different."""
    rows = average_draws(tuple(build_advantage_rows([FORKED], temperature=1.0).rows))
    assert [weight for row in rows for weight in row.loss_weights if weight] == [0.5, 1.5, 0.5, 1.5]
    assert sum(weight for row in rows for weight in row.loss_weights) == PolicyGradient(
        get_preset("dapo")
    ).compute_total(rows)
    assert average_draws(rows) == rows


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
