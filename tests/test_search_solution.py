"""Writing solutions with a scripted policy: steps, observations, limits, what is sampled and what is not."""

from collections.abc import Sequence
from typing import Any

import pytest

from ponderosa.engines.scripted import LOGPROB, ByteCodec, ScriptedEngine
from ponderosa.formats import CHAT_CODE, PLAIN_CODE, PLAIN_PROSE, PromptFormat
from ponderosa.records import Attempt, Step
from ponderosa.search.solution import Limits
from ponderosa.steps import FENCED_DELIMITERS
from search_fakes import solve

FENCED = PromptFormat(name="fenced", solution="code", delimiters=FENCED_DELIMITERS)


def test_a_closed_step_is_executed_and_its_output_appended_before_the_policy_goes_on() -> None:
    attempt, engine, sandbox = solve(
        ["x = 5<|end_of_step|>", "print(x)<|end_of_step|>", "Done.<|endoftext|>"]
    )
    assert attempt.steps == (
        Step("x = 5", "x = 5", None, "ok"),
        Step("print(x)", "print(x)", "5", "ok"),
        Step("Done."),
    )
    assert sandbox.requests == [((), "x = 5"), (("x = 5",), "print(x)")]
    assert attempt.text == "x = 5<|end_of_step|>print(x)<|end_of_step|><|output|>5<|end_of_output|>Done."
    assert (attempt.finish, attempt.answer) == ("stop", "5")
    last_prompt = engine.codec.decode(engine.requests[-1].prompt_ids)
    assert last_prompt.endswith("print(x)<|end_of_step|><|output|>5<|end_of_output|>")


def test_observation_tokens_are_not_sampled_and_have_no_log_probability() -> None:
    attempt, engine, _ = solve(["print(5)<|end_of_step|>", "ok<|endoftext|>"])
    hidden = [token for token, sampled in zip(attempt.token_ids, attempt.sampled, strict=True) if not sampled]
    assert engine.codec.decode(hidden) == "<|output|>5<|end_of_output|>"
    for logprobs in (attempt.model_logprobs, attempt.sampling_logprobs):
        assert [p for p, sampled in zip(logprobs, attempt.sampled, strict=True) if not sampled] == [0.0] * 3
        assert {p for p, sampled in zip(logprobs, attempt.sampled, strict=True) if sampled} == {LOGPROB}


def test_costs_count_prompts_tokens_and_executions() -> None:
    attempt, engine, _ = solve(["print(5)<|end_of_step|>", "ok<|endoftext|>"])
    first, second = engine.requests
    assert attempt.cost.prompt_tokens == len(first.prompt_ids)
    assert attempt.cost.prefill_tokens == len(first.prompt_ids) + len(second.prompt_ids)
    assert attempt.cost.generated_tokens == sum(attempt.sampled) == 12
    assert attempt.cost.executions == 1
    assert attempt.cost.flops == attempt.cost.prefill_tokens + 12 - 2


def test_a_policy_that_never_closes_a_step_writes_prose() -> None:
    attempt, _, sandbox = solve(["Two and two are four. The answer is 4.<|endoftext|>"])
    assert attempt.steps == (Step("Two and two are four. The answer is 4."),)
    assert attempt.answer == "4"
    assert sandbox.requests == []


def test_in_a_prose_format_nothing_is_executed() -> None:
    attempt, _, sandbox = solve(["print(5)<|end_of_step|>The answer is 5.<|endoftext|>"], PLAIN_PROSE)
    assert sandbox.requests == []
    assert len(attempt.steps) == 1


def test_a_base_model_that_goes_on_to_another_question_is_cut_there() -> None:
    attempt, _, _ = solve(["The answer is 4.\n\nQuestion: 5 + 5?\nSolution: 10"], PLAIN_PROSE)
    assert (attempt.text, attempt.finish) == ("The answer is 4.", "stop")
    assert attempt.steps == (Step("The answer is 4."),)


