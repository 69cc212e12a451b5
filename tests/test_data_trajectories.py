"""Trajectories of search trees: what they are made of, which are taken, and why others are not."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponderosa.data.preferences import PairRules, select_pairs
from ponderosa.data.rows import build_attempt_row
from ponderosa.data.trajectories import TrajectoryRules, list_trajectories, select_trajectories
from ponderosa.records import GradedTree, Node, Step, Verdict
from tree_records import RIGHT, WRONG, build_node, build_tree

EOS = 0


def write_step(
    parent: int | None,
    token_id: int,
    code: str,
    value: float,
    *,
    shown: str | None = None,
    outcome: str = "ok",
) -> Node:
    """A step of one token and one that shows what it printed."""
    step = Step(f"# {code}\n{code}", code, shown, outcome)  # type: ignore[arg-type]
    return build_node(
        parent,
        token_ids=(token_id, 90),
        sampled=(True, False),
        model_logprobs=(-0.5, 0.0),
        sampling_logprobs=(-0.25, 0.0),
        step=step,
        value=value,
    )


def write_end(parent: int, value: float, token_id: int = EOS) -> Node:
    return build_node(
        parent,
        token_ids=(token_id,),
        sampled=(True,),
        model_logprobs=(-0.125,),
        sampling_logprobs=(-0.125,),
        step=Step(""),
        value=value,
        finish="stop",
        answer="7",
        answer_key="7",
    )


def chain(
    values: Sequence[float],
    token_id: int,
    expression: str,
    *,
    verdict: Verdict = RIGHT,
    outcome: str = "ok",
    end: int = EOS,
) -> GradedTree:
    """A tree that is a single solution, its steps having these values."""
    nodes = [
        write_step(
            place - 1 if place else None, token_id + place, f"x{place} = {expression}", value, outcome=outcome
        )
        for place, value in enumerate(values[:-1])
    ]
    nodes.append(write_end(len(nodes) - 1, values[-1], end))
    return GradedTree(build_tree(*nodes), {len(nodes) - 1: verdict})


def select(trees: Sequence[GradedTree], **rules: object) -> tuple[list[int], dict[str, int]]:
    """First tokens of the trajectories taken, and the rejections by reason."""
    trajectories = [one for tree in trees for one in list_trajectories(tree)]
    selection = select_trajectories(trajectories, TrajectoryRules(**rules), eos_ids=frozenset({EOS}))  # type: ignore[arg-type]
    assert len(selection.kept) + len(selection.rejected) == len(trajectories)
    return [attempt.token_ids[0] for attempt in selection.kept], Counter(
        reason for _, reason in selection.rejected
    )


def test_a_trajectory_is_the_attempt_its_nodes_spell() -> None:
    tree = build_tree(
        write_step(None, 10, "x = 3", 0.5),
        write_step(None, 20, "x = 4", -0.5),
        write_step(0, 11, "print(x + 4)", 0.25, shown="7"),
        write_end(2, 1.0),
        prompt_ids=(1, 2),
    )

    (trajectory,) = list_trajectories(GradedTree(tree, {3: RIGHT}))

    attempt = trajectory.graded.attempt
    assert (attempt.prompt_ids, attempt.token_ids) == ((1, 2), (10, 90, 11, 90, EOS))
    assert attempt.sampled == (True, False, True, False, True)
    assert attempt.model_logprobs == (-0.5, 0.0, -0.5, 0.0, -0.125)
    assert attempt.sampling_logprobs == (-0.25, 0.0, -0.25, 0.0, -0.125)
    assert [step.code for step in attempt.steps] == ["x = 3", "print(x + 4)"]
    assert (attempt.finish, attempt.answer, attempt.answer_key) == ("stop", "7", "7")
    assert (attempt.sample, attempt.strategy, attempt.seed) == (3, tree.strategy, tree.seed)
    assert trajectory.graded.verdict == RIGHT
    assert trajectory.values == (0.5, 0.25, 1.0)
    assert build_attempt_row(attempt).loss_weights == (0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0)


def test_the_last_step_of_prose_is_a_step() -> None:
    prose = build_node(None, step=Step("It is 7."), finish="stop", answer="7", answer_key="7")
    (trajectory,) = list_trajectories(GradedTree(build_tree(prose), {0: RIGHT}))
    assert trajectory.graded.attempt.steps == (Step("It is 7."),)


def test_trajectories_go_by_mean_value_then_by_least() -> None:
    trees = [
        chain([0.0, 0.5, 1.0], 10, "1"),
        chain([0.25, 0.25, 1.0], 20, "2"),
        chain([0.9, 0.9, 1.0], 30, "3"),
        chain([-1.0, 0.0, 1.0], 40, "4"),
    ]
    assert select(trees, per_problem=None)[0] == [30, 20, 10, 40]
    assert select(trees) == ([30, 20], {"over_limit": 2})


def test_every_trajectory_is_taken_or_rejected_for_a_reason() -> None:
    trees = [
        chain([0.5, 1.0], 10, "1"),
        chain([0.4, 1.0], 10, "1"),
        chain([0.9, 1.0], 20, "2", outcome="error"),
        chain([0.3, 1.0], 30, "3", end=5),
        chain([0.9, -1.0], 40, "4", verdict=WRONG),
        chain([0.2, 1.0], 50, "5"),
        chain([0.1, 1.0], 60, "6"),
    ]
    taken, rejected = select(trees)
    assert taken == [10, 50]
    assert rejected == {"duplicate": 1, "unended": 1, "wrong_answer": 1, "over_limit": 1, "error_step": 1}
    assert select(trees, allow_errors=True)[0] == [20, 10]


def test_nothing_is_taken_of_a_problem_that_is_left_out_and_its_reason_is_kept() -> None:
    trajectories = list_trajectories(chain([0.5, 1.0], 10, "1"))
    problem_id = trajectories[0].graded.attempt.problem_id
    selection = select_trajectories(
        trajectories, TrajectoryRules(), eos_ids=frozenset({EOS}), left_out={problem_id: "suspicious"}
    )
    assert not selection.kept
    assert [reason for _, reason in selection.rejected] == ["suspicious"]


def test_what_counts_as_the_same_is_a_rule() -> None:
    trees = [chain([0.5, 1.0], 10, "1"), chain([0.4, 1.0], 20, "1")]
    assert select(trees) == ([10], {"duplicate": 1})
    assert select(trees, distinct="tokens") == ([10, 20], {})


def test_the_trees_of_a_problem_share_its_limit_and_those_of_others_do_not() -> None:
    (alike, verdicts) = chain([0.5, 1.0], 20, "1 * 2")
    other = GradedTree(build_tree(*alike.nodes, problem_id="q"), verdicts)
    trees = [chain([0.1, 1.0], 10, "1"), chain([0.9, 1.0], 30, "1 + 2"), other]
    assert select(trees, per_problem=1) == ([30, 20], {"over_limit": 1})


def test_right_and_wrong_ends_of_a_tree_make_pairs_by_the_rules_of_rollouts() -> None:
    tree = build_tree(
        write_step(None, 10, "x = 3", 0.0),
        write_step(0, 11, "print(x + 4)", 1.0, shown="7"),
        write_end(1, 1.0),
        write_step(0, 12, "print(x - 4)", -1.0, shown="-1"),
        write_end(3, -1.0),
    )
    graded = [one.graded for one in list_trajectories(GradedTree(tree, {2: RIGHT, 4: WRONG}))]

    (pair,) = select_pairs(graded, PairRules(), seed=0).pairs

    assert pair.chosen_ids == (10, 90, 11, 90, EOS)
    assert pair.rejected_ids == (10, 90, 12, 90, EOS)
    assert pair.chosen_weights == (1.0, 0.0, 1.0, 0.0, 1.0)


@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=2, max_size=4), min_size=1, max_size=6), st.integers(1, 3)
)
def test_nothing_that_is_left_out_ranks_above_what_is_taken(values: list[list[float]], limit: int) -> None:
    trees = [chain(row, 10 * (number + 1), "1 + " * number + "1") for number, row in enumerate(values)]
    taken, _ = select(trees, per_problem=limit, distinct="tokens")
    ranks = {10 * (number + 1): (fmean(row), min(row)) for number, row in enumerate(values)}
    assert len(taken) == min(limit, len(values))
    left = [rank for token_id, rank in ranks.items() if token_id not in taken]
    assert all(ranks[token_id] >= other for token_id in taken for other in left)


def test_a_limit_of_no_trajectory_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        TrajectoryRules(per_problem=0)
