"""Killable worker processes for the symbolic layer.

Enters: pairs of LaTeX answers. Leaves: `equal`, `different`, `unread` or `undecided` for each. A question that runs
past its time is asked once more, alone, on a fresh worker before it is recorded as undecided; a worker that dies is
replaced once, then `WorkerLost` is raised. Workers are started when first needed: fresh interpreters, never forks of
a process that may hold threads or a GPU.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Literal, cast

from ponderosa.errors import WorkerLost
from ponderosa.verify.worker import MAX_MESSAGE_BYTES, read_message, write_message

Reply = Literal["equal", "different", "unread", "undecided"]

_START_TIMEOUT_S = 120.0
_SOURCE = "import sys; sys.path.insert(0, sys.argv[1]); from ponderosa.verify.worker import main; main(int(sys.argv[2]))"


class _TooLong(Exception):
    """The question ran past its time and the worker was killed."""


class _Died(Exception):
    """The worker ended by itself."""


class _Worker:
    """One process, one question at a time."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._receive(_START_TIMEOUT_S)

    def ask(self, gold: str, candidate: str, timeout_s: float) -> Reply:
        assert self.process.stdin is not None
        try:
            write_message(self.process.stdin, [gold, candidate])
        except OSError as error:
            raise _Died from error
        return cast(Reply, self._receive(timeout_s))

    def _receive(self, timeout_s: float) -> str:
        """Wait for a reply; a timer kills the process, which ends the wait, when it takes too long."""
        assert self.process.stdout is not None
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self.process.kill()

        timer = threading.Timer(timeout_s, expire)
        timer.daemon = True
        timer.start()
        try:
            return str(read_message(self.process.stdout))
        except (EOFError, OSError, ValueError) as error:
            self.close()
            raise (_TooLong if expired.is_set() else _Died) from error
        finally:
            timer.cancel()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue


class WorkerPool:
    """At most `size` workers, each limited in time per question and in memory. A context manager."""

    def __init__(
        self, size: int = 2, timeout_s: float = 5.0, memory_mb: int = 2_048, python: str | None = None
    ) -> None:
        if size < 1 or timeout_s <= 0:
            raise ValueError(f"a pool needs a worker and some time, not size={size}, timeout_s={timeout_s}")
        self.size, self.timeout_s = size, timeout_s
        root = str(Path(__file__).resolve().parents[2])
        self._command = [python or sys.executable, "-I", "-c", _SOURCE, root, str(memory_mb << 20)]
        self._idle: SimpleQueue[_Worker | None] = SimpleQueue()
        for _ in range(size):
            self._idle.put(None)
        self._started: list[_Worker] = []

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every worker. A later question starts new ones."""
        while self._started:
            self._started.pop().close()
        self._idle = SimpleQueue()
        for _ in range(self.size):
            self._idle.put(None)

    @property
    def num_started(self) -> int:
        return len(self._started)

    def ask_many(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Reply, float]]:
        """One reply per pair, in order, and the seconds a worker spent on it. Raises WorkerLost."""
        if not pairs:
            return []
        with ThreadPoolExecutor(min(self.size, len(pairs))) as threads:
            replies = list(threads.map(self._ask, pairs))
        confirmed = []
        for pair, (reply, seconds) in zip(pairs, replies, strict=True):
            if reply is None:
                reply, again_s = self._ask(pair)
                seconds += again_s
            confirmed.append((reply or "undecided", seconds))
        return confirmed

    def _ask(self, pair: tuple[str, str]) -> tuple[Reply | None, float]:
        """The reply, None if it took too long, and the seconds it took."""
        if sum(map(len, pair)) > MAX_MESSAGE_BYTES // 8:
            return "undecided", 0.0
        worker = self._idle.get()
        try:
            for is_last_try in (False, True):
                try:
                    worker = worker or self._start()
                    start = time.perf_counter()
                    return worker.ask(*pair, self.timeout_s), time.perf_counter() - start
                except _TooLong:
                    self._forget(worker)
                    worker = None
                    return None, self.timeout_s
                except _Died as error:
                    self._forget(worker)
                    worker = None
                    if is_last_try:
                        raise WorkerLost(
                            "a grading worker died, and died again on a fresh process"
                        ) from error
            raise AssertionError("unreachable")
        finally:
            self._idle.put(worker)

    def _start(self) -> _Worker:
        worker = _Worker(self._command)
        self._started.append(worker)
        return worker

    def _forget(self, worker: _Worker | None) -> None:
        if worker is not None:
            worker.close()
            if worker in self._started:
                self._started.remove(worker)
