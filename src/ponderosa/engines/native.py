"""The native engine: continuous batching through an unchanged transformers model, which may be in training.

Enter: requests of token ids. Leave: generations of token ids, with both log-probabilities. One tick admits
waiting requests into free cache rows, computes what is new in their prompts, and feeds every active row one
token. The last prompt token is fed by the decode step itself, so n samples of one prompt share all of its
prefill, and a prompt that continues a finished request computes only what was added.

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

from ponderosa.engines.attention import CachePass, KVCache
from ponderosa.engines.model import borrow_model, copy_model, profile_model, run_logits
from ponderosa.engines.prefill import Span
from ponderosa.engines.prefix_cache import PrefixCache
from ponderosa.engines.protocol import GREEDY, Codec, GenerateRequest, Generation, find_fault
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
    prompts that continue them (default: a quarter of the slots). dtype: compute in this type on a copy of the weights,
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
            -(-(num_slots + (-(-num_slots // 4) if num_retained is None else num_retained)) // ROW_BUCKET)
            * ROW_BUCKET
        )
        self._cache = KVCache(num_rows, dtype=self._model.dtype, device=self._model.device)
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
                self._compact()
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

    def _compact(self) -> None:
        """Bring active rows together when many idle rows lie between them."""
        for idle, active in self._rows.plan_moves():
            count = int(max(self._rows.lengths[idle], self._rows.lengths[active]))
            self._cache.swap(idle, active, count)
            self._rows.swap(idle, active)
            self._jobs[idle] = self._jobs.pop(active)

    def _decode(self) -> None:
        """Feed every active row its next token and draw the one after."""
        self._cross_threshold()
        extent = -(-self._rows.extent // ROW_BUCKET) * ROW_BUCKET
        sides = self._rows.is_long[:extent][self._rows.is_active[:extent]]
        if sides.all() or not sides.any():
            self._decode_rows(np.arange(extent), slice(0, extent))
        else:
            for side in (False, True):
                rows = np.flatnonzero(self._rows.is_active & (self._rows.is_long == side))
                self._decode_rows(rows, self._to_device(rows))
        self._busy_slot_steps += len(self._jobs)
        self._slot_steps += self.num_slots

    def _decode_rows(self, rows: npt.NDArray[np.int64], where: slice | Tensor) -> None:
        """One token for each of these rows, which are all on one side of a LongRoPE threshold."""
        table = self._rows
        active = table.is_active[rows]
        fed_at = table.lengths[rows]
        num_tokens = int(fed_at[active].max()) + 1
        self._cache.reserve(num_tokens)
        width = self._cache.compute_width(num_tokens)
        columns = self._to_device(fed_at)[:, None]
        positions = self._to_device(np.where(active, fed_at, 0))[:, None]
        token_ids = self._to_device(table.tokens[rows, fed_at])[:, None]
        index = self._to_device(rows)[:, None]
        cache_pass = CachePass(self._cache, where, index, positions, columns, width)
        with self._prefixes.linears.lend():
            logits = run_logits(self._model, token_ids, positions, cache_pass)[:, -1]
        self._draw(logits, rows, fed_at, active)

    def _draw(
        self,
        logits: Tensor,
        rows: npt.NDArray[np.int64],
        fed_at: npt.NDArray[np.int64],
        active: npt.NDArray[np.bool_],
    ) -> None:
        """Draw the tokens that follow and note them; what idle rows draw is dropped."""
        table = self._rows
        jobs = (self._jobs.get(row) for row in rows.tolist())
        samplings = [GREEDY if job is None else job.request.sampling for job in jobs]
        steps = np.maximum(fed_at + 1 - table.starts[rows], 0).astype(np.uint64)
        draw = draw_tokens(logits, samplings, compute_uniforms(table.seeds[rows], steps))
        busy, after = rows[active], fed_at[active] + 1
        table.tokens[busy, after] = draw.tokens[active]
        table.model_logprobs[busy, after] = draw.model_logprobs[active]
        table.sampling_logprobs[busy, after] = draw.sampling_logprobs[active]
        table.lengths[busy] = after

    def _cross_threshold(self) -> None:
        """Rows about to grow past the LongRoPE threshold are computed again under the long factors."""
        threshold = self._prefixes.long_rope_after
        if threshold is None:
            return
        table = self._rows
        crossing = table.is_active & ~table.is_long & (table.lengths + 1 > threshold)
        rows = np.flatnonzero(crossing).tolist()
        table.is_long[rows] = True
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
