"""The symbolic layer's worker process: asks math-verify whether two LaTeX answers are equal.

Runs as `python -I -c ... main()` under a memory limit and with nothing inherited but three pipes; its owner
(`workers`) kills it when a question takes too long. Questions and replies are JSON after a four-byte length, never
pickles. It exits when its owner does: the reader sees the pipe close even while the main thread computes.
"""

import json
import os
import queue
import struct
import sys
import threading
from typing import IO, Any

_LENGTH = struct.Struct(">I")
MAX_MESSAGE_BYTES = 1 << 20


def write_message(stream: IO[bytes], message: Any) -> None:
    """Write one message. Raises ValueError for one too long, OSError when the other side is gone."""
    data = json.dumps(message).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {len(data)} bytes; at most {MAX_MESSAGE_BYTES}")
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def read_message(stream: IO[bytes]) -> Any:
    """Read one message. Raises EOFError when the other side is gone or writes something else."""
    header = stream.read(_LENGTH.size)
    length = _LENGTH.unpack(header)[0] if len(header) == _LENGTH.size else 0
    data = stream.read(length) if 0 < length <= MAX_MESSAGE_BYTES else b""
    if not data or len(data) != length:
        raise EOFError("the pipe closed")
    return json.loads(data)


def main(memory_bytes: int) -> None:
    """Answer questions until the owner closes the pipe."""
    questions: queue.Queue[list[str]] = queue.Queue()
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print must not look like a reply
    compare = _load_comparer()
    _limit_memory(memory_bytes)
    threading.Thread(target=_receive, args=(questions,), daemon=True).start()
    write_message(replies, "ready")
    while True:
        gold, candidate = questions.get()
        try:
            reply = compare(gold, candidate)
        except MemoryError:
            reply = "undecided"
        write_message(replies, reply)


def _limit_memory(memory_bytes: int) -> None:
    """Limit the address space, where the system can."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _receive(questions: "queue.Queue[list[str]]") -> None:
    try:
        while True:
            questions.put(read_message(sys.stdin.buffer))
    except (EOFError, OSError):
        os._exit(0)


def _load_comparer() -> Any:
    import logging

    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    config = [LatexExtractionConfig(boxed_match_priority=0)]

    def read(answer: str) -> Any:
        """The sympy object of a whole answer; None if only a string or a fragment could be read."""
        parsed = parse(rf"\boxed{{{answer}}}", config, fallback_mode="no_fallback", parsing_timeout=None)
        return parsed[0] if parsed and not isinstance(parsed[0], str) else None

    def compare(gold: str, candidate: str) -> str:
        try:
            forms = read(gold), read(candidate)
            if forms[0] is None or forms[1] is None:
                return "unread"
            return "equal" if verify(forms[0], forms[1], timeout_seconds=None) else "different"
        except MemoryError:
            raise
        except Exception:  # untrusted text: whatever sympy raises on it, the text was not understood
            return "unread"

    return compare