def test_a_delimiter_spelled_in_text_closes_nothing() -> None:
    class LiteralCodec(ByteCodec):
        def encode_script(self, text: str) -> list[int]:
            return [*self.encode(text), self.eos_id]

    engine = ScriptedEngine(["x<|end_of_step|>y"])
    engine.codec = LiteralCodec()
    attempt, _, sandbox = solve(engine)
    assert sandbox.requests == []
    assert attempt.steps == (Step("x<|end_of_step|>y"),)


def test_fenced_steps_run_and_text_behind_the_fence_belongs_to_the_next_step() -> None:
    script = ["First:\n```python\nprint(5)\n```\n", "So \\boxed{5}.<|endoftext|>"]
    attempt, _, sandbox = solve(script, FENCED)
    assert sandbox.requests == [((), "print(5)")]
    assert attempt.steps == (
        Step("First:\n```python\nprint(5)", "print(5)", "5", "ok"),
        Step("So \\boxed{5}."),
    )
    assert "```output\n5\n```\n" in attempt.text


def test_a_step_without_code_is_kept_and_not_run() -> None:
    attempt, _, sandbox = solve(["```\nno code\n```\n", "end<|endoftext|>"], FENCED)
    assert sandbox.requests == []
    assert attempt.steps == (Step("```\nno code"), Step("end"))


def test_an_error_is_shown_and_ends_the_solution() -> None:
    attempt, _, _ = solve(["print(1)<|end_of_step|>", "fail()<|end_of_step|>", "never"])
    assert attempt.steps[-1] == Step("fail()", "fail()", "ValueError: failed", "error")
    assert (attempt.finish, len(attempt.steps)) == ("stop", 2)


def test_allowed_errors_are_counted_in_a_row_and_failed_steps_leave_the_state() -> None:
    script = ["fail()<|end_of_step|>", "print(1)<|end_of_step|>", "fail()<|end_of_step|>", "end<|endoftext|>"]
    attempt, _, sandbox = solve(script, limits=Limits(max_errors=1))
    assert [step.outcome for step in attempt.steps] == ["error", "ok", "error", None]
    assert sandbox.requests == [((), "fail()"), ((), "print(1)"), (("print(1)",), "fail()")]


def test_observations_count_towards_the_token_limit() -> None:
    attempt, engine, _ = solve(["print(5)<|end_of_step|>", "abcdefgh"], limits=Limits(max_tokens=15))
    assert len(attempt.token_ids) == 15
    assert engine.requests[1].max_new_tokens == 3
    assert (attempt.finish, attempt.steps[-1]) == ("length", Step("abc"))


def test_the_step_limit_ends_a_solution() -> None:
    attempt, _, _ = solve(["a = 1<|end_of_step|>"] * 3, limits=Limits(max_steps=2))
    assert (attempt.finish, len(attempt.steps)) == ("length", 2)


def test_a_prompt_that_does_not_fit_is_an_error_and_a_solution_that_outgrows_the_context_is_cut() -> None:
    refused, _, _ = solve(ScriptedEngine([""], max_context=5))
    assert refused.finish == "error"
    assert refused.error is not None
    assert "leaves no room" in refused.error
    assert (refused.token_ids, refused.answer) == ((), None)
    cut, _, _ = solve(ScriptedEngine(["print(5)<|end_of_step|>"], max_context=40))
    assert cut.finish == "length"


def test_segments_of_one_solution_have_seeds_of_their_own() -> None:
    _, engine, _ = solve(["a = 1<|end_of_step|>", "b = 2<|end_of_step|>", "<|endoftext|>"])
    assert len({request.seed for request in engine.requests}) == 3


@pytest.mark.parametrize("prompt_format", [PLAIN_CODE, CHAT_CODE, PLAIN_PROSE])
def test_token_columns_have_one_length(prompt_format: PromptFormat) -> None:
    attempt: Attempt = solve(["print(5)<|end_of_step|>\n```\n", "x<|endoftext|>"], prompt_format)[0]
    columns: Sequence[Sequence[Any]] = (attempt.sampled, attempt.model_logprobs, attempt.sampling_logprobs)
    assert {len(column) for column in columns} == {len(attempt.token_ids)}
