"""Length-prefixed JSON messages on a file descriptor: four bytes, big-endian, then UTF-8."""

import json
import os
from typing import Any

HEADER_BYTES = 4


def encode_frame(message: dict[str, Any]) -> bytes:
    """A message as the bytes that go on the wire."""
    body = json.dumps(message).encode("ascii")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def write_frame(fd: int, message: dict[str, Any]) -> None:
    """Write one message, however many writes it takes. Raises OSError when the reader is gone."""
    view = memoryview(encode_frame(message))
    while view:
        view = view[os.write(fd, view) :]


class FrameBuffer:
    """Bytes received so far, from which whole messages are taken.

    max_bytes: a longer message is refused with ValueError before it is stored, so that a hostile writer cannot
    fill the reader's memory.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._received = bytearray()

    def feed(self, data: bytes) -> None:
        self._received += data

    def take(self) -> dict[str, Any] | None:
        """The next whole message, or None while it is incomplete. Raises ValueError if it is not one of ours."""
        if len(self._received) < HEADER_BYTES:
            return None
        end = HEADER_BYTES + int.from_bytes(self._received[:HEADER_BYTES], "big")
        if end > self.max_bytes:
            raise ValueError(f"a message of {end} bytes is longer than {self.max_bytes}")
        if len(self._received) < end:
            return None
        message = json.loads(bytes(self._received[HEADER_BYTES:end]))
        del self._received[:end]
        if not isinstance(message, dict):
            raise ValueError("a message is a JSON object")
        return message
