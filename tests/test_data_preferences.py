"""Preference pairs: which attempts are set against which, and what is counted of the rest."""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponderosa.data.edit_distance import compute_edit_distance
from ponderosa.data.margins import summarise_margins
from ponderosa.data.preferences import PairRules, count_attempts, pair_attempts, select_pairs
from ponderosa.records import Attempt, Cost, Finish, GradedAttempt, Pair, Reason, Verdict

PROMPT = (1, 2, 3)


def build_graded(
    written: Sequence[int],
    reason: Reason = "correct",
    *,
    finish: Finish = "stop",
    observed: Sequence[int] = (),
    problem_id: str = "p",
    prompt_ids: tuple[int, ...] = PROMPT,
    sample: int = 0,
) -> GradedAttempt:
    """An attempt that wrote these tokens, with what the interpreter printed before the last of them."""
    token_ids = (*written[:-1], *observed, *written[-1:])
    sampled = (*[True] * len(written[:-1]), *[False] * len(observed), *[True] * len(written[-1:]))
    attempt = Attempt(
        problem_id=problem_id,
        sample=sample,
        prompt_ids=prompt_ids,
        token_ids=token_ids,
        sampled=sampled,
        model_logprobs=(0.0,) * len(token_ids),
        sampling_logprobs=(0.0,) * len(token_ids),
        finish=finish,
        text="",
        steps=(),
        answer=None,
        answer_key=None,
        cost=Cost(),
        strategy="sample",
        model_id="m",
        seed=0,
    )
    return GradedAttempt(attempt, Verdict(reason == "correct", reason, "answer@1"))


def wrong(written: Sequence[int], **changes: object) -> GradedAttempt:
    return build_graded(written, "wrong_answer", **changes)  # type: ignore[arg-type]


def name_pairs(pairs: Sequence[Pair]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(pair.chosen_ids, pair.rejected_ids) for pair in pairs]


# Which


def test_the_wrong_answer_with_the_fewest_changed_tokens_is_rejected_first() -> None:
    group = [build_graded([5, 6, 7, 8]), wrong([9, 9, 9, 9]), wrong([5, 6, 9, 8]), wrong([5, 9, 9, 8])]
    for num_pairs, expected in ((1, [(5, 6, 9, 8)]), (2, [(5, 6, 9, 8), (5, 9, 9, 8)])):
        selection = select_pairs(group, PairRules(pairs_per_problem=num_pairs), seed=0)
        assert [pair.rejected_ids for pair in selection.pairs] == expected


def test_an_attempt_not_used_yet_comes_before_a_nearer_one_that_was() -> None:
    group = [build_graded([1, 2, 3, 4]), build_graded([7, 7, 7, 7]), wrong([1, 2, 3, 5]), wrong([1, 2, 6, 6])]
    selection = select_pairs(group, PairRules(pairs_per_problem=2), seed=0)
    assert name_pairs(selection.pairs) == [((1, 2, 3, 4), (1, 2, 3, 5)), ((7, 7, 7, 7), (1, 2, 6, 6))]


