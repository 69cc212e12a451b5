"""Pivotal token search on policies whose chance of success is known at every prefix."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import log
from typing import Any

import pytest

from planted_policy import (
    Key,
    PlantedEngine,
    Truth,
    build_problems,
    judge,
    know_truth,
    plant_problems,
    read_answer,
)
from ponderosa.engines.protocol import GenerateRequest, Generation, Sampling
from ponderosa.engines.scripted import ScriptedEngine
from ponderosa.engines.stops import ends_with_stop
from ponderosa.formats import PLAIN_CODE, PLAIN_PROSE
from ponderosa.records import Attempt, Cost, Finish, Problem, Verdict
from ponderosa.search.driver import build_context, run_searches
from ponderosa.search.pivotal import Candidate, FirstToken, PivotalSearch, SearchedProblem, select_attempts
from ponderosa.search.pivotal_findings import Finding, choose_pair, judge_candidates, mark_cancelling
from ponderosa.search.pivotal_statistics import Tally
from ponderosa.search.solution import Limits
from search_fakes import PROBLEM, FakeSandbox, judge_each
from test_pivotal_statistics import build_rollout

FDR, MIN_EFFECT = 0.1, 0.05


def search_planted(
    num_problems: int, *, seed: int = 0, num_slots: int = 4096, **settings: Any
) -> tuple[list[SearchedProblem], list[Finding], Truth, PlantedEngine]:
    planted = plant_problems(num_problems, seed=seed)
    engine = PlantedEngine(planted, num_slots=num_slots)
    context = build_context(engine, PLAIN_PROSE, sampling=Sampling(), seed=seed)
    context = replace(context, read_answer=read_answer)
    search = PivotalSearch(**{"n_confirm": 96, **settings})
    searched = run_searches(engine, FakeSandbox(), build_problems(planted), search, context, judge=judge)
    findings = judge_candidates(searched, min_effect=MIN_EFFECT, fdr=FDR, p_gap=search.p_gap)
    truth = know_truth(planted, [one.attempt for problem in searched for one in problem.attempts])
    return searched, findings, truth, engine


def find_key(finding: Finding) -> Key:
    return finding.problem_id, (*finding.candidate.prefix_ids[1:], finding.candidate.token_id)


def check_planted(findings: Sequence[Finding], truth: Truth) -> None:
    """Recall of isolated planted tokens at least 0.9, false discoveries at most 0.1 of all that is called pivotal."""
    found = {find_key(one) for one in findings if one.is_pivotal}
    assert {abs(truth.changes[key]) <= 0.05 or abs(truth.changes[key]) >= 0.3 for key in truth.changes} == {
        True
    }
    assert len(found & truth.pivotal) >= 0.9 * len(truth.pivotal)
    assert len(found - truth.pivotal - truth.cancelling) <= FDR * len(found)


def test_planted_tokens_are_found_within_the_budget_and_false_ones_are_rare() -> None:
    searched, findings, truth, engine = search_planted(10)
    assert len(truth.pivotal) >= 25
    check_planted(findings, truth)
    for finding in findings:
        assert finding.change == pytest.approx(truth.changes[find_key(finding)], abs=0.35)
    assert engine.num_requests == sum(sum(one.num_rollouts.values()) for one in searched) <= 10 * 4_000


@pytest.mark.slow
def test_of_two_hundred_planted_tokens_nine_in_ten_are_found_at_a_false_discovery_rate_of_a_tenth() -> None:
    _, findings, truth, engine = search_planted(64, seed=5)
    assert len(truth.pivotal) >= 200
    check_planted(findings, truth)
    marked = {find_key(one) for one in findings if one.cancels_neighbour}
    assert marked
    assert marked <= truth.cancelling
    assert engine.num_requests <= 64 * 4_000


def test_the_recursion_alone_passes_over_changes_that_a_later_one_takes_back() -> None:
    """Phi-4's recursion sees segment ends only; splitting surprising segments whatever their ends finds more."""
    found = {}
    for max_nats in (None, 2.0):
        _, findings, truth, _ = search_planted(5, seed=2, max_nats=max_nats, n_confirm=64)
        keys = {find_key(one) for one in findings if one.is_pivotal}
        found[max_nats] = len(keys & (truth.pivotal | truth.cancelling))
    assert found[None] < found[2.0]


