"""Rejection sampling: what is taken, what is not and why, and the rows that attempts become."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponderosa.data.programs import canonicalise_program
from ponderosa.data.rollouts import ProblemRollouts, RolloutRules, select_rollouts
from ponderosa.data.rows import build_attempt_row
from ponderosa.records import Attempt, Cost, GradedAttempt, Problem, Reason, Step, Verdict

EOS = 0


def write_attempt(
    sample: int, token_ids: Sequence[int], codes: Sequence[str] = (), problem_id: str = "p"
) -> Attempt:
    steps = tuple(Step(code, code, None, "ok") for code in codes)
    num = len(token_ids)
    return Attempt(
        *(problem_id, sample, (7, 8), tuple(token_ids), (True,) * num, (0.0,) * num, (0.0,) * num),
        *("stop", "", steps, "1", "1", Cost(), "sample", "m", 0),
    )


def grade(attempt: Attempt, reason: Reason = "correct") -> GradedAttempt:
    return GradedAttempt(attempt, Verdict(reason == "correct", reason, "answer@1"))


def select(
    graded: Sequence[GradedAttempt], rules: RolloutRules | None = None, seed: int = 0
) -> tuple[list[int], dict[str, int]]:
    """Numbers of the attempts taken, and the rejections by reason."""
    group = ProblemRollouts(Problem("q", id="p"), tuple(graded))
    selection = select_rollouts([group], rules or RolloutRules(), eos_ids=frozenset({EOS}), seed=seed)
    assert len(selection.kept) + len(selection.rejected) == len(graded)
    return [attempt.sample for attempt in selection.kept], Counter(reason for _, reason in selection.rejected)


def test_every_attempt_is_taken_or_rejected_for_a_reason() -> None:
    graded = [
        grade(write_attempt(0, [1, EOS]), "wrong_answer"),
        grade(write_attempt(1, [2, EOS])),
        grade(write_attempt(2, [2, EOS])),
        grade(write_attempt(3, [3, 4])),
        grade(write_attempt(4, []), "no_answer"),
        grade(write_attempt(5, [5, EOS])),
        grade(write_attempt(6, [6, EOS])),
    ]
    taken, rejected = select(graded, RolloutRules(per_problem=2))
    assert taken == [1, 5]
    assert rejected == {"wrong_answer": 1, "duplicate": 1, "unended": 1, "no_answer": 1, "over_limit": 1}


def test_a_limit_holds_for_each_problem_by_itself() -> None:
    groups = [
        ProblemRollouts(
            Problem("q", id=name),
            tuple(grade(write_attempt(i, [i + 1, EOS], problem_id=name)) for i in range(3)),
        )
        for name in "ab"
    ]
    selection = select_rollouts(groups, RolloutRules(per_problem=1), eos_ids=frozenset({EOS}), seed=0)
    assert [attempt.problem_id for attempt in selection.kept] == ["a", "b"]


def test_the_shortest_go_first_if_that_is_asked() -> None:
    graded = [grade(write_attempt(i, [*range(1, length), EOS])) for i, length in enumerate((5, 3, 4))]
    assert select(graded, RolloutRules(per_problem=1, order="shortest"))[0] == [1]
    assert select(graded, RolloutRules(per_problem=1))[0] == [0]


def test_what_the_interpreter_printed_has_no_length() -> None:
    chatty = replace(write_attempt(0, [1, 9, 9, 9, 9, EOS]), sampled=(True, *[False] * 4, True))
    graded = [grade(write_attempt(1, [1, 2, EOS])), grade(chatty)]
    assert select(graded, RolloutRules(per_problem=1, order="shortest"))[0] == [0]


def test_a_random_order_depends_on_the_seed_alone() -> None:
    graded = [grade(write_attempt(i, [i + 1, EOS])) for i in range(20)]
    rules = RolloutRules(per_problem=3, order="random")
    draws = [select(graded, rules, seed)[0] for seed in range(10)]
    assert select(graded[::-1], rules, 4)[0] == draws[4]
    assert len({tuple(draw) for draw in draws}) > 5


def test_the_same_program_under_other_names_is_a_duplicate() -> None:
    graded = [
        grade(write_attempt(0, [1, EOS], ["# why\ntom = 3", "print(tom + 4)"])),
        grade(write_attempt(1, [2, EOS], ["x = 3  # so", "print( x+4 )"])),
        grade(write_attempt(2, [3, EOS], ["x = 4", "print(x + 3)"])),
    ]
    assert select(graded) == ([0, 2], {"duplicate": 1})
    assert select(graded, RolloutRules(distinct="tokens")) == ([0, 1, 2], {})


def test_prose_without_code_is_the_same_only_token_by_token() -> None:
    graded = [grade(write_attempt(i, ids)) for i, ids in enumerate([[1, EOS], [2, EOS], [1, EOS]])]
    assert select(graded) == ([0, 1], {"duplicate": 1})


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=12), st.integers(1, 4))
def test_what_is_taken_is_correct_distinct_and_within_the_limit(
    drawn: list[tuple[int, bool]], per_problem: int
) -> None:
    graded = [
        grade(write_attempt(i, [token, EOS]), "correct" if right else "wrong_answer")
        for i, (token, right) in enumerate(drawn)
    ]
    taken, _ = select(graded, RolloutRules(per_problem=per_problem))
    tokens = [drawn[i][0] for i in taken]
    assert all(drawn[i][1] for i in taken)
    assert len(set(tokens)) == len(tokens) == min(per_problem, len({t for t, right in drawn if right}))


# Programs


def spell(*codes: str) -> str | None:
    return canonicalise_program([Step(code, code) for code in codes])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a = 1\nprint(a)", "b=1 # note\nprint( b )"),
        ("def f(x):\n    return x\nprint(f(2))", "def g(n):\n  return n\nprint(g(2))"),
        ("t = sum(i for i in [1])\nprint(t)", "u = sum(k for k in [1])\nprint(u)"),
    ],
)
def test_layout_comments_and_names_do_not_count(one: str, other: str) -> None:
    assert spell(one) == spell(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a = 1\nb = 2\nprint(a - b)", "a = 1\nb = 2\nprint(b - a)"),
        ("a = 1\nprint(a)", "a = 2\nprint(a)"),
        ("print(min(1, 2))", "print(max(1, 2))"),
        ("import math as m\nx = 1\nprint(m)", "import math as m\nx = 1\nprint(x)"),
        ("def f(a):\n  return a\nx = 1\nprint(f(a=x))", "def f(b):\n  return b\nx = 1\nprint(f(a=x))"),
    ],
)
def test_programs_that_do_other_things_stay_apart(one: str, other: str) -> None:
    assert spell(one) != spell(other)


def test_steps_are_read_as_one_program() -> None:
    assert spell("a = 1", "print(a)") == spell("b = 1\nprint(b)")


@pytest.mark.parametrize("code", ["", "print(", "x = '\x00'", "(" * 10_000, "-" * 100_000 + "1"])
def test_what_does_not_parse_has_no_program(code: str) -> None:
    assert spell(code) is None


# Rows


def test_an_attempt_becomes_a_row_id_for_id_with_loss_on_what_was_sampled() -> None:
    attempt = Attempt(
        *("p", 0, (7, 8), (1, 2, 9, EOS), (True, True, False, True), (0.0,) * 4, (0.0,) * 4),
        *("stop", "", (), "1", "1", Cost(), "sample", "m", 0),
    )
    row = build_attempt_row(attempt)
    assert row.token_ids == (7, 8, 1, 2, 9, EOS)
    assert row.loss_weights == (0.0, 0.0, 1.0, 1.0, 0.0, 1.0)
    assert row.document_ids == (0,) * 6
    assert build_attempt_row(attempt, prompt_weight=0.5).loss_weights == (0.0, 0.5, 1.0, 1.0, 0.0, 1.0)


def test_an_attempt_that_was_cut_short_is_given_no_end() -> None:
    assert build_attempt_row(write_attempt(0, [1, 2])).token_ids == (7, 8, 1, 2)
