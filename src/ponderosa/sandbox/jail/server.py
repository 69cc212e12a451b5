"""The fork server: reads requests on descriptor 0, forks one confined child for each, replies on descriptor 1.

A request is {"steps", "nonce", "wall_s", "cpu_s", "memory_bytes", "max_output_bytes", "max_scratch_bytes",
"preload"}; the reply is {"results": [{"outcome", "output", "error", "ms"}, ...]}, one for each step begun, or
{"failure": reason} when the child could not be confined. Runs no model-written code itself; it decides every
outcome that the code must not decide: timeout, output_limit, crash.
"""

import contextlib
import fcntl
import gc
import importlib
import os
import select
import signal
import socket
import sys
from time import monotonic  # bound here: a child's fixed clock is its own
from typing import Any

from .child import run_child
from .confine import Confinement, build_confinement, read_address_space
from .description import MAX_ERROR_CHARS
from .frames import FrameBuffer, write_frame

_REQUESTS, _REPLIES = 0, 1
_MAX_REQUEST_BYTES = 64 << 20
_MAX_REPORT_BYTES = 16_384
_READ_BYTES = 1 << 16
_SCRATCH_CHECK_S = 0.05
_CONFINEMENT_S = 20.0
_FORGED = "SystemError: the code wrote to the result channel"


class ConfinementFailed(Exception):
    """The child could not be confined, so nothing was run."""


