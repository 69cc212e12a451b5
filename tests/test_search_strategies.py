"""Strategies beside MCTS, worked out by hand: which answer they settle on, what it costs, and what a budget buys."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planted_trees import END, STEP, SeededPolicy, draw, grow
from ponderosa.engines.scripted import ScriptedEngine
from ponderosa.errors import ConfigError
from ponderosa.records import Cost, Problem
from ponderosa.search import STRATEGIES, get_strategy
from ponderosa.search.registry import CLASSES, check_reward_model
from ponderosa.search.requests import SearchResult
from ponderosa.search.samples import ScoredAttempt, count_tokens, plan_wave
from ponderosa.search.strategies import Strategy
from ponderosa.search.voting import compute_vote_weight, elect, select_best
from search_fakes import PROBLEM, FakeScorer

PROMPT_TOKENS = len("Question: What is 2 + 3?\nSolution:")


def build_answers(*answers: str) -> dict[str, list[str]]:
    """A policy whose attempts give these answers, in turn; a dash gives none."""
    return {"Solution:": [END if one == "-" else f"\\boxed{{{one}}}{END}" for one in answers]}


def build_scorer(scores: Mapping[str, float]) -> FakeScorer:
    """Scores by what a partial solution ends with."""
    return FakeScorer(lambda text: next(score for ending, score in scores.items() if text.endswith(ending)))


def score_answers(scores: Mapping[str, float]) -> FakeScorer:
    return build_scorer({f"\\boxed{{{answer}}}{END}": score for answer, score in scores.items()})


def search(strategy: Strategy, script: Any, scorer: FakeScorer | None = None, **options: Any) -> SearchResult:
    (result,) = grow(strategy, script, [PROBLEM], scorer=scorer, judge=None, **options)
    return result


# Independent attempts


def test_best_of_n_takes_the_attempt_with_the_highest_final_score() -> None:
    scorer = score_answers({"3": 0.2, "8": 0.5, "2": 0.9})
    result = search(get_strategy("best_of_n", 4), build_answers("3", "8", "8", "2"), scorer)
    assert result.answer == "2"
    assert result.chosen is result.attempts[3]
    assert [attempt.answer for attempt in result.attempts] == ["3", "8", "8", "2"]


@pytest.mark.parametrize(
    ("score_of_2", "expected"),
    [(0.4, "8"), (0.6, "8"), (0.7, "2")],
)
def test_a_weighted_vote_adds_up_half_of_one_plus_the_score(score_of_2: float, expected: str) -> None:
    """Twice (1 - 0.2) / 2 = 0.8 for 8; 0.7, 0.8 (reached later) and 0.85 for 2."""
    scorer = score_answers({"8": -0.2, "2": score_of_2})
    result = search(get_strategy("weighted_vote", 3), build_answers("8", "8", "2"), scorer)
    assert result.answer == expected


def test_attempts_without_an_answer_are_not_scored_and_never_chosen() -> None:
    scorer = score_answers({"3": -1.0})
    for name in ("best_of_n", "weighted_vote"):
        result = search(get_strategy(name, 3), build_answers("-", "3", "-"), scorer)
        assert (result.answer, len(scorer.batches[-1])) == ("3", 1)
    result = search(get_strategy("best_of_n", 2), build_answers("-", "-"), scorer)
    assert (result.chosen, result.answer, result.settle().answer) == (None, None, None)


def test_what_was_scored_is_part_of_an_attempts_cost() -> None:
    script, scorer = build_answers("31", "-", "8"), score_answers({"31": 0.0, "8": 0.0})
    result = search(get_strategy("best_of_n", 3), script, scorer)
    written = [len(attempt.token_ids) for attempt in result.attempts]
    assert [attempt.cost.scored_tokens for attempt in result.attempts] == [
        PROMPT_TOKENS + written[0],
        0,
        PROMPT_TOKENS + written[2],
    ]
    prefill = 3 * PROMPT_TOKENS
    scored = 2 * PROMPT_TOKENS + written[0] + written[2]
    flops = prefill + sum(written) - 3 + 10.0 * scored
    assert result.cost == Cost(prefill, prefill, sum(written), scored, 0, flops)
    assert result.settle().cost == result.cost
    assert result.cost.computed_tokens == prefill + sum(written) + scored


KEYS = st.lists(st.sampled_from([None, "1", "2", "3"]), max_size=8)


@given(keys=KEYS, score=st.floats(-0.99, 1))
def test_a_weighted_vote_with_equal_scores_is_the_majority(keys: list[str | None], score: float) -> None:
    weight = compute_vote_weight(score)
    counts = {key: keys.count(key) for key in keys if key is not None}
    elected = elect(keys, [1.0] * len(keys))
    assert (elected is None) == (not counts)
    if elected is not None:
        assert counts[keys[elected] or ""] == max(counts.values())
        again = elect(keys, [weight] * len(keys))
        assert again is not None
        assert counts[keys[again] or ""] == max(counts.values())


def test_votes_run_from_nothing_for_surely_wrong_to_one_for_surely_right() -> None:
    assert [compute_vote_weight(score) for score in (-1.0, 0.0, 1.0)] == [0.0, 0.5, 1.0]


def test_of_equals_the_first_reached_wins() -> None:
    assert elect(["4", "5", "5", "4"], [0.5, 0.2, 0.3, 0.0]) == 0
    assert elect([None, "5", "4"], [1.0, 0.0, 0.0]) == 1
    assert select_best([None, 0.3, -0.2, 0.3]) == 1
    assert select_best([None, -1.0]) == 1
    assert select_best([None, None]) is None


# Step beams

STEPS = {
    "Solution:": [f"x = 5{STEP}", f"x = 4{STEP}", f"x = 5{STEP}", f"x = 3{STEP}"],
    f"x = 4{STEP}": [f"print(x){STEP}", f"fail(){STEP}"],
    f"x = 5{STEP}": [f"So \\boxed{{6}}{END}", f"y = 1{STEP}"],
    f"x = 3{STEP}": [f"So \\boxed{{9}}{END}"],
    f"y = 1{STEP}": [f"So \\boxed{{7}}{END}"],
    "<|end_of_output|>": [f"done{END}"],
}
SCORES = {
    f"x = 5{STEP}": 0.2,
    f"x = 4{STEP}": 0.3,
    f"x = 3{STEP}": -0.5,
    "<|end_of_output|>": 0.1,
    f"y = 1{STEP}": -0.3,
    f"{{6}}{END}": 0.15,
    f"done{END}": 0.9,
}


def list_lines(result: SearchResult) -> list[str]:
    assert result.tree is not None
    return [line.replace(" N=0 Q=+0.00", "") for line in draw(result.tree).splitlines()]


def test_a_beam_keeps_the_best_partial_solutions_and_shares_its_candidates_among_them() -> None:
    """Four first steps, of which the best two go on with two candidates each; then 6 is an end, and all four candidates
    go to what is left."""
    scorer = build_scorer(SCORES)
    result = search(get_strategy("beam", 4, {"width": 2}), STEPS, scorer)
    assert list_lines(result) == [
        "x = 5 x2 score=+0.20",
        "  So \\boxed{6} x1 score=+0.15 answer=6",
        "  y = 1 x1 score=-0.30",
        "x = 4 x1 score=+0.30",
        "  print(x) x1 score=+0.10",
        "    done x4 score=+0.90 answer=4",
        "  fail() x1",
        "x = 3 x1 score=-0.50",
    ]
    assert result.tree is not None
    assert (result.answer, result.tree.end) == ("4", "closed")
    assert [attempt.answer for attempt in result.attempts] == [None, "6", "4"]


def test_a_beam_without_a_reward_model_follows_the_policy_and_ends_in_a_vote() -> None:
    """All tokens are equally likely here, so the step written twice comes first, then the earlier ones."""
    result = search(get_strategy("beam", 4, {"width": 2}), STEPS)
    assert list_lines(result) == [
        "x = 5 x2",
        "  So \\boxed{6} x1 answer=6",
        "  y = 1 x1",
        "    So \\boxed{7} x4 answer=7",
        "x = 4 x1",
        "  print(x) x1",
        "  fail() x1",
        "x = 3 x1",
    ]
    # 6 and 7 both have a quarter of the policy's ways: 2/4 x 1/2 x 1 = 2/4 x 1/2. The one that was reached first wins.
    assert result.answer == "6"


def test_a_beam_prefers_steps_of_likely_tokens() -> None:
    class Unlikely(ScriptedEngine):
        """Says that tokens of x = 5 are less likely than others."""

        def _reply(self, request: Any) -> Any:
            reply = super()._reply(request)
            is_five = self.codec.decode(reply.token_ids).startswith("x = 5")
            logprobs = (-2.0 if is_five else -0.5,) * len(reply.token_ids)
            return type(reply)(
                reply.token_ids, logprobs, logprobs, reply.finish, reply.prefill_tokens, reply.error
            )

    result = search(get_strategy("beam", 4, {"width": 1}), Unlikely(STEPS))
    assert result.answer == "4"


def test_diverse_beams_go_on_from_the_best_of_their_own_share() -> None:
    """First steps 5, 4, 3 are dealt out as (5, 3) and (4); each sub-tree then goes its own way with two candidates."""
    result = search(get_strategy("dvts", 4, {"subtrees": 2}), STEPS, build_scorer(SCORES))
    assert list_lines(result) == [
        "x = 5 x2 score=+0.20",
        "  So \\boxed{6} x1 score=+0.15 answer=6",
        "  y = 1 x1 score=-0.30",
        "x = 4 x1 score=+0.30",
        "  print(x) x1 score=+0.10",
        "    done x2 score=+0.90 answer=4",
        "  fail() x1",
        "x = 3 x1 score=-0.50",
    ]
    assert result.answer == "4"


@pytest.mark.parametrize(("answer_by", "expected"), [("score", "4"), ("vote", "6"), ("weighted_vote", "4")])
def test_how_the_answer_is_chosen_is_a_parameter(answer_by: str, expected: str) -> None:
    for name, parameters in (("beam", {"width": 2}), ("dvts", {"subtrees": 2})):
        strategy = get_strategy(name, 4, {**parameters, "answer_by": answer_by})
        assert search(strategy, STEPS, build_scorer(SCORES)).answer == expected


def test_a_beam_whose_steps_all_fail_has_no_answer() -> None:
    result = search(get_strategy("beam", 2, {"width": 2}), {"Solution:": [f"fail(){STEP}"]})
    assert (result.answer, result.settle().finish) == (None, "stop")
    assert result.settle().cost == result.cost


# Budgets


@pytest.mark.parametrize(
    ("num_drawn", "num_spent", "budget", "expected"),
    [
        (0, 0, None, 8),
        (3, 900, None, 5),
        (0, 0, 1, 1),  # the first is always written
        (1, 100, 450, 3),  # 350 left buy three of a hundred
        (2, 200, 10_000, 6),  # but no more than eight in all
        (4, 400, 450, 1),  # any rest buys one more
        (4, 450, 450, 0),
        (1, 0, 450, 7),  # a refused one took nothing
        (8, 100, 450, 0),
    ],
)
def test_attempts_are_begun_in_waves_that_the_rest_of_the_budget_pays_for(
    num_drawn: int, num_spent: int, budget: int | None, expected: int
) -> None:
    assert plan_wave(num_drawn, num_spent, 8, budget) == expected


def test_a_budget_counts_the_prompt_once_and_what_is_scored_twice() -> None:
    result = search(get_strategy("majority", 2), build_answers("31", "8"))
    first, second = result.attempts
    lengths = len(first.token_ids), len(second.token_ids)
    assert count_tokens([]) == 0
    assert count_tokens([ScoredAttempt(first, None)]) == PROMPT_TOKENS + lengths[0]
    both = [ScoredAttempt(first, 0.5), ScoredAttempt(second, None)]
    assert count_tokens(both) == 2 * PROMPT_TOKENS + 2 * lengths[0] + lengths[1]


@pytest.mark.parametrize(("name", "parameters"), [("beam", {"width": 2}), ("dvts", {"subtrees": 2})])
def test_a_spent_budget_pays_for_one_solution_step_by_step_whichever_comes_to_an_end(
    name: str, parameters: dict[str, int]
) -> None:
    """Behind x = 4, the best first step, the only further step that is tried fails; then x = 5 has its turn."""
    script = {**STEPS, f"x = 4{STEP}": [f"fail(){STEP}"]}
    strategy = get_strategy(name, 4, {**parameters, "token_budget": PROMPT_TOKENS + 1})
    result = search(strategy, script, build_scorer(SCORES))
    assert list_lines(result) == [
        "x = 5 x2 score=+0.20",
        "  So \\boxed{6} x1 score=+0.15 answer=6",
        "x = 4 x1 score=+0.30",
        "  fail() x1",
        "x = 3 x1 score=-0.50",
    ]
    assert result.answer == "6"


def build_policy(**options: Any) -> SeededPolicy:
    return SeededPolicy(length=3, num_texts=8, **options)


def build_uses(**parameters: int) -> list[tuple[Strategy, bool]]:
    """Every strategy that has these parameters, with and without a reward model where both is allowed."""
    return [
        (get_strategy(name, 8, parameters), is_scored)
        for name, cls in CLASSES.items()
        if parameters.keys() <= cls.model_fields.keys()
        for is_scored in (False, True)
        if cls.reward_model in ("optional", "required" if is_scored else "none")
    ]


def prefer_small(text: str) -> float:
    return 0.5 - text.count("3") / 10


def run(
    strategy: Strategy, is_scored: bool, problems: Sequence[Problem] = (PROBLEM,), **options: Any
) -> list[SearchResult]:
    scorer = FakeScorer(prefer_small) if is_scored else None
    return grow(strategy, build_policy(**options), problems, scorer=scorer, judge=None)


@pytest.mark.parametrize("budget", [1, 300, 1000])
def test_no_strategy_goes_far_over_a_budget_and_each_has_an_answer_under_the_smallest(budget: int) -> None:
    """Beyond the budget each finishes what it began: attempts of up to 30 tokens, a round of up to 8 steps of 8."""
    uses = build_uses(token_budget=budget)
    assert {strategy.name for strategy, _ in uses} == {*STRATEGIES} - {"greedy", "sample"}
    for strategy, is_scored in uses:
        (result,) = run(strategy, is_scored)
        assert result.answer is not None
        written = result.cost.generated_tokens
        assert (1 + is_scored) * written < budget + (1 + is_scored) * (PROMPT_TOKENS + 8 * 8 + 3 * 30)


@pytest.mark.parametrize("name", ["majority", "best_of_n", "weighted_vote"])
def test_a_smaller_budgets_attempts_are_the_first_of_a_larger_ones(name: str) -> None:
    is_scored = name != "majority"
    numbers = []
    for budget in (1, 150, 300, 600):
        (result,) = run(get_strategy(name, 64, {"token_budget": budget}), is_scored)
        (whole,) = run(get_strategy(name, 64), is_scored)
        assert result.attempts == whole.attempts[: len(result.attempts)]
        numbers.append(len(result.attempts))
    assert numbers == sorted(set(numbers))


def test_strategies_of_independent_attempts_draw_the_same_ones() -> None:
    drawn = [run(strategy, is_scored)[0].attempts for strategy, is_scored in build_uses(samples=8)[:4]]
    assert len({tuple(attempt.token_ids for attempt in attempts) for attempts in drawn}) == 1


# Independence of everything else that runs

PROBLEMS = [Problem(f"q{i}", str(i % 4)) for i in range(6)]


@settings(max_examples=5, deadline=None)
@given(
    delays=st.dictionaries(st.integers(0, 100), st.integers(1, 9)),
    num_slots=st.integers(1, 64),
    chosen=st.sampled_from([PROBLEMS[:1], PROBLEMS[3:6], PROBLEMS[3:0:-1]]),
    budget=st.sampled_from([None, 200]),
)
def test_results_depend_neither_on_the_order_of_replies_nor_on_what_else_runs(
    delays: dict[int, int], num_slots: int, chosen: list[Problem], budget: int | None
) -> None:
    uses = build_uses() if budget is None else build_uses(token_budget=budget)
    assert uses
    for strategy, is_scored in uses:
        options = {"fail": 0.2, "stop": 0.1}
        together = run(strategy, is_scored, chosen, delays=delays, num_slots=num_slots, **options)
        assert together == [run(strategy, is_scored, [problem], **options)[0] for problem in chosen]


# Names, parameters, reward models


def test_every_strategy_is_listed_under_its_name() -> None:
    assert list(STRATEGIES) == list(CLASSES) == [cls.name for cls in CLASSES.values()]


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("beam", {"widht": 3}, ["unknown key 'widht'", "did you mean 'width'"]),
        ("beam", {"width": 9}, ["width 9", "samples is 8"]),
        ("dvts", {"subtrees": 9}, ["9 sub-trees", "samples is 8"]),
        ("majority", {"token_budget": 0}, ["strategy 'majority'", "'token_budget'", "seen 0"]),
        ("greedy", {"token_budget": 100}, ["unknown key 'token_budget'"]),
        ("mcts", {"selection": {"rule": "ucb"}}, ["'selection.rule'", "seen 'ucb'"]),
        ("mtcs", {}, ["did you mean 'mcts'"]),
    ],
)
def test_a_wrong_parameter_is_refused_and_named(
    name: str, parameters: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(ConfigError) as refused:
        get_strategy(name, 8, parameters)
    for words in said:
        assert words in str(refused.value)


def test_samples_sets_what_a_strategy_writes_and_its_own_parameters_go_before() -> None:
    assert get_strategy("best_of_n", 3).num_attempts == 3
    assert get_strategy("mcts", 3, {"candidates": 5}).num_attempts == 15
    assert get_strategy("mcts", 3, {"simulations": 2, "candidates": 5}).num_attempts == 10
    assert get_strategy("greedy", 3).num_attempts == 1


@pytest.mark.parametrize("name", CLASSES)
def test_a_reward_model_goes_with_the_strategies_that_use_one(name: str) -> None:
    strategy = get_strategy(name)
    if strategy.reward_model == "required":
        with pytest.raises(ConfigError, match=f"'{name}' needs a reward model.*--reward-model"):
            check_reward_model(strategy, is_given=False)
    else:
        check_reward_model(strategy, is_given=False)
    if strategy.reward_model == "none":
        with pytest.raises(ConfigError, match=f"'{name}' does not use a reward model"):
            check_reward_model(strategy, is_given=True)
    else:
        check_reward_model(strategy, is_given=True)
