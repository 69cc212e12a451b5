"""What an engine and a codec are. Nothing here imports torch.

Token ids go in and come out; text is the codec's business. Every request carries its own seed, and the uniform
for its token t is a counter-based function of (seed, t), so a request samples the same tokens whatever it is
batched with, up to the rounding of the logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ponderosa.formats import PromptFormat
from ponderosa.records import Finish


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 switch truncation off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Continue `prompt_ids`. The stop id, or the whole token in which a stop string ends, is kept in the reply.

    open_tokens: this many at the end of the prompt were written by the model; a stop string may begin in them.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    seed: int
    sampling: Sampling = GREEDY
    stop_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()
    open_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """The reply to a GenerateRequest (T new tokens).

    model_logprobs: temperature 1, untruncated. sampling_logprobs: the distribution drawn from (0.0 if greedy).
    prefill_tokens: prompt tokens computed for this request, not found in a cache or shared.
    error: for finish = "error", what was wrong with this request.
    """

    token_ids: tuple[int, ...]
    model_logprobs: tuple[float, ...]
    sampling_logprobs: tuple[float, ...]
    finish: Finish
    prefill_tokens: int = 0
    error: str | None = None


def find_fault(request: GenerateRequest, *, max_context: int, vocab_size: int) -> str | None:
    """What makes a request impossible, in words for its reply; None if it can run."""
    num_tokens = len(request.prompt_ids)
    if not num_tokens:
        return "the prompt is empty"
    if num_tokens >= max_context:
        return f"a prompt of {num_tokens} tokens leaves no room in a context of {max_context}"
    if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < vocab_size:
        return f"the prompt holds token ids outside the vocabulary of {vocab_size}"
    if request.max_new_tokens < 1:
        return f"max_new_tokens is {request.max_new_tokens}; it must be at least 1"
    return None


class Codec(Protocol):
    """Text to token ids and back, for one model directory.

    eos_id: ends a document in training. eos_ids: every id after which the model has finished its turn.
    """

    eos_id: int
    eos_ids: frozenset[int]
    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """Token ids of text. A `Special` gives its one id; a special string inside ordinary text stays text."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included as they are spelled."""
        ...

    def encode_prompt(self, prompt_format: PromptFormat, question: str) -> list[int]:
        """The prompt of a question under a format (plain or chat layout)."""
        ...


class Engine(Protocol):
    """A continuously batching sampler: submit at any time, tick until idle.

    num_slots: requests that run at once; keeping about as many pending keeps it busy.
    max_context: tokens a request may have, prompt included.
    """

    model_id: str
    codec: Codec
    num_slots: int
    max_context: int
    flops_per_token: float

    def submit(self, request: GenerateRequest) -> int:
        """Queue a request and return its ticket."""
        ...

    def tick(self) -> list[tuple[int, Generation]]:
        """Advance every busy slot by one token; the requests that finished, in ticket order."""
        ...

    @property
    def num_pending(self) -> int:
        """Requests queued or running."""
        ...

    @property
    def occupancy(self) -> float:
        """Share of all slot-steps since the last reset in which a request was running."""
        ...

    def reset(self) -> None:
        """Forget cached prefixes (call after the weights change, and between units of committed work)."""
        ...


@dataclass(frozen=True, slots=True)
class Scored:
    """The reply to a sequence that was to be scored: a calibrated score in [-1, 1], and how many of the sequence's
    tokens were computed for it, not found in a cache or shared."""

    score: float
    scored_tokens: int = 0


class Scorer(Protocol):
    """A reward model: scores partial solutions, for search. 1 is sure to end right, -1 sure to end wrong.

    max_context: tokens a sequence may have, prompt included. It is asked on another thread than the engine's.
    """

    model_id: str
    max_context: int
    flops_per_token: float

    def score(self, sequences: Sequence[Sequence[int]]) -> list[Scored]:
        """The score of each sequence of token ids (prompt included), read at its last token."""
        ...

    def reset(self) -> None:
        """Forget cached prefixes (call between units of committed work)."""
        ...
