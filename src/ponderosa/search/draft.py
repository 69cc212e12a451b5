"""A solution as far as it has been written, and how to read and cut one.

A `Draft` is a value, so any number of continuations may start from one. `cut_draft` gives the draft that an attempt was
before one of its tokens. Boundaries are boundaries of token ids: nothing that was sampled is ever encoded again.
"""

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import Protocol

from ponderosa.engines.protocol import Codec
from ponderosa.formats import PromptFormat
from ponderosa.records import Attempt, Cost, Finish, Step
from ponderosa.steps import render_observation


class Notation(Protocol):
    """How a policy writes solutions: what its tokens spell, and what opens and closes steps."""

    @property
    def codec(self) -> Codec: ...
    @property
    def prompt_format(self) -> PromptFormat: ...


@dataclass(frozen=True, slots=True)
class Draft:
    """A solution as far as it has been written (T tokens behind the prompt).

    steps: the closed ones, with what they showed. open_from: where the tokens of the open step begin.
    carried: text of the open step that came in the token which closed the step before (behind a fence).
    cost: of writing it since it was begun or cut; what it was cut from has been paid for.
    finish: how the solution ended; None while it can go on. error: why, if the engine refused.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...] = ()
    sampled: tuple[bool, ...] = ()
    model_logprobs: tuple[float, ...] = ()
    sampling_logprobs: tuple[float, ...] = ()
    steps: tuple[Step, ...] = ()
    open_from: int = 0
    carried: str = ""
    cost: Cost = field(default_factory=Cost)
    finish: Finish | None = None
    error: str | None = None


def begin_draft(notation: Notation, question: str) -> Draft:
    """Nothing but the question."""
    prompt_ids = tuple(notation.codec.encode_prompt(notation.prompt_format, question))
    return Draft(prompt_ids, cost=Cost(prompt_tokens=len(prompt_ids)))


def cut_draft(notation: Notation, attempt: Attempt, num_tokens: int) -> Draft:
    """What an attempt was after `num_tokens` tokens, before it drew the next: a draft to go on from.

    The steps that were closed by then keep what they showed and are not executed again. All of it counts as prompt.
    Raises ValueError unless the next token was sampled: a draft goes on where the policy does.
    """
    if not (0 <= num_tokens < len(attempt.token_ids) and attempt.sampled[num_tokens]):
        raise ValueError(
            f"token {num_tokens} of {len(attempt.token_ids)} was not sampled; cut before a sampled one"
        )
    draft = Draft(attempt.prompt_ids)
    for step in attempt.steps:
        closed_at = _find_close(notation, attempt, draft.open_from)
        if closed_at is None or closed_at > num_tokens:
            break
        draft = _copy_tokens(draft, attempt, closed_at)
        observed_to = attempt.sampled.index(True, closed_at)
        draft = _copy_tokens(close_step(notation, draft, step), attempt, observed_to)
        draft = replace(draft, open_from=observed_to)
    draft = _copy_tokens(draft, attempt, num_tokens)
    return replace(draft, cost=Cost(prompt_tokens=len(draft.prompt_ids) + num_tokens))


def _find_close(notation: Notation, attempt: Attempt, start: int) -> int | None:
    """How many tokens an attempt had when the step that begins at `start` was closed; None if it never was."""
    end = next((at for at in range(start, len(attempt.sampled)) if not attempt.sampled[at]), None)
    written = attempt.token_ids[start:end]
    if end_ids := find_step_ends(notation):
        return next((start + index for index, token in enumerate(written, 1) if token in end_ids), None)
    end_of_step = notation.prompt_format.delimiters.end_of_step
    if end_of_step not in find_stops(notation)[1]:
        return None
    lengths = range(len(written) + 1)
    length = bisect_left(
        lengths, True, key=lambda length: end_of_step in notation.codec.decode(written[:length])
    )
    return start + length if length in lengths else None


def _copy_tokens(draft: Draft, attempt: Attempt, num_tokens: int) -> Draft:
    """Take up an attempt's tokens, as far as `num_tokens` of them."""
    return replace(
        draft,
        token_ids=attempt.token_ids[:num_tokens],
        sampled=attempt.sampled[:num_tokens],
        model_logprobs=attempt.model_logprobs[:num_tokens],
        sampling_logprobs=attempt.sampling_logprobs[:num_tokens],
    )


