"""The sandbox: steps in, executions out, over both tiers and several workers.

Monty is the fast way to an answer CPython would give too, so only "ok" is believed of it: whatever it cannot run,
or runs to any other end, is settled by CPython where this machine has that tier. One batch runs at a time;
parallel callers wait their turn, so give parallel work as one batch.
"""

import functools
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from ponderosa.errors import SandboxUnavailable
from ponderosa.sandbox.cpython import ForkServer, find_landlock_problem
from ponderosa.sandbox.execution import TIERS, Execution, Limits, Tier
from ponderosa.sandbox.monty import MontyTier
from ponderosa.sandbox.subset import inspect_code

PRELOADABLE = frozenset(
    {
        *(
            "cmath",
            "collections",
            "datetime",
            "decimal",
            "fractions",
            "functools",
            "heapq",
            "itertools",
            "math",
        ),
        *("numpy", "operator", "random", "re", "reasoning_gym", "statistics", "string", "sympy", "typing"),
    }
)
"""Modules the cpython server imports once, unconfined, when code first asks for one."""

_MONTY_PATIENCE_S = 0.5  # where CPython can settle it: Monty is slower, so a longer wait would be lost
_CHUNKS_PER_WORKER = 8
_INSPECTIONS_KEPT = 8192


@dataclass(frozen=True, slots=True)
class _Job:
    """Steps to run in the state a prefix leaves.

    num_covered: how many of `steps` Monty may run: none unless it covers the prefix, then those before the
        first that it does not cover.
    preload: the modules the code imports that the cpython server may import for it.
    """

    prefix: tuple[str, ...]
    steps: tuple[str, ...]
    num_covered: int
    preload: tuple[str, ...]


def tiers_available() -> dict[Tier, str | None]:
    """For each tier, None where this machine can run it, else the reason it cannot."""
    return {"monty": None, "cpython": find_landlock_problem()}


class Sandbox:
    """A pool that runs model-written Python; a context manager.

    tiers: those that may be used; one this machine cannot run is left out, and `tiers` says what remains.
    workers: processes of each tier; they start when first needed.
    Raises SandboxUnavailable when no tier remains.
    """

    def __init__(self, tiers: Sequence[Tier] = TIERS, limits: Limits | None = None, workers: int = 2) -> None:
        if not tiers or not set(tiers) <= set(TIERS):
            raise ValueError(f"tiers are {tuple(tiers)}; allowed: any of {', '.join(TIERS)}")
        if workers < 1:
            raise ValueError(f"workers is {workers}; at least 1 is needed")
        problems = tiers_available()
        self.tiers: tuple[Tier, ...] = tuple(tier for tier in TIERS if tier in tiers and not problems[tier])
        if not self.tiers:
            reasons = "; ".join(f"{tier}: {problems[tier]}" for tier in tiers)
            raise SandboxUnavailable(f"no sandbox tier can run code on this machine ({reasons})")
        self.limits = limits or Limits()
        self.workers = workers
        self._batch = threading.Lock()
        self._inspect = functools.lru_cache(_INSPECTIONS_KEPT)(inspect_code)
        self._servers: queue.LifoQueue[ForkServer] = queue.LifoQueue()
        self._all_servers = [ForkServer(self.limits) for _ in range(workers)]
        for server in self._all_servers:
            self._servers.put(server)
        self._threads = ThreadPoolExecutor(workers, "sandbox")
        self._monty = self._open_monty() if "monty" in self.tiers else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every worker."""
        self._threads.shutdown()
        for server in self._all_servers:
            server.close()
        if self._monty is not None:
            self._monty.close()
            self._monty = None

    def run_steps(self, codes: Sequence[str]) -> list[Execution]:
        """Run one solution's steps in order in a fresh namespace, up to and including the first not ok."""
        return self.run_many([codes])[0]

    def run_many(self, solutions: Sequence[Sequence[str]]) -> list[list[Execution]]:
        """`run_steps` for many solutions, spread over the workers; results in the same order."""
        return self._run_batch([((), tuple(codes)) for codes in solutions])

    def execute(self, prefix: Sequence[str], code: str) -> Execution:
        """Run one step in the state its prefix leaves; siblings never share a namespace.

        Give only steps that ended ok as the prefix. A prefix that does not run again (it depended on something
        outside) gives the execution that ended it.
        """
        return self.execute_many([(prefix, code)])[0]

    def execute_many(self, requests: Sequence[tuple[Sequence[str], str]]) -> list[Execution]:
        """`execute` for many steps, spread over the workers; results in the same order."""
        batch = self._run_batch([(tuple(prefix), (code,)) for prefix, code in requests])
        return [executions[-1] for executions in batch]

    def _open_monty(self) -> MontyTier:
        is_final = "cpython" not in self.tiers
        wall_s = self.limits.wall_s if is_final else min(_MONTY_PATIENCE_S, self.limits.wall_s)
        return MontyTier(replace(self.limits, wall_s=wall_s), self.workers, is_final)

    def _run_batch(self, requests: list[tuple[tuple[str, ...], tuple[str, ...]]]) -> list[list[Execution]]:
        with self._batch:
            # Planned here, not in the threads: looking at code silences warnings, which is process-wide.
            jobs = [self._plan(prefix, steps) for prefix, steps in requests]
            size = max(1, len(jobs) // (self.workers * _CHUNKS_PER_WORKER))
            chunks = [jobs[start : start + size] for start in range(0, len(jobs), size)]
            is_parallel = self.workers > 1 and len(chunks) > 1
            done = (self._threads.map if is_parallel else map)(self._run_chunk, chunks)
            results = [executions for chunk in done for executions in chunk]
            return [self._confirm(job, executions) for job, executions in zip(jobs, results, strict=True)]

    def _plan(self, prefix: tuple[str, ...], steps: tuple[str, ...]) -> _Job:
        inspections = [self._inspect(code) for code in (*prefix, *steps)]
        tiers = [inspection.tier for inspection in inspections]
        num_covered = tiers.index("cpython") if "cpython" in tiers else len(tiers)
        imports = frozenset[str]().union(*(inspection.imports for inspection in inspections))
        return _Job(prefix, steps, max(0, num_covered - len(prefix)), tuple(sorted(imports & PRELOADABLE)))

    def _run_chunk(self, jobs: Sequence[_Job]) -> list[list[Execution]]:
        return [self._run(job) for job in jobs]

    def _confirm(self, job: _Job, executions: list[Execution]) -> list[Execution]:
        """A timeout is recorded only if it happens again while nothing else runs."""
        if not executions or executions[-1].outcome != "timeout":
            return executions
        if "cpython" in self.tiers:
            return [*executions[:-1], *self._run_cpython(job, len(executions) - 1)]
        return self._run(job)

    def _run(self, job: _Job) -> list[Execution]:
        done: list[Execution] = []
        if self._monty is not None:
            is_last_resort = "cpython" not in self.tiers
            num_steps = len(job.steps) if is_last_resort else job.num_covered
            if num_steps:
                keeps_state = len(job.steps) == 1
                done = self._monty.run(job.prefix, job.steps[:num_steps], keeps_state)
            if is_last_resort:
                return done
            done = [execution for execution in done if execution.outcome == "ok"]
        return done if len(done) == len(job.steps) else [*done, *self._run_cpython(job, len(done))]

    def _run_cpython(self, job: _Job, num_done: int) -> list[Execution]:
        """Replay everything before the first step not done, then go on from there."""
        server = self._servers.get()
        try:
            executions = server.run((*job.prefix, *job.steps), job.preload)
        finally:
            self._servers.put(server)
        return executions[len(job.prefix) + num_done :] or executions[-1:]
