"""Training rows from text, from worked solutions and from attempts.

Enters: text, segments, and an `encode` that turns a `Special` into its one id and any other text into plain ids; or
an attempt, whose ids are taken as they were sampled. Leaves: one Row for each document. Loss falls on what a model should learn to write: all of a text, the steps of
a solution, and the end-of-text token; never the question, never what the interpreter printed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ponderosa.records import Attempt, Row
from ponderosa.steps import Segment

Encode = Callable[[str], Sequence[int]]


def build_row(token_ids: Sequence[int], is_sampled: Sequence[bool]) -> Row:
    """One document: weight 1 where the model should write the token, 0 elsewhere and at the first token."""
    weights = tuple(float(sampled and t > 0) for t, sampled in enumerate(is_sampled))
    return Row(tuple(token_ids), weights, (0,) * len(token_ids))


def build_text_row(text: str, encode: Encode, *, eos_id: int) -> Row:
    """A text with its end: the model learns every token of it, and to stop."""
    token_ids = [*encode(text), eos_id]
    return build_row(token_ids, [True] * len(token_ids))


def build_solution_row(
    prompt_ids: Sequence[int],
    segments: Iterable[Segment],
    encode: Encode,
    *,
    eos_id: int,
    prompt_weight: float = 0.0,
) -> Row:
    """A prompt and its worked solution: loss only on what the model writes, the end included.

    `prompt_weight` above 0 makes the question part of the text to learn, as in pretraining; what the interpreter
    printed never is.

    Each segment is encoded by itself, as the sampler meets it: an observation is appended as its own ids, so
    no token ever straddles what the model wrote and what was written for it.
    """
    token_ids = list(prompt_ids)
    is_sampled = [False] * len(token_ids)
    for segment in segments:
        segment_ids = encode(segment.text)
        token_ids += segment_ids
        is_sampled += [segment.is_sampled] * len(segment_ids)
    row = build_row([*token_ids, eos_id], [*is_sampled, True])
    return _weigh_prompt(row, len(prompt_ids), prompt_weight)


def build_attempt_row(attempt: Attempt, *, prompt_weight: float = 0.0) -> Row:
    """A prompt and an attempt at it, id for id: weight 1 on sampled tokens, the sampled end of text among them.

    Nothing is encoded again and nothing is appended, so an attempt that was cut short teaches no end; whoever wants
    only whole ones selects them (`data.rollouts`). `prompt_weight`: as in `build_solution_row`.
    """
    num_prompt = len(attempt.prompt_ids)
    row = build_row(attempt.prompt_ids + attempt.token_ids, [False] * num_prompt + list(attempt.sampled))
    return _weigh_prompt(row, num_prompt, prompt_weight)


def _weigh_prompt(row: Row, num_prompt: int, weight: float) -> Row:
    """The row with its prompt's tokens weighed too, except the first, which nothing predicts."""
    if not weight:
        return row
    question = (0.0, *(weight for _ in range(1, num_prompt)))
    return replace(row, loss_weights=question + row.loss_weights[num_prompt:])