def test_results_do_not_depend_on_how_much_the_engine_does_at_once() -> None:
    few, _, _, _ = search_planted(3, num_slots=1, n_screen=16, n_confirm=16)
    many, _, _, _ = search_planted(3, n_screen=16, n_confirm=16)
    assert few == many


def test_confirmation_uses_rollouts_that_nothing_else_uses() -> None:
    """No seed of an engine's request occurs twice, so no two estimates share a rollout."""

    class Watched(PlantedEngine):
        def submit(self, request: GenerateRequest) -> int:
            seeds.append(request.seed)
            return super().submit(request)

    seeds: list[int] = []
    planted = plant_problems(4)
    engine = Watched(planted)
    context = replace(build_context(engine, PLAIN_PROSE, sampling=Sampling()), read_answer=read_answer)
    search = PivotalSearch(n_screen=24, n_confirm=24)
    run_searches(engine, FakeSandbox(), build_problems(planted), search, context, judge=judge)
    assert len(set(seeds)) == len(seeds) > 1000


def test_a_spent_budget_is_counted_and_the_largest_changes_come_first() -> None:
    whole, _, _, _ = search_planted(2)
    for settings in ({"max_prefixes": 6}, {"max_candidates": 1}):
        search = PivotalSearch(n_confirm=96, **settings)
        tight, _, _, engine = search_planted(2, **settings)
        assert engine.num_requests <= 2 * search.max_rollouts
        assert all(len(problem.candidates) <= search.max_candidates for problem in tight)
        num_unsplit = sum(problem.num_unsplit for problem in tight)
        num_unconfirmed = sum(problem.num_unconfirmed for problem in tight)
        assert (num_unsplit > 0, num_unconfirmed > 0) == (
            "max_prefixes" in settings,
            "max_candidates" in settings,
        )
        for problem, untouched in zip(tight, whole, strict=True):
            if "max_candidates" in settings and problem.candidates:
                best = max(
                    abs(after.rate - before.rate)
                    for before, after in (one.screened for one in untouched.candidates)
                )
                (before, after) = problem.candidates[0].screened
                assert abs(after.rate - before.rate) == best


class DocumentsEngine(ScriptedEngine):
    """A policy that writes one of several documents, each as likely: p of a prefix is a share of documents."""

    def __init__(self, documents: Sequence[str]) -> None:
        super().__init__([])
        self._documents = [tuple(self.codec.encode_script(text)) for text in documents]

    def _reply(self, request: GenerateRequest) -> Generation:
        start = len(self.codec.encode(PLAIN_CODE.render_plain(PROBLEM.question)))
        written = request.prompt_ids[start:]
        room = request.max_new_tokens
        source = random.Random(request.seed)
        new_ids: list[int] = []
        logprobs: list[float] = []
        finish: Finish = "length"
        while len(new_ids) < room and finish == "length":
            written_now = (*written, *new_ids)
            later = [
                one[len(written_now)] for one in self._documents if one[: len(written_now)] == written_now
            ]
            new_ids.append(source.choice(later))
            logprobs.append(log(Counter(later)[new_ids[-1]] / len(later)))
            finish = "stop" if ends_with_stop(request, new_ids, self._pieces) else "length"
        return Generation(tuple(new_ids), tuple(logprobs), tuple(logprobs), finish, start)


@judge_each
def judge_exactly(problem: Problem, attempt: Attempt) -> Verdict:
    is_right = attempt.answer == problem.answer
    return Verdict(is_right, "correct" if is_right else "wrong_answer", "exact@1")


def search_documents(
    documents: Sequence[str], limits: Limits | None = None, **settings: Any
) -> tuple[SearchedProblem, list[Finding], FakeSandbox]:
    engine, sandbox = DocumentsEngine(documents), FakeSandbox()
    context = build_context(engine, PLAIN_CODE, sampling=Sampling(), limits=limits)
    search = PivotalSearch(**{"n_screen": 48, "n_confirm": 48, **settings})
    (searched,) = run_searches(engine, sandbox, [PROBLEM], search, context, judge=judge_exactly)
    findings = judge_candidates([searched], min_effect=MIN_EFFECT, fdr=FDR, p_gap=search.p_gap)
    return searched, findings, sandbox


