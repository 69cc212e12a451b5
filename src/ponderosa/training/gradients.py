"""The gradient of one optimizer step, microbatch by microbatch.

On a CPU each worker thread takes whole microbatches with one-threaded kernels. Operations on a small model last
microseconds; splitting each across cores spends more time waiting at barriers than computing, and far more when a
core is busy elsewhere. Gradients are added in the order of the microbatches, so the result does not depend on the
number of workers.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from ponderosa.lora import find_trained
from ponderosa.records import Row
from ponderosa.training.attention import document_attention
from ponderosa.training.batching import TOKEN_BUCKET, Microbatch, build_microbatches
from ponderosa.training.fused import fused_layers
from ponderosa.training.losses import Loss, LossSums, compute_logprobs
from ponderosa.training.output_head import find_output_head

CPU_MICROBATCH_TOKENS = 4608
"""Measured: fewer tokens pay more dispatch for each operation, more fall out of the cache."""
ACCELERATOR_MICROBATCH_TOKENS = 32_768
MAX_GRADIENT_BYTES = 4 << 30
"""Workers beyond the first are given up when their gradients would take more memory than this."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class GradientComputer:
    """Computes the gradient of a step's loss. Use it inside `with computer.running():`."""

    def __init__(
        self,
        model: PreTrainedModel,
        loss: Loss,
        *,
        dtype: torch.dtype,
        microbatch_tokens: int | None = None,
    ) -> None:
        self.model = model
        self.head = find_output_head(model)
        self.loss = loss
        self.dtype = dtype
        self.device = model.get_input_embeddings().weight.device
        self.parameters: list[nn.Parameter] = [*find_trained(model).values()]
        on_cpu = self.device.type == "cpu"
        default_tokens = CPU_MICROBATCH_TOKENS if on_cpu else ACCELERATOR_MICROBATCH_TOKENS
        self.microbatch_tokens = microbatch_tokens or default_tokens
        self._workers: ThreadPoolExecutor | None = None
        self._num_workers = 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """Lend the model its fast layers and start the workers, for the length of a block."""
        num_threads = torch.get_num_threads()
        gradient_bytes = sum(p.numel() * p.element_size() for p in self.parameters)
        self._num_workers = min(num_threads, MAX_GRADIENT_BYTES // max(1, gradient_bytes))
        if self.device.type != "cpu" or self._num_workers < 2:
            self._num_workers = 1
        with document_attention(self.model), fused_layers(self.model):
            if self._num_workers == 1:
                yield
                return
            torch.set_num_threads(1)
            try:
                with ThreadPoolExecutor(self._num_workers) as self._workers:
                    yield
            finally:
                self._workers = None
                torch.set_num_threads(num_threads)

    def compute(self, rows: Sequence[Row], total: float) -> dict[str, float]:
        """Put the gradient of the rows' objective, divided by `total`, in every parameter's `grad`; the loss and the
        loss's facts, divided alike."""
        for parameter in self.parameters:
            parameter.grad = None
        means: dict[str, float] = {}
        microbatches = self._cut(rows, keep_rows=self.loss.keeps_rows)
        for gradients, sums in self._map(
            lambda microbatch: self._compute_share(microbatch, total), microbatches
        ):
            for name, share in {"loss": sums.loss, **sums.facts}.items():
                means[name] = means.get(name, 0.0) + float(share) / total
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return means

    def score(self, rows: Sequence[Row]) -> list[tuple[float, ...]]:
        """Of every token of each row that carries loss its log-probability (nats), at temperature 1 or at the rows' own
        `temperatures`; from a reward model the score at the token. 0 for the others."""
        scores = [np.zeros(len(row.token_ids), dtype=np.float32) for row in rows]
        for microbatch, logprobs_M in self._map(
            lambda microbatch: (microbatch, self._score(microbatch)), self._cut(rows)
        ):
            for row, token, logprob in zip(*microbatch.places_2M, logprobs_M.tolist(), strict=True):
                scores[row][token] = logprob
        return [tuple(row_scores.tolist()) for row_scores in scores]

    def _cut(self, rows: Sequence[Row], *, keep_rows: bool = False) -> Iterator[Microbatch]:
        return build_microbatches(
            rows, max_tokens=self.microbatch_tokens, device=self.device, keep_rows=keep_rows
        )

    def _compute_share(self, microbatch: Microbatch, total: float) -> tuple[Sequence[Tensor], LossSums]:
        """A microbatch's share of the gradient, and its sums."""
        sums = self.loss.compute(self._compute_outputs(microbatch), microbatch)
        return torch.autograd.grad(sums.objective / total, self.parameters), sums

    @torch.no_grad()
    def _score(self, microbatch: Microbatch) -> Tensor:
        outputs_MV = self._compute_outputs(microbatch)
        if self.head.is_score:
            return outputs_MV[:, 0].float().cpu()
        temperatures_M = microbatch.columns_M.get("temperatures", torch.ones_like(microbatch.weights_M))
        return compute_logprobs(outputs_MV, microbatch.targets_M, temperature=temperatures_M).logprobs.cpu()

    def _compute_outputs(self, microbatch: Microbatch) -> Tensor:
        """What the head makes of the targets: logits before each, [M, V], or a score at each, [M, 1]."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            hidden_1ND = self.model.get_decoder()(
                input_ids=microbatch.token_ids_1N,
                position_ids=microbatch.positions_1N,
                use_cache=False,
                documents=microbatch.layout,
            ).last_hidden_state
            read_at_M = microbatch.targets_at_M if self.head.is_score else microbatch.predictors_M
            num_read = len(read_at_M)
            hidden_MD = hidden_1ND[0].index_select(
                0, functional.pad(read_at_M, (0, -num_read % TOKEN_BUCKET))
            )
            outputs_MV: Tensor = self.head.module(hidden_MD)
        return outputs_MV[:num_read]

    def _map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results in the order of the items, at most one more than there are workers held at a time."""
        if self._workers is None:
            yield from map(function, items)
            return
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(self._workers.submit(function, item))
            if len(pending) > self._num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@contextmanager
def use_threads(num_threads: int) -> Iterator[None]:
    """Let operations use this many threads for the length of a block."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
