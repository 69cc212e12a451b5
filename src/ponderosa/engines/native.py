"""The native engine: continuous batching through an unchanged transformers model, which may be in training.

Enter: requests of token ids. Leave: generations of token ids, with both log-probabilities. One tick admits
waiting requests into free cache rows, computes what is new in their prompts, and feeds every active row one
token. The last prompt token is fed by the decode step itself, so n samples of one prompt share all of its
prefill, and a prompt that continues a finished request computes only what was added. What rows have in common at their
beginning is held and read once.

Results depend on the submitted requests and their order alone. Deliberately absent: beams, penalties,
constrained decoding, more than one device.
"""

from collections import deque
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ponderosa.engines.attention import CachePass
from ponderosa.engines.kv_pages import KVPages
from ponderosa.engines.model import borrow_model, copy_model, profile_model, run_logits
from ponderosa.engines.page_table import PAGE_TOKENS
from ponderosa.engines.paged_attention import PagedAttention
from ponderosa.engines.prefill import Span
from ponderosa.engines.prefix_cache import PrefixCache
from ponderosa.engines.protocol import Codec, GenerateRequest, Generation, find_fault
from ponderosa.engines.reading import PAGE_BUCKET, plan_reading
from ponderosa.engines.rows import Placement, RequestRows
from ponderosa.engines.sampling import compute_uniforms, draw_tokens
from ponderosa.engines.stops import PieceTable, ends_with_stop

ROW_BUCKET = 8
"""Decode steps run a multiple of this many rows, so that kernels are prepared for few shapes."""
ADMISSION_FRAC = 1 / 16
"""Requests are admitted once this share of the slots is free (or all that wait fit), to prefill in batches."""


@dataclass(slots=True)
class Job:
    """A request that is running in a cache row."""

    ticket: int
    request: GenerateRequest
    prefill_tokens: int


