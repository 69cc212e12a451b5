"""Does a generation end at this token? Stop ids, and stop strings across token boundaries. No torch."""

from collections.abc import Sequence

from ponderosa.engines.protocol import Codec, GenerateRequest

REPLACEMENT = "�"
"""What a token holding part of a character decodes to."""


class PieceTable:
    """The text of single tokens, decoded once: tells cheaply which tokens cannot end a stop string."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self._pieces: dict[int, str] = {}

    def find(self, token_id: int) -> str:
        piece = self._pieces.get(token_id)
        if piece is None:
            piece = self._pieces[token_id] = self.codec.decode([token_id])
        return piece


def ends_with_stop(request: GenerateRequest, new_ids: Sequence[int], pieces: PieceTable) -> bool:
    """True if the last of the new tokens is a stop id, or a stop string ends inside it.

    Only text the model wrote counts: a stop string that begins in the prompt, before its open tokens, is not one.
    """
    last = new_ids[-1]
    if last in request.stop_ids:
        return True
    if not request.stop_strings:
        return False
    piece = pieces.find(last)
    return any(
        (stop[-1] in piece or REPLACEMENT in piece)
        and _ends_inside_last(stop, request, new_ids, pieces.codec)
        for stop in request.stop_strings
    )


def _ends_inside_last(stop: str, request: GenerateRequest, new_ids: Sequence[int], codec: Codec) -> bool:
    """A token spells at least one byte, so the stop string lies within as many tokens as it has bytes."""
    reach = len(stop.encode()) + len(REPLACEMENT.encode())
    num_open = max(0, min(reach - len(new_ids), request.open_tokens))
    open_ids = request.prompt_ids[len(request.prompt_ids) - num_open :]
    return stop in codec.decode([*open_ids, *new_ids[-reach:]])
