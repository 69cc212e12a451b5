"""The `monty` tier: a pool of pydantic-monty worker processes, and the states that prefixes left behind.

Dumping and restoring a state costs about as much as running five cheap steps again (LOG.md has the measurement), so a
state is kept only if what led to it took longer; the least recently used goes first.
"""

import contextlib
import datetime
import os
import signal
import threading
from collections import OrderedDict
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import pydantic_monty

from ponderosa.errors import WorkerLost
from ponderosa.records import Outcome
from ponderosa.sandbox.execution import Execution, Limits, describe_outcome
from ponderosa.sandbox.jail.description import describe_exception
from ponderosa.sandbox.jail.determinism import FIXED_TIME_S, SEED

_MAX_STATE_BYTES = 1 << 20
_MAX_CACHE_BYTES = 64 << 20
_REPLAYED_MS = 1.0
"""Prefixes that run in this time are run again rather than kept."""
_COLLECTED_BYTES = 1 << 16  # what the collector may hold, beyond all that a step may print
_POLICY = pydantic_monty.OSPolicy(
    datetime=datetime.datetime.fromtimestamp(FIXED_TIME_S, datetime.UTC),
    timezone="utc",
    sleep="zero",
    random_start={"seed": SEED},
)


class StateCache:
    """Dumped interpreter states by the steps that led to them; bounded in bytes, safe to share by threads."""

    def __init__(self, max_bytes: int = _MAX_CACHE_BYTES) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._states: OrderedDict[tuple[str, ...], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, steps: tuple[str, ...]) -> bytes | None:
        with self._lock:
            if steps not in self._states:
                return None
            self._states.move_to_end(steps)
            return self._states[steps]

    def put(self, steps: tuple[str, ...], state: bytes) -> None:
        """Keep a state; one too large to be worth keeping is left out."""
        if len(state) > _MAX_STATE_BYTES:
            return
        with self._lock:
            self.num_bytes += len(state) - len(self._states.pop(steps, b""))
            self._states[steps] = state
            while self.num_bytes > self.max_bytes:
                self.num_bytes -= len(self._states.popitem(last=False)[1])


class _BoundedOutput:
    """Collects what one step prints and ends its worker when that is too much.

    Monty itself has no limit that ends a step for printing. Being called for each piece more than doubles the
    cost of a step, so this is used only when the plain collector was overrun.
    """

    def __init__(self, max_bytes: int, worker: int | None) -> None:
        self.output: list[tuple[str, str]] = []
        self.is_overrun = False
        self._bytes_left = max_bytes
        self._worker = worker

    def __call__(self, stream: str, text: str) -> None:
        self.output.append((stream, text))
        self._bytes_left -= len(text.encode("utf-8", "replace"))
        if self._bytes_left < 0 and not self.is_overrun:
            self.is_overrun = True
            if self._worker is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._worker, getattr(signal, "SIGKILL", signal.SIGTERM))


class MontyTier:
    """Workers that interpret code in Rust: no files, no network, no processes, nothing that was not listed.

    is_final: no other tier will settle what does not end ok, so memory and output must be told apart here.
    """

    def __init__(self, limits: Limits, workers: int, is_final: bool) -> None:
        self.limits = limits
        self.is_final = is_final
        self.states = StateCache()
        self._pool = pydantic_monty.Monty(
            min_processes=1, max_processes=workers, request_timeout=limits.wall_s + 10.0
        )
        self._pool.__enter__()

    def close(self) -> None:
        self._pool.__exit__(None, None, None)

    def run(
        self, prefix: tuple[str, ...], steps: Sequence[str], keeps_state: bool = False
    ) -> list[Execution]:
        """Run `steps` in the state `prefix` leaves, until one is not ok; an execution for each step begun.

        A prefix that does not run again gives the one execution that ended it. `keeps_state` remembers the
        state after the last step, if it is dear to reach again. Raises WorkerLost when workers die on harmless code too.
        """
        executions = self._run_retrying(prefix, steps, keeps_state)
        if self.is_final and executions and executions[-1].outcome == "memory":
            return self._run_retrying(prefix, steps, keeps_state, is_bounded=True)
        return executions

    def _run_retrying(
        self, prefix: tuple[str, ...], steps: Sequence[str], keeps_state: bool, is_bounded: bool = False
    ) -> list[Execution]:
        try:
            return self._run_once(prefix, steps, keeps_state, is_bounded)
        except pydantic_monty.MontyCrashedError:
            pass
        try:
            return self._run_once(prefix, steps, keeps_state, is_bounded)
        except pydantic_monty.MontyCrashedError as error:
            self._require_healthy(error)
        return [Execution("crash", "", describe_outcome("crash"), 0.0, "monty")]

    def _require_healthy(self, error: Exception) -> None:
        try:
            self._run_once((), ["pass"], keeps_state=False, is_bounded=False)
        except pydantic_monty.MontyCrashedError:
            raise WorkerLost(f"monty workers die whatever they run: {error}") from error

    def _run_once(
        self, prefix: tuple[str, ...], steps: Sequence[str], keeps_state: bool, is_bounded: bool
    ) -> list[Execution]:
        limits = pydantic_monty.ResourceLimits(
            max_feed_duration_secs=self.limits.wall_s, max_memory=self.limits.memory_bytes
        )
        results: list[Execution] = []
        with self._pool.checkout(
            limits=limits, os_policy=_POLICY, assert_message_annotations=False
        ) as session:
            state = self.states.get(prefix) if prefix else None
            if state is not None:
                session.load_session(state)
            began = perf_counter()
            for step in prefix if state is None else ():
                execution = self._feed(session, step, is_bounded)
                if execution.outcome != "ok":
                    return [execution]
            for step in steps:
                results.append(self._feed(session, step, is_bounded))
                if results[-1].outcome != "ok":
                    return results
            is_dear = state is not None or 1000 * (perf_counter() - began) > _REPLAYED_MS
            if keeps_state and is_dear:
                self.states.put((*prefix, *steps), session.dump())
        return results

    def _feed(self, session: Any, code: str, is_bounded: bool) -> Execution:
        max_bytes = self.limits.max_output_bytes
        printed: Any = (
            _BoundedOutput(max_bytes, session.worker_pid)
            if is_bounded
            else pydantic_monty.CollectStreams(_COLLECTED_BYTES + 8 * max_bytes)
        )
        outcome: Outcome = "ok"
        error: str | None = None
        began = perf_counter()
        try:
            session.feed_run(code, print_callback=printed)
        except pydantic_monty.MontyCrashedError as crash:
            if not crash.timed_out and not (is_bounded and printed.is_overrun):
                raise
            outcome = "timeout"
        except pydantic_monty.MontyError as raised:
            exception = raised.exception()
            outcome, error = self._judge(exception, perf_counter() - began), describe_exception(exception)
        ms = 1000 * (perf_counter() - began)
        output = "".join(text for stream, text in printed.output if stream == "stdout")
        encoded = output.encode("utf-8", "replace")
        if len(encoded) > max_bytes:
            outcome, output = "output_limit", encoded[:max_bytes].decode("utf-8", "ignore")
        return Execution(
            outcome, output, error if outcome == "error" else describe_outcome(outcome), ms, "monty"
        )

    def _judge(self, exception: BaseException, seconds: float) -> Outcome:
        """Monty reports its limits as exceptions the code could raise as well; the clock tells them apart."""
        if isinstance(exception, MemoryError):
            return "memory"
        if isinstance(exception, TimeoutError) and seconds >= self.limits.wall_s:
            return "timeout"
        return "error"
