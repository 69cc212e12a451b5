"""The `cpython` tier, seen from outside: one fork server process and the requests it answers.

The server and everything it forks live in `jail`. It is lost only by our own fault or the machine's: the code it
runs cannot reach it. Linux only.
"""

import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from ponderosa.errors import SandboxUnavailable, WorkerLost
from ponderosa.sandbox.execution import Execution, Limits, describe_outcome
from ponderosa.sandbox.jail.frames import FrameBuffer, write_frame

_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from jail.server import serve; del sys.path[0]; serve(sys.argv[2])"
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",  # the order of a set of strings is the same in every run
    "TZ": "UTC",
    "LC_ALL": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
_START_S = 30.0
_GRACE_S = 30.0  # beyond the steps' own limits: forking, and importing preloaded modules once
_READ_BYTES = 1 << 16


class ServerLost(Exception):
    """The fork server died or went silent."""


class ForkServer:
    """One server process, started when first needed and again after `close`.

    command: what is run, with the scratch folder appended.
    """

    def __init__(self, limits: Limits, command: Sequence[str] | None = None) -> None:
        package = str(Path(__file__).parent)
        self.limits = limits
        self.command = list(command or [sys.executable, "-s", "-P", "-c", _BOOT, package])
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: str | None = None
        self._replies = FrameBuffer(1 << 20)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def run(self, steps: Sequence[str], preload: Sequence[str] = ()) -> list[Execution]:
        """Run steps in one fresh namespace until one is not ok; an execution for each step begun.

        Raises WorkerLost when the server dies twice, SandboxUnavailable when the kernel refuses to confine.
        """
        try:
            return self._run_once(steps, preload)
        except ServerLost:
            self.close()
        try:
            return self._run_once(steps, preload)
        except ServerLost as lost:
            self.close()
            raise WorkerLost(f"the cpython sandbox server was lost twice: {lost}") from lost

    def close(self) -> None:
        """End the server, and with it whatever it is running."""
        process, scratch = self._process, self._scratch
        self._process = self._scratch = None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)

    def _run_once(self, steps: Sequence[str], preload: Sequence[str]) -> list[Execution]:
        process = self._process or self._start()
        assert process.stdin is not None
        limits, whole_s = self.limits, len(steps) * self.limits.wall_s
        request = {
            "steps": list(steps),
            "nonce": secrets.token_hex(8),
            "wall_s": limits.wall_s,
            "cpu_s": whole_s + 1,
            "memory_bytes": limits.memory_bytes,
            "max_output_bytes": limits.max_output_bytes,
            "max_scratch_bytes": limits.max_scratch_bytes,
            "preload": list(preload),
        }
        self._replies.max_bytes = 4096 + len(steps) * (6 * limits.max_output_bytes + 4096)
        try:
            write_frame(process.stdin.fileno(), request)
        except OSError as error:
            raise ServerLost(str(error)) from error
        reply = self._read_reply(process, whole_s + _GRACE_S)
        if "failure" in reply:
            raise SandboxUnavailable(f"the cpython tier cannot confine a process here: {reply['failure']}")
        return [_to_execution(result) for result in reply["results"]]

    def _start(self) -> subprocess.Popen[bytes]:
        self._scratch = tempfile.mkdtemp(prefix="ponderosa-sandbox-")
        self._process = subprocess.Popen(
            [*self.command, self._scratch],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_ENVIRONMENT,
            cwd=self._scratch,
            bufsize=0,
            start_new_session=True,
        )
        self._replies = FrameBuffer(4096)
        self._read_reply(self._process, _START_S)
        return self._process

    def _read_reply(self, process: subprocess.Popen[bytes], wait_s: float) -> dict[str, Any]:
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        deadline = monotonic() + wait_s
        while (reply := self._replies.take()) is None:
            if not poll.poll(1000 * max(0.0, deadline - monotonic())):
                raise ServerLost(f"no answer within {wait_s:g} s")
            data = os.read(descriptor, _READ_BYTES)
            if not data:
                raise ServerLost("it ended")
            self._replies.feed(data)
        return reply


def _to_execution(result: dict[str, Any]) -> Execution:
    outcome = result["outcome"]
    error = result["error"] or describe_outcome(outcome)
    return Execution(outcome, result["output"], error, result["ms"], "cpython")


def find_landlock_problem() -> str | None:
    """Why this machine cannot confine CPython, or None when it can, as far as can be told without trying."""
    if not sys.platform.startswith("linux"):
        return "the cpython tier needs Linux (Landlock and seccomp)"
    from ponderosa.sandbox.jail import landlock, seccomp

    if not seccomp.is_supported():
        return "the cpython tier has a system call filter for x86_64 and aarch64 only"
    try:
        landlock.read_abi()
    except OSError as error:
        return f"the kernel's Landlock is absent or switched off ({error})"
    return None
