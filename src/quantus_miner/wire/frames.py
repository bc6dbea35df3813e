"""Frames of the node protocol: a 4-byte big-endian length, then so many bytes of JSON. No I/O."""

from __future__ import annotations

import json
from typing import Any, Final

MAX_FRAME: Final = 1024
"""Bytes of JSON in the largest frame."""
HEADER: Final = 4


class FrameError(ValueError):
    """The peer sent what is no frame, or no JSON; says what."""


Pairs = tuple[tuple[str, Any], ...]
"""A JSON object as it was sent: names may repeat, which is for the message to judge."""


class FrameReader:
    """Splits a stream into the JSON of its frames, however the stream is cut. Holds less than one frame."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> tuple[list[bytes], FrameError | None]:
        """The frames that ``data`` completes, and what is wrong after them; nothing may follow an error."""
        buffer, start = self._buffer + data, 0
        frames = []
        error = None
        while len(buffer) - start >= HEADER:
            end = start + HEADER + (size := int.from_bytes(buffer[start : start + HEADER]))
            if size > MAX_FRAME:
                error = FrameError(f"a frame of {size:,} bytes; {MAX_FRAME:,} are allowed")
                break
            if end > len(buffer):
                break
            frames.append(buffer[start + HEADER : end])
            start = end
        self._buffer = b"" if error else buffer[start:]
        return frames, error


def encode(document: dict[str, Any]) -> bytes:
    """A whole frame, to be sent in one write. Raises ValueError for what no frame can hold."""
    body = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME:
        raise ValueError(f"a frame holds {MAX_FRAME:,} bytes, not {len(body):,}")
    return len(body).to_bytes(HEADER) + body


def decode(body: bytes) -> Any:  # noqa: ANN401 - JSON
    """The JSON of a frame, its objects as ``Pairs`` and its arrays as lists. Raises FrameError."""
    try:
        return json.loads(body.decode(), object_pairs_hook=tuple, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise FrameError("a frame that is not valid JSON") from None


def _refuse(name: str) -> None:
    raise ValueError(name)  # JSON has no NaN and no infinity
