"""An engine that plays a fixed script, and a byte-level codec: everything but a model, for tests. No torch."""

from collections import deque
from collections.abc import Mapping, Sequence

from ponderosa.engines.protocol import GenerateRequest, Generation, find_fault
from ponderosa.engines.stops import PieceTable, ends_with_stop
from ponderosa.formats import PromptFormat
from ponderosa.records import Finish
from ponderosa.steps import SPECIAL_DELIMITERS, Special

EOS = Special("<|endoftext|>")
LOGPROB = -0.5
"""The log-probability of every scripted token."""


class ByteCodec:
    """UTF-8 bytes as tokens 0-255, then the special tokens of grown models."""

    def __init__(self) -> None:
        delimiters = SPECIAL_DELIMITERS
        specials = (EOS, delimiters.end_of_step, delimiters.output, delimiters.end_of_output)
        self._ids = {str(special): 256 + index for index, special in enumerate(specials)}
        self._names = {token_id: name for name, token_id in self._ids.items()}
        self.eos_id = self._ids[EOS]
        self.eos_ids = frozenset({self.eos_id})
        self.vocab_size = 256 + len(specials)

    def encode(self, text: str) -> list[int]:
        return [self._ids[text]] if isinstance(text, Special) else list(text.encode())

    def encode_script(self, text: str) -> list[int]:
        """Like `encode`, but special strings in the text become special tokens: how scripts are written."""
        for name in self._ids:
            before, found, after = text.partition(name)
            if found:
                return [*self.encode_script(before), self._ids[name], *self.encode_script(after)]
        return self.encode(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        parts = (
            self._names[token_id].encode() if token_id in self._names else bytes([token_id])
            for token_id in token_ids
        )
        return b"".join(parts).decode("utf-8", "replace")

    def encode_prompt(self, prompt_format: PromptFormat, question: str) -> list[int]:
        return self.encode(prompt_format.render_plain(question))


class ScriptedEngine:
    """Replies from a script, cut off where a real engine would stop; see `protocol.Engine`.

    script: replies in the order the requests are submitted, or by the text of the prompt (the longest key that
    ends it; the replies of one key in order, the last one again and again). delays: ticks that the i-th request
    takes, 1 where not given.
    """

    model_id = "scripted"
    flops_per_token = 1.0

    def __init__(
        self,
        script: Sequence[str] | Mapping[str, Sequence[str]],
        *,
        max_context: int = 4096,
        delays: Mapping[int, int] | None = None,
        num_slots: int = 64,
    ) -> None:
        self.num_slots = num_slots
        self.codec = ByteCodec()
        self.max_context = max_context
        self.num_resets = 0
        self.requests: list[GenerateRequest] = []
        self._by_prompt = {
            key: deque(replies)
            for key, replies in (script if isinstance(script, Mapping) else {"": script}).items()
        }
        self._repeats_last = isinstance(script, Mapping)
        self._delays = dict(delays or {})
        self._pieces = PieceTable(self.codec)
        self._due: dict[int, tuple[int, Generation]] = {}
        self._now = 0
        self._busy_slot_steps = 0

    @property
    def num_pending(self) -> int:
        return len(self._due)

    @property
    def occupancy(self) -> float:
        return self._busy_slot_steps / max(1, self._now * self.num_slots)

    def submit(self, request: GenerateRequest) -> int:
        ticket = len(self.requests)
        self.requests.append(request)
        self._due[ticket] = (self._now + self._delays.get(ticket, 1), self._reply(request))
        return ticket

    def tick(self) -> list[tuple[int, Generation]]:
        self._now += 1
        self._busy_slot_steps += min(self.num_pending, self.num_slots)
        done = sorted(ticket for ticket, (due, _) in self._due.items() if due <= self._now)
        return [(ticket, self._due.pop(ticket)[1]) for ticket in done]

    def reset(self) -> None:
        self.num_resets += 1

    def _reply(self, request: GenerateRequest) -> Generation:
        fault = find_fault(request, max_context=self.max_context, vocab_size=self.codec.vocab_size)
        if fault is not None:
            return Generation((), (), (), "error", error=fault)
        room = min(request.max_new_tokens, self.max_context - len(request.prompt_ids))
        new_ids: list[int] = []
        finish: Finish = "length"
        for token_id in self.codec.encode_script(self._next_text(request)):
            new_ids.append(token_id)
            if ends_with_stop(request, new_ids, self._pieces):
                finish = "stop"
                break
            if len(new_ids) == room:
                break
        logprobs = (LOGPROB,) * len(new_ids)
        return Generation(tuple(new_ids), logprobs, logprobs, finish, len(request.prompt_ids))

    def _next_text(self, request: GenerateRequest) -> str:
        prompt = self.codec.decode(request.prompt_ids)
        keys = [key for key in self._by_prompt if prompt.endswith(key)]
        assert keys, f"the script has no reply to a prompt that ends with {prompt[-60:]!r}"
        replies = self._by_prompt[max(keys, key=len)]
        assert replies, "the script is over"
        return replies[0] if self._repeats_last and len(replies) == 1 else replies.popleft()
