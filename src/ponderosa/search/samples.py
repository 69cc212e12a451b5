"""Independent attempts at a problem: all side by side, or in waves for as long as a token budget lasts.

Attempt n draws the same tokens under every budget, so a smaller budget's attempts are the first of a larger one's.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from ponderosa.records import Attempt
from ponderosa.search.requests import Gather, ProblemView, Reply, Request, Score
from ponderosa.search.solution import SearchContext, price_score, write_solution


class ScoredAttempt(NamedTuple):
    """An attempt, and the reward model's score of it; None where it has no answer, or nobody asked."""

    attempt: Attempt
    score: float | None


def write_samples(
    context: SearchContext,
    problem: ProblemView,
    num_attempts: int,
    *,
    strategy: str,
    token_budget: int | None = None,
    is_scored: bool = False,
) -> Generator[list[Request], list[Reply], list[ScoredAttempt]]:
    """At most `num_attempts` attempts, none but the first begun once the budget is spent. is_scored: score each."""
    write = partial(_write_scored if is_scored else _write_unscored, context, problem, strategy)
    drawn: list[ScoredAttempt] = []
    while wave := plan_wave(len(drawn), count_tokens(drawn), num_attempts, token_budget):
        (new,) = yield [Gather([write(sample) for sample in range(len(drawn), len(drawn) + wave)])]
        drawn += new
    return drawn


def count_tokens(drawn_M: Sequence[ScoredAttempt]) -> int:
    """Tokens that have to be computed for M attempts: the prompt once, and every token of each; and the prompt and
    every scored attempt once more where any is scored.

    What caches had to drop for others is in the attempts' cost but not in here: how many attempts a budget pays for
    must not depend on what else runs.
    """
    if not drawn_M:
        return 0
    num_prompt = len(drawn_M[0].attempt.prompt_ids)
    written = [len(one.attempt.token_ids) for one in drawn_M]
    scored = [num for one, num in zip(drawn_M, written, strict=True) if one.score is not None]
    return num_prompt * (2 if scored else 1) + sum(written) + sum(scored)


def plan_wave(num_drawn: int, num_spent: int, num_attempts: int, token_budget: int | None) -> int:
    """How many attempts to write side by side next: as many as the rest of the budget pays for if they take as many
    tokens as the earlier ones did on average, and at least one while any of it is left."""
    num_left = num_attempts - num_drawn
    if token_budget is None:
        return num_left
    if not num_drawn:
        return 1
    affordable = (token_budget - num_spent) * num_drawn // max(1, num_spent)
    return min(num_left, max(affordable, 1)) if num_spent < token_budget else 0


def _write_unscored(
    context: SearchContext, problem: ProblemView, strategy: str, sample: int
) -> Generator[list[Request], list[Reply], ScoredAttempt]:
    attempt = yield from write_solution(context, problem, sample=sample, strategy=strategy)
    return ScoredAttempt(attempt, None)


def _write_scored(
    context: SearchContext, problem: ProblemView, strategy: str, sample: int
) -> Generator[list[Request], list[Reply], ScoredAttempt]:
    """An attempt with its score. One without an answer cannot be chosen, so nothing is spent on scoring it; nor can one
    that ran out of the context before it ended."""
    attempt = yield from write_solution(context, problem, sample=sample, strategy=strategy)
    token_ids = (*attempt.prompt_ids, *attempt.token_ids)
    if attempt.answer_key is None or len(token_ids) > context.max_context:
        return ScoredAttempt(attempt, None)
    (scored,) = yield [Score(token_ids)]
    cost = attempt.cost + price_score(context, scored)
    return ScoredAttempt(replace(attempt, cost=cost), scored.score)