def write_steps(name: str, value: str) -> str:
    output = f"<|output|>{value}<|end_of_output|>"
    return f"{name} = 1<|end_of_step|>print({value})<|end_of_step|>{output}So {value}.<|endoftext|>"


CODE = [write_steps(name, value) for name in "xy" for value in "56"]


def test_in_code_the_token_that_decides_what_is_printed_is_found_and_what_is_printed_is_not() -> None:
    searched, findings, _ = search_documents(CODE)
    assert [one.is_pivotal for one in findings] == [True, True]
    for finding in findings:
        candidate = finding.candidate
        (graded,) = [one for one in searched.attempts if one.attempt.sample == candidate.sample]
        assert candidate.position == len("x = 1") + 1 + len("print(")
        assert graded.attempt.token_ids[candidate.position] == candidate.token_id
        assert (
            candidate.prefix_ids == graded.attempt.prompt_ids + graded.attempt.token_ids[: candidate.position]
        )
        assert chr(candidate.token_id) == ("5" if graded.verdict.correct else "6")
        assert finding.change == pytest.approx(0.5 if graded.verdict.correct else -0.5, abs=0.25)
        pair = choose_pair(finding, min_count=4)
        assert pair is not None
        assert (chr(pair.chosen.token_id), chr(pair.rejected.token_id)) == ("5", "6")
        assert (pair.chosen.logprob, pair.rejected.logprob) == (log(0.5), log(0.5))


def test_tokens_the_policy_had_no_choice_about_cost_no_rollout() -> None:
    searched, _, _ = search_documents(CODE, max_nats=None)
    num_prefixes = searched.num_rollouts["screen"] / 48
    assert num_prefixes <= 8


def test_steps_before_the_cut_are_not_executed_again() -> None:
    searched, _, sandbox = search_documents(CODE)
    num_first = sum(code.endswith("= 1") for _, code in sandbox.requests)
    num_rollouts = sum(searched.num_rollouts.values())
    assert searched.num_rollouts["question"] <= num_first < num_rollouts / 2


def test_a_token_that_only_leads_to_the_token_limit_is_reported_apart_from_pivotal_ones() -> None:
    """ "r" goes on for long: half of the time it would be right, as "s" is, but it does not get that far."""
    documents = ["sThe answer is 5.<|endoftext|>", "sThe answer is 6.<|endoftext|>"]
    documents += [f"r{'and so on ' * 9}The answer is {value}.<|endoftext|>" for value in "56"]
    documents *= 2
    documents += [f"t{value}.<|endoftext|>" for value in ("The answer is 5", "The answer is 6")]
    searched, findings, _ = search_documents(documents, Limits(max_tokens=60), n_confirm=96, n_question=256)
    first = [one for one in findings if one.candidate.position == 0]
    assert searched.num_truncated["question"] > 60
    assert not any(one.is_pivotal for one in first)
    values = [one for one in findings if chr(one.candidate.token_id) in "56"]
    assert values
    assert all(one.is_pivotal for one in values)


@pytest.mark.parametrize(
    ("documents", "reason"),
    [
        (["The answer is 5.<|endoftext|>"], "too_easy"),
        (["The answer is 6.<|endoftext|>"], "too_hard"),
        (["a" * 90] * 19 + ["The answer is 5.<|endoftext|>"], "too_often_truncated"),
    ],
)
def test_questions_left_out_say_why(documents: list[str], reason: str) -> None:
    searched, findings, _ = search_documents(documents, Limits(max_tokens=60))
    assert (searched.left_out, findings, searched.attempts) == (reason, [], ())
    assert set(searched.num_rollouts) == {"question"}


def test_a_question_the_engine_refuses_is_left_out_as_such() -> None:
    engine = DocumentsEngine(["5<|endoftext|>"])
    engine.max_context = 3
    engine._reply = lambda request: Generation((), (), (), "error", error="no room")  # type: ignore[method-assign]
    context = build_context(engine, PLAIN_CODE, sampling=Sampling())
    (searched,) = run_searches(
        engine, FakeSandbox(), [PROBLEM], PivotalSearch(), context, judge=judge_exactly
    )
    assert searched.left_out == "refused_by_engine"


