"""Frames of the node protocol: a 4-byte big-endian length, then so many bytes of JSON. No I/O."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from quantus_miner.wire.core import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FRAME: Final = 1024
"""Bytes of JSON in the largest frame."""
HEADER: Final = 4


Pairs = tuple[tuple[str, Any], ...]
"""A JSON object as it was sent. Names may repeat; ``messages`` decides whether they may."""


class FrameReader:
    """Splits a stream into the JSON of its frames, however it is cut. Holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the frames that ``data`` completes, without their lengths. Read it to its end.

        Raises RemoteProtocolError for a frame that is too large, after the frames before it.
        """
        buffer, start = self._buffer + data, 0
        self._buffer = b""
        while len(buffer) - start >= HEADER:
            end = start + HEADER + (size := int.from_bytes(buffer[start : start + HEADER]))
            if size > MAX_FRAME:
                raise RemoteProtocolError(f"a frame of {size:,} bytes; {MAX_FRAME:,} are allowed")
            if end > len(buffer):
                break
            yield buffer[start + HEADER : end]
            start = end
        self._buffer = buffer[start:]


def encode(document: dict[str, Any]) -> bytes:
    """Return a whole frame, to be sent in one write. Raises ValueError for what no frame can hold."""
    body = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME:
        raise ValueError(f"a frame holds {MAX_FRAME:,} bytes, not {len(body):,}")
    return len(body).to_bytes(HEADER) + body


def decode(body: bytes) -> Any:  # noqa: ANN401 - JSON
    """Return the JSON of a frame, its objects as ``Pairs`` and its arrays as lists. Raises RemoteProtocolError."""
    try:
        return json.loads(body.decode(), object_pairs_hook=tuple, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise RemoteProtocolError("a frame that is not valid JSON") from None


def _refuse(name: str) -> None:
    raise ValueError(name)  # JSON has no NaN and no infinity
