"""The driver and the strategies: many searches over one engine, whatever the timing."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_models import build_engine, build_tiny_model
from ponderosa.engines.protocol import Generation, Sampling, Scored
from ponderosa.engines.scripted import ScriptedEngine
from ponderosa.errors import ConfigError, WorkError
from ponderosa.formats import PLAIN_CODE, PLAIN_PROSE
from ponderosa.records import Attempt, Cost, Problem, Verdict
from ponderosa.search import STRATEGIES, get_strategy
from ponderosa.search.draft import begin_draft
from ponderosa.search.driver import Meter, build_context, run_searches, run_unit
from ponderosa.search.requests import (
    Gather,
    ProblemView,
    Score,
    Search,
    SearchResult,
    Verify,
    view_problem,
)
from ponderosa.search.solution import Limits, SearchContext, build_request, write_solution
from ponderosa.search.strategies import Majority, Strategy
from search_fakes import FakeSandbox, FakeScorer, judge_each

PROBLEMS = [Problem(f"q{i}", str(i)) for i in range(6)]
SCRIPT = {
    f"q{i}\nSolution:": [f"x = {i}<|end_of_step|>", f"The answer is {i}.<|endoftext|>"] for i in range(6)
} | {"<|end_of_step|>": ["print(x)<|end_of_step|>"], "<|end_of_output|>": ["done<|endoftext|>"]}


def run(strategy: Strategy, delays: Mapping[int, int] | None = None, **options: Any) -> list[SearchResult]:
    engine = ScriptedEngine(SCRIPT, delays=delays, **options)
    scorer = None if strategy.reward_model == "none" else FakeScorer(lambda _: 0.0)
    context = build_context(engine, PLAIN_CODE, seed=1, scorer=scorer)
    return run_searches(engine, FakeSandbox(), PROBLEMS, strategy, context, scorer=scorer)


def build_attempt(sample: int, answer_key: str | None) -> Attempt:
    return Attempt(
        "p", sample, (), (), (), (), (), "stop", "", (), answer_key, answer_key, Cost(), "sample", "m", 0
    )


def test_results_come_in_problem_order_with_every_answer() -> None:
    results = run(get_strategy("greedy"))
    assert [result.problem_id for result in results] == [problem.id for problem in PROBLEMS]
    assert [result.answer for result in results] == [str(i) for i in range(6)]


def test_the_longest_questions_are_begun_first_and_results_keep_the_order_of_problems() -> None:
    problems = [Problem("q0", "0"), Problem("q1 " * 9, "1"), Problem("q2 " * 3, "2"), Problem("q3", "3")]
    script = {f"{one.question}\nSolution:": [f"The answer is {one.answer}.<|endoftext|>"] for one in problems}
    engine = ScriptedEngine(script, num_slots=1)
    begun: list[str] = []

    class Noting(Majority):
        def search(self, context: SearchContext, problem: ProblemView) -> Search:
            begun.append(problem.question)
            return super().search(context, problem)

    results = run_searches(
        engine, FakeSandbox(), problems, Noting(samples=1), build_context(engine, PLAIN_CODE)
    )
    assert [len(question) for question in begun] == [27, 9, 2, 2]
    assert [result.answer for result in results] == ["0", "1", "2", "3"]


def test_gathered_searches_begin_as_slots_become_free() -> None:
    """So no more of them are under way than fill the slots, once while running and once while their steps execute, and
    no problem is begun before those that the earlier ones gathered."""
    pending: list[int] = []
    begun: list[str] = []
    begun_by_tick: list[int] = []

    class Noting(ScriptedEngine):
        def tick(self) -> list[tuple[int, Generation]]:
            pending.append(self.num_pending)
            begun_by_tick.append(len(begun))
            return super().tick()

    class NotingMajority(Majority):
        def search(self, context: SearchContext, problem: ProblemView) -> Search:
            begun.append(problem.question)
            return super().search(context, problem)

    engine = Noting(SCRIPT, num_slots=2)
    context = build_context(engine, PLAIN_CODE)
    results = run_searches(engine, FakeSandbox(), PROBLEMS[:2], NotingMajority(samples=8), context)

    assert [result.answer for result in results] == ["0", "1"]
    prompts = [engine.codec.decode(request.prompt_ids) for request in engine.requests]
    assert sum(prompt.endswith("Solution:") for prompt in prompts) == 16
    assert max(pending) <= 4
    assert begun_by_tick[0] == 1


@settings(max_examples=25, deadline=None)
@given(delays=st.dictionaries(st.integers(0, 20), st.integers(1, 9)), num_slots=st.integers(1, 8))
def test_results_do_not_depend_on_when_replies_come(delays: dict[int, int], num_slots: int) -> None:
    """Each prompt has one reply here, so that only the timing differs."""
    script = {key: replies[:1] for key, replies in SCRIPT.items()}

    def search(timing: Mapping[int, int], slots: int) -> list[SearchResult]:
        engine = ScriptedEngine(script, delays=timing, num_slots=slots)
        context = build_context(engine, PLAIN_CODE)
        return run_searches(engine, FakeSandbox(), PROBLEMS, get_strategy("sample", 2), context)

    assert search(delays, num_slots) == search({}, 64)


def test_no_search_waits_for_another() -> None:
    engine = ScriptedEngine({key: replies[:1] for key, replies in SCRIPT.items()}, delays={0: 50})
    sandbox = FakeSandbox()
    run_searches(engine, sandbox, PROBLEMS, get_strategy("greedy"), build_context(engine, PLAIN_CODE))
    assert sandbox.requests[-1] == (("x = 0",), "print(x)")
    assert sandbox.batch_sizes == [5, 5, 1, 1]


def test_a_search_is_started_when_a_slot_would_stand_idle_and_not_before() -> None:
    class Watched(ScriptedEngine):
        def tick(self) -> Any:
            pending.append(self.num_pending)
            return super().tick()

    pending: list[int] = []
    engine = Watched({key: replies[:1] for key, replies in SCRIPT.items()}, num_slots=2)
    run_searches(engine, FakeSandbox(), PROBLEMS, get_strategy("greedy"), build_context(engine, PLAIN_CODE))
    assert pending == [2] * 9


def test_occupancy_counts_the_steps_in_which_the_engine_waits_for_code() -> None:
    """Four requests one after the other on two slots, the two steps of code run between them."""
    engine = ScriptedEngine(SCRIPT, num_slots=2)
    meter = Meter()
    context = build_context(engine, PLAIN_CODE)
    run_unit(engine, FakeSandbox(), PROBLEMS[:1], get_strategy("greedy"), context, meter=meter)
    assert engine.occupancy == 0.5
    num_steps = len(engine.requests) + 2
    assert meter.occupancy == pytest.approx(0.5 * len(engine.requests) / num_steps)


def test_a_strategy_never_sees_answer_or_solution() -> None:
    assert {field.name for field in fields(ProblemView)} == {"id", "question"}
    view = view_problem(Problem("q", "5", solution="2 + 3", meta={"gold": 5}))
    assert view == ProblemView(Problem("q", "5").id, "q")


def test_samples_have_their_own_seeds_and_numbers() -> None:
    attempts = run(get_strategy("sample", 3))[0].attempts
    assert [attempt.sample for attempt in attempts] == [0, 1, 2]
    assert len({attempt.seed for attempt in attempts}) == 3
    assert {attempt.strategy for attempt in attempts} == {"sample"}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["4", "5", "5"], "5"),
        (["4", "5"], "4"),
        ([None, None, "7"], "7"),
        (["1", "2", "2", "1"], "1"),
        ([None, None], None),
    ],
)
def test_majority_counts_answers_and_breaks_ties_by_the_first_reached(
    keys: list[str | None], expected: str | None
) -> None:
    attempts = [build_attempt(sample, key) for sample, key in enumerate(keys)]
    index = Majority().select(attempts, [None] * len(attempts))
    assert (None if index is None else keys[index]) == expected


def test_majority_settles_on_the_most_frequent_answer() -> None:
    script = {"q0\nSolution:": [f"The answer is {answer}.<|endoftext|>" for answer in (3, 8, 8, 2, 8)]}
    engine = ScriptedEngine(script)
    context = build_context(engine, PLAIN_PROSE, sampling=Sampling())
    (result,) = run_searches(engine, FakeSandbox(), PROBLEMS[:1], get_strategy("majority", 5), context)
    assert (result.answer, len(result.attempts)) == ("8", 5)


def test_every_listed_strategy_runs_and_an_unknown_one_names_the_nearest() -> None:
    for name in STRATEGIES:
        assert run(get_strategy(name, 4))[0].attempts
    with pytest.raises(ConfigError, match="did you mean 'majority'"):
        get_strategy("majorty")


def test_greedy_attempts_ignore_the_sampling_of_the_context() -> None:
    engine = ScriptedEngine(SCRIPT)
    context = build_context(engine, PLAIN_CODE, sampling=Sampling(1.0))
    run_searches(engine, FakeSandbox(), PROBLEMS[:1], get_strategy("greedy"), context)
    assert {request.sampling.temperature for request in engine.requests} == {0.0}


def test_a_unit_depends_on_itself_alone() -> None:
    """On a real model: the same unit alone, again, and after other work."""
    engine = build_engine(build_tiny_model("qwen3"), num_slots=4)
    prompt_format = PLAIN_PROSE.model_copy(update={"question_prefix": "", "solution_prefix": "abcd"})
    problems = [Problem(text) for text in ("hello", "thisisaquestion", "andanother", "andone", "thelast")]
    context = build_context(
        engine, prompt_format, seed=3, sampling=Sampling(1.0, top_p=0.9), limits=Limits(max_tokens=12)
    )
    context = replace(context, read_answer=lambda text, steps: (text[:1], text[:1]))
    strategy = get_strategy("majority", 3)
    first = run_unit(engine, FakeSandbox(), problems, strategy, context)
    run_unit(engine, FakeSandbox(), problems[2:], strategy, context)
    assert run_unit(engine, FakeSandbox(), problems, strategy, context) == first


class Labeller:
    """Writes one solution and asks whether it is right."""

    name = "labeller"

    def search(self, context: SearchContext, problem: ProblemView) -> Search:
        attempt = yield from write_solution(context, problem, sample=0, strategy=self.name)
        (verdict,) = yield [Verify(attempt)]
        return attempt.problem_id, verdict.correct


@judge_each
def judge_even(problem: Problem, attempt: Attempt) -> Verdict:
    is_right = attempt.answer == problem.answer and int(problem.answer) % 2 == 0
    return Verdict(is_right, "correct" if is_right else "wrong_answer", "even@1")


def test_a_labelling_search_gets_each_attempt_judged_against_its_own_problem() -> None:
    engine = ScriptedEngine(SCRIPT)
    results = run_searches(
        engine, FakeSandbox(), PROBLEMS, Labeller(), build_context(engine, PLAIN_CODE), judge=judge_even
    )
    assert results == [(problem.id, i % 2 == 0) for i, problem in enumerate(PROBLEMS)]


def test_all_that_waits_to_be_graded_is_one_batch_whose_verdicts_come_in_the_order_of_requests() -> None:
    class Grader:
        """Has two attempts graded at once, the second of which is right for odd problems."""

        name = "grader"

        def search(self, context: SearchContext, problem: ProblemView) -> Search:
            attempts = [
                replace(build_attempt(i, None), problem_id=problem.id, answer=str(i)) for i in range(2)
            ]
            verdicts = yield [Verify(attempt) for attempt in attempts]
            return [verdict.correct for verdict in verdicts]

    def judge(asked: Sequence[tuple[Problem, Attempt]]) -> list[Verdict]:
        batches.append([(problem.question, attempt.answer) for problem, attempt in asked])
        return judge_odd(asked)

    @judge_each
    def judge_odd(problem: Problem, attempt: Attempt) -> Verdict:
        is_right = int(problem.answer or 0) % 2 == int(attempt.answer or 0)
        return Verdict(is_right, "correct" if is_right else "wrong_answer", "odd@1")

    batches: list[list[tuple[str, str | None]]] = []
    context = build_context(ScriptedEngine(SCRIPT), PLAIN_CODE)
    results = run_searches(
        ScriptedEngine(SCRIPT), FakeSandbox(), PROBLEMS[:3], Grader(), context, judge=judge
    )
    assert batches == [[(f"q{i}", answer) for i in range(3) for answer in "01"]]
    assert results == [[True, False], [False, True], [True, False]]


def test_a_verdict_is_refused_where_nobody_labels() -> None:
    engine = ScriptedEngine(SCRIPT)
    with pytest.raises(WorkError, match="never under evaluate or solve"):
        run_searches(engine, FakeSandbox(), PROBLEMS, Labeller(), build_context(engine, PLAIN_CODE))


class Rater:
    """Asks for two scores at once, then for the sum of what it was told."""

    name = "rater"

    def search(self, context: SearchContext, problem: ProblemView) -> Search:
        texts = [f"{problem.question}{letter}" for letter in "ab"]
        scored = yield [Score(tuple(context.codec.encode(text))) for text in texts]
        (total,) = yield [
            Gather([self._ask(context, f"{problem.question}{sum(one.score for one in scored)}")])
        ]
        return scored, total

    def _ask(self, context: SearchContext, text: str) -> Search:
        (scored,) = yield [Score(tuple(context.codec.encode(text)))]
        return scored


def test_all_that_waits_to_be_scored_is_one_batch_and_each_search_gets_its_own() -> None:
    engine, scorer = ScriptedEngine(SCRIPT), FakeScorer(lambda text: int(text[1]) + 0.5 * text.endswith("b"))
    context = build_context(engine, PLAIN_CODE, scorer=scorer)
    results = run_searches(engine, FakeSandbox(), PROBLEMS[:3], Rater(), context, scorer=scorer)
    assert scorer.batches == [["q0a", "q0b", "q1a", "q1b", "q2a", "q2b"], ["q00.5", "q12.5", "q24.5"]]
    assert results == [([Scored(i, 3), Scored(i + 0.5, 3)], [Scored(i, 5)]) for i in range(3)]
    assert (context.scorer_id, context.scorer_flops_per_token) == ("fake-scorer", 10.0)


def test_scores_and_verdicts_come_while_the_engine_ticks_and_are_waited_for_at_its_end() -> None:
    ticked = threading.Event()

    class Ticking(ScriptedEngine):
        def tick(self) -> Any:
            ticked.set()
            return super().tick()

    class All:
        name = "all"

        def search(self, context: SearchContext, problem: ProblemView) -> Search:
            draft = begin_draft(context, problem.question)
            request = build_request(context, draft, seed=0)
            assert request is not None
            attempt = replace(build_attempt(0, None), problem_id=problem.id)
            scored, verdict, generation = yield [Score(draft.prompt_ids), Verify(attempt), request]
            return scored.score, verdict.correct, type(generation)

    @judge_each
    def judge(problem: Problem, attempt: Attempt) -> Verdict:
        return Verdict(ticked.wait(timeout=10), "correct", "late@1")

    engine, scorer = Ticking(SCRIPT), FakeScorer(lambda _: float(ticked.wait(timeout=10)))
    context = build_context(engine, PLAIN_CODE)
    results = run_searches(engine, FakeSandbox(), PROBLEMS[:1], All(), context, scorer=scorer, judge=judge)
    assert results == [(1.0, True, Generation)]


def test_a_score_is_refused_where_there_is_no_reward_model() -> None:
    engine = ScriptedEngine(SCRIPT)
    with pytest.raises(WorkError, match="no reward model was given"):
        run_searches(engine, FakeSandbox(), PROBLEMS, Rater(), build_context(engine, PLAIN_CODE))


def test_a_unit_begins_with_an_engine_and_a_scorer_that_remember_nothing() -> None:
    engine, scorer = ScriptedEngine(SCRIPT), FakeScorer(lambda _: 0.0)
    run_unit(engine, FakeSandbox(), PROBLEMS, Rater(), build_context(engine, PLAIN_CODE), scorer=scorer)
    assert (engine.num_resets, scorer.num_resets) == (1, 1)