class NativeEngine:
    """Samples from a transformers causal language model; see `ponderosa.engines.protocol.Engine`.

    num_slots: requests running at once. num_retained: further cache rows, which keep finished requests for
    prompts that continue them (default: as many as slots; what nothing continues is not kept). dtype: compute in this type on a copy of the weights,
    which `reset` refreshes; None shares the model's own weights.
    Raises DataError naming a model that it cannot run.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        codec: Codec,
        *,
        model_id: str,
        num_slots: int = 128,
        max_context: int = 1024,
        num_retained: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.codec = codec
        self.model_id = model_id
        self.num_slots = num_slots
        self.max_context = max_context
        self._busy_slot_steps = 0
        self._slot_steps = 0
        self._source = model
        self._model = model if dtype is None or dtype == model.dtype else copy_model(model, dtype)
        profile = profile_model(self._model, max_context, run_logits)
        self.flops_per_token = profile.flops_per_token
        self._vocab_size = int(model.config.get_text_config().vocab_size)
        self._pieces = PieceTable(codec)
        num_rows = (
            -(-(num_slots + (num_slots if num_retained is None else num_retained)) // ROW_BUCKET) * ROW_BUCKET
        )
        self._cache = KVPages(dtype=self._model.dtype, device=self._model.device)
        self._rows = RequestRows(num_rows, max_context)
        self._prefixes = PrefixCache(
            self._model,
            self._rows,
            self._cache,
            partial(run_logits, self._model),
            long_rope_after=profile.long_rope_after,
        )
        self._waiting: deque[tuple[int, GenerateRequest]] = deque()
        self._jobs: dict[int, Job] = {}
        self._next_ticket = 0
        self._planned: tuple[tuple[int, bytes, bytes], PagedAttention] | None = None

    @property
    def num_pending(self) -> int:
        """Requests queued or running."""
        return len(self._waiting) + len(self._jobs)

    @property
    def occupancy(self) -> float:
        """Share of all slot-steps since the last reset in which a request was running."""
        return self._busy_slot_steps / max(1, self._slot_steps)

    def submit(self, request: GenerateRequest) -> int:
        """Queue a request and return its ticket."""
        ticket = self._next_ticket
        self._next_ticket += 1
        self._waiting.append((ticket, request))
        return ticket

    def reset(self) -> None:
        """Forget finished prefixes, and take over the model's weights as they are now.

        Asserts that nothing is pending: a running request must not mix two sets of weights.
        """
        assert not self.num_pending, "reset while requests are pending"
        self._busy_slot_steps = self._slot_steps = 0
        self._prefixes.forget()
        if self._model is not self._source:
            with torch.no_grad():
                for mine, theirs in zip(self._model.parameters(), self._source.parameters(), strict=True):
                    mine.copy_(theirs)

    def tick(self) -> list[tuple[int, Generation]]:
        """Admit what fits, feed every active row one token; the requests that finished, in ticket order."""
        with borrow_model(self._model):
            finished = self._admit()
            if self._jobs:
                self._decode()
                finished += self._harvest()
        return sorted(finished, key=lambda pair: pair[0])

    def _admit(self) -> list[tuple[int, Generation]]:
        """Move waiting requests into rows and compute their prompts; the impossible ones come back as errors."""
        refused: list[tuple[int, Generation]] = []
        num_free = self.num_slots - len(self._jobs)
        if num_free < min(len(self._waiting), max(1, int(ADMISSION_FRAC * self.num_slots))):
            return refused
        placements: list[Placement] = []
        while self._waiting and len(self._jobs) < self.num_slots:
            ticket, request = self._waiting.popleft()
            fault = find_fault(request, max_context=self.max_context, vocab_size=self._vocab_size)
            if fault is not None:
                refused.append((ticket, Generation((), (), (), "error", error=fault)))
                continue
            *known, fed = request.prompt_ids
            num_tokens = len(request.prompt_ids)
            placement = self._rows.place(known, is_long=self._prefixes.is_long(num_tokens))
            row = placement.row
            self._rows.tokens[row, num_tokens - 1] = fed
            self._rows.starts[row] = num_tokens
            self._rows.limits[row] = min(self.max_context, num_tokens + request.max_new_tokens)
            self._rows.seeds[row] = request.seed
            self._jobs[row] = Job(ticket, request, num_tokens - placement.shared)
            placements.append(placement)
        self._prefixes.fill(placements)
        return refused

    def _decode(self) -> None:
        """Feed every active row its next token and draw the one after."""
        self._cross_threshold()
        table = self._rows
        rows = np.flatnonzero(table.is_active)
        table.pages.extend(rows, table.lengths[rows])
        self._cache.reserve(table.pages.num_pages + PAGE_BUCKET)
        self._cache.move(*table.pages.arrange(table.is_active))
        for side in (False, True):
            rows = np.flatnonzero(table.is_active & (table.is_long == side))
            if len(rows):
                self._decode_rows(rows)
        self._busy_slot_steps += len(self._jobs)
        self._slot_steps += self.num_slots

    def _decode_rows(self, rows: npt.NDArray[np.int64]) -> None:
        """One token for each of these rows, which are all on one side of a LongRoPE threshold."""
        table = self._rows
        padded = np.resize(rows, -(-len(rows) // ROW_BUCKET) * ROW_BUCKET)
        is_padding = np.arange(len(padded)) >= len(rows)
        fed_at = table.lengths[padded]
        newest = np.where(is_padding, -1, fed_at)
        attention = self._plan_attention(table.pages.ids[padded], newest)
        pages, places = table.pages.find(padded, fed_at)
        pages[is_padding] = 0
        cache_pass = CachePass(
            self._cache, self._to_device(pages)[:, None], self._to_device(places)[:, None], attention
        )
        token_ids = self._to_device(table.tokens[padded, fed_at])[:, None]
        with self._prefixes.linears.lend():
            logits = run_logits(self._model, token_ids, self._to_device(fed_at)[:, None], cache_pass)
        self._draw(logits[: len(rows), -1], rows)

    def _plan_attention(self, ids: npt.NDArray[np.int64], newest: npt.NDArray[np.int64]) -> PagedAttention:
        """How rows read their pages; planned anew when a row comes, goes or begins a page."""
        shared_end = self._rows.pages.shared_end
        planned_for = (shared_end, ids.tobytes(), (newest // PAGE_TOKENS).tobytes())
        if self._planned is None or self._planned[0] != planned_for:
            reading = plan_reading(ids, newest, shared_end)
            self._planned = planned_for, PagedAttention(reading, self._model.device)
        attention = self._planned[1]
        attention.advance(self._to_device(newest))
        return attention

    def _draw(self, logits: Tensor, rows: npt.NDArray[np.int64]) -> None:
        """Draw the tokens that follow and note them."""
        table = self._rows
        samplings = [self._jobs[row].request.sampling for row in rows.tolist()]
        after = table.lengths[rows] + 1
        steps = (after - table.starts[rows]).astype(np.uint64)
        draw = draw_tokens(logits, samplings, compute_uniforms(table.seeds[rows], steps))
        table.tokens[rows, after] = draw.tokens
        table.model_logprobs[rows, after] = draw.model_logprobs
        table.sampling_logprobs[rows, after] = draw.sampling_logprobs
        table.lengths[rows] = after

    def _cross_threshold(self) -> None:
        """Rows about to grow past the LongRoPE threshold are computed again under the long factors."""
        threshold = self._prefixes.long_rope_after
        if threshold is None:
            return
        table = self._rows
        crossing = table.is_active & ~table.is_long & (table.lengths + 1 > threshold)
        rows = np.flatnonzero(crossing).tolist()
        table.is_long[rows] = True
        for row in rows:
            table.pages.drop(row)
            table.pages.hold(row, int(table.lengths[row]))
        self._prefixes.compute([Span(row, 0, int(table.lengths[row]), True) for row in rows])
        for row in rows:
            self._jobs[row].prefill_tokens += int(table.lengths[row])

    def _harvest(self) -> list[tuple[int, Generation]]:
        """Take the finished requests out of their rows."""
        table = self._rows
        finished = []
        rows = np.flatnonzero(table.is_active)
        last_ids = table.tokens[rows, table.lengths[rows]].tolist()
        at_limit = (table.lengths[rows] + 1 >= table.limits[rows]).tolist()
        for row, last_id, is_full in zip(rows.tolist(), last_ids, at_limit, strict=True):
            job = self._jobs[row]
            new = slice(int(table.starts[row]), int(table.lengths[row]) + 1)
            is_stopped = last_id in job.request.stop_ids or (
                bool(job.request.stop_strings)
                and ends_with_stop(job.request, table.tokens[row, new].tolist(), self._pieces)
            )
            if not is_stopped and not is_full:
                continue
            generation = Generation(
                token_ids=tuple(table.tokens[row, new].tolist()),
                model_logprobs=tuple(table.model_logprobs[row, new].tolist()),
                sampling_logprobs=tuple(table.sampling_logprobs[row, new].tolist()),
                finish="stop" if is_stopped else "length",
                prefill_tokens=job.prefill_tokens,
            )
            finished.append((job.ticket, generation))
            del self._jobs[row]
            table.release(row, is_over=not is_stopped or last_id in self.codec.eos_ids)
        return finished

    def _to_device(self, array: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self._model.device)