def split_closed(notation: Notation, draft: Draft) -> tuple[str, str] | None:
    """The open step's text and what stands behind its end, if its last token closed it."""
    last = draft.token_ids[-1]
    if last in find_step_ends(notation):
        return read_open(notation, draft), ""
    end_of_step = notation.prompt_format.delimiters.end_of_step
    if last in notation.codec.eos_ids or end_of_step not in find_stops(notation)[1]:
        return None
    text, closed, rest = read_open(notation, draft).partition(end_of_step)
    return (text, rest) if closed else None


def close_step(notation: Notation, draft: Draft, step: Step) -> Draft:
    """The open step, which the last token closed, becomes one of the closed ones."""
    closed = split_closed(notation, draft)
    assert closed is not None, "no step was closed"
    return replace(draft, steps=(*draft.steps, step), open_from=len(draft.token_ids), carried=closed[1])


def add_observation(notation: Notation, draft: Draft) -> Draft:
    """Append what the last step showed: tokens that nobody drew."""
    segments = render_observation(draft.steps[-1].observation, notation.prompt_format.delimiters)
    shown = tuple(token_id for segment in segments for token_id in notation.codec.encode(segment))
    return replace(
        draft,
        token_ids=draft.token_ids + shown,
        sampled=draft.sampled + (False,) * len(shown),
        model_logprobs=draft.model_logprobs + (0.0,) * len(shown),
        sampling_logprobs=draft.sampling_logprobs + (0.0,) * len(shown),
        open_from=draft.open_from + len(shown),
    )


def read_closed(notation: Notation, draft: Draft) -> str:
    """Text of the closed steps and of what they showed."""
    delimiters = notation.prompt_format.delimiters
    return "".join(
        "".join([step.text, delimiters.end_of_step, *render_observation(step.observation, delimiters)])
        for step in draft.steps
    )


def read_open(notation: Notation, draft: Draft) -> str:
    """Text of the open step, without a token that ends it.

    A base model goes on with a question of its own; where that ended a solution, it is not part of it.
    """
    written = draft.token_ids[draft.open_from :]
    if written and written[-1] in notation.codec.eos_ids | find_step_ends(notation):
        return draft.carried + notation.codec.decode(written[:-1])
    text = draft.carried + notation.codec.decode(written)
    is_cut = draft.finish == "stop" and written
    return text.partition(find_next_example(notation.prompt_format))[0] if is_cut else text


def find_stops(notation: Notation) -> tuple[frozenset[int], tuple[str, ...]]:
    """What ends a generation: end of text, end of step, and in a plain layout the beginning of a next example."""
    prompt_format = notation.prompt_format
    stop_strings = [find_next_example(prompt_format)] if prompt_format.layout == "plain" else []
    if prompt_format.solution == "code" and not prompt_format.delimiters.are_special:
        stop_strings.append(prompt_format.delimiters.end_of_step)
    return notation.codec.eos_ids | find_step_ends(notation), tuple(stop_strings)


def find_step_ends(notation: Notation) -> frozenset[int]:
    """The special token that closes a step, where the format has one."""
    prompt_format = notation.prompt_format
    if prompt_format.solution == "prose" or not prompt_format.delimiters.are_special:
        return frozenset()
    return frozenset(
        notation.codec.encode(prompt_format.delimiters.spell(prompt_format.delimiters.end_of_step))
    )


def find_next_example(prompt_format: PromptFormat) -> str:
    """How a plain-layout prompt goes on to another question."""
    return f"{prompt_format.example_separator}{prompt_format.question_prefix}".rstrip(" ")
