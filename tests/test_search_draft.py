"""Cutting attempts and going on: a continuation begins exactly where the attempt was, token by token."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_models import build_engine, build_tiny_model
from ponderosa.engines.protocol import GenerateRequest, Generation
from ponderosa.engines.scripted import LOGPROB, ScriptedEngine
from ponderosa.engines.stops import ends_with_stop
from ponderosa.formats import PLAIN_CODE, PLAIN_PROSE, PromptFormat
from ponderosa.records import Attempt, Cost, Finish, Step
from ponderosa.search.draft import cut_draft
from ponderosa.search.driver import build_context, run_searches
from ponderosa.search.requests import ProblemView
from ponderosa.search.solution import Limits, SearchContext, continue_solution
from ponderosa.steps import FENCED_DELIMITERS
from search_fakes import PROBLEM, FakeSandbox, solve

FENCED = PromptFormat(name="fenced", solution="code", delimiters=FENCED_DELIMITERS)
SPECIAL_STEPS = ["x = 5", "print(x)", "print(7)", "fail()", "é = 'naïve ∑'", "\n", "", "```\n"]
FENCED_STEPS = [
    "```python\nprint(5)\n```\n",
    "Erst ∑:\n```python\nfail()\n```\n",
    "```\nno code\n```\n",
    "a `\n`` b\n```\n",
    "é\n\n```\n",
]
ENDS = ["Done.<|endoftext|>", "The answer is 4.\n\nQuestion: 5?", "cut short", "∑", "\n``"]


class ReplayEngine(ScriptedEngine):
    """A policy that always goes on the way one attempt did."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__([])
        self._all_ids = (*attempt.prompt_ids, *attempt.token_ids)

    def _reply(self, request: GenerateRequest) -> Generation:
        start = len(request.prompt_ids)
        assert request.prompt_ids == self._all_ids[:start]
        new_ids: list[int] = []
        finish: Finish = "length"
        for token_id in self._all_ids[start : start + request.max_new_tokens]:
            new_ids.append(token_id)
            if ends_with_stop(request, new_ids, self._pieces):
                finish = "stop"
                break
        logprobs = (LOGPROB,) * len(new_ids)
        return Generation(tuple(new_ids), logprobs, logprobs, finish, start)


@dataclass(frozen=True)
class Continue:
    """Goes on from a cut of an attempt."""

    attempt: Attempt
    num_tokens: int
    name = "greedy"

    def search(
        self, context: SearchContext, problem: ProblemView
    ) -> Generator[list[Any], list[Any], Attempt]:
        draft = cut_draft(context, self.attempt, self.num_tokens)
        return (
            yield from continue_solution(
                context, problem, draft, sample=0, strategy=self.name, seed=self.attempt.seed
            )
        )


def continue_all(attempt: Attempt, cuts: Sequence[int], **settings: Any) -> list[tuple[Attempt, FakeSandbox]]:
    """What becomes of an attempt that is cut at each of these places and continued by the same policy."""
    results = []
    for num_tokens in cuts:
        engine, sandbox = ReplayEngine(attempt), FakeSandbox()
        context = build_context(engine, **settings)
        results += [
            (continued, sandbox)
            for continued in run_searches(engine, sandbox, [PROBLEM], Continue(attempt, num_tokens), context)
        ]
    return results


def list_cuts(attempt: Attempt) -> list[int]:
    return [place for place, is_sampled in enumerate(attempt.sampled) if is_sampled]


def without_cost(attempt: Attempt) -> Attempt:
    return replace(attempt, cost=Cost())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_continuing_greedily_from_any_cut_gives_the_uninterrupted_attempt(data: st.DataObject) -> None:
    """Special, fenced and no delimiters; steps that fail, show nothing, hold no code; cuts inside characters and
    inside fences; ends by a stop, by another question and by every limit."""
    prompt_format = data.draw(st.sampled_from([PLAIN_CODE, FENCED, PLAIN_PROSE]))
    is_special = prompt_format is PLAIN_CODE
    steps = data.draw(st.lists(st.sampled_from(SPECIAL_STEPS if is_special else FENCED_STEPS), max_size=4))
    script = [text + "<|end_of_step|>" * is_special for text in steps] + [data.draw(st.sampled_from(ENDS))]
    if prompt_format is PLAIN_PROSE:
        script = ["".join(script)]
    limits = Limits(
        max_tokens=data.draw(st.sampled_from([9, 30, 400])),
        max_steps=data.draw(st.sampled_from([2, 32])),
        max_errors=data.draw(st.integers(0, 2)),
    )
    attempt, _, sandbox = solve(script, prompt_format, limits)

    cuts = list_cuts(attempt)
    for continued, later in continue_all(attempt, cuts, prompt_format=prompt_format, limits=limits):
        assert without_cost(continued) == without_cost(attempt)
        assert later.requests == sandbox.requests[len(sandbox.requests) - len(later.requests) :]


