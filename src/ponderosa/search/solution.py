"""Writing one solution: generate, run the step that was closed, append what it showed, go on.

Every strategy is built on `write_solution`. A solution ends at an end-of-text token, at the token or step limit,
or when the code failed more often in a row than is allowed. A policy that never closes a step writes prose.
Token ids are kept end to end: nothing that was sampled is ever encoded again.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from ponderosa.engines.protocol import GREEDY, Codec, GenerateRequest, Generation, Sampling
from ponderosa.formats import PromptFormat
from ponderosa.identity import derive_seed
from ponderosa.records import Attempt, Cost, Finish, Step
from ponderosa.search.requests import Execute, Execution, ProblemView, Reply, Request
from ponderosa.steps import parse_code, render_observation

ReadAnswer = Callable[[str, Sequence[Step]], tuple[str | None, str | None]]
"""The final answer of a solution and its canonical key, from its text and steps."""


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
    """What every search of one run shares: the policy, how it is asked, and how answers are read."""

    codec: Codec
    prompt_format: PromptFormat
    read_answer: ReadAnswer
    model_id: str
    max_context: int
    flops_per_token: float
    seed: int = 0
    sampling: Sampling = GREEDY
    limits: Limits = field(default_factory=Limits)


@dataclass(slots=True)
class _Draft:
    """A solution being written: its tokens, and its text up to the last closed step and since."""

    prompt_ids: tuple[int, ...]
    token_ids: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    model_logprobs: list[float] = field(default_factory=list)
    sampling_logprobs: list[float] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    closed_text: str = ""
    open_text: str = ""
    cost: Cost = field(default_factory=Cost)
    num_generations: int = 0
    num_errors: int = 0

    def add_generation(self, generation: Generation) -> None:
        self.token_ids += generation.token_ids
        self.sampled += [True] * len(generation.token_ids)
        self.model_logprobs += generation.model_logprobs
        self.sampling_logprobs += generation.sampling_logprobs
        self.num_generations += 1

    def add_observation(self, token_ids: Sequence[int]) -> None:
        self.token_ids += token_ids
        self.sampled += [False] * len(token_ids)
        self.model_logprobs += [0.0] * len(token_ids)
        self.sampling_logprobs += [0.0] * len(token_ids)


def write_solution(
    context: SearchContext, problem: ProblemView, *, sample: int, strategy: str
) -> Generator[list[Request], list[Reply], Attempt]:
    """One attempt at a problem. `sample` numbers the attempts at it and decides the seeds."""
    prompt_ids = tuple(context.codec.encode_prompt(context.prompt_format, problem.question))
    seed = derive_seed("sample", context.seed, problem.id, sample)
    draft = _Draft(prompt_ids, cost=Cost(prompt_tokens=len(prompt_ids)))
    finish: Finish | None = None
    error: str | None = None
    while finish is None:
        request = build_request(context, draft.prompt_ids, draft.token_ids, seed, draft.num_generations)
        if request is None:
            finish = "length"
            break
        (generation,) = yield [request]
        draft.add_generation(generation)
        draft.cost += _price(context, generation)
        if generation.finish == "error":
            finish, error = "error", generation.error
            break
        finish = yield from _close_step(context, draft, generation)
    return _build_attempt(context, problem, draft, finish, error, sample=sample, strategy=strategy, seed=seed)


def build_request(
    context: SearchContext,
    prompt_ids: tuple[int, ...],
    token_ids: Sequence[int],
    seed: int,
    num_generations: int,
) -> GenerateRequest | None:
    """Continue a solution up to the end of its next step; None if there is no room left."""
    num_tokens = len(prompt_ids) + len(token_ids)
    room = context.limits.max_tokens - len(token_ids)
    if room < 1 or (token_ids and num_tokens >= context.max_context):
        return None
    stop_ids, stop_strings = find_stops(context)
    return GenerateRequest(
        prompt_ids=(*prompt_ids, *token_ids),
        max_new_tokens=room,
        seed=derive_seed("generation", seed, num_generations),
        sampling=context.sampling,
        stop_ids=stop_ids,
        stop_strings=stop_strings,
    )


def find_stops(context: SearchContext) -> tuple[frozenset[int], tuple[str, ...]]:
    """What ends a generation: end of text, end of step, and in a plain layout the beginning of a next example."""
    prompt_format = context.prompt_format
    stop_strings = [find_next_example(prompt_format)] if prompt_format.layout == "plain" else []
    if prompt_format.solution == "code" and not prompt_format.delimiters.are_special:
        stop_strings.append(prompt_format.delimiters.end_of_step)
    return context.codec.eos_ids | find_step_ends(context), tuple(stop_strings)


def find_step_ends(context: SearchContext) -> frozenset[int]:
    """The special token that closes a step, where the format has one."""
    prompt_format = context.prompt_format
    if prompt_format.solution == "prose" or not prompt_format.delimiters.are_special:
        return frozenset()
    return frozenset(
        context.codec.encode(prompt_format.delimiters.spell(prompt_format.delimiters.end_of_step))
    )


def find_next_example(prompt_format: PromptFormat) -> str:
    """How a plain-layout prompt goes on to another question."""
    return f"{prompt_format.example_separator}{prompt_format.question_prefix}".rstrip(" ")


def _close_step(
    context: SearchContext, draft: _Draft, generation: Generation
) -> Generator[list[Request], list[Reply], Finish | None]:
    """Take up what was generated; run the step it closed, if it did. How the solution ends, None to go on."""
    last = generation.token_ids[-1]
    is_over = last in context.codec.eos_ids
    end_ids = find_step_ends(context)
    written = generation.token_ids[:-1] if is_over or last in end_ids else generation.token_ids
    draft.open_text += context.codec.decode(written)
    if generation.finish == "length":
        return "length"
    end_of_step = context.prompt_format.delimiters.end_of_step
    if last in end_ids:
        text, rest = draft.open_text, ""
    elif not is_over and end_of_step in find_stops(context)[1] and end_of_step in draft.open_text:
        text, _, rest = draft.open_text.partition(end_of_step)
    else:
        draft.open_text = draft.open_text if is_over else _cut_next_example(context, draft.open_text)
        return "stop"
    draft.closed_text += text + end_of_step
    draft.open_text = rest
    code = parse_code(text, context.prompt_format.delimiters)
    if code is None:
        draft.steps.append(Step(text))
    else:
        yield from _run_step(context, draft, text, code)
    if draft.num_errors > context.limits.max_errors:
        return "stop"
    return "length" if len(draft.steps) >= context.limits.max_steps else None


def _cut_next_example(context: SearchContext, text: str) -> str:
    """A base model goes on with a question of its own; that is not part of the solution."""
    return text.partition(find_next_example(context.prompt_format))[0]


def _run_step(
    context: SearchContext, draft: _Draft, text: str, code: str
) -> Generator[list[Request], list[Reply], None]:
    """Run a closed step in the state of the earlier ones that ended ok, and append what it showed."""
    prefix = tuple(step.code for step in draft.steps if step.code is not None and step.outcome == "ok")
    (execution,) = yield [Execute(prefix, code)]
    observation = render_execution(execution)
    draft.steps.append(Step(text, code, observation, execution.outcome))
    draft.num_errors = 0 if execution.outcome == "ok" else draft.num_errors + 1
    draft.cost += Cost(executions=1)
    for segment in render_observation(observation, context.prompt_format.delimiters):
        draft.closed_text += segment
        draft.add_observation(context.codec.encode(segment))


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


def _build_attempt(
    context: SearchContext,
    problem: ProblemView,
    draft: _Draft,
    finish: Finish,
    error: str | None,
    *,
    sample: int,
    strategy: str,
    seed: int,
) -> Attempt:
    """The finished record; the text leaves out a final end-of-text token and whatever follows the solution."""
    if draft.open_text:
        draft.steps.append(Step(draft.open_text))
    text = draft.closed_text + draft.open_text
    answer, answer_key = context.read_answer(text, draft.steps)
    return Attempt(
        problem_id=problem.id,
        sample=sample,
        prompt_ids=draft.prompt_ids,
        token_ids=tuple(draft.token_ids),
        sampled=tuple(draft.sampled),
        model_logprobs=tuple(draft.model_logprobs),
        sampling_logprobs=tuple(draft.sampling_logprobs),
        finish=finish,
        text=text,
        steps=tuple(draft.steps),
        answer=answer,
        answer_key=answer_key,
        cost=draft.cost,
        strategy=strategy,
        model_id=context.model_id,
        seed=seed,
        error=error,
    )