def test_what_the_interpreter_printed_is_no_difference_no_length_and_no_loss() -> None:
    right = build_graded([1, 2, 3], observed=[60, 61, 62])
    near = wrong([1, 2, 4], observed=[70, 71, 72, 73, 74, 75])
    far = wrong([1, 8, 9], observed=[60, 61, 62])
    rules = PairRules(pairs_per_problem=1, max_length_difference=0.0)
    (pair,) = select_pairs([right, far, near], rules, seed=0).pairs
    assert pair.rejected_ids == near.attempt.token_ids
    assert pair.chosen_weights == (1.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    assert pair.rejected_weights == (1.0, 1.0, *[0.0] * 6, 1.0)


@pytest.mark.parametrize(("tolerance", "num_pairs"), [(None, 2), (0.25, 2), (0.24, 1), (0.0, 1), (1.0, 2)])
def test_lengths_may_differ_by_a_share_of_the_longer(tolerance: float | None, num_pairs: int) -> None:
    group = [build_graded([1, 2, 3]), wrong([1, 2, 4]), wrong([1, 2, 3, 4])]
    selection = select_pairs(group, PairRules(max_length_difference=tolerance), seed=0)
    assert len(selection.pairs) == num_pairs
    assert selection.unused == ({"no_match_in_length": 1} if num_pairs == 1 else {})


def test_random_rejection_depends_on_the_seed_alone() -> None:
    group = [build_graded([0] * 20), *(wrong([n] * n) for n in range(1, 20))]
    rules = PairRules(pairs_per_problem=1, rejected="random")
    drawn = [select_pairs(group, rules, seed=seed).pairs[0].rejected_ids for seed in range(40)]
    assert drawn == [select_pairs(group, rules, seed=seed).pairs[0].rejected_ids for seed in range(40)]
    assert len(set(drawn)) > 10


def test_attempts_under_different_prompts_are_never_paired() -> None:
    group = [build_graded([1, 2]), wrong([1, 3], prompt_ids=(4, 5))]
    selection = select_pairs(group, PairRules(), seed=0)
    assert selection.pairs == ()
    assert selection.unpaired == {"all_correct": 1, "all_wrong": 1}


def test_problems_come_in_the_order_they_are_met() -> None:
    graded = [
        one for name in "bca" for one in (build_graded([1], problem_id=name), wrong([2], problem_id=name))
    ]
    assert [pair.problem_id for pair in select_pairs(graded, PairRules(), seed=0).pairs] == ["b", "c", "a"]


# Why not


@pytest.mark.parametrize(
    ("group", "unused", "unpaired"),
    [
        ([build_graded([1]), build_graded([2])], {"all_correct": 2}, {"all_correct": 1}),
        ([wrong([1]), wrong([2])], {"all_wrong": 2}, {"all_wrong": 1}),
        ([build_graded([1]), wrong([2, 2, 2])], {"no_match_in_length": 2}, {"no_match_in_length": 1}),
        ([build_graded([1]), build_graded([1]), wrong([2])], {"duplicate": 1}, {}),
        (
            [build_graded([1]), build_graded([2], "truncated", finish="length")],
            {"truncated": 1, "no_counterpart": 1},
            {"no_counterpart": 1},
        ),
        (
            [build_graded([1], finish="length"), build_graded([3]), wrong([2])],
            {"truncated": 1},
            {},
        ),
        (
            [build_graded([1]), build_graded([2], "undecided")],
            {"undecided": 1, "no_counterpart": 1},
            {"no_counterpart": 1},
        ),
        (
            [wrong([], finish="error"), build_graded([], "no_answer")],
            {"error": 1, "empty": 1},
            {"all_wrong": 1},
        ),
        ([build_graded([1]), wrong([1])], {"contradictory": 2}, {"no_counterpart": 1}),
    ],
)
def test_every_attempt_and_problem_without_a_pair_has_its_reason(
    group: list[GradedAttempt], unused: dict[str, int], unpaired: dict[str, int]
) -> None:
    selection = select_pairs(group, PairRules(max_length_difference=0.5), seed=0)
    assert selection.unused == unused
    assert selection.unpaired == unpaired


def test_a_truncated_attempt_is_rejected_on_request_and_chosen_never() -> None:
    group = [
        build_graded([1], finish="length"),
        build_graded([2]),
        build_graded([3], "truncated", finish="length"),
    ]
    selection = select_pairs(group, PairRules(allow_truncated=True), seed=0)
    assert name_pairs(selection.pairs) == [((2,), (3,))]


def test_enough_pairs_leave_the_rest_as_surplus() -> None:
    group = [build_graded([1, 1]), wrong([1, 2]), wrong([2, 2]), wrong([2, 3])]
    selection = select_pairs(group, PairRules(pairs_per_problem=1), seed=0)
    assert selection.unused == {"surplus": 2}


def test_an_attempt_longer_than_the_context_is_left_out() -> None:
    group = [build_graded([1, 1]), wrong([1, 2, 3]), wrong([4, 4])]
    selection = select_pairs(group, PairRules(), seed=0, max_length=len(PROMPT) + 2)
    assert name_pairs(selection.pairs) == [((1, 1), (4, 4))]
    assert selection.unused == {"longer_than_context": 1}


def test_an_attempt_longer_than_the_rules_allow_is_left_out_with_what_was_printed_counted_in() -> None:
    group = [build_graded([1, 1]), wrong([1, 2], observed=[9]), wrong([4, 4]), wrong([1, 2, 3, 4])]
    rules, length = PairRules(max_length=len(PROMPT) + 2), len(PROMPT) + 3
    selection = select_pairs(group, rules, seed=0, max_length=length)
    assert name_pairs(selection.pairs) == [((1, 1), (4, 4))]
    assert selection.unused == {"longer_than_max_length": 1, "longer_than_context": 1}


def test_a_limit_draws_pairs_and_counts_what_it_leaves() -> None:
    graded = [
        one for name in "abcdef" for one in (build_graded([1], problem_id=name), wrong([2], problem_id=name))
    ]
    drawn = {
        tuple(pair.problem_id for pair in select_pairs(graded, PairRules(limit=2), seed=seed).pairs)
        for seed in range(20)
    }
    assert len(drawn) > 5
    assert all(len(names) == 2 and names == tuple(sorted(names)) for names in drawn)
    selection = select_pairs(graded, PairRules(limit=2), seed=0)
    assert selection.unused == {"over_limit": 8}
    assert selection.unpaired == {"over_limit": 4}
    assert select_pairs(graded, PairRules(limit=6), seed=0).unused == {}


REASONS: list[Reason] = ["correct", "wrong_answer", "undecided", "truncated"]
graded_attempts = st.builds(
    lambda written, observed, reason, problem: build_graded(
        written,
        reason,
        observed=observed,
        finish="length" if reason == "truncated" else "stop",
        problem_id=problem,
    ),
    st.lists(st.integers(0, 2), min_size=1, max_size=5),
    st.lists(st.integers(7, 8), max_size=2),
    st.sampled_from(REASONS),
    st.sampled_from("ab"),
)


@settings(max_examples=150, deadline=None)
@given(
    graded=st.lists(graded_attempts, max_size=14),
    rules=st.builds(
        PairRules,
        pairs_per_problem=st.integers(1, 4),
        rejected=st.sampled_from(["near", "random"]),
        max_length_difference=st.none() | st.floats(0, 1),
        allow_truncated=st.booleans(),
        limit=st.none() | st.integers(1, 4),
    ),
    order=st.randoms(use_true_random=False),
)
def test_selection_accounts_for_every_attempt_whatever_their_order(
    graded: list[GradedAttempt], rules: PairRules, order: random.Random
) -> None:
    selection = select_pairs(graded, rules, seed=0)
    shuffled = order.sample(graded, len(graded))
    again = select_pairs(shuffled, rules, seed=0)

    assert Counter(name_pairs(selection.pairs)) == Counter(name_pairs(again.pairs))
    assert (selection.unused, selection.unpaired) == (again.unused, again.unpaired)

    assert count_attempts(selection.pairs) + sum(selection.unused.values()) == len(graded)
    assert len(set(selection.pairs)) == len(selection.pairs)
    paired = Counter(pair.problem_id for pair in selection.pairs)
    assert all(count <= rules.pairs_per_problem for count in paired.values())
    assert len(paired) + sum(selection.unpaired.values()) == len({one.attempt.problem_id for one in graded})


def test_pairing_one_prompt_is_what_selection_does_for_each() -> None:
    group = [build_graded([1, 1]), wrong([1, 2]), wrong([2, 2])]
    assert pair_attempts(group, PairRules(), seed=3) == select_pairs(group, PairRules(), seed=3)


# Edit distance


def compute_naive_distance(first: Sequence[int], second: Sequence[int]) -> int:
    """The textbook table, row by row."""
    row = list(range(len(second) + 1))
    for i, x in enumerate(first, 1):
        above, row = row, [i]
        for j, y in enumerate(second, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


sequences = st.lists(st.integers(0, 3), max_size=80)


@settings(max_examples=200, deadline=None)
@given(first=sequences, second=sequences)
def test_the_edit_distance_is_that_of_the_textbook_table(first: list[int], second: list[int]) -> None:
    assert compute_edit_distance(first, second) == compute_naive_distance(first, second)
    assert compute_edit_distance(second, first) == compute_edit_distance(first, second)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("kitten", "sitting", 3),
        ("", "abc", 3),
        ("abc", "", 3),
        ("", "", 0),
        ("same", "same", 0),
        ("ab", "ba", 2),
    ],
)
def test_known_edit_distances(first: str, second: str, expected: int) -> None:
    assert compute_edit_distance([*map(ord, first)], [*map(ord, second)]) == expected


