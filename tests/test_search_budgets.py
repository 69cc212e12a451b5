"""Budgets: what is drawn, when drawing stops, and what counts as a trial."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_models import build_engine, build_tiny_model
from ponderosa.engines.protocol import Sampling
from ponderosa.engines.scripted import ScriptedEngine
from ponderosa.formats import PLAIN_PROSE
from ponderosa.records import Attempt, GradedAttempt, Problem, Verdict
from ponderosa.search.budgets import Budget, Trials, count_trials
from ponderosa.search.driver import build_context, run_searches
from ponderosa.search.solution import Limits
from search_fakes import FakeSandbox, judge_each

FIXED = Budget("rollout", 4, wave=4)
STOP = Budget("rollout", 4, target=1)


@judge_each
def judge(problem: Problem, attempt: Attempt) -> Verdict:
    is_right = attempt.answer == problem.answer
    return Verdict(is_right, "correct" if is_right else "wrong_answer", "fake@1")


def roll_out(budget: Budget, answers: Sequence[Sequence[str]]) -> tuple[list[list[GradedAttempt]], int]:
    """The graded attempts at problems whose k-th attempt gives the k-th answer ("y" is right), and all requests."""
    script = {
        f"q{i}\nSolution:": [f"The answer is {answer}.<|endoftext|>" for answer in row]
        for i, row in enumerate(answers)
    }
    engine = ScriptedEngine(script)
    problems = [Problem(f"q{i}", "1") for i in range(len(answers))]
    context = build_context(engine, PLAIN_PROSE, sampling=Sampling())
    groups = run_searches(engine, FakeSandbox(), problems, budget, context, judge=judge)
    return groups, len(engine.requests)


def list_verdicts(groups: Sequence[Sequence[GradedAttempt]]) -> list[list[bool]]:
    return [[one.verdict.correct for one in group] for group in groups]


def test_a_fixed_budget_draws_all_it_has() -> None:
    groups, _ = roll_out(FIXED, [["1", "1", "2", "2"], ["2"]])
    assert list_verdicts(groups) == [[True, True, False, False], [False] * 4]
    assert [one.attempt.sample for one in groups[0]] == [0, 1, 2, 3]


def test_stopping_on_success_draws_nothing_behind_the_first_correct_attempt() -> None:
    groups, num_requests = roll_out(STOP, [["1"], ["2", "2", "1"], ["2"]])
    assert list_verdicts(groups) == [[True], [False, False, True], [False] * 4]
    assert num_requests == 1 + 3 + 4


def test_pass_until_goes_on_to_its_target_or_its_cap() -> None:
    groups, _ = roll_out(Budget("rollout", 5, target=2), [["1", "2", "1", "1"], ["2", "1", "2"]])
    assert list_verdicts(groups) == [[True, False, True], [False, True, False, False, False]]


def test_a_wave_is_kept_whole_and_counted_up_to_the_stopping_point() -> None:
    groups, _ = roll_out(Budget("rollout", 5, target=1, wave=2), [["2", "2", "1", "2"], ["2"]])
    assert list_verdicts(groups) == [[False, False, True, False], [False] * 5]
    assert [count_trials(row, 1) for row in list_verdicts(groups)] == [Trials(3, 1), Trials(5, 0)]


def test_problems_do_not_wait_for_one_another() -> None:
    script = {f"q{i}\nSolution:": ["The answer is 2.<|endoftext|>"] for i in range(6)}
    engine = ScriptedEngine(script, num_slots=6)
    problems = [Problem(f"q{i}", "1") for i in range(6)]
    context = build_context(engine, PLAIN_PROSE)
    run_searches(engine, FakeSandbox(), problems, STOP, context, judge=judge)
    prompts = [engine.codec.decode(request.prompt_ids) for request in engine.requests]
    assert len({*prompts[:6]}) == 6


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 4), st.integers(1, 5))
def test_what_counts_does_not_depend_on_the_wave(is_correct: list[bool], target: int, wave: int) -> None:
    one_by_one = count_trials(is_correct, target)
    drawn = -(-one_by_one.num_trials // wave) * wave
    assert count_trials(is_correct[:drawn], target) == one_by_one


def test_attempts_of_a_smaller_budget_are_the_first_of_a_larger_one() -> None:
    """On a real model, under any budget: the number of an attempt decides its tokens."""
    engine = build_engine(build_tiny_model("qwen3"), num_slots=4)
    prompt_format = PLAIN_PROSE.model_copy(update={"question_prefix": "", "solution_prefix": "abcd"})
    problems = [Problem(text, "a") for text in ("hello", "thisisaquestion", "andanother", "andone")]
    context = build_context(
        engine, prompt_format, seed=3, sampling=Sampling(1.0), limits=Limits(max_tokens=6)
    )
    context = replace(context, read_answer=lambda text, steps: (text[:1], text[:1]))

    def run(budget: Budget) -> list[list[Attempt]]:
        engine.reset()
        groups = run_searches(engine, FakeSandbox(), problems, budget, context, judge=judge_by_seed)
        return [[one.attempt for one in group] for group in groups]

    whole = run(FIXED)
    for budget in (STOP, Budget("rollout", 4, target=2), Budget("rollout", 4, target=1, wave=3)):
        stopped = run(budget)
        assert {len(group) for group in stopped} != {4}
        for attempts, longer in zip(stopped, whole, strict=True):
            assert [a.token_ids for a in attempts] == [a.token_ids for a in longer[: len(attempts)]]
            assert [a.seed for a in attempts] == [a.seed for a in longer[: len(attempts)]]


@judge_each
def judge_by_seed(problem: Problem, attempt: Attempt) -> Verdict:
    is_right = attempt.seed % 3 == 0
    return Verdict(is_right, "correct" if is_right else "wrong_answer", "fake@1")


@pytest.mark.parametrize("budget", [FIXED, STOP])
def test_the_first_attempt_of_every_budget_is_labelled_alike(budget: Budget) -> None:
    groups, _ = roll_out(budget, [["1"]])
    assert groups[0][0].attempt.strategy == "sample"
