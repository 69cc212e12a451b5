"""The forked child: confine this process, run the steps in one fresh namespace, report each, end.

Descriptors: 0 and 2 are /dev/null, 1 is the pipe that holds what the code prints, 3 the channel to the server.
After each step the child reports and waits for one byte, so that the server can tell which step printed what.
Printed text never reaches the channel. Code that looks for the channel and writes to it gains nothing: a frame
can only say that this solution's own step ended well or badly, which the code decides anyway; what protects
others (time, memory, output, signals) the server observes from outside.
"""

import io
import os
import sys
import types
from typing import Any, NoReturn

from .confine import Confinement, confine
from .description import describe_exception
from .determinism import fix_clock, seed_randomness
from .frames import write_frame

CHANNEL = 3


def run_child(
    request: dict[str, Any], confinement: Confinement, server_pid: int, stdout: int, channel: int
) -> NoReturn:
    """Never returns; whatever happens, the process ends here."""
    status = 1
    try:
        _arrange_descriptors(stdout, channel, confinement.ruleset)
        try:
            confine(confinement, server_pid, request["address_space_bytes"], request["cpu_s"])
        except OSError as error:
            write_frame(CHANNEL, {"confined": False, "error": str(error)})
            os._exit(status)
        fix_clock()
        seed_randomness()
        write_frame(CHANNEL, {"confined": True})
        _run_steps(request["steps"], request["nonce"])
        status = 0
    finally:
        os._exit(status)


def _arrange_descriptors(stdout: int, channel: int, ruleset: int) -> None:
    """`ruleset` is above CHANNEL; it is closed once it has bound this process."""
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 2)
    os.dup2(stdout, 1)
    os.dup2(channel, CHANNEL)
    os.closerange(CHANNEL + 1, ruleset)
    os.closerange(ruleset + 1, os.sysconf("SC_OPEN_MAX"))


def _run_steps(steps: list[str], nonce: str) -> None:
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    sys.argv = [""]
    sys.stdin = _open_stream(0, "r")
    sys.stderr = _open_stream(2, "w")
    sys.stdout = stdout = _open_stream(1, "w")
    for index, source in enumerate(steps):
        outcome, error = _run_step(source, f"<step {index + 1}>", main.__dict__, stdout)
        write_frame(CHANNEL, {"nonce": nonce, "outcome": outcome, "error": error})
        if outcome != "ok" or not os.read(CHANNEL, 1):
            return


def _open_stream(descriptor: int, mode: str) -> io.TextIOWrapper:
    """A line-buffered text stream; the interpreter's own were made for the server's descriptors."""
    raw = io.FileIO(descriptor, mode, closefd=False)
    buffered = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    return io.TextIOWrapper(buffered, encoding="utf-8", newline="\n", line_buffering=True)


def _run_step(
    source: str, filename: str, namespace: dict[str, Any], stdout: io.TextIOBase
) -> tuple[str, str | None]:
    """Run one step; its outcome as far as the child can tell, and the exception on one line."""
    try:
        exec(compile(source, filename, "exec", dont_inherit=True), namespace)
        stdout.flush()
    except MemoryError:
        namespace.clear()
        return "memory", None
    except SystemExit as stop:
        stdout.flush()
        return ("ok", None) if stop.code in (None, 0) else ("error", describe_exception(stop))
    except BaseException as error:  # model-written code may raise anything
        stdout.flush()
        return "error", describe_exception(error)
    return "ok", None
