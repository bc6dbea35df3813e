"""A stream of bytes as lines of bounded length. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantus_miner.wire.core import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINE: Final = 16_384
"""Bytes in a line, without its end."""


class LineSplitter:
    """Splits a stream into lines, however it is cut. Holds at most one unfinished line."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that ``data`` completes, without LF or CR LF, and skip empty ones. Read it to its end.

        Raises RemoteProtocolError for a line that is too long, after the lines before it.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            _check_length(line)
            if stripped := line.removesuffix(b"\r"):
                yield stripped
        _check_length(self._rest)


def _check_length(line: bytes) -> None:
    if len(line) > MAX_LINE:
        raise RemoteProtocolError(f"a line of more than {MAX_LINE:,} bytes")
