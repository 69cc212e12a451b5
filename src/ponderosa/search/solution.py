"""Writing solutions: generate, run the step that was closed, append what it showed, go on.

`write_step` carries a draft on by one step (`draw_step`, then `run_step`), `continue_solution` to its end;
`write_solution` begins with nothing but the question. Every search is built on these. A solution ends at an
end-of-text token, at the token or step limit, or when the code failed more often in a row than is allowed. A policy
that never closes a step writes prose.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from ponderosa.engines.protocol import GREEDY, Codec, GenerateRequest, Generation, Sampling, Scored
from ponderosa.formats import PromptFormat
from ponderosa.identity import derive_seed
from ponderosa.records import Attempt, Cost, Finish, Step, Tree
from ponderosa.search.draft import (
    Draft,
    add_observation,
    begin_draft,
    close_step,
    find_stops,
    read_closed,
    read_open,
    split_closed,
)
from ponderosa.search.requests import Execute, Execution, ProblemView, Reply, Request
from ponderosa.steps import parse_code

ReadAnswer = Callable[[str, Sequence[Step]], tuple[str | None, str | None]]
"""The final answer of a solution and its canonical key, from its text and steps."""

Watch = Callable[[Callable[[], Tree]], None]
"""Called with what builds the record of a growing tree as it is now, so that only a tree that is looked at is built."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a solution is cut off.

    max_tokens: new tokens, observations included. max_steps: closed steps. max_errors: consecutive failed
    executions a policy may see and still go on.
    """

    max_tokens: int = 512
    max_steps: int = 32
    max_errors: int = 0


@dataclass(frozen=True, slots=True)
class SearchContext:
    """What every search of one run shares: the policy, how it is asked, how answers are read, and the reward model.

    max_context: tokens that engine and reward model can take, prompt included. scorer_id: the reward model's; None where
    there is none, and `Score` is refused.
    watch: is told each time before a tree grows on; no search depends on it.
    """

    codec: Codec
    prompt_format: PromptFormat
    read_answer: ReadAnswer
    model_id: str
    max_context: int
    flops_per_token: float
    seed: int = 0
    sampling: Sampling = GREEDY
    limits: Limits = field(default_factory=Limits)
    scorer_id: str | None = None
    scorer_flops_per_token: float = 0.0
    watch: Watch | None = None


def write_solution(
    context: SearchContext, problem: ProblemView, *, sample: int, strategy: str
) -> Generator[list[Request], list[Reply], Attempt]:
    """One attempt at a problem. `sample` numbers the attempts at it and decides the seeds."""
    draft = begin_draft(context, problem.question)
    seed = derive_seed("sample", context.seed, problem.id, sample)
    attempt = yield from continue_solution(
        context, problem, draft, sample=sample, strategy=strategy, seed=seed
    )
    return attempt


def continue_solution(
    context: SearchContext, problem: ProblemView, draft: Draft, *, sample: int, strategy: str, seed: int
) -> Generator[list[Request], list[Reply], Attempt]:
    """The attempt a draft becomes when it is written to its end; `seed` draws what is added."""
    while draft.finish is None:
        draft = yield from write_step(context, draft, derive_seed("generation", seed, len(draft.steps)))
    return finish_attempt(context, problem, draft, sample=sample, strategy=strategy, seed=seed)


def write_step(
    context: SearchContext, draft: Draft, seed: int
) -> Generator[list[Request], list[Reply], Draft]:
    """A draft with its open step written, run if it holds code, and followed by what it showed; or finished."""
    drawn = yield from draw_step(context, draft, seed)
    return (yield from run_step(context, drawn))


def draw_step(
    context: SearchContext, draft: Draft, seed: int
) -> Generator[list[Request], list[Reply], Draft]:
    """A draft with its open step written: its last token closes the step, or it is finished."""
    request = build_request(context, draft, seed)
    if request is None:
        return replace(draft, finish="length")
    (generation,) = yield [request]
    draft = _add_generation(context, draft, generation)
    if generation.finish != "stop":
        return replace(draft, finish=generation.finish, error=generation.error)
    return draft if split_closed(context, draft) is not None else replace(draft, finish="stop")


def run_step(context: SearchContext, draft: Draft) -> Generator[list[Request], list[Reply], Draft]:
    """A drawn draft with its step run if it holds code, and followed by what it showed; a finished one as it is."""
    if draft.finish is not None:
        return draft
    closed = split_closed(context, draft)
    assert closed is not None, "the step is still open"
    text, _ = closed
    code = parse_code(text, context.prompt_format.delimiters)
    if code is None:
        step = Step(text)
    else:
        prefix = tuple(step.code for step in draft.steps if step.code is not None and step.outcome == "ok")
        (execution,) = yield [Execute(prefix, code)]
        step = Step(text, code, render_execution(execution), execution.outcome)
        draft = replace(draft, cost=draft.cost + Cost(executions=1))
    draft = add_observation(context, close_step(context, draft, step))
    return replace(draft, finish=_find_limit(context.limits, draft.steps))


def finish_attempt(
    context: SearchContext, problem: ProblemView, draft: Draft, *, sample: int, strategy: str, seed: int
) -> Attempt:
    """The record of a finished draft; its text leaves out a final end-of-text token and what follows the solution."""
    assert draft.finish is not None, "the draft can still go on"
    open_text = read_open(context, draft)
    steps = (*draft.steps, Step(open_text)) if open_text else draft.steps
    text = read_closed(context, draft) + open_text
    answer, answer_key = context.read_answer(text, steps)
    return Attempt(
        problem_id=problem.id,
        sample=sample,
        prompt_ids=draft.prompt_ids,
        token_ids=draft.token_ids,
        sampled=draft.sampled,
        model_logprobs=draft.model_logprobs,
        sampling_logprobs=draft.sampling_logprobs,
        finish=draft.finish,
        text=text,
        steps=steps,
        answer=answer,
        answer_key=answer_key,
        cost=draft.cost,
        strategy=strategy,
        model_id=context.model_id,
        seed=seed,
        error=draft.error,
    )


def build_request(context: SearchContext, draft: Draft, seed: int) -> GenerateRequest | None:
    """Continue a draft up to the end of its open step; None if there is no room left."""
    num_tokens = len(draft.prompt_ids) + len(draft.token_ids)
    room = context.limits.max_tokens - len(draft.token_ids)
    if draft.token_ids:  # a prompt alone that has no room is the engine's to refuse, with its reason
        room = min(room, context.max_context - num_tokens)
    if room < 1:
        return None
    stop_ids, stop_strings = find_stops(context)
    return GenerateRequest(
        prompt_ids=(*draft.prompt_ids, *draft.token_ids),
        max_new_tokens=room,
        seed=seed,
        sampling=context.sampling,
        stop_ids=stop_ids,
        stop_strings=stop_strings,
        open_tokens=len(draft.token_ids) - draft.open_from,
    )


def _add_generation(context: SearchContext, draft: Draft, generation: Generation) -> Draft:
    """Take up what the policy wrote, and its price."""
    return replace(
        draft,
        token_ids=draft.token_ids + generation.token_ids,
        sampled=draft.sampled + (True,) * len(generation.token_ids),
        model_logprobs=draft.model_logprobs + generation.model_logprobs,
        sampling_logprobs=draft.sampling_logprobs + generation.sampling_logprobs,
        cost=draft.cost + _price(context, generation),
    )


def _find_limit(limits: Limits, steps: Sequence[Step]) -> Finish | None:
    """How a solution ends after these steps, if it does."""
    outcomes = [step.outcome for step in reversed(steps) if step.outcome is not None]
    num_errors = len(list(takewhile(lambda outcome: outcome != "ok", outcomes)))
    if num_errors > limits.max_errors:
        return "stop"
    return "length" if len(steps) >= limits.max_steps else None


def render_execution(execution: Execution) -> str | None:
    """What a step showed: its output without the last newline, then the error if there was one."""
    lines = [part for part in (execution.output.removesuffix("\n"), execution.error) if part]
    return "\n".join(lines) or None


def _price(context: SearchContext, generation: Generation) -> Cost:
    """Each prefilled and each generated token is one forward pass, except the last one drawn."""
    num_generated = len(generation.token_ids)
    num_passes = generation.prefill_tokens + max(0, num_generated - 1)
    return Cost(
        prefill_tokens=generation.prefill_tokens,
        generated_tokens=num_generated,
        flops=context.flops_per_token * num_passes,
    )


def price_score(context: SearchContext, scored: Scored) -> Cost:
    """What a score of the reward model cost: one forward pass of it for each token it had to compute."""
    return Cost(
        scored_tokens=scored.scored_tokens, flops=context.scorer_flops_per_token * scored.scored_tokens
    )