class Execution:
    """One child and what is known of it: the steps ended so far, and what the present one has printed."""

    def __init__(self, request: dict[str, Any], pid: int, stdout: int, channel: socket.socket) -> None:
        self.request = request
        self.pid = pid
        self.stdout = stdout
        self.channel = channel
        self.frames = FrameBuffer(_MAX_REPORT_BYTES)
        self.printed = bytearray()
        self.results: list[dict[str, Any]] = []
        self.is_confined = False
        self.is_channel_open = True
        self.begun = monotonic()
        self.deadline = self.begun + _CONFINEMENT_S

    def end_step(self, outcome: str, error: str | None = None) -> bool:
        """Record how the present step ended. True when that was the last."""
        now = monotonic()
        kept = bytes(self.printed[: self.request["max_output_bytes"]])
        self.results.append(
            {
                "outcome": outcome,
                "output": kept.decode("utf-8", "ignore" if outcome == "output_limit" else "replace"),
                "error": error,
                "ms": 1000 * (now - self.begun),
            }
        )
        self.printed.clear()
        self.begun, self.deadline = now, now + self.request["wall_s"]
        return outcome != "ok" or len(self.results) == len(self.request["steps"])

    def read_stdout(self) -> bool:
        """Take what has been printed, at most one byte more than is allowed. False at the end of the pipe."""
        while len(self.printed) <= self.request["max_output_bytes"]:
            try:
                data = os.read(self.stdout, _READ_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            self.printed += data
        return True

    def is_over_output(self) -> bool:
        return len(self.printed) > int(self.request["max_output_bytes"])

    def read_channel(self) -> bool:
        """Take the reports that have arrived. True when the execution is over."""
        try:
            data = self.channel.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except ConnectionError:
            data = b""
        if not data:
            self.is_channel_open = False
            return False
        self.frames.feed(data)
        try:
            while (report := self.frames.take()) is not None:
                if self.take_report(report):
                    return True
        except ValueError:
            return self.end_step("crash", _FORGED)
        return False

    def take_report(self, report: dict[str, Any]) -> bool:
        if not self.is_confined:
            if report.get("confined") is not True:
                raise ConfinementFailed(str(report.get("error")))
            self.is_confined = True
            self.begun = monotonic()
            self.deadline = self.begun + self.request["wall_s"]
            return False
        outcome, error = report.get("outcome"), report.get("error")
        is_genuine = report.get("nonce") == self.request["nonce"] and outcome in ("ok", "error", "memory")
        if not is_genuine or not (error is None or isinstance(error, str)):
            return self.end_step("crash", _FORGED)
        self.read_stdout()  # all that the step printed is in the pipe: the child waits for the answer
        if self.is_over_output():
            return self.end_step("output_limit")
        is_over = self.end_step(str(outcome), error and error[:MAX_ERROR_CHARS])
        if not is_over:
            with contextlib.suppress(ConnectionError):  # the child is gone, which its end will show
                self.channel.send(b"\n")
        return is_over


def serve(scratch: str) -> None:
    """Answer requests until the other side closes. Says {"ready": true} first."""
    confinement = build_confinement(scratch)
    high = fcntl.fcntl(confinement.ruleset, fcntl.F_DUPFD_CLOEXEC, 64)
    confinement = Confinement(scratch, high, confinement.filter_program)
    write_frame(_REPLIES, {"ready": True})
    requests = FrameBuffer(_MAX_REQUEST_BYTES)
    try:
        while data := os.read(_REQUESTS, _READ_BYTES):
            requests.feed(data)
            request = requests.take()
            if request is not None:
                write_frame(_REPLIES, answer(request, confinement))
    finally:
        os.rmdir(scratch)


def answer(request: dict[str, Any], confinement: Confinement) -> dict[str, Any]:
    """Run one request's steps in a fresh child."""
    preload(request["preload"])
    try:
        return {"results": run_steps(request, confinement)}
    except ConfinementFailed as failure:
        return {"failure": str(failure)}
    finally:
        clear_scratch(confinement.scratch)


def preload(modules: list[str]) -> None:
    """Import trusted modules once, so that children find them loaded; an absent one is the child's to report."""
    is_changed = False
    for name in modules:
        if name not in sys.modules:
            try:
                importlib.import_module(name)
            except ImportError:
                continue
            is_changed = True
    if is_changed:
        gc.collect()
        gc.freeze()


def run_steps(request: dict[str, Any], confinement: Confinement) -> list[dict[str, Any]]:
    """Fork, watch, end the child whatever happened, and say how each step ended."""
    server_pid = os.getpid()
    # A child begins with the server's address space; the code may take this much beyond it.
    request["address_space_bytes"] = read_address_space() + request["memory_bytes"]
    stdout, child_stdout = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(child_stdout, True)
    channel, child_channel = socket.socketpair()
    channel.setblocking(False)
    pid = os.fork()
    if pid == 0:
        run_child(request, confinement, server_pid, child_stdout, child_channel.fileno())
    os.close(child_stdout)
    child_channel.close()
    child = os.pidfd_open(pid)
    execution = Execution(request, pid, stdout, channel)
    try:
        watch(execution, child, confinement.scratch)
    finally:
        signal.pidfd_send_signal(child, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(child)
        os.close(stdout)
        channel.close()
    return execution.results


def watch(execution: Execution, child: int, scratch: str) -> None:
    """Follow a child until its last step is recorded."""
    poll = select.poll()
    channel = execution.channel.fileno()
    for descriptor in (execution.stdout, channel, child):
        poll.register(descriptor, select.POLLIN)
    poll.register(_REQUESTS, 0)  # reports only that the other side is gone
    while True:
        wait_s = min(execution.deadline - monotonic(), _SCRATCH_CHECK_S)
        ready = dict(poll.poll(max(0.0, 1000 * wait_s)))
        if _REQUESTS in ready:
            os.kill(execution.pid, signal.SIGKILL)
            raise SystemExit(0)
        if channel in ready:
            if execution.read_channel():
                return
            if not execution.is_channel_open:
                poll.unregister(channel)
        if execution.stdout in ready and not execution.read_stdout():
            poll.unregister(execution.stdout)
        if execution.is_over_output():
            execution.end_step("output_limit")
            return
        if child in ready:
            end_with_child(execution)
            return
        if monotonic() >= execution.deadline:
            execution.end_step("timeout")
            return
        if not ready and measure_scratch(scratch) > execution.request["max_scratch_bytes"]:
            execution.end_step("output_limit", "OSError: the scratch folder is full")
            return


def end_with_child(execution: Execution) -> None:
    """The child is gone: take its last report, then say how the step it was in ended."""
    if execution.is_channel_open and execution.read_channel():
        return
    if not execution.is_confined:
        raise ConfinementFailed("the child ended before it was confined")
    execution.read_stdout()
    if execution.is_over_output():
        execution.end_step("output_limit")
        return
    info = os.waitid(os.P_PID, execution.pid, os.WEXITED | os.WNOWAIT)
    assert info is not None
    if info.si_code == os.CLD_EXITED:
        execution.end_step("crash", f"SystemError: the process ended itself with status {info.si_status}")
    elif info.si_status == signal.SIGXCPU:
        execution.end_step("timeout")
    else:
        execution.end_step(
            "crash", f"SystemError: the process was ended by {signal.Signals(info.si_status).name}"
        )


def measure_scratch(scratch: str) -> int:
    """Bytes of disk taken by a scratch folder, which has no folders in it."""
    total = 0
    with os.scandir(scratch) as entries:
        for entry in entries:
            try:
                total += 4096 + 512 * entry.stat(follow_symlinks=False).st_blocks
            except FileNotFoundError:
                continue
    return total


def clear_scratch(scratch: str) -> None:
    """Remove what a child left; a child cannot make folders."""
    with os.scandir(scratch) as entries:
        for entry in entries:
            os.unlink(entry.path)