# Margins


def test_margins_that_follow_length_show_it() -> None:
    differences = list(range(-50, 50))
    margins = [0.02 * difference for difference in differences]
    summary = summarise_margins(margins, differences, [str(d) for d in differences], num_bins=4)

    assert summary["length_correlation"] == pytest.approx(1.0)
    assert summary["accuracy"] == 0.49
    assert [(b["shortest"], b["longest"], b["pairs"]) for b in summary["bins"]] == [
        (-50, -26, 25),
        (-25, -1, 25),
        (0, 24, 25),
        (25, 49, 25),
    ]
    assert [b["accuracy"] for b in summary["bins"]] == [0.0, 0.0, 0.96, 1.0]
    assert summary["bins"][0]["margin"] == pytest.approx(-0.76)
    assert summary["bins"][0]["length_difference"] == -38
    assert summary["bins"][0]["low"] < -0.76 < summary["bins"][0]["high"]


def test_a_bins_margin_weighs_problems_equally_however_many_pairs_they_have() -> None:
    summary = summarise_margins([1.0, 1.0, 1.0, 3.0], [0, 0, 0, 0], ["a", "a", "a", "b"])
    (only,) = summary["bins"]
    assert (only["margin"], only["problems"], only["pairs"]) == (2.0, 2, 4)
    assert summary["margin"] == 1.5
    assert summary["length_correlation"] is None


@settings(max_examples=60, deadline=None)
@given(differences=st.lists(st.integers(-5, 5), max_size=30), num_bins=st.integers(1, 6))
def test_every_pair_is_in_one_bin_and_equal_differences_share_it(
    differences: list[int], num_bins: int
) -> None:
    names = [str(i) for i in range(len(differences))]
    bins = summarise_margins([0.5] * len(differences), differences, names, num_bins=num_bins)["bins"]

    assert sum(one["pairs"] for one in bins) == len(differences)
    assert len(bins) <= num_bins
    ends = [end for one in bins for end in (one["shortest"], one["longest"])]
    assert ends == sorted(ends)
    assert all(a["longest"] < b["shortest"] for a, b in pairwise(bins))