def test_a_real_policy_continues_greedily_as_it_began() -> None:
    engine = build_engine(build_tiny_model("qwen3"))
    prompt_format = PLAIN_PROSE.model_copy(update={"question_prefix": "", "solution_prefix": "abcd"})
    context = build_context(engine, prompt_format, limits=Limits(max_tokens=16))
    context = replace(context, read_answer=lambda text, steps: (text[:1], text[:1]))
    problem = replace(PROBLEM, question="hello")
    first = Continue(cut_from_nothing(context, problem.question), 0)
    (attempt,) = run_searches(engine, FakeSandbox(), [problem], first, context)

    for num_tokens in (1, 7, 15):
        (continued,) = run_searches(engine, FakeSandbox(), [problem], Continue(attempt, num_tokens), context)
        assert continued.token_ids == attempt.token_ids
        assert continued.model_logprobs == pytest.approx(attempt.model_logprobs, abs=1e-4)


def cut_from_nothing(context: SearchContext, question: str) -> Attempt:
    """An attempt of one token that is cut off whole."""
    prompt_ids = tuple(context.codec.encode_prompt(context.prompt_format, question))
    blank = ((5,), (True,), (0.0,), (0.0,))
    return Attempt("p", 0, prompt_ids, *blank, "stop", "", (), None, None, Cost(), "greedy", "tiny", 0)


def test_a_draft_keeps_closed_steps_and_the_cost_of_its_prompt_alone() -> None:
    attempt, engine, _ = solve(["print(5)<|end_of_step|>", "So 5.<|endoftext|>"])
    context = build_context(engine, PLAIN_CODE)
    at = attempt.sampled.index(False) + 3

    draft = cut_draft(context, attempt, at + 2)

    assert draft.steps == (Step("print(5)", "print(5)", "5", "ok"),)
    assert (draft.token_ids, draft.open_from) == (attempt.token_ids[: at + 2], at)
    assert draft.cost == Cost(prompt_tokens=len(attempt.prompt_ids) + at + 2)
    assert cut_draft(context, attempt, 3).steps == ()


def test_a_continuation_pays_for_what_it_adds_alone() -> None:
    attempt, *_ = solve(["x = 5<|end_of_step|>", "print(x)<|end_of_step|>", "ok<|endoftext|>"])
    second = attempt.token_ids.index(ord("p"))
    ((continued, sandbox),) = continue_all(attempt, [second], prompt_format=PLAIN_CODE)
    assert continued.cost.generated_tokens == sum(attempt.sampled[second:])
    assert continued.cost.executions == 1
    assert sandbox.requests == [(("x = 5",), "print(x)")]


@pytest.mark.parametrize("num_tokens", [-1, 9, 10, 99])
def test_a_cut_before_a_token_nobody_sampled_is_refused(num_tokens: int) -> None:
    attempt, engine, _ = solve(["print(5)<|end_of_step|>", "ok<|endoftext|>"])
    with pytest.raises(ValueError, match="was not sampled"):
        cut_draft(build_context(engine, PLAIN_CODE), attempt, num_tokens)


def test_a_fence_that_was_begun_before_the_cut_still_closes_the_step() -> None:
    attempt, *_ = solve(["```python\nprint(5)\n```\n", "So \\boxed{5}.<|endoftext|>"], FENCED)
    inside = len("```python\nprint(5)\n`")
    ((continued, sandbox),) = continue_all(attempt, [inside], prompt_format=FENCED)
    assert continued.steps == attempt.steps
    assert sandbox.requests == [((), "print(5)")]