def build_graded(finish: str, is_right: bool, *token_ids: int) -> Any:
    one = build_rollout(finish, is_right)
    return one._replace(attempt=replace(one.attempt, token_ids=token_ids))


def test_attempts_are_searched_right_and_wrong_by_turns_each_once() -> None:
    rollouts = [
        build_graded("length", False, 1),
        build_graded("stop", False, 2),
        build_graded("stop", False, 2),
        build_graded("stop", False, 3),
        build_graded("stop", True, 4),
        build_graded("stop", False, 5),
    ]
    order = [one.attempt.token_ids for one in select_attempts(rollouts, 9)]
    assert order == [(2,), (4,), (3,), (5,)]
    assert len(select_attempts(rollouts, 1)) == 1
    assert select_attempts(rollouts[:1], 2) == []


def build_finding(
    order: int, change: float, token_id: int = 7, alternatives: Sequence[FirstToken] = (), **changes: Any
) -> Finding:
    prefix = (99, *range(order))
    before, after = Tally(100, 50, 0), Tally(100, 50 + round(100 * change), 0)
    candidate = Candidate(
        0, order, order, prefix, token_id, -0.7, (before, after), (before, after), tuple(alternatives)
    )
    return replace(Finding("p", candidate, 0.0, 0.0, True, False), **changes)


def test_neighbours_that_cancel_are_marked_and_others_are_not() -> None:
    pair = [build_finding(4, 0.3, token_id=4), build_finding(5, -0.28, token_id=5)]
    assert [one.cancels_neighbour for one in mark_cancelling(pair, 0.15)] == [True, True]
    for changed in (
        build_finding(5, 0.28, token_id=5),
        build_finding(5, -0.1, token_id=5),
        build_finding(6, -0.28, token_id=5),
        build_finding(5, -0.28, token_id=5, is_pivotal=False),
        build_finding(5, -0.28, token_id=5, problem_id="q"),
    ):
        assert not any(one.cancels_neighbour for one in mark_cancelling([pair[0], changed], 0.15))


def test_a_pair_takes_its_other_token_from_fresh_rollouts_at_the_same_prefix() -> None:
    alternatives = [
        FirstToken(7, -0.7, Tally(50, 40, 0)),
        FirstToken(8, -1.6, Tally(25, 20, 0)),
        FirstToken(9, -2.0, Tally(20, 4, 4)),
        FirstToken(10, -3.0, Tally(5, 0, 0)),
    ]
    raising = choose_pair(build_finding(3, 0.3, alternatives=alternatives), min_count=4)
    assert raising is not None
    assert (raising.chosen.token_id, raising.rejected.token_id) == (7, 9)
    assert raising.chosen.tally == Tally(100, 80, 0)
    lowering = choose_pair(build_finding(3, -0.3, alternatives=alternatives), min_count=4)
    assert lowering is not None
    assert (lowering.chosen.token_id, lowering.rejected.token_id) == (8, 7)
    assert choose_pair(build_finding(3, 0.3, alternatives=alternatives[3:]), min_count=6) is None


def test_a_pairs_other_token_must_lie_beyond_without_its_truncated_rollouts_too() -> None:
    alternatives = [FirstToken(8, -1.6, Tally(40, 10, 25))]
    assert choose_pair(build_finding(3, 0.3, alternatives=alternatives), min_count=4) is None


def test_an_attempt_of_one_problem_is_not_a_neighbour_of_another() -> None:
    searched = [
        SearchedProblem(name, Tally(1, 1, 0), None, (), (one.candidate,), {}, {}, 0, 0, Cost())
        for name, one in (("p", build_finding(4, 0.4, token_id=4)), ("q", build_finding(5, -0.4, token_id=5)))
    ]
    findings = judge_candidates(searched, min_effect=0.05, fdr=0.1, p_gap=0.15)
    assert [(one.is_pivotal, one.cancels_neighbour) for one in findings] == [(True, False), (True, False)]
